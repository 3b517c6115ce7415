"""Methods that train the towers, against each written out for itself in PyTorch and float64.

`references/tower_methods.npz` holds the answers of `references/make_tower_methods.py`, as float32.
Training steps are compared in float64: Adam's first steps divide small gradients by themselves. A
difference counts in units of the tensor's largest value.
"""

import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tokenizers
import transformers
import whole_way
from flax import nnx
from references import clip_reference
from scipy.special import softmax

from cdc_jax import (
    adapted_model,
    backbone,
    devices,
    inference,
    methods,
    optimizer,
    step,
    tasks,
    train,
    views,
)  # fmt: skip
from cdc_jax import clip as clip_lib
from cdc_jax.backbone import Branch
from cdc_jax.clip import backbone as clip_backbone
from cdc_jax.clip import blocks, hub, model
from cdc_jax.clip import weights as clip_weights
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.clip.config import ClipConfig
from cdc_jax.methods import tower_adapters
from cdc_jax.tasks.batches import TrainingBatches

ROWS = ("clip_lora", "clip_svd", "two_sfs")
NAMES = ("cat", "sea_or_lake", "red dog", "dog", "lake")  # of the stored answers
KERNELS = ("text.blocks.qkv.kernel", "vision.blocks.qkv.kernel")


@pytest.fixture(scope="module")
def stored():
    path = Path(__file__).parent / "references" / "tower_methods.npz"
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    return arrays | {"pixels": jnp.asarray(arrays["pixels"])}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The references' CLIP, and a tokenizer of its whole words."""
    config = clip_reference.METHODS
    folder = clip_reference.write_folder(tmp_path_factory.mktemp("towers") / "clip", config)
    clip_reference.write_weights(folder, clip_reference.weights(config))
    path = Path(__file__).parent / "references" / "methods.npz"
    vocabulary = [str(word) for word in np.load(path)["vocabulary"]]
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(vocabulary)}, "<pad>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<start>", eos_token="<end>"
    )
    return ClipBackbone(clip_lib.load(folder)[0], clip_lib.Tokenizer(hf, context_length=24))


class Float64Numpy(types.ModuleType):
    """jax.numpy, whose float32 is float64."""

    float32 = jnp.float64

    def __getattr__(self, name):
        return getattr(jnp, name)


@pytest.fixture
def double(clip, monkeypatch):
    """The CLIP with towers that compute in float64."""
    for module in (blocks, model, clip_backbone, tower_adapters):
        monkeypatch.setattr(module, "jnp", Float64Numpy("jax.numpy"))
    with jax.enable_x64(True):
        yield jax.tree.map(lambda leaf: leaf.astype(jnp.float64), clip)


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def create(encoder, row, names=NAMES, **changes):
    """A method, and what it starts from."""
    choice = methods.configure(
        methods.with_changes(row, {"optimizer.steps": 40, "optimizer.batch_size": 4} | changes)
    )
    labels = np.repeat(np.arange(len(names)), 2)
    features = np.ones((len(labels), encoder.sizes.embed_width), np.float32)
    support = methods.Support(features, labels)
    method = methods.build(choice, encoder, names, "a photo of a {}.", support)
    return method, method.initialize(jax.random.key(0), encoder, support)


def in_parts(stored, row, prefix):
    """Stored arrays in our names and layout; PyTorch's Linear keeps (outputs, inputs)."""

    def of(name):
        return stored[f"{row}/{prefix}/{name}"]

    towers = ("text", "vision")
    if row == "clip_lora":
        names = ("down", "up")
        maps = {t: {n: of(f"{t}/{n}").swapaxes(-1, -2) for n in names} for t in towers}
        return {"lora": maps}
    if row == "clip_svd":
        layers = {
            "qkv": ("q_proj", "k_proj", "v_proj"), "attention_out": ("out_proj",),
            "mlp_in": ("fc1",), "mlp_out": ("fc2",),
        }  # fmt: skip
        return {
            "singular_values": {
                t: {our: np.stack([of(f"{t}/{n}") for n in n_], 1) for our, n_ in layers.items()}
                for t in towers
            }
        }
    if prefix.startswith("second"):
        return {"classifier": of("classifier")[None]}
    norms = {"attention_norm": "layer_norm1", "mlp_norm": "layer_norm2"}
    parts = {"scale": "weight", "bias": "bias"}
    return {
        "norms": {
            t: {
                our: {p: of(f"{t}/{norm}/{theirs}") for p, theirs in parts.items()}
                for our, norm in norms.items()
            }
            for t in towers
        }
    }


@pytest.fixture
def given_masks(stored, monkeypatch):
    """Dropout masks of the stored answers, in the places of those that a run would draw."""
    keys, masks = {}, {}
    for place, tower in enumerate(("text", "vision")):
        of_steps = []
        for number in range(3):
            key = jax.random.split(jax.random.fold_in(jax.random.key(np.uint32(0)), number))[place]
            of_blocks = jax.random.split(key, 4)
            if tower == "text":  # names of the first chunk
                of_blocks = jax.vmap(lambda one: jax.random.fold_in(one, 0))(of_blocks)
            of_steps.append(jax.random.key_data(of_blocks))
        shape = tuple(stored[f"masks/{tower}/shape"])
        bits = np.unpackbits(stored[f"masks/{tower}"], count=np.prod(shape))
        masks[shape[2:]] = bits.reshape(12, *shape[2:]).astype(bool)
        keys[shape[2:]] = np.concatenate(of_steps)

    def given(key, rate, shape):
        found = (keys[shape] == jax.random.key_data(key)).all(-1)
        index = jnp.where(found.any(), found.argmax(), 10**6)
        return jnp.asarray(masks[shape]).at[index].get(mode="fill", fill_value=2) / (1 - rate)

    monkeypatch.setattr(blocks, "dropout_mask", given)


def objective(method, encoder, learned, stored, classes):
    """The loss as a function of the trained arrays, at step 0 of seed 0."""

    def loss(trained):
        part = methods.Learned(trained, learned.fixed)
        views = stored["pixels"][None]
        arguments = (method, encoder, part, classes, views, stored["labels"], 0.0)
        return methods.objective(*arguments, seed=np.uint32(0))[0]

    return loss


def run_steps(stage, learned, encoder, stored):
    """Trained arrays and losses of three steps."""
    labels, names = stored["labels"].astype(np.int32), stage.method.class_names
    examples = tasks.Examples(np.zeros((4, 1, 1, 3), np.uint8), labels, names)
    phase = step.Phase(
        stage=stage,
        examples=examples,
        batches=TrainingBatches(examples, 4, 0),
        update=optimizer.make(stage.optimizer, 1),
        make_views=lambda *arguments: jnp.asarray(stored["pixels"], jnp.float64)[None],
        first=0,
        steps=40,
    )
    state = step.initial_state(stage, phase.update, learned.trained)
    classes, losses = stage.method.classes(encoder, names), []
    compiled = jax.jit(step.make_step(phase, seed=0))
    batch = {"images": jnp.zeros(4), "labels": labels, "indices": np.arange(4)}
    for _ in range(3):
        state, terms = compiled(state, encoder, learned.fixed, classes, batch)
        losses.append(terms["loss"])
    return state["trained"], np.array(losses)


def assert_trains_alike(stored, row, stage, learned, encoder, prefix=""):
    """Logits, gradients and three steps of a stage equal the stored ones."""
    method, part = stage.method, lambda name: in_parts(stored, row, prefix + name)
    classes = method.classes(encoder, NAMES)
    adapted = method.adapt_in_step(encoder, learned, np.uint32(0), 0)
    image = method.image_features(adapted, learned, stored["pixels"][None])
    logits = method.forward(adapted, learned, classes, image).logits[:, 0]
    assert logits.dtype == jnp.float64
    assert_close(logits, stored[f"{row}/{prefix}logits"])
    gradients = jax.jit(jax.grad(objective(method, encoder, learned, stored, classes)))(
        learned.trained
    )
    for name, expected in part("gradient").items():
        jax.tree.map(assert_close, gradients[name], expected)
    trained, losses = run_steps(stage, learned, encoder, stored)
    assert_close(losses, stored[f"{row}/{prefix}losses"])
    for name, expected in part("moved").items():
        moved = jax.tree.map(jnp.subtract, trained[name], learned.trained[name])
        jax.tree.map(assert_close, moved, expected)
    return methods.Learned(trained, learned.fixed)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["clip_lora", "clip_svd"])
def test_it_equals_the_plain_form(stored, double, given_masks, row):
    method, learned = create(double, row)
    initial = jax.tree.map(jnp.float64, in_parts(stored, row, "initial"))
    learned = methods.Learned(initial, learned.fixed)
    assert_trains_alike(stored, row, method.stages()[0], learned, double)
    if row == "clip_lora":
        adapted = method.adapt(double, learned)
        image = method.image_features(adapted, learned, stored["pixels"][None])
        classes = method.classes(double, NAMES)
        logits = method.forward(adapted, learned, classes, image).logits[:, 0]
        assert_close(logits, stored["clip_lora/merged"])


@pytest.mark.slow
def test_both_stages_equal_the_plain_form(stored, double):
    method, learned = create(double, "two_sfs", first_share=0.5, **{"optimizer.steps": 80})
    initial = jax.tree.map(jnp.float64, in_parts(stored, "two_sfs", "first/initial"))
    learned = methods.Learned(learned.trained | initial, {})
    first, second = method.stages()
    learned = assert_trains_alike(stored, "two_sfs", first, learned, double, "first/")
    learned = methods.Learned(second.begin(double, learned, None), {})
    start = in_parts(stored, "two_sfs", "second/initial")["classifier"]
    assert_close(learned.trained["classifier"], start)
    learned = assert_trains_alike(stored, "two_sfs", second, learned, double, "second/")
    adapted = method.adapt(double, learned)
    image = method.image_features(adapted, learned, stored["pixels"][None])

    def logits(*names):
        return method.forward(adapted, learned, method.classes(double, names), image).logits[:, 0]

    base, new = stored["two_sfs/second/base"], stored["two_sfs/second/new"]
    assert_close(logits(*NAMES), base)
    assert_close(logits("picture", "sea"), new)
    # A list of both takes the classifier's rows for names that it was trained on.
    mixed = np.stack([new[:, 1], base[:, 3], base[:, 0], new[:, 0]], 1)
    assert_close(logits("sea", "dog", "cat", "picture"), mixed)


# ---- Branches of the towers


def lora(encoder, **changes):
    """A LoRA with updates that are not 0."""
    method, learned = create(encoder, "clip_lora", **changes)
    noise = iter(jax.random.split(jax.random.key(1), 4))
    trained = jax.tree.map(
        lambda leaf: leaf + 0.1 * jax.random.normal(next(noise), leaf.shape, leaf.dtype),
        learned.trained,
    )
    return method, methods.Learned(trained, {})


@pytest.mark.slow
def test_branches_without_dropout_equal_merged_weights(stored, double):
    method, learned = lora(double)
    merged = method.adapt(double, learned)
    branches = {
        name: Branch(maps["down"], maps["up"] / 2**0.5, jax.random.split(jax.random.key(0), 4), 0.0)
        for name, maps in zip(KERNELS, learned.trained["lora"].values(), strict=True)
    }
    beside = double.with_branches(branches)
    assert not any(np.array_equal(merged.weights()[n], double.weights()[n]) for n in KERNELS)
    pixels = jnp.asarray(stored["pixels"], jnp.float64)
    texts = double.text_ids([f"a photo of a {name}." for name in NAMES])
    for found, expected, frozen in (
        [encoder.encode_images(pixels) for encoder in (beside, merged, double)],
        [encoder.encode_ids(texts) for encoder in (beside, merged, double)],
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert abs(found - frozen).max() > 1e-3
    # Without dropout, a training step uses the merged weights themselves.
    plain, learned = lora(double, **{"lora.dropout": 0.0})
    in_step, merged = plain.adapt_in_step(double, learned, 0, 3), plain.adapt(double, learned)
    for name, weight in in_step.weights().items():
        np.testing.assert_array_equal(weight, merged.weights()[name])


def test_dropout_masks():
    """Each number of each part has a mask of its own; the kept ones are scaled."""
    mask = np.asarray(blocks.dropout_mask(jax.random.key(3), 0.25, (40, 7, 3, 50)))
    assert set(np.unique(mask)) == {0, np.float32(1 / 0.75)}
    kept = mask > 0
    assert kept.mean() == pytest.approx(0.75, abs=0.01)  # 5 standard deviations
    flat = kept.reshape(-1, 3, 50) - 0.75
    for i in range(3):
        for j in range(i):
            both = (flat[:, i] * flat[:, j]).mean() / 0.1875
            assert abs(both) < 0.05


def branch(encoder, rate):
    """Branches of both towers that leave the inputs alone, apart from dropout."""
    method, learned = lora(encoder, **{"lora.dropout": rate})
    return method.adapt_in_step(encoder, learned, 0, 0), method, learned


def test_every_text_image_block_and_step_has_its_own_masks(clip, stored):
    dropping, method, learned = branch(clip, 0.5)
    alike = clip.text_ids(["a photo of a dog."] * 3)
    twins = jnp.stack([stored["pixels"][0]] * 3)
    views = jnp.stack([twins, twins])

    def features(number, texts=alike):
        adapted = method.adapt_in_step(clip, learned, 0, number)
        images = method.image_features(adapted, learned, views).reshape(6, -1)
        return adapted.encode_ids(texts), images

    for first, same, other in zip(features(0), features(0), features(1), strict=True):
        np.testing.assert_array_equal(first, same)
        everything = np.concatenate([first, other])
        distances = np.linalg.norm(everything[:, None] - everything, axis=-1)
        assert distances[~np.eye(len(everything), dtype=bool)].min() > 1e-3
    # Chunks of texts have their own masks, too.
    many = clip.text_ids(["a photo of a dog."] * 12)
    chunked = np.asarray(dropping.encode_ids(many, memory=1))
    distances = np.linalg.norm(chunked[:, None] - chunked, axis=-1)
    assert distances[~np.eye(12, dtype=bool)].min() > 1e-3


def test_token_ids_encode_as_texts(clip):
    """With a common beginning, without, in chunks, and alone."""
    lists = [[f"a photo of a {name}." for name in ("cat", "red dog", "dog", "lake", "sea")],
             ["cat", "a photo", "the dog with a lake"], ["a photo of a cat."],
             ["dog", "dog"]]  # fmt: skip
    for texts, shared in zip(lists, (5, 1, 7, 2), strict=True):
        ids = clip.text_ids(texts)
        assert len(ids.beginning) == shared
        expected = clip.encode_texts(texts)
        np.testing.assert_allclose(clip.encode_ids(ids), expected, atol=1e-6)
        np.testing.assert_allclose(clip.encode_ids(ids, memory=1), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("text.blocks.norm.kernel", (4, 3, 32, 2), "norm is no linear layer of a block"),
        ("audio.blocks.qkv.kernel", (4, 3, 32, 2), "audio.blocks.qkv.kernel is no kernel"),
        ("text.blocks.qkv.kernel", (4, 3, 48, 2), "a branch of qkv, 32 to 96 in 4 blocks"),
    ],
)
def test_a_branch_that_fits_no_layer_is_refused(clip, name, shape, message):
    down, up = jnp.zeros(shape), jnp.zeros((4, 3, 2, 32))
    with pytest.raises(ValueError, match=message):
        clip.with_branches({name: Branch(down, up, jax.random.split(jax.random.key(0), 4), 0.0)})


# ---- Settings and sizes


def vit_b16():
    """The shapes of ViT-B/16 with another model's tokenizer."""
    config = ClipConfig.from_hf(
        {
            "model_type": "clip",
            "projection_dim": 512,
            "vision_config": {"patch_size": 16, "hidden_act": "quick_gelu"},
            "text_config": {"hidden_act": "quick_gelu", "eos_token_id": 49407},
        },
        {},
    )
    shapes = nnx.eval_shape(lambda: model.Clip(config, nnx.Rngs(0)))
    return ClipBackbone(shapes, backbone.load("world").tokenizer)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("clip_lora", 184_320),
        ("clip_svd", 92_160),
        ("two_sfs", 61_440 + 10 * 512),
        ("two_sfs@norms.outer=True", 65_536 + 10 * 512),
    ],
)
def test_parameters_at_vit_b16(row, expected):
    encoder, names = vit_b16(), ("star",) * 10
    family = methods.ROWS[methods.split(row)[0]].family
    config = methods.configure(row).config
    support = methods.Support(np.ones((10, 512), np.float32), np.arange(10))

    def initialize(encoder):
        method = methods.rebuild(family, config, encoder, names, "a photo of a {}.")
        return method.initialize(jax.random.key(0), encoder, support)

    learned = jax.eval_shape(initialize, encoder)
    assert sum(leaf.size for leaf in jax.tree.leaves(learned.trained)) == expected
    fixed = sum(leaf.size for leaf in jax.tree.leaves(learned.fixed))
    clip_size = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(encoder.clip)))
    assert (fixed > clip_size) == (row == "clip_svd")


@pytest.mark.parametrize(
    ("row", "shots", "expected"),
    [
        ("clip_lora", 16, [8000]),
        ("clip_svd", 1, [200]),
        *(("two_sfs", *case) for case in (
            (1, [180, 120]), (2, [360, 240]), (4, [720, 480]), (8, [1440, 960]), (16, [2880, 1920])
        )),
        ("two_sfs@optimizer.steps=7", 16, [4, 3]),
        ("two_sfs@steps_per_shot=0;optimizer.epochs=5", 16, [3, 2]),
    ],
)  # fmt: skip
def test_the_published_numbers_of_steps(clip, row, shots, expected):
    labels = np.repeat([0, 1], [shots, 1])  # the second class has too few images
    support = methods.Support(np.ones((shots + 1, 40), np.float32), labels)
    choice = methods.configure(row)
    stages = methods.build(choice, clip, ("cat", "dog"), "a {}.", support).stages()
    # An epoch has one step here.
    assert [optimizer.steps(stage.optimizer, 1) for stage in stages] == expected


def test_the_cosine_of_each_step_ends_at_the_final_rate():
    config = methods.configure("clip_lora@optimizer.steps=10;optimizer.weight_decay=0").config
    update, p = optimizer.make(config.optimizer, 3), jnp.zeros(())
    state, rates = update.init(p), []
    for _ in range(11):  # Adam moves by the rate while the gradient stays the same
        move, state = update.update(jnp.ones(()), state, p)
        rates.append(-float(move))
    expected = [1e-6 + (2e-4 - 1e-6) * (1 + np.cos(np.pi * s / 10)) / 2 for s in range(11)]
    np.testing.assert_allclose(rates, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("clip_lora@lora.rank=0", "lora needs a rank of at least 1 .* rank=0 and dropout=0.25"),
        ("clip_lora@lora.dropout=1.0", "a dropout from 0 to below 1, got rank=2 and dropout=1.0"),
        ("two_sfs@first_share=1.5", "first_share is stage 1's share .* got 1.5"),
        ("clip_svd@templates=a {}.|the.", r"templates needs one \{\} .*'the\.'"),
    ],
)
def test_impossible_settings_are_refused(clip, row, message):
    support = methods.Support(np.ones((2, 40), np.float32), np.arange(2))
    with pytest.raises(ValueError, match=message):
        methods.build(methods.configure(row), clip, ("cat", "dog"), "a {}.", support)


@pytest.mark.parametrize("row", ROWS)
def test_templates_have_logits_of_their_own(clip, stored, row):
    """Each template equals a method of this template alone, and evidence is fused."""
    changes = {"head.name": "evidential", "head.fusion": "dempster"}
    image = clip.encode_images(stored["pixels"])[None]

    def logits(templates):
        method, learned = create(clip, row, templates=templates, **changes)
        classes = method.classes(clip, NAMES)
        found = method.forward(clip, learned, classes, image).logits
        return found, method.predict(learned, found)

    both, fused = logits("a photo of a {}.|the {}.")
    assert both.shape == (4, 2, 5) and fused.log_vacuity is not None
    alone = [logits(template)[0][:, 0] for template in ("a photo of a {}.", "the {}.")]
    np.testing.assert_allclose(both, np.stack(alone, 1), atol=1e-4)


# ---- The whole way on the bundled world

ARGUMENT = (
    "shots=4,world.test_images=2,evaluation_batch_size=24,progress=False,log_every=2,"
    "checkpoint_every=3,clip_lora.optimizer.epochs=6,clip_svd.optimizer.epochs=6,"
    f"two_sfs.optimizer.epochs=7,methods={','.join(ROWS)}"
)


@pytest.fixture(scope="module")
def finished(get_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    config = get_config("fewshot", ARGUMENT)
    return workdir, config, train.train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_killed_and_resumed_they_end_the_same(finished, tmp_path, monkeypatch):
    workdir, config, results = finished
    stops = len(ROWS)  # each method that trains
    again = whole_way.stop_and_resume(config, tmp_path, stops, 2, monkeypatch)
    assert again == results
    whole_way.require_same_files(workdir, tmp_path, ROWS)


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_exported_they_predict_as_they_were_evaluated(finished, row):
    workdir, config, results = finished
    task = tasks.load(config, 32)
    for split in ("base_int", "new_int"):
        whole_way.require_evaluated_predictions(workdir / row, task, split)


@pytest.mark.slow
def test_checkpoints_hold_what_is_trained_only(finished):
    state = ocp.StandardCheckpointer().restore(finished[0] / "clip_svd/checkpoints/6/state")
    values = sum(leaf.size for leaf in jax.tree.leaves(state["trained"]))
    assert values == 6 * 128 * 4 + 6 * 192 * 6
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 3 * values + 9


@pytest.mark.slow
@pytest.mark.parametrize("row", ["clip_lora", "clip_svd"])
def test_exported_as_a_clip_it_is_the_adapted_model(finished, tmp_path, row):
    """The folder has the files and tensors of the original, and predicts as the method does."""
    workdir, config, _ = finished
    run, folder = workdir / row, tmp_path / "clip"
    adapted_model.save_clip(run, folder)
    original = hub.find("world")
    of_both = [clip_weights.read(hub.weights_files(path)) for path in (folder, original)]
    exported, frozen = of_both
    assert {n: (x.shape, x.dtype) for n, x in exported.items()} == {
        n: (x.shape, np.dtype(np.float32)) for n, x in frozen.items()
    }
    unequal = (n for n in frozen if not np.allclose(exported[n], frozen[n], atol=1e-6))
    changed = {name.split(".")[-2] for name in unequal}
    attention = {"q_proj", "k_proj", "v_proj"}
    assert changed == attention | ({"out_proj", "fc1", "fc2"} if row == "clip_svd" else set())
    settings = [json.loads((path / "config.json").read_text()) for path in (folder, original)]
    assert settings[0].pop("dtype") == "float32" and settings[1].pop("dtype") == "float16"
    assert settings[0] == settings[1]
    files = [{path.name for path in one.iterdir()} for one in (folder, original)]
    assert files[0] | {"README.md"} == files[1]
    # Loaded as any CLIP, it gives the probabilities of the run.
    model, tokenizer = clip_lib.load(folder)
    task, scores = tasks.load(config, 32), np.load(run / "scores.npz")
    for split in ("base_int", "new_int"):
        examples = task.test[split]
        pixels = views.clean_view(examples.images[:], model.config.mean, model.config.std)
        texts = [f"a photo of a {name}." for name in examples.class_names]
        text = np.asarray(model.encode_text(tokenizer(texts)), np.float64)
        logits = float(model.logit_scale) * np.asarray(model.encode_image(pixels)) @ text.T
        probability = softmax(logits, -1)
        np.testing.assert_allclose(probability.max(-1), scores[f"{split}/confidence"], atol=1e-4)
        assert np.array_equal(probability.argmax(-1), scores[f"{split}/predicted"])
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError):
        adapted_model.save_clip(run, tmp_path / "other")


@pytest.mark.slow
def test_a_method_that_is_more_than_a_clip_is_not_exported_as_one(finished, tmp_path):
    message = "two_sfs/adapted can't be exported as a CLIP: methods of family 'two_sfs' learn more"
    with pytest.raises(ValueError, match=message):
        adapted_model.save_clip(finished[0] / "two_sfs", tmp_path / "clip")
    assert not (tmp_path / "clip").exists()


@pytest.mark.slow
def test_the_command_exports_a_clip(finished, tmp_path):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "cdc_jax", "export"]
    run = subprocess.run(
        [*command, finished[0] / "clip_lora", tmp_path / "clip"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert run.stdout == f"Written: {tmp_path / 'clip'}\n"
    expected = tmp_path / "expected"
    adapted_model.save_clip(finished[0] / "clip_lora", expected)
    found = (tmp_path / "clip/model.safetensors").read_bytes()
    assert found == (expected / "model.safetensors").read_bytes()
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode != 0 and "RUN and FOLDER are needed" in run.stderr


def test_an_adapted_backbone_is_built_once_for_all_batches(clip, monkeypatch):
    method, learned = lora(clip)
    merged = []
    adapt = tower_adapters.ClipLora.adapt
    monkeypatch.setattr(
        tower_adapters.ClipLora, "adapt", lambda *args: merged.append(1) or adapt(*args)
    )
    runner = inference.Inference(method, inference.FrozenFeatures(clip, devices.make_mesh(), 2))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    runner.images(learned, runner.class_list(learned, NAMES), images)
    assert len(merged) == 1
    first = runner.images(learned, runner.class_list(learned, NAMES), images).probability
    other = methods.Learned(jax.tree.map(lambda leaf: 2 * leaf, learned.trained), {})
    second = runner.images(other, runner.class_list(other, NAMES), images).probability
    assert len(merged) == 2 and abs(first - second).max() > 1e-3
