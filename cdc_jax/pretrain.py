"""Pretrains a small CLIP on the bundled world from scratch, and measures its accuracy."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from cdc_jax import clip as clip_lib
from cdc_jax import run_folder, settings
from cdc_jax.checkpoint import Checkpoints
from cdc_jax.clip.blocks import Dense
from cdc_jax.clip.config import ClipConfig, Transformer
from cdc_jax.clip.model import Clip, normalize
from cdc_jax.clip.tokenizer import Tokenizer
from cdc_jax.progress import Progress
from cdc_jax.tasks.world import captions, factors, kinds, render, vocabulary

# Factors that an auxiliary head reads off the class token.
_HEADS = ("shape", "colour", "fill", "position", "size", "rotation", "background", "pattern")


class Pretraining(nnx.Module):
    """A CLIP and the auxiliary heads that only pretraining has."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        width = config.vision.width
        self.clip = Clip(config, rngs)
        self.factor_heads = nnx.Dict(
            {name: Dense(width, len(factors.VALUES[name]), 0.02, rngs) for name in _HEADS}
        )
        self.mask_head = Dense(width, config.patch_size**2, 0.02, rngs)


def pretrain(config: ConfigDict, workdir: Path | str) -> dict[str, Any]:
    """Pretrains from the newest checkpoint in `workdir` on, and saves the CLIP there.

    The loss is CLIP's symmetric contrastive cross-entropy, plus cross-entropies of auxiliary heads
    for the factors and the object's mask (this project's choice: without them a transformer takes
    several times as many images before it sees shapes at all).

    Args:
      config: see `configs/pretrain.py`.
      workdir: checkpoints go to `checkpoints/`, figures to `metrics.jsonl`, the CLIP in Hugging
        Face's format to `clip/`.

    Returns:
      The last line of `metrics.jsonl`: zero-shot accuracies, seconds, images.
    """
    settings.check_seed(config.seed)
    workdir = Path(workdir)
    tokenizer = _tokenizer(config)
    model = Pretraining(_clip_config(config, tokenizer), nnx.Rngs(config.seed))
    graph, parameters = nnx.split(model)
    optimizer = _optimizer(config)
    state = {
        "parameters": nnx.to_pure_dict(parameters),
        "optimizer": optimizer.init(nnx.to_pure_dict(parameters)),
        "seconds": np.float32(0),
    }

    def loss(pure, batch):
        # Matrix products in bfloat16, parameters and their sums in float32.
        pure = jax.tree.map(lambda p: p.astype(jnp.bfloat16), pure)
        variables = jax.tree.map(lambda p: p, parameters)
        nnx.replace_by_pure_dict(variables, pure)
        return _loss(nnx.merge(graph, variables), batch, config)

    @jax.jit
    def step(parameters, opt_state, batch):
        (_, losses), gradients = jax.value_and_grad(loss, has_aux=True)(parameters, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, parameters)
        return optax.apply_updates(parameters, updates), opt_state, losses

    def trained() -> Clip:
        variables = jax.tree.map(lambda p: p, parameters)
        nnx.replace_by_pure_dict(variables, state["parameters"])
        return nnx.merge(graph, variables).clip

    with Checkpoints(workdir / "checkpoints") as checkpoints:
        first, state, _ = checkpoints.restore_newest(lambda step: state) or (0, state, {})
        run_folder.cut(workdir / "metrics.jsonl", first)
        start, before, losses = time.time(), float(state["seconds"]), []
        with Progress("pretraining", total=config.steps, done=first) as progress:
            for i in range(first, config.steps):
                batch = _batch(config, i, tokenizer)
                state["parameters"], state["optimizer"], new = step(
                    state["parameters"], state["optimizer"], batch
                )
                losses.append(new)
                progress.advance()
                done = i + 1
                if done % config.evaluate_every == 0 or done == config.steps:
                    state["seconds"] = np.float32(before + time.time() - start)
                    mean = {k: float(np.mean([x[k] for x in losses])) for k in new}
                    losses = []
                    line = {"step": done, "images": done * config.batch_size} | mean
                    line["seconds"] = round(float(state["seconds"]))
                    line |= zero_shot(
                        trained(), tokenizer, seed=config.seed, scenes=config.evaluation_scenes
                    )
                    run_folder.append(workdir / "metrics.jsonl", line)
                if done % config.checkpoint_every == 0 or done == config.steps:
                    checkpoints.save(done, state)
    clip_lib.save_pretrained(trained(), tokenizer, workdir / "clip", dtype=jnp.float16)
    return run_folder.read_log(workdir / "metrics.jsonl")[0][-1]


def zero_shot(clip: Clip, tokenizer: Tokenizer, seed: int, scenes: int = 1000) -> dict[str, float]:
    """Zero-shot accuracies on fresh scenes in the clean style, in percent.

    Single factors among all their values; fill x shape and colour x shape among all pairs; the
    pairs that pretraining never saw on their own (among all pairs); and `task`, the mean over
    five few-shot tasks of 24 fill x shape classes.

    Args:
      clip: the model.
      tokenizer: its tokenizer.
      seed: scenes are drawn from it; training never draws these.
      scenes: how many for each figure.
    """

    def image_features(scene, stream):
        pixels = normalized(render.render(scene, [seed, _EVALUATION, stream]), clip.config)
        return np.asarray(_encode_image(clip, pixels))

    def correct(features, prompts, labels):
        text = np.asarray(_encode_text(clip, tokenizer(prompts)))
        return np.argmax(features @ text.T, -1) == labels

    values = factors.VALUES
    scene = factors.sample(scenes, [seed, _EVALUATION])
    scene = factors.do(scene, style="clean")
    features = image_features(scene, 0)
    accuracy = {}
    for factor, prompt in {
        "shape": "a photo of a {}.",
        "colour": "a photo of a {} shape.",
        "fill": "a photo of a {} shape.",
        "position": "a photo of a thing at the {}.",
        "background": "a photo of a thing on a {} background.",
    }.items():
        accuracy[factor] = correct(
            features, [prompt.format(v) for v in values[factor]], scene[factor]
        )
    unseen = factors.held_out(scene)
    for first in ("fill", "colour"):
        prompts = [f"a photo of a {v} {s}." for v in values[first] for s in values["shape"]]
        labels = scene[first] * len(values["shape"]) + scene["shape"]
        pairs = correct(features, prompts, labels)
        accuracy |= {f"{first}_shape": pairs, f"{first}_shape_unseen": pairs[unseen]}
    task = []
    for s in range(5):
        classes = kinds.draw_classes(kinds.KINDS["aligned"], s)
        labels = np.random.default_rng([seed, _EVALUATION, s]).integers(
            len(classes), size=scenes // 5
        )
        class_factors = {
            f: np.array([c.factors[f] for c in classes])[labels] for f in ("fill", "shape")
        }
        subset = {f: v[: len(labels)] for f, v in scene.items()} | class_factors
        prompts = [f"a photo of a {c.name}." for c in classes]
        task.append(correct(image_features(subset, s + 1), prompts, labels))
    accuracy["task"] = np.concatenate(task)
    return {k: round(100 * float(np.mean(v)), 1) for k, v in accuracy.items()}


# Compiled for the first of the evaluations of a training.
_encode_image = jax.jit(lambda clip, images: clip.encode_image(images))
_encode_text = jax.jit(lambda clip, ids: clip.encode_text(ids))

_TRAINING, _EVALUATION = 0, 1  # streams of scenes


def normalized(images: np.ndarray, config: ClipConfig) -> np.ndarray:
    """uint8 images to float32, by the model's mean and standard deviation."""
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)
    return (images.astype(np.float32) / 255 - mean) / std


def _batch(config: ConfigDict, step: int, tokenizer: Tokenizer) -> dict[str, Any]:
    """The scenes of one step: a pure function of the seed and the step."""
    seed = [config.seed, _TRAINING, step]
    scene = factors.sample(config.batch_size, [*seed, 0], combinations="seen")
    easy_until = config.curriculum_fraction * config.steps
    if step < easy_until:
        rng = np.random.default_rng([*seed, 1])
        easy = rng.random(config.batch_size) < 1 - step / easy_until
        plain = factors.do(
            scene, [*seed, 2], style="clean", pattern="plain", distractor="none", marks="none",
            rotation="upright", size=np.maximum(scene["size"], 1),
        )  # fmt: skip
        scene = {f: np.where(easy, plain[f], scene[f]) for f in scene}
    images, masks = render.render_with_masks(scene, [*seed, 3])
    return {
        "images": images,
        "masks": masks,
        "token_ids": tokenizer(captions.captions(scene, [*seed, 4]), length=28),
        "factors": {name: scene[name] for name in _HEADS},
    }


def _loss(model: Pretraining, batch: Mapping[str, Any], config: ConfigDict):
    clip = model.clip
    mean, std = jnp.array(clip.config.mean), jnp.array(clip.config.std)
    tokens = clip.vision.tokens((batch["images"] / 255.0 - mean) / std)
    pooled = clip.vision.post_norm(tokens[:, 0])
    image = normalize(pooled @ clip.vision.projection[...].astype(jnp.float32))
    scale = jnp.minimum(clip.logit_scale, 100.0)
    logits = scale * image @ clip.encode_text(batch["token_ids"]).T
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    labels = jnp.arange(len(logits))
    contrast = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)).mean() / 2
    losses = {"contrast": contrast}
    for name, head in model.factor_heads.items():
        losses[name] = cross_entropy(head(pooled), batch["factors"][name]).mean()
    patch = clip.vision.patch_size
    grid = clip.vision.image_size // patch
    masks = batch["masks"].reshape(-1, grid, patch, grid, patch).swapaxes(2, 3)
    masks = masks.reshape(-1, grid**2, patch**2).astype(jnp.float32)
    losses["mask"] = optax.sigmoid_binary_cross_entropy(
        model.mask_head(tokens[:, 1:]), masks
    ).mean()
    factor_loss = sum(losses[name] for name in _HEADS)
    total = contrast + config.factor_weight * factor_loss + config.mask_weight * losses["mask"]
    return total, {k: losses[k] for k in ("contrast", "shape", "mask")}


def _optimizer(config: ConfigDict) -> optax.GradientTransformation:
    decay = int(config.decay_fraction * config.steps)
    constant = config.steps - config.warmup_steps - decay
    schedule = optax.join_schedules(
        [
            optax.linear_schedule(0, config.learning_rate, config.warmup_steps),
            optax.constant_schedule(config.learning_rate),
            optax.linear_schedule(config.learning_rate, 0, decay),
        ],
        [config.warmup_steps, config.warmup_steps + constant],
    )
    return optax.chain(
        optax.clip_by_global_norm(config.gradient_norm),
        optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay),
    )


def _tokenizer(config: ConfigDict) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        length = config.model.context_length
        vocabulary.write_tokenizer(captions.vocabulary(), length, Path(folder))
        return Tokenizer.from_pretrained(folder)


def _clip_config(config: ConfigDict, tokenizer: Tokenizer) -> ClipConfig:
    def sizes(tower) -> Transformer:
        return Transformer(tower.width, tower.depth, tower.heads, mlp_width=4 * tower.width)

    return ClipConfig(
        vision=sizes(config.model.vision),
        text=sizes(config.model.text),
        embed_width=config.model.embed_width,
        image_size=render.SIZE,
        patch_size=config.model.patch_size,
        vocab_size=tokenizer.vocab_size,
        context_length=config.model.context_length,
        eot_id=tokenizer.eot_id,
        profile="small",
    )
