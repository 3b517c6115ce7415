"""What a device answers, beside what a CPU answered: float32 figures and bfloat16 decisions.

`references.npz` holds the CPU's answers; `make_references.py` makes it. Inputs are drawn by NumPy
from seeds, here and there alike:

* CoOp, MaPLe and CDC with their published settings, 12 classes and a batch of 4, on a CLIP of ten
  narrow layers with random weights: views, features, logits, loss terms and context gradients.
* 10,000 decisions of the bundled CLIP in zero-shot classification: 1,000 drawn images of each of
  five tasks, each image among the 24 classes of its task and among the half that holds its class.
"""

import functools
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import measuring, row_settings

from cdc_jax import clip as clip_lib
from cdc_jax import methods, views
from cdc_jax.clip import backbone as backbone_lib
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.tasks.world import factors, kinds
from cdc_jax.tasks.world.captions import TEMPLATE

REFERENCES = Path(__file__).with_name("references.npz")
ROWS = ("coop", "maple", "cdc")
TASKS, IMAGES, BATCH = 5, 1000, 250
TOLERANCE = 1e-4
"""Of float32: the largest difference, in units of a tensor's largest value."""
AGREEMENT = {"float32": 0.999, "bfloat16": 0.995}
"""The share of decisions that must be those of the CPU in float32."""

SIZES = clip_lib.ClipConfig(
    vision=clip_lib.Transformer(64, 10, 4, 256),
    text=clip_lib.Transformer(64, 10, 4, 256),
    embed_width=32,
    image_size=32,
    patch_size=8,
    vocab_size=794,
    context_length=77,
    eot_id=793,
)
"""Deep enough for the nine prompted layers of MaPLe and CDC, with the bundled vocabulary."""
_NAMES = [f"{fill} {shape}" for fill in ("solid", "striped", "hollow")
          for shape in ("star", "gear", "heart", "ring")]  # fmt: skip


# ---- Figures in float32


def figures(row: str) -> dict[str, np.ndarray]:
    """What a row computes of a fixed batch, by name.

    Args:
      row: one of `ROWS`.
    """
    backbone = _random_backbone()
    settings = row_settings.configure(row, {"head.shift": 2.0, "head.kl_weight": 0.1})
    method = methods.rebuild(methods.ROWS[row].family, settings, backbone, _NAMES, TEMPLATE)
    classes = method.classes(backbone, _NAMES)
    rng = np.random.default_rng(3)
    size = backbone.sizes.image_size
    shape = (method.templates if row == "cdc" else 1, 4, size, size, 3)
    pixels = rng.standard_normal(shape, np.float32)
    labels = np.array([1, 0, 11, 7])
    support = methods.Support(np.zeros((1, SIZES.embed_width), np.float32), np.zeros(1, np.int32))
    initial = method.initialize(jax.random.key(0), backbone, support)
    trained = jax.tree.map(
        lambda leaf: rng.normal(0, max(0.1, float(leaf.std())), leaf.shape).astype(np.float32),
        initial.trained,
    )

    @jax.jit
    def answers(backbone: ClipBackbone, trained: Any, classes: Any, pixels: jax.Array) -> Any:
        learned = methods.Learned(trained, initial.fixed)
        image = method.image_features(backbone, learned, pixels)
        forward = method.forward(backbone, learned, classes, image)

        def objective(trained: Any) -> Any:
            learned = methods.Learned(trained, initial.fixed)
            return methods.objective(method, backbone, learned, classes, pixels, labels, 0.5)

        gradients, terms = jax.grad(objective, has_aux=True)(trained)
        del terms["accuracy"]  # no continuous function of the figures
        return forward._asdict() | terms | {"gradient": gradients["prompts"]["context"]}

    return {name: np.asarray(v) for name, v in answers(backbone, trained, classes, pixels).items()}


def view_figures() -> dict[str, np.ndarray]:
    """CDC's four augmented views of two small images."""
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (2, 24, 24, 3), np.uint8)
    make = views.build("set2", templates=4, size=16, mean=SIZES.mean, std=SIZES.std)
    return {"views": np.asarray(make(5, 6, np.arange(2, dtype=np.int32), images))}


def compare(found: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """The largest difference of each figure from its reference, and whether all are small."""
    errors = {}
    with np.load(REFERENCES, allow_pickle=False) as stored:
        for name, value in found.items():
            expected = stored[f"{prefix}/{name}"]
            scale = float(np.abs(expected).max()) or 1.0
            errors[name] = float(np.abs(value - expected).max()) / scale
    worst = max(errors, key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
    passed = all(error <= TOLERANCE for error in errors.values())  # of NaN this is False
    return {"passed": passed, "worst": worst, "error": errors[worst], "errors": errors}


def _random_backbone() -> ClipBackbone:
    """Weights of the size that training starts from, so that features differ from each other."""
    _, tokenizer = clip_lib.load("world")
    backbone = ClipBackbone(measuring.random_clip(SIZES), tokenizer)
    rng, drawn = np.random.default_rng(0), {}
    for name, leaf in sorted(backbone.weights().items()):
        normal = rng.standard_normal(leaf.shape, np.float32)
        if name == "log_logit_scale":
            drawn[name] = np.log(np.float32(20.0))
        elif name.endswith("scale"):
            drawn[name] = 1 + 0.1 * normal
        elif name.endswith("bias"):
            drawn[name] = 0.1 * normal
        elif name.startswith("text") and name.endswith("embedding"):
            drawn[name] = 0.3 * normal
        else:
            drawn[name] = leaf.shape[-2] ** -0.5 * normal if leaf.ndim > 1 else normal
    return backbone.with_weights(drawn)


# ---- Decisions


@functools.cache
def drawn_images(task: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a task's 24 classes in turn under do(), as in its test splits, and the classes."""
    kind = kinds.find("aligned")
    classes = kinds.draw_classes(kind, task)
    chosen = np.arange(IMAGES) % len(classes)
    cut = {name: factors.uniform(name) for name in kind.irrelevant}
    cut["style"] = {style: 1 / len(kind.styles) for style in kind.styles}
    scenes = factors.sample(IMAGES, [task, 1])
    scenes = factors.do(scenes, [task, 3], **cut | kind.frequencies)
    of_class = {f: np.array([c.factors[f] for c in classes])[chosen] for f in kind.relevant}
    return kind.render(scenes | of_class, [task, 2]), chosen


def decisions(dtype: str, tasks: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes that the bundled CLIP decides for, and checksums of the images.

    Args:
      dtype: of the weights.
      tasks: how many.
      count: images of each, at most `IMAGES`.

    Returns:
      Class numbers (tasks, 2, count): among all 24, among the half with the image's class; and the
      CRC-32 of each task's first images, (tasks,).
    """
    backbone = backbone_lib.load("world", jnp.dtype(dtype))
    encode = jax.jit(lambda backbone, pixels: backbone.encode_images(pixels))
    found, sums = [], []
    for task in range(tasks):
        images, chosen = (array[:count] for array in drawn_images(task))
        clean = views.clean_view(images, backbone.mean, backbone.std)
        batches = (clean[i : i + BATCH] for i in range(0, count, BATCH))
        features = jnp.concatenate([encode(backbone, batch) for batch in batches])
        names = [c.name for c in kinds.draw_classes(kinds.find("aligned"), task)]
        text = backbone.encode_texts([TEMPLATE.format(name) for name in names])
        cosine = np.asarray(jnp.matmul(features, text.T, precision="highest"))
        half = len(names) // 2
        among_half = np.where(np.arange(len(names)) // half == (chosen // half)[:, None], 0, 9)
        found.append([cosine.argmax(1), (cosine - among_half).argmax(1)])
        sums.append(zlib.crc32(images[:CHECKED].tobytes()))
    return np.array(found, np.uint8), np.array(sums, np.uint32)


CHECKED = 100
"""Images of each task whose pixels are compared with the CPU's."""


def agreement(dtype: str, tasks: int, count: int) -> dict[str, Any]:
    """The share of decisions that are those of the CPU in float32."""
    found, sums = decisions(dtype, tasks, count)
    with np.load(REFERENCES, allow_pickle=False) as stored:
        expected, checksums = stored["decisions"], stored["checksums"]
    share = float((found == expected[:tasks, :, :count]).mean())
    return {
        "passed": share >= AGREEMENT[dtype],
        "share": share,
        "cases": found.size,
        # Where NumPy draws other pixels, a difference says nothing about the device.
        "same_pixels": bool((sums == checksums[:tasks]).all()),
    }
