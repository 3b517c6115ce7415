"""An adapter: what a method computes, put together from its parts.

The one place where prompts, losses and heads meet: (learned vectors, views, classes) -> logits of
every template -> fused prediction and loss. What the parts are is the method's configuration.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from cdc_jax import decoupling, heads, prompts
from cdc_jax.clip.model import Clip
from cdc_jax.clip.tokenizer import Tokenizer

Logits = Float[Array, "batch templates classes"]


@flax.struct.dataclass
class Classes:
    """A class list, ready for an adapter's templates.

    Attributes:
      names: token ids of the names up to their end of text, (classes, tokens).
      anchors: features of the hand-crafted template, one for all templates: (1, classes, embed).
    """

    names: Int[Array, "classes tokens"]
    anchors: Float[Array, "1 classes embed"]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A method on a CLIP: pure functions of the learned vectors.

    The CLIP itself is an argument of each function, so that jitted callers pass it as data and its
    weights never become constants of the program.

    Attributes:
      templates: what is fixed about the semantic templates.
      fixed_words: token ids between the learned vectors and the name, (templates, words).
      start_id: id of the start-of-text token.
      template: the hand-crafted template, with {} for the name.
      tokenizer: the CLIP's tokenizer.
      head: fuses the templates' logits.
      loss: the losses' part of the method's configuration.
    """

    templates: prompts.Templates
    fixed_words: np.ndarray
    template: str
    tokenizer: Tokenizer
    head: heads.Head
    loss: ConfigDict

    def classes(self, clip: Clip, names: Sequence[str]) -> Classes:
        """Tokenises class names and encodes the hand-crafted template's features of them."""
        texts = [self.template.format(name.replace("_", " ")) for name in names]
        anchors = clip.encode_text(jnp.asarray(self.tokenizer(texts)))
        return Classes(
            jnp.asarray(self.tokenizer.names(names, suffix=self.templates.suffix)), anchors[None]
        )

    def text_features(
        self, clip: Clip, parameters: prompts.Parameters, classes: Classes
    ) -> Float[Array, "templates classes embed"]:
        """Normalised features of every class under every template."""
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
        return similarities(clip, prompts.image_features(clip, parameters, images), text)

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
        logits = similarities(clip, image, text)
        parts = {
            "classification": self.head.loss(logits, labels, progress).mean(),
            "decoupling": _DECOUPLING[self.loss.decoupling](self, clip, image, text, labels),
            "consistency": _CONSISTENCY[self.loss.consistency](clip, text, classes.anchors),
        }
        total = (
            parts["classification"]
            + self.loss.decoupling_weight * parts["decoupling"]
            + self.loss.consistency_weight * parts["consistency"]
        )
        predicted = self.head.predict(logits).probability.argmax(-1)
        return total, parts | {"loss": total, "accuracy": (predicted == labels).mean()}


def similarities(
    clip: Clip,
    image: Float[Array, "templates_or_1 batch embed"],
    text: Float[Array, "templates classes embed"],
) -> Logits:
    """Cosines of image and text features, times the logit scale."""
    image = jnp.broadcast_to(image, (len(text), *image.shape[1:]))
    return clip.logit_scale * jnp.einsum("mbd,mkd->bmk", image, text)


# Which losses there are, all with one signature. A weight of 0 leaves a term out of the compiled
# program's derivative.
_DECOUPLING = {
    "pairwise": lambda adapter, clip, image, text, labels: decoupling.pairwise(
        text, adapter.loss.margin
    ),
    "match": lambda adapter, clip, image, text, labels: decoupling.match(
        image, text, labels, clip.logit_scale
    ),
}
_CONSISTENCY = {
    "cosine": lambda clip, text, anchors: decoupling.cosine_consistency(text, anchors),
    "softmax": lambda clip, text, anchors: decoupling.softmax_consistency(
        text, anchors, clip.logit_scale
    ),
}


def create(
    config: ConfigDict,
    clip: Clip,
    tokenizer: Tokenizer,
    template: str,
    mean_logit: float,
) -> Adapter:
    """Puts a method together.

    Args:
      config: the method's configuration, see `methods.DEFAULTS`.
      clip: the frozen model.
      tokenizer: its tokenizer.
      template: the hand-crafted template t^0, with {} for the class name.
      mean_logit: zero-shot mean logit of the training images, for the evidential head's shift.

    Raises:
      ValueError: a value that no part knows, or a template without {}.
    """
    for value, known, key in (
        (config.loss.decoupling, _DECOUPLING, "loss.decoupling"),
        (config.loss.consistency, _CONSISTENCY, "loss.consistency"),
        (config.head.name, _HEADS, "head.name"),
    ):
        if value not in known:
            raise ValueError(f"unknown {key} {value!r}: choose one of {', '.join(known)}")
    if template.count("{}") != 1:
        raise ValueError(f"a template needs one {{}} for the class name, got {template!r}")
    templates = _templates(config.prompts, template)
    words = templates.words(tokenizer)[:, templates.context :]
    return Adapter(
        templates, words, template, tokenizer, _HEADS[config.head.name](config.head, mean_logit),
        config.loss,
    )  # fmt: skip


def _templates(config: ConfigDict, template: str) -> prompts.Templates:
    before, _, after = template.partition("{}")
    phrases, suffix = (config.phrases.split("|"), ".") if config.phrases else ([before], after)
    return prompts.Templates(
        phrases=prompts.cycle([phrase.strip() for phrase in phrases], config.templates),
        context=config.context,
        suffix=suffix,
        layers=config.layers,
        modality=config.modality,
        noise=config.noise,
    )


def _softmax(config: ConfigDict, mean_logit: float) -> heads.Head:
    del mean_logit
    return heads.SoftmaxHead(config.fusion, config.template_weight, config.fused_weight)


def _evidential(config: ConfigDict, mean_logit: float) -> heads.Head:
    return heads.EvidentialHead(
        shift=config.shift_multiple * mean_logit,
        kind=config.evidence,
        fusion=config.fusion,
        template_weight=config.template_weight,
        fused_weight=config.fused_weight,
        kl_weight=config.kl_weight,
    )


_HEADS: dict[str, Any] = {"softmax": _softmax, "evidential": _evidential}
