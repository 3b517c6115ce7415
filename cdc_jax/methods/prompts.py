"""Semantic templates: M learnable prompts, shallow or deep, of text or of text and image.

Template m reads [start] v^m_1..v^m_d (its other words) name . [end]. Its learned vectors are a
plain pytree outside the frozen backbone. There are five kinds of prompts:

  HandCrafted         nothing is learned; plain texts give the class features
  SharedPrompts       `context` (templates, layers, d, text width): row 0 enters the first layer,
                      row j replaces the same positions before layer j (CoOp: one row)
  ClassPrompts        `context` (templates, classes, layers, d, text width): each class has its own
                      (CoOp's class-specific context)
  CoupledPrompts      `context` as shared prompts, and `coupling`: kernel (templates, layers, text
                      width, vision width) and bias (templates, layers, vision width), one linear
                      map a layer from the text prompts to the visual ones (MaPLe)
  IndependentPrompts  `context` as shared prompts, and `visual` (templates, layers, d, vision width)
                      (IVLP, PromptSRC)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Backbone
from cdc_jax.methods.support import TextFeatures

Parameters = dict[str, Any]


class Classes(NamedTuple):
    """A class list, ready for templates.

    Attributes:
      names: token ids of the names up to their end of text, (classes, tokens).
      anchors: features of the hand-crafted templates, (anchors, classes, embed). There is one
        anchor for all learned templates, or one for each.
      sentences: features of each text of a class, for terms of the loss that draw texts.
    """

    names: Int[Array, "classes tokens"]
    anchors: Float[Array, "anchors classes embed"]
    sentences: TextFeatures | None = None


@dataclasses.dataclass(frozen=True)
class Templates:
    """The fixed settings of M semantic templates.

    Attributes:
      phrases: M phrases of equally many tokens, the initial words of each template.
      context: d, number of learned vectors of a template. They start as the first d words of its
        phrase, and the phrase's other words stay fixed. 0 for hand-crafted templates.
      suffix: text after the class name.
      layers: J, number of prompted layers.
      noise: standard deviation of the noise on the words of all templates but the first, and of
        deep prompts.
      padded: whether phrases may be shorter than the context. The first vectors then start at 0.

    Raises:
      ValueError: there is no phrase, the context is negative, or there is no layer.
    """

    phrases: tuple[str, ...]
    context: int
    suffix: str = "."
    layers: int = 1
    noise: float = 0.02
    padded: bool = False

    def __post_init__(self):
        if not self.phrases:
            raise ValueError("at least one template is needed, got no phrases")
        if self.context < 0 or self.layers < 1:
            raise ValueError(
                f"context must be at least 0 and layers at least 1, got {self.context} and "
                f"{self.layers}"
            )

    def words(self, backbone: Backbone) -> Int[np.ndarray, "templates words"]:
        """Token ids of the phrases.

        Raises:
          ValueError: the phrases have different lengths, or are shorter than the context and not
            padded.
        """
        ids = [backbone.word_ids(phrase) for phrase in self.phrases]
        lengths = {phrase: len(i) for phrase, i in zip(self.phrases, ids, strict=True)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all phrases must have equally many tokens, got {lengths}")
        if len(ids[0]) < self.context and not self.padded:
            raise ValueError(
                f"phrase {self.phrases[0]!r} has {len(ids[0])} tokens, context asks for "
                f"{self.context}: choose a longer phrase or fewer context tokens"
            )
        return np.array(ids, np.int32)


def cycle(phrases: Sequence[str], templates: int) -> tuple[str, ...]:
    """One phrase for each template, the phrases in turn."""
    return tuple(phrases[m % len(phrases)] for m in range(templates))


class HandCrafted:
    """Prompts without learned vectors."""

    changes_images: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False
    """Whether each class has its own learned vectors."""

    def __init__(self, templates: Templates, backbone: Backbone):
        """Fits templates to a backbone.

        Raises:
          ValueError: a tower has fewer layers than are prompted, or the phrases do not fit.
        """
        self.templates = templates
        depth = self._depth(backbone)
        if templates.layers > depth:
            raise ValueError(
                f"prompts.layers={templates.layers} exceeds the {depth} layers of this backbone: "
                f"set it to {depth} or less"
            )
        self._words = templates.words(backbone)

    @property
    def fixed_words(self) -> Int[np.ndarray, "templates words"]:
        """Token ids between the learned vectors and the name."""
        return self._words[:, self.templates.context :]

    def initialize(self, key: jax.Array, backbone: Backbone, classes: int) -> Parameters:
        """Initial learned vectors (this project's choice, after CoOp and MaPLe).

        Args:
          key: random key.
          backbone: the frozen model.
          classes: K.
        """
        del key, backbone, classes
        return {}

    def text_features(
        self, backbone: Backbone, parameters: Parameters, classes: Classes
    ) -> Float[Array, "templates classes embed"]:
        """Normalised features of every class under every template."""
        del backbone, parameters
        return classes.anchors

    def visual(self, parameters: Parameters) -> Float[Array, "templates layers d width"] | None:
        """Visual prompts; None for prompts of text only."""
        del parameters
        return None

    def vectors(self, parameters: Parameters) -> Float[Array, "templates d width"] | None:
        """Vectors of the first layer that all classes share; None for prompts without."""
        del parameters
        return None

    def _depth(self, backbone: Backbone) -> int:
        return backbone.sizes.text_depth


class SharedPrompts(HandCrafted):
    """Text prompts that all classes of a template share."""

    def initialize(self, key: jax.Array, backbone: Backbone, classes: int) -> Parameters:
        """See `HandCrafted`.

        The first row of template m's context is the embeddings of its first d words, plus
        N(0, noise²) for m > 1; deeper rows are N(0, noise²).
        """
        templates = self.templates
        ids = self._words[:, : templates.context]
        shape = (len(ids), templates.layers, templates.context, backbone.sizes.text_width)
        noise = templates.noise * jax.random.normal(jax.random.split(key)[0], shape, jnp.float32)
        embedded = backbone.embed_words(jnp.asarray(ids))
        missing = templates.context - ids.shape[1]
        embedded = jnp.pad(embedded, ((0, 0), (missing, 0), (0, 0)))
        return {"context": noise.at[0, 0].set(0).at[:, 0].add(embedded)}

    def text_features(
        self, backbone: Backbone, parameters: Parameters, classes: Classes
    ) -> Float[Array, "templates classes embed"]:
        """See `HandCrafted`."""
        return backbone.encode_prompted(parameters["context"], self.fixed_words, classes.names)

    def vectors(self, parameters: Parameters) -> Float[Array, "templates d width"] | None:
        """See `HandCrafted`."""
        return parameters["context"][:, 0]


class ClassPrompts(SharedPrompts):
    """Text prompts of each class, for class names that the backbone hardly knows."""

    of_classes = True

    def initialize(self, key: jax.Array, backbone: Backbone, classes: int) -> Parameters:
        """See `SharedPrompts`; all classes start alike."""
        context = super().initialize(key, backbone, classes)["context"]
        return {"context": jnp.repeat(context[:, None], classes, 1)}

    def text_features(
        self, backbone: Backbone, parameters: Parameters, classes: Classes
    ) -> Float[Array, "templates classes embed"]:
        """See `HandCrafted`."""
        context = parameters["context"]
        return backbone.encode_class_prompted(context, self.fixed_words, classes.names)

    def vectors(self, parameters: Parameters) -> Float[Array, "templates d width"] | None:
        """See `HandCrafted`."""
        return None


class _VisualPrompts(SharedPrompts):
    """Text prompts, and visual prompts of the same number and layers."""

    changes_images = True

    def _depth(self, backbone: Backbone) -> int:
        return min(backbone.sizes.text_depth, backbone.sizes.vision_depth)


class CoupledPrompts(_VisualPrompts):
    """Text prompts, and visual prompts as linear maps of the text prompts."""

    def initialize(self, key: jax.Array, backbone: Backbone, classes: int) -> Parameters:
        """See `SharedPrompts`.

        Coupling maps start as PyTorch's Linear does, uniform in ±1/sqrt(text width). The maps of
        all deep layers start as copies of one draw.
        """
        parameters = super().initialize(key, backbone, classes)
        count, layers = parameters["context"].shape[:2]
        inputs, outputs = backbone.sizes.text_width, backbone.sizes.vision_width
        bound, draws = inputs**-0.5, jnp.minimum(jnp.arange(layers), 1)
        maps = jax.random.uniform(
            jax.random.split(key)[1], (count, 2, inputs + 1, outputs), jnp.float32, -bound, bound
        )[:, draws]
        return parameters | {"coupling": {"kernel": maps[:, :, :-1], "bias": maps[:, :, -1]}}

    def visual(self, parameters: Parameters) -> Float[Array, "templates layers d width"] | None:
        """See `HandCrafted`."""
        coupling = parameters["coupling"]
        precision = jax.lax.Precision.HIGHEST
        prompts = jnp.einsum(
            "mjdt,mjtv->mjdv", parameters["context"], coupling["kernel"], precision=precision
        )
        return prompts + coupling["bias"][:, :, None]


class IndependentPrompts(_VisualPrompts):
    """Text prompts, and visual prompts that are learned apart from them."""

    def initialize(self, key: jax.Array, backbone: Backbone, classes: int) -> Parameters:
        """See `SharedPrompts`. All visual prompts are N(0, noise²)."""
        parameters = super().initialize(key, backbone, classes)
        shape = (*parameters["context"].shape[:-1], backbone.sizes.vision_width)
        draws = jax.random.normal(jax.random.split(key)[1], shape, jnp.float32)
        return parameters | {"visual": self.templates.noise * draws}

    def visual(self, parameters: Parameters) -> Float[Array, "templates layers d width"] | None:
        """See `HandCrafted`."""
        return parameters["visual"]
