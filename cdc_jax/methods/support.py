"""What a method is initialised from: the shots, and the features of hand-crafted texts."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Backbone
from cdc_jax.wording import Template, sentences

_TEXTS = 256  # sentences that are encoded at once, for classes with several sentences


def _no_images(views: str, count: int) -> np.ndarray:
    raise ValueError(
        f"{count} views {views!r} of the shots are needed, but only features are given"
    )


class Support(NamedTuple):
    """The shots, from which a method is initialised.

    Attributes:
      features: frozen image features of their clean views, normalised.
      labels: indices into the training classes.
      raw_views: (composition, count) -> frozen features before normalisation of as many views of
        each shot, (images, views, embed). No training step draws these views.
    """

    features: Float[Array | np.ndarray, "images embed"]
    labels: Int[np.ndarray, "images"]
    raw_views: Callable[[str, int], Float[np.ndarray, "images views embed"]] = _no_images


class TextFeatures(NamedTuple):
    """Features of several texts of each class.

    Attributes:
      features: of each text.
      owners: the class of each text. The texts of a class adjoin.
    """

    features: Float[Array, "texts embed"]
    owners: Int[Array | np.ndarray, "texts"]

    def sums(self, classes: int) -> Float[Array, "classes embed"]:
        """Sum of each class's features."""
        if len(self.owners) == classes:  # one text a class
            return self.features
        return jax.ops.segment_sum(self.features, self.owners, classes)

    def means(self, classes: int) -> Float[Array, "classes embed"]:
        """Mean of each class's features."""
        counts = jnp.zeros(classes).at[self.owners].add(1)
        return self.sums(classes) / counts[:, None]

    def drawn(self, classes: int, share: Float[Array, ""] | float) -> Float[Array, "classes embed"]:
        """A text of each class: number share · n of its n texts, for a share in [0, 1)."""
        counts = jnp.bincount(self.owners, length=classes)
        within = jnp.minimum(jnp.floor(share * counts).astype(counts.dtype), counts - 1)
        return self.features[jnp.cumsum(counts) - counts + within]


def text_features(
    backbone: Backbone, template: Template, names: Sequence[str], raw: bool = False
) -> TextFeatures:
    """Features of all hand-crafted texts of each class.

    Args:
      backbone: the frozen model.
      template: the hand-crafted text of a task.
      names: of the classes.
      raw: whether features keep their norms.
    """
    texts = [sentences(template, name) for name in names]
    flat = [text for class_texts in texts for text in class_texts]
    owners = np.repeat(np.arange(len(names)), [len(class_texts) for class_texts in texts])
    if len(flat) == len(names):
        return TextFeatures(backbone.encode_texts(flat, raw=raw), owners)
    chunks = (flat[i : i + _TEXTS] for i in range(0, len(flat), _TEXTS))
    features = [backbone.encode_texts(chunk, raw=raw) for chunk in chunks]
    return TextFeatures(jnp.concatenate(features), owners)


def hand_crafted_features(
    backbone: Backbone, templates: Sequence[Template], names: Sequence[str]
) -> Float[Array, "templates classes embed"]:
    """Normalised features of plain texts: every class name in every template."""
    return jnp.stack([_wording_features(backbone, template, names) for template in templates])


def _wording_features(
    backbone: Backbone, template: Template, names: Sequence[str]
) -> Float[Array, "classes embed"]:
    """The normalised mean of the features of a class's texts."""
    texts = text_features(backbone, template, names)
    return texts.features if len(texts.owners) == len(names) else unit(texts.sums(len(names)))


def unit(features: Float[Array, "*b embed"]) -> Float[Array, "*b embed"]:
    """Features over their norms."""
    return features / jnp.linalg.norm(features, axis=-1, keepdims=True)


def support_logits(
    backbone: Backbone, templates: Sequence[Template], names: Sequence[str], support: Support
) -> np.ndarray:
    """Zero-shot logits of the shots under hand-crafted texts, (templates, images, classes)."""
    text = hand_crafted_features(backbone, templates, names)
    return np.asarray(backbone.logit_scale * jnp.einsum("bd,mkd->mbk", support.features, text))
