"""A backbone: the interface of a frozen dual encoder.

Methods, training and inference use a model through `Backbone` only. CLIP implements it in
`clip/backbone.py`. Another model is another implementation.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from cdc_jax.preprocessing import Preprocessing


class Sizes(NamedTuple):
    """Widths and depths of a dual encoder.

    Attributes:
      embed_width: width of the joint embedding.
      text_width: width of the text tower's tokens.
      text_depth: blocks of the text tower.
      vision_width: width of the image tower's tokens.
      vision_depth: blocks of the image tower.
      image_size: side of the images, in pixels.
    """

    embed_width: int
    text_width: int
    text_depth: int
    vision_width: int
    vision_depth: int
    image_size: int


class Settings(NamedTuple):
    """The settings of a backbone, which need no weights.

    Attributes:
      preprocessing: how images become its input.
      profile: name of the training settings that suit its size, see `methods.rows.Row`.
    """

    preprocessing: Preprocessing
    profile: str


@flax.struct.dataclass
class Branch:
    """A low-rank map beside a linear layer of all blocks: the layer adds up(down(dropout(x))).

    The outputs of the layer are parts of equal width, such as queries, keys and values. Each part
    has maps and dropout masks of its own.

    Attributes:
      down: the first map, (depth, parts, inputs, rank).
      up: the second map, (depth, parts, rank, outputs of a part).
      keys: of the masks, (depth,).
      rate: probability that dropout sets a number of x to 0.
    """

    down: Any
    up: Any
    keys: Any
    rate: float = flax.struct.field(pytree_node=False)


class Texts(NamedTuple):
    """Token ids of texts that begin alike.

    Attributes:
      beginning: the tokens before the first that differs, start-of-text included.
      endings: the other tokens of each text up to end-of-text, padded.
    """

    beginning: Int[Array | np.ndarray, "beginning"]
    endings: Int[Array | np.ndarray, "texts tokens"]


@runtime_checkable
class Backbone(Protocol):
    """A frozen dual encoder.

    It is a pytree whose leaves are the weights. Jitted functions take it as an argument, so that
    weights never become constants of a program. All features are float32. They are L2-normalised
    unless the caller asks for raw features.

    Prompts are arrays (layers, prompt, width): row 0 is part of the first block's input, row j
    replaces the tokens at the same positions before block `at[j]`, which is j unless given. If
    `at[0]` is a later block, row 0 is inserted there and has no position. With a `share` below 1,
    row j is mixed with the tokens that it would replace: share · row + (1 − share) · tokens.
    """

    @property
    def sizes(self) -> Sizes:
        """Widths and depths."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become its input."""
        ...

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean colour of `preprocessing`."""
        ...

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation of `preprocessing`."""
        ...

    @property
    def dtype(self) -> str:
        """Name of the weights' dtype."""
        ...

    @property
    def profile(self) -> str:
        """See `Settings`; "" for the published settings."""
        ...

    def vocabulary(self) -> list[str]:
        """Every token, by id."""
        ...

    @property
    def logit_scale(self) -> Float[Array, ""]:
        """The factor between cosine similarities and logits."""
        ...

    @property
    def logit_bias(self) -> float:
        """The bias of the scaled cosines; 0 for CLIP."""
        ...

    def token_embeddings(self) -> Float[Array, "tokens width"]:
        """Embeddings of the vocabulary."""
        ...

    def encode_images(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"] | None = None,
        at: tuple[int, ...] | None = None,
        raw: bool = False,
    ) -> Float[Array, "batch embed"]:
        """Features of normalised pixels; prompts stand after the patches. Raw ones have norms."""
        ...

    def encode_images_and_prompts(
        self,
        pixels: Float[Array, "batch rows columns 3"],
        prompts: Float[Array, "layers prompt width"],
        at: tuple[int, ...] | None = None,
        share: float = 1.0,
    ) -> tuple[Float[Array, "batch embed"], Float[Array, "batch prompt width"]]:
        """Features as of `encode_images`, and the final states of the prompts.

        The states have passed the layer norm that stands before `image_projection`. Their mean over
        the prompts can be projected to the joint embedding.
        """
        ...

    def image_projection(self) -> Float[Array, "width embed"]:
        """The map from the image tower's final states to the joint embedding."""
        ...

    def encode_texts(self, texts: Sequence[str], raw: bool = False) -> Float[Array, "texts embed"]:
        """Features of whole texts.

        Raises:
          ValueError: a text is too long, or the vocabulary lacks a character of it.
        """
        ...

    def text_ids(self, texts: Sequence[str]) -> Texts:
        """Token ids of whole texts.

        Raises:
          ValueError: see `encode_texts`.
        """
        ...

    def encode_ids(self, texts: Texts) -> Float[Array, "texts embed"]:
        """Features of the texts of `text_ids`, for methods that train the text tower.

        Memory is bounded for any number of texts.
        """
        ...

    def encode_prompted(
        self,
        prompts: Float[Array, "templates layers prompt width"],
        words: Int[Array | np.ndarray, "templates words"],
        names: Int[Array | np.ndarray, "classes tokens"],
        at: tuple[int, ...] | None = None,
        share: float = 1.0,
    ) -> Float[Array, "templates classes embed"]:
        """Features of every class name behind every template's prompts and fixed words.

        Args:
          prompts: learned vectors. For prompts that depend on an image, the first axis may run over
            images.
          words: token ids between the prompts and the name; may be empty.
          names: of `name_ids`.
          at: the block that each row of the prompts enters.
          share: see above.
        """
        ...

    def encode_class_prompted(
        self,
        prompts: Float[Array, "templates classes layers prompt width"],
        words: Int[Array | np.ndarray, "templates words"],
        names: Int[Array | np.ndarray, "classes tokens"],
        at: tuple[int, ...] | None = None,
    ) -> Float[Array, "templates classes embed"]:
        """`encode_prompted` for prompts of each class."""
        ...

    def word_ids(self, phrase: str) -> list[int]:
        """Token ids of a phrase without start and end."""
        ...

    def name_ids(
        self, names: Sequence[str], suffix: str = "."
    ) -> Int[np.ndarray, "classes tokens"]:
        """Token ids of class names, each with the suffix and the end of the text.

        Raises:
          ValueError: a name is too long, or the vocabulary lacks a character of it.
        """
        ...

    def embed_words(self, ids: Int[Array | np.ndarray, "*b"]) -> Float[Array, "*b width"]:
        """Token embeddings without positions, float32."""
        ...

    def weights(self) -> dict[str, Array]:
        """Weights by name, parts joined by dots."""
        ...

    def with_weights(self, changed: Mapping[str, ArrayLike]) -> "Backbone":
        """The same backbone with some weights replaced, for methods that change a tower.

        Raises:
          ValueError: a name or a shape that the backbone does not have.
        """
        ...

    def with_branches(self, branches: Mapping[str, Branch]) -> "Backbone":
        """The same backbone with maps beside some linear layers, for a training step.

        Args:
          branches: by the name of the layer's kernel in `weights`.

        Raises:
          ValueError: the backbone does not have the layer, or the shapes do not fit it.
        """
        ...

    def save(self, folder: str | Path) -> None:
        """Writes a folder that `load` and other programs open.

        Raises:
          FileExistsError: the folder holds other files than such a model.
        """
        ...

    def weights_hash(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        ...

    def encoder_hash(self) -> str:
        """SHA-256 of weights and settings: all that a feature depends on beside the image."""
        ...


def load(name_or_path: str | Path, dtype: Any = jnp.float32) -> Backbone:
    """Loads a backbone. The last one stays in memory, until its files change.

    Args:
      name_or_path: "world", a local folder in Hugging Face's format, or a model id of the hub,
        which may end in `@REVISION`.
      dtype: of the weights.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError, ValueError: as `clip.load`.
    """
    from cdc_jax.clip import backbone as clip  # an implementation, which imports this module

    return clip.load(name_or_path, dtype)


def read_settings(name_or_path: str | Path) -> Settings:
    """Reads the settings of a backbone without its weights.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError, ValueError: as `load`.
    """
    from cdc_jax import clip

    config = clip.read_config(name_or_path)
    return Settings(config.preprocessing, config.profile)
