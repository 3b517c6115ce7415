"""What a method computes: (learned vectors, views, classes) -> logits of every template -> loss."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from cdc_jax import decoupling, heads, prompts
from cdc_jax.clip.model import Clip, normalize
from cdc_jax.clip.tokenizer import Tokenizer

Logits = Float[Array, "batch templates classes"]


@flax.struct.dataclass
class Classes:
    """A class list, ready for an adapter's templates.

    Attributes:
      names: token ids of the names up to their end of text, (classes, tokens).
      anchors: features of the hand-crafted templates, one for all learned ones or one each,
        (anchors, classes, embed).
    """

    names: Int[Array, "classes tokens"]
    anchors: Float[Array, "anchors classes embed"]


class Computed(NamedTuple):
    """What the terms of the objective are functions of; shapes as in `decoupling`."""

    image: Float[Array, "templates_or_1 batch embed"]
    text: Float[Array, "templates classes embed"]
    anchors: Float[Array, "anchors classes embed"]
    logits: Logits
    labels: Int[Array, "batch"]
    logit_scale: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A method on a CLIP: pure functions of the learned vectors.

    The CLIP itself is an argument of each function, so that jitted callers pass it as data and its
    weights never become constants of the program.

    Attributes:
      templates: what is fixed about the semantic templates.
      fixed_words: token ids between the learned vectors and the name, (templates, words).
      hand_crafted: texts with {} for the name: what L_con ties the templates to, and the templates
        themselves where nothing is learned.
      own_template: whether the hand-crafted text is the task's, and with another task another.
      ensemble: average the features of the hand-crafted texts into one.
      class_names: the classes trained on.
      tokenizer: the CLIP's tokenizer.
      head: fuses the templates' logits.
      learned_scale: whether scale and shift of the logits are learned.
      loss: the losses' part of the method's configuration.
    """

    templates: prompts.Templates
    fixed_words: np.ndarray
    hand_crafted: tuple[str, ...]
    own_template: bool
    ensemble: bool
    class_names: tuple[str, ...]
    tokenizer: Tokenizer
    head: heads.Head
    learned_scale: bool
    loss: ConfigDict

    def initialize(self, key: jax.Array, clip: Clip) -> prompts.Parameters:
        """Initial learned vectors: those of `prompts.initialize`, and of the evidence's scale."""
        parameters = prompts.initialize(
            key, self.templates, clip, self.tokenizer, len(self.class_names)
        )
        if self.learned_scale:
            parameters["evidence"] = {"log_scale": jnp.zeros(()), "shift": jnp.zeros(())}
        return parameters

    def covers(self, class_names: Sequence[str]) -> bool:
        """Whether it can classify among these: what is learned for each class knows no others."""
        own_only = self.templates.modality == "probe" or self.templates.class_specific
        return not own_only or tuple(class_names) == self.class_names

    def classes(self, clip: Clip, names: Sequence[str], template: str = "") -> Classes:
        """Tokenises class names and encodes the hand-crafted templates' features of them.

        Args:
          clip: the frozen model.
          names: of the classes.
          template: of another task, in place of this one's where the method uses the task's.
        """
        texts = (template,) if template and self.own_template else self.hand_crafted
        anchors = hand_crafted_features(clip, self.tokenizer, texts, names)
        if self.ensemble:
            anchors = normalize(anchors.mean(0, keepdims=True))
        ids = self.tokenizer.names(names, suffix=self.templates.suffix)
        return Classes(jnp.asarray(ids), anchors)

    def text_features(
        self, clip: Clip, parameters: prompts.Parameters, classes: Classes
    ) -> Float[Array, "templates classes embed"]:
        """Features of every class under every template, normalised but for a probe's rows."""
        if "classifier" in parameters:
            return parameters["classifier"]
        if "context" not in parameters:
            return classes.anchors
        return prompts.text_features(
            clip, parameters, self.tokenizer.start_id, self.fixed_words, classes.names
        )

    def logits(
        self,
        clip: Clip,
        parameters: prompts.Parameters,
        text: Float[Array, "templates classes embed"],
        images: Float[Array, "views batch height width 3"],
    ) -> Logits:
        """z^m_k = cos(f^m(x^m), g(t^m_k)) / tau of normalised views."""
        return similarities(
            clip, parameters, prompts.image_features(clip, parameters, images), text
        )

    def objective(
        self,
        clip: Clip,
        parameters: prompts.Parameters,
        classes: Classes,
        images: Float[Array, "views batch height width 3"],
        labels: Int[Array, "batch"],
        progress: Float[Array, ""] | float,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """The training objective: the head's loss + beta L_de + gamma L_con.

        Args:
          clip: the frozen model.
          parameters: learned vectors.
          classes: the classes trained on.
          images: one view for each template, or one that all share.
          labels: indices into the classes.
          progress: share of training done.

        Returns:
          The objective, and its parts by name with the accuracy on the batch.
        """
        text = self.text_features(clip, parameters, classes)
        image = prompts.image_features(clip, parameters, images)
        logits = similarities(clip, parameters, image, text)
        made = Computed(image, text, classes.anchors, logits, labels, clip.logit_scale)
        parts = {
            "classification": self.head.loss(logits, labels, progress).mean(),
            "decoupling": DECOUPLING[self.loss.decoupling](made, self.loss),
            "consistency": CONSISTENCY[self.loss.consistency](made),
        }
        total = (
            parts["classification"]
            + self.loss.decoupling_weight * parts["decoupling"]
            + self.loss.consistency_weight * parts["consistency"]
        )
        predicted = self.head.predict(logits).predicted
        return total, parts | {"loss": total, "accuracy": (predicted == labels).mean()}


def similarities(
    clip: Clip,
    parameters: prompts.Parameters,
    image: Float[Array, "templates_or_1 batch embed"],
    text: Float[Array, "templates classes embed"],
) -> Logits:
    """Cosines of image and text features, times the logit scale.

    Where scale a and shift b of the evidence are learned, a z − b of them.
    """
    image = jnp.broadcast_to(image, (len(text), *image.shape[1:]))
    # Times 100, what an accelerator's default precision rounds off is half a logit.
    cosine = jnp.einsum("mbd,mkd->bmk", image, text, precision=jax.lax.Precision.HIGHEST)
    logits = clip.logit_scale * cosine
    if "evidence" not in parameters:
        return logits
    return jnp.exp(parameters["evidence"]["log_scale"]) * logits - parameters["evidence"]["shift"]


def hand_crafted_features(
    clip: Clip, tokenizer: Tokenizer, templates: Sequence[str], names: Sequence[str]
) -> Float[Array, "templates classes embed"]:
    """Normalised features of the plain texts: every class name in every template's {}."""
    names = [name.replace("_", " ") for name in names]
    return jnp.stack(
        [
            clip.encode_text(jnp.asarray(tokenizer([template.format(name) for name in names])))
            for template in templates
        ]
    )


DECOUPLING: dict[str, Callable[[Computed, ConfigDict], Array]] = {
    "pairwise": lambda made, loss: decoupling.pairwise(made.text, loss.margin),
    "match": lambda made, loss: decoupling.match(
        made.image, made.text, made.labels, made.logit_scale
    ),
    "negative_correlation": lambda made, loss: decoupling.negative_correlation(made.logits),
}
"""The forms of L_de."""

CONSISTENCY: dict[str, Callable[[Computed], Array]] = {
    "cosine": lambda made: decoupling.cosine_consistency(made.text, made.anchors),
    "softmax": lambda made: decoupling.softmax_consistency(
        made.text, made.anchors, made.logit_scale
    ),
}
"""The forms of L_con."""
