"""CLIP as a backbone, with the savings that its causal text tower allows.

All classes of a template share the tokens before the name: these run once, and the names attend to
their keys and values. Long class lists run in chunks, so that activations stay within a bound.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cdc_jax import devices
from cdc_jax.backbone import Branch, Sizes, Texts
from cdc_jax.clip import blocks, hub, pretrained
from cdc_jax.clip.config import Transformer
from cdc_jax.clip.model import Clip, in_chunks, inserted, normalize
from cdc_jax.clip.tokenizer import Tokenizer
from cdc_jax.preprocessing import Preprocessing

TEXT_MEMORY = 3 * 2**30
"""Bytes that the activations of class names may take, unless the caller gives another number."""


@flax.struct.dataclass
class ClipBackbone:
    """A CLIP and its tokenizer behind the interface `backbone.Backbone`.

    Attributes:
      clip: the model; its weights are the leaves.
      tokenizer: its tokenizer.
    """

    clip: Clip
    tokenizer: Tokenizer = flax.struct.field(pytree_node=False)

    @property
    def sizes(self) -> Sizes:
        """See `Backbone`."""
        config = self.clip.config
        return Sizes(
            embed_width=config.embed_width,
            text_width=config.text.width,
            text_depth=config.text.depth,
            vision_width=config.vision.width,
            vision_depth=config.vision.depth,
            image_size=config.image_size,
        )

    @property
    def preprocessing(self) -> Preprocessing:
        """See `Backbone`."""
        return self.clip.config.preprocessing

    @property
    def mean(self) -> tuple[float, float, float]:
        """See `Backbone`."""
        return self.clip.config.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """See `Backbone`."""
        return self.clip.config.std

    @property
    def dtype(self) -> str:
        """See `Backbone`."""
        return self.clip.text.projection.dtype.name

    @property
    def profile(self) -> str:
        """See `Backbone`."""
        return self.clip.config.profile

    def vocabulary(self) -> list[str]:
        """See `Backbone`."""
        return self.tokenizer.vocabulary()

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """See `Backbone`."""
        return self.clip.logit_scale

    @property
    def logit_bias(self) -> float:
        """See `Backbone`."""
        return 0.0

    def token_embeddings(self) -> Float[Array, "tokens width"]:
        """See `Backbone`."""
        return self.clip.text.token_embedding[...]

    def encode_images(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"] | None = None,
        at: tuple[int, ...] | None = None,
        raw: bool = False,
    ) -> Float[Array, "batch embed"]:
        """See `Backbone`."""
        if prompts is None:
            return self.clip.encode_image(pixels, normalize=not raw)
        features = self.clip.vision(pixels, prompts, at)
        return features if raw else normalize(features)

    def encode_images_and_prompts(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"],
        at: tuple[int, ...] | None = None,
        share: float = 1.0,
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch prompt width"]]:
        """See `Backbone`."""
        features, states = self.clip.vision.with_states(pixels, prompts, at, share)
        return normalize(features), states

    def image_projection(self) -> Float[Array, "width embed"]:
        """See `Backbone`."""
        return self.clip.vision.projection[...]

    def encode_texts(self, texts: Sequence[str], raw: bool = False) -> Float[Array, "texts embed"]:
        """See `Backbone`."""
        return self.clip.encode_text(self.tokenizer(texts), normalize=not raw)

    def text_ids(self, texts: Sequence[str]) -> Texts:
        """See `Backbone`."""
        ids = self.tokenizer(texts)
        same = (ids == ids[0]).all(0)
        # Each text keeps its end-of-text.
        last = (ids == self.tokenizer.eot_id).argmax(1).min()
        shared = min(int(same.argmin()) if not same.all() else len(same), int(last))
        return Texts(ids[0, :shared], ids[:, shared:])

    @partial(jax.jit, static_argnames="memory")
    def encode_ids(self, texts: Texts, memory: int = TEXT_MEMORY) -> Float[Array, "texts embed"]:
        """See `Backbone`.

        The texts' beginning runs once, unless each text has its own dropout masks. Long lists run
        in chunks, see `encode_prompted`.

        Args:
          texts: see `Backbone`.
          memory: bytes that the texts' activations may take on a device.
        """
        text, (beginning, ids) = self.clip.text, jax.tree.map(devices.split, texts)
        draws = blocks.draws(text.blocks)
        if draws:
            whole = jnp.broadcast_to(beginning, (len(ids), len(beginning)))
            ids = jnp.concatenate([whole, ids], 1)
        count, tokens = ids.shape
        memory *= devices.sharers()
        chunks = split_classes(self.clip.config.text, 1, count, tokens, memory)
        if not draws:
            no_prompt = jnp.zeros((1, 0, self.sizes.text_width), jnp.float32)
            words = text.embed(beginning[1:])
            prefix = text.prefix(self.tokenizer.start_id, no_prompt, words)
            return devices.split(normalize(text.names(prefix, ids, *chunks)))

        def encode(rows):
            numbers, ids = rows
            ids = devices.split(ids, devices.AXES)
            return blocks.with_draws(text, numbers[0])(ids)  # each chunk has other masks

        rows = jnp.arange(count), ids
        return devices.split(normalize(in_chunks(encode, rows, *chunks)))

    @partial(jax.jit, static_argnames=("at", "share", "memory"))
    def encode_prompted(
        self,
        prompts: Float[Array, "templates layers prompt width"],
        words: Int[Array | np.ndarray, "templates words"],
        names: Int[Array | np.ndarray, "classes tokens"],
        at: tuple[int, ...] | None = None,
        share: float = 1.0,
        memory: int = TEXT_MEMORY,
    ) -> Float[Array, "templates classes embed"]:
        """See `Backbone`.

        As many classes as fit into `memory` keep their activations for the derivative. A longer
        list's others run in chunks, forward once more in the derivative: at most 1.5 times the
        products.

        Args:
          prompts: see `Backbone`.
          words: see `Backbone`.
          names: see `Backbone`.
          at: see `Backbone`.
          share: see `Backbone`.
          memory: bytes that the classes' activations may take on a device.
        """
        text, start_id = self.clip.text, self.tokenizer.start_id
        prompts, words, names = map(devices.split, (prompts, words, names))
        classes, tokens = names.shape
        memory *= devices.sharers()
        chunk, chunks = split_classes(self.clip.config.text, len(prompts), classes, tokens, memory)

        def prefix(prompts, words):
            return text.prefix(start_id, prompts, text.embed(words), at, share)

        # Every device encodes its share of the prefixes, few as they are, and of the classes.
        prefixes = jax.vmap(prefix)(devices.split(prompts, devices.AXES), words)
        prefixes = jax.tree.map(devices.split, prefixes)
        encode = jax.vmap(lambda prefix: normalize(text.names(prefix, names, chunk, chunks)))
        return devices.split(encode(prefixes))

    @partial(jax.jit, static_argnames=("at", "memory"))
    def encode_class_prompted(
        self,
        prompts: Float[Array, "templates classes layers prompt width"],
        words: Int[Array | np.ndarray, "templates words"],
        names: Int[Array | np.ndarray, "classes tokens"],
        at: tuple[int, ...] | None = None,
        memory: int = TEXT_MEMORY,
    ) -> Float[Array, "templates classes embed"]:
        """See `Backbone`.

        Texts have no beginning in common: each takes the plain forward pass. Long class lists run
        in chunks, see `encode_prompted` for them and for `memory`.
        """
        start_id = self.tokenizer.start_id
        prompts, words, names = map(devices.split, (prompts, words, names))

        def encode(prompts, words, name):
            # Prompts of the first block take all places but the first.
            places = jnp.full(1 + (0 if inserted(at) else prompts.shape[1]), start_id)
            return self.clip.text(jnp.concatenate([places, words, name])[None], prompts, at)[0]

        def encode_classes(rows):
            prompts, names = rows
            prompts = devices.split(prompts.swapaxes(0, 1), None, devices.AXES)
            of_template = jax.vmap(encode, (0, None, 0))
            return jax.vmap(of_template, (0, 0, None))(prompts, words, names).swapaxes(0, 1)

        templates, classes, _, prompt = prompts.shape[:4]
        tokens = 1 + prompt + words.shape[1] + names.shape[1]
        memory *= devices.sharers()
        chunks = split_classes(self.clip.config.text, templates, classes, tokens, memory)
        rows = prompts.swapaxes(0, 1), names
        features = in_chunks(encode_classes, rows, *chunks).swapaxes(0, 1)
        return devices.split(normalize(features))

    def word_ids(self, phrase: str) -> list[int]:
        """See `Backbone`."""
        return self.tokenizer.words(phrase)

    def name_ids(
        self, names: Sequence[str], suffix: str = "."
    ) -> Int[np.ndarray, "classes tokens"]:
        """See `Backbone`."""
        return self.tokenizer.names(names, suffix=suffix)

    def embed_words(self, ids: Int[Array | np.ndarray, "*b"]) -> Float[Array, "*b width"]:
        """See `Backbone`."""
        return self.clip.text.embed(jnp.asarray(ids))

    def weights(self) -> dict[str, Array]:
        """See `Backbone`."""
        return pretrained.parameters(self.clip)

    def with_weights(self, changed: Mapping[str, ArrayLike]) -> "ClipBackbone":
        """See `Backbone`."""
        graph, state = nnx.split(self.clip)
        weights = self.weights()
        for name, value in changed.items():
            if name not in weights or weights[name].shape != jnp.shape(value):
                expected = weights[name].shape if name in weights else "no such weight"
                raise ValueError(f"{name} is {expected} in this CLIP, got {jnp.shape(value)}")
        # In the weights' own dtype, which decides how the towers compute.
        arrays = weights | {
            name: jnp.asarray(value, weights[name].dtype) for name, value in changed.items()
        }
        nnx.replace_by_pure_dict(state, flax.traverse_util.unflatten_dict(arrays, sep="."))
        return ClipBackbone(nnx.merge(graph, state), self.tokenizer)

    def with_branches(self, branches: Mapping[str, Branch]) -> "ClipBackbone":
        """See `Backbone`."""
        adapted = self.with_weights({})
        towers = {f"{tower}.blocks": getattr(adapted.clip, tower) for tower in ("text", "vision")}
        for name, branch in branches.items():
            tower, _, layer = name.removesuffix(".kernel").rpartition(".")
            if tower not in towers:
                raise ValueError(f"{name} is no kernel of a block of this CLIP")
            blocks.with_branch(towers[tower].blocks, layer, branch)
        return adapted

    def save(self, folder: str | Path) -> None:
        """See `Backbone`."""
        pretrained.save_pretrained(self.clip, self.tokenizer, folder)

    def weights_hash(self) -> str:
        """See `Backbone`."""
        return pretrained.weights_hash(self.clip)

    def encoder_hash(self) -> str:
        """See `Backbone`."""
        return hashlib.sha256(f"{self.weights_hash()} {self.clip.config}".encode()).hexdigest()


_last: dict[Hashable, ClipBackbone] = {}  # the one that was loaded last


def load(name_or_path: str | Path, dtype: Any = jnp.float32) -> ClipBackbone:
    """A CLIP as a backbone; arguments and errors as `clip.load`.

    The arrays of the last one are shared by all that ask for the same files.
    """
    folder = hub.find(name_or_path)
    key = _identity(folder, dtype)
    if key not in _last:
        _last.clear()  # before the next one takes memory
        loaded = ClipBackbone(*pretrained.load(folder, dtype))
        if _identity(folder, dtype) != key:  # the files changed meanwhile
            return loaded
        _last[key] = loaded
    return _last[key].with_weights({})  # new modules, which the caller may change


def _identity(folder: Path, dtype: Any) -> Hashable:
    """What tells a model's files from changed ones without reading them."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return (
        folder.resolve(),
        jnp.dtype(dtype).name,
        tuple((name, s.st_ino, s.st_size, s.st_mtime_ns) for name, s in stats),
    )


def split_classes(
    sizes: Transformer, templates: int, classes: int, tokens: int, memory: int
) -> tuple[int, int]:
    """How many classes of a list are encoded in chunks, so that activations stay within a bound.

    A token of a class name leaves 5 width + mlp_width float32 numbers a block for the derivative:
    the block's input, queries, keys, values, the attention's output and the MLP's input. The
    classes outside the chunks keep theirs, and so does the one chunk at work; a chunk is an eighth
    of what fits, long enough for fast products (this project's choice).

    Args:
      sizes: of the text tower.
      templates: M.
      classes: K.
      tokens: of the longest name, with its end of text.
      memory: bytes. At least one class is encoded at a time, whatever the bound.

    Returns:
      Classes a chunk, and the number of chunks: 0 where all fit.
    """
    one = 4 * sizes.depth * templates * tokens * (5 * sizes.width + sizes.mlp_width)
    fit = max(memory // one, 1)
    chunk = max(fit // 8, 1)
    return chunk, 1 + -(-(classes - fit) // chunk) if classes > fit else 0
