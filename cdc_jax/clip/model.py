"""CLIP's two towers, with the slots that prompts need (Radford et al. 2021; deep and visual
prompts as in MaPLe, Khattak et al. 2023; tokens of middle layers as in MMRL, Guo and Gu 2025).

Prompts enter both towers as an array of shape (layers, prompt, width): row 0 is part of the
input of the first layer, row j replaces the previous layer's output at the same positions before
layer j, and after the last row the tokens run on. One row is a shallow prompt, as in CoOp. Other
layers may be given. A row 0 of a later layer is inserted there, and has no position.

The text tower is causal and pooled at the end-of-text token, which allows two exact savings. The
sequence may stop at the longest class name's end-of-text. And the tokens before the name, which
all classes of a template share, run once (`TextTower.prefix`): the names then attend to the
prefix's keys and values (`TextTower.names`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from cdc_jax import devices
from cdc_jax.clip.blocks import LayerNorm, Prefixes, project, scan, scan_behind, stack
from cdc_jax.clip.config import ClipConfig

PyTree = Any


def normalize(features: Float[Array | np.ndarray, "*b width"]) -> Float[Array, "*b width"]:
    """Divides by the Euclidean norm, in float32."""
    features = jnp.asarray(features, jnp.float32)
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


class VisionTower(nnx.Module):
    """The image encoder: a vision transformer pooled at its class token."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        width = config.vision.width
        self.patch_size, self.image_size = config.patch_size, config.image_size
        pixels = 3 * config.patch_size**2
        normal = lambda shape, std: nnx.Param(std * jax.random.normal(rngs.params(), shape))  # noqa: E731
        self.patch_embedding = normal((pixels, width), pixels**-0.5)
        self.class_embedding = normal((width,), width**-0.5)
        self.position_embedding = normal((config.patches + 1, width), width**-0.5)
        self.pre_norm = LayerNorm(width, config.vision.epsilon)
        self.blocks = stack(config.vision, rngs)
        self.post_norm = LayerNorm(width, config.vision.epsilon)
        self.projection = normal((width, config.embed_width), width**-0.5)

    def tokens(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"] | None = None,
        at: Sequence[int] | None = None,
        share: float = 1.0,
    ) -> Float[Array, "batch tokens width"]:
        """The last block's output: class token, patches (row by row), prompts.

        Args:
          pixels: images normalised by the model's mean and standard deviation.
          prompts: visual prompts, which stand after the patches and have no position. Prompts of
            the first layer join before the pre-layer-norm.
          at: the block that each row of the prompts enters; None is 0, 1, 2, …
          share: see `blocks.scan`.

        Raises:
          ValueError: images of another size than the model's.
        """
        size, patch = self.image_size, self.patch_size
        if pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"expected images of shape ({size}, {size}, 3), got {pixels.shape[1:]}"
            )
        batch, grid, width = len(pixels), size // patch, self.class_embedding.shape[0]
        if prompts is None:
            prompts = jnp.zeros((1, 0, width), jnp.float32)
        patches = pixels.reshape(batch, grid, patch, grid, patch, 3).swapaxes(2, 3)
        x = project(patches.reshape(batch, grid**2, -1), self.patch_embedding[...])
        first = jnp.broadcast_to(self.class_embedding[...].astype(x.dtype), (batch, 1, width))
        x = jnp.concatenate([first, x], 1) + self.position_embedding[...].astype(x.dtype)
        if not inserted(at):
            prompt = jnp.broadcast_to(prompts[0], (batch, *prompts.shape[1:]))
            x = jnp.concatenate([x, prompt], 1)
        x = self.pre_norm(x)
        return scan(self.blocks, x, prompts, start=1 + grid**2, at=at, share=share)[0]

    def __call__(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"] | None = None,
        at: Sequence[int] | None = None,
    ) -> Float[Array, "batch embed"]:
        """Image features before normalisation; arguments as `tokens`."""
        pooled = self.post_norm(self.tokens(pixels, prompts, at)[:, 0])
        return project(pooled, self.projection[...])

    def with_states(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"],
        at: Sequence[int] | None = None,
        share: float = 1.0,
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch prompt width"]]:
        """Image features before normalisation, and the prompts' normed states after all blocks.

        The arguments are those of `tokens`.
        """
        tokens = self.tokens(pixels, prompts, at, share)
        states = self.post_norm(tokens[:, tokens.shape[1] - prompts.shape[1] :])
        return project(self.post_norm(tokens[:, 0]), self.projection[...]), states


class TextTower(nnx.Module):
    """The text encoder: a causal transformer pooled at the end-of-text token."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        width = config.text.width
        self.eot_id = config.eot_id
        normal = lambda shape, std: nnx.Param(std * jax.random.normal(rngs.params(), shape))  # noqa: E731
        self.token_embedding = normal((config.vocab_size, width), 0.02)
        self.position_embedding = normal((config.context_length, width), 0.01)
        self.blocks = stack(config.text, rngs)
        self.final_norm = LayerNorm(width, config.text.epsilon)
        self.projection = normal((width, config.embed_width), width**-0.5)

    def embed(
        self, token_ids: Int[Array | np.ndarray, "*b tokens"]
    ) -> Float[Array, "*b tokens width"]:
        """Token embeddings, without positions, in float32."""
        return self.token_embedding[...][token_ids].astype(jnp.float32)

    def __call__(
        self,
        token_ids: Int[Array | np.ndarray, "texts tokens"],
        prompts: Float[Array, "layers prompt width"] | None = None,
        at: Sequence[int] | None = None,
        share: float = 1.0,
    ) -> Float[Array, "texts embed"]:
        """Text features before normalisation, by the plain full-length forward pass.

        Args:
          token_ids: start-of-text, words, end-of-text, padding; at most the context length.
          prompts: take the places after start-of-text, whatever token stands there. Prompts of a
            later layer than the first are inserted there instead.
          at: the block that each row of the prompts enters; None is 0, 1, 2, …
          share: see `blocks.scan`.
        """
        if prompts is None:
            prompts = jnp.zeros((1, 0, self.token_embedding.shape[1]), jnp.float32)
        x, added = self.embed(token_ids), prompts.shape[1]
        if not inserted(at):
            x, added = x.at[..., 1 : 1 + added, :].set(prompts[0]), 0
        x, _ = scan(self.blocks, self._placed(x, 0), prompts, 1, causal=True, at=at, share=share)
        return self._pool(x, token_ids, added)

    def prefix(
        self,
        start_id: int,
        prompts: Float[Array, "layers prompt width"],
        words: Float[Array, "words width"],
        at: Sequence[int] | None = None,
        share: float = 1.0,
    ) -> Prefixes:
        """What every class name of one template attends to: start-of-text, prompt, fixed words.

        Args:
          start_id: id of the start-of-text token.
          prompts: the template's learned vectors.
          words: embeddings of the fixed words between the prompt and the name; may be empty.
          at: the block that each row of the prompts enters; None is 0, 1, 2, …
          share: see `blocks.scan`.

        Returns:
          Keys and values of every layer, (depth, heads, tokens, head width). Prompts that are
          inserted make two pairs of them: of the layers before, and of the layers after.
        """
        start, first = self.embed(jnp.array([start_id])), prompts[0, : 0 if inserted(at) else None]
        x = self._placed(jnp.concatenate([start, first, words]), 0)
        return scan(self.blocks, x, prompts, start=1, causal=True, at=at, share=share)[1]

    def names(
        self,
        prefix: Prefixes,
        token_ids: Int[Array | np.ndarray, "classes tokens"],
        chunk: int = 1,
        chunks: int = 0,
    ) -> Float[Array, "classes embed"]:
        """Text features, before normalisation, of one template's prefix and every class name.

        Equal to the plain forward pass over prefix + name.

        Args:
          prefix: of `prefix`.
          token_ids: names up to their end-of-text token, padded to the longest.
          chunk: classes at a time, where there are chunks.
          chunks: see `in_chunks`.

        Raises:
          ValueError: more classes in chunks than there are.
        """

        def encode(token_ids):
            token_ids = devices.split(token_ids, devices.AXES)
            before = prefix[0][0].shape[-2]
            x = self._placed(self.embed(token_ids), before)
            return self._pool(scan_behind(self.blocks, x, prefix), token_ids)

        return in_chunks(encode, token_ids, chunk, chunks)

    def _placed(self, x: Array, first: int) -> Array:
        """Adds the embeddings of the positions from `first` on."""
        tokens, limit = x.shape[-2], self.position_embedding.shape[0]
        if first + tokens > limit:
            raise ValueError(
                f"a text of {first + tokens} tokens exceeds the context length {limit}: "
                "shorten the class name or the prompt"
            )
        return x + self.position_embedding[...][first : first + tokens].astype(x.dtype)

    def _pool(self, x: Array, token_ids: Array | np.ndarray, added: int = 0) -> Array:
        """Features at the ends of the texts, before which tokens were added."""
        end = eot_positions(token_ids, self.eot_id) + added
        pooled = jnp.take_along_axis(x, end[..., None, None], -2)[..., 0, :]
        return project(self.final_norm(pooled), self.projection[...])


def in_chunks(
    encode: Callable[[PyTree], Array], classes: PyTree, chunk: int, chunks: int
) -> Float[Array, "classes *b"]:
    """Applies a function to all classes, to the last of them in chunks.

    The derivative runs the chunks again in place of keeping activations, which bounds the memory of
    long lists.

    Args:
      encode: from the rows of some classes to as many features.
      classes: arrays with a row for each class.
      chunk: classes at a time, where there are chunks.
      chunks: the last chunks * chunk classes run one chunk after the other.

    Raises:
      ValueError: more classes in chunks than there are.
    """
    count = len(jax.tree.leaves(classes)[0])
    unchunked = count - chunks * chunk
    if unchunked < 0:
        raise ValueError(f"{chunks} chunks of {chunk} exceed the {count} classes")
    features = [encode(jax.tree.map(lambda a: a[:unchunked], classes))] if unchunked else []
    if chunks:
        rows = jax.tree.map(lambda a: a[unchunked:].reshape(chunks, chunk, *a.shape[1:]), classes)
        chunked = jax.lax.map(jax.checkpoint(encode), rows)
        features.append(chunked.reshape(chunks * chunk, *chunked.shape[2:]))
    return jnp.concatenate(features)


def eot_positions(token_ids: Int[Array | np.ndarray, "*b tokens"], eot_id: int) -> Int[Array, "*b"]:
    """Where each text ends: the first `eot_id`, or the largest id if that is the legacy 2.

    Configurations written by old releases of transformers say `eos_token_id` 2 whatever the
    vocabulary; there the end-of-text token is the one with the largest id.
    """
    if eot_id == 2:
        return jnp.argmax(token_ids, -1)
    return jnp.argmax(token_ids == eot_id, -1)


def inserted(at: Sequence[int] | None) -> bool:
    """Whether prompts at these blocks are no part of a tower's input."""
    return at is not None and at[0] > 0


class Clip(nnx.Module):
    """Both towers and the logit scale."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        self.config = config
        self.vision = VisionTower(config, rngs)
        self.text = TextTower(config, rngs)
        self.log_logit_scale = nnx.Param(jnp.log(1 / 0.07))

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """The factor 1/temperature between cosine similarities and logits (OpenAI's: 100)."""
        return jnp.exp(self.log_logit_scale[...].astype(jnp.float32))

    @partial(jax.jit, static_argnames="normalize")
    def encode_image(
        self, pixels: Float[Array, "batch height width 3"], normalize: bool = True
    ) -> Float[Array, "batch embed"]:
        """Image features of pixels normalised by the model's own mean and standard deviation.

        Example:
          >>> from cdc_jax import clip
          >>> model, tokenizer = clip.load("world")
          >>> model.encode_image(jnp.zeros((2, 32, 32, 3))).shape
          (2, 128)
        """
        return _finish(self.vision(pixels), normalize)

    @partial(jax.jit, static_argnames="normalize")
    def encode_text(
        self, token_ids: Int[Array | np.ndarray, "texts tokens"], normalize: bool = True
    ) -> Float[Array, "texts embed"]:
        """Text features of token ids, from `Tokenizer.__call__`."""
        return _finish(self.text(jnp.asarray(token_ids)), normalize)


def _finish(features: Array, normalized: bool) -> Array:
    return normalize(features) if normalized else features
