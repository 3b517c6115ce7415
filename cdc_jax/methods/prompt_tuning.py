"""Prompt tuning: templates, views, a head and losses. From zero-shot CLIP and CoOp to CDC."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import losses, prompts
from cdc_jax.methods.family import Family, Problem
from cdc_jax.methods.method import (
    Batch,
    Learned,
    Method,
    Term,
    frozen_features,
    require_choice,
)
from cdc_jax.methods.prompts import Classes
from cdc_jax.methods.support import Support, hand_crafted_features, support_logits, unit
from cdc_jax.wording import Template, require_template, single

_LEARNED: Mapping[str, Mapping[bool, type[prompts.HandCrafted]]] = {
    "text": {False: prompts.SharedPrompts, True: prompts.ClassPrompts},
    "multimodal": {False: prompts.CoupledPrompts},
    "independent": {False: prompts.IndependentPrompts},
}
"""prompts.modality -> prompts.class_specific -> the kind of prompts."""


@dataclasses.dataclass(frozen=True, eq=False)
class PromptTuning(Method):
    """M templates whose logits a head fuses.

    Attributes:
      prompts: the templates and their learned vectors.
      hand_crafted: the anchors of L_con. For a method that learns nothing, the templates.
    """

    prompts: prompts.HandCrafted
    hand_crafted: tuple[Template, ...]

    @property
    def templates(self) -> int:
        """See `Method`."""
        return len(self.prompts.templates.phrases)

    @property
    def changes_images(self) -> bool:
        """See `Method`."""
        return self.prompts.changes_images

    def covers(self, class_names: Sequence[str]) -> bool:
        """See `Method`."""
        return not self.prompts.of_classes or tuple(class_names) == self.class_names

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del support
        trained = self.prompts.initialize(key, backbone, len(self.class_names))
        return Learned({"prompts": trained} | self.head.initialize(), self.head.fixed())

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> Classes:
        """See `Method`."""
        own_template = not self.config.prompts.anchors
        texts = (template,) if template and own_template else self.hand_crafted
        ids = backbone.name_ids(names, suffix=self.prompts.templates.suffix)
        return Classes(jnp.asarray(ids), self.anchors(backbone, texts, names))

    def anchors(
        self, backbone: Backbone, texts: Sequence[Template], names: Sequence[str]
    ) -> Float[Array, "anchors classes embed"]:
        """Normalised features of hand-crafted texts, one set for each text or their average."""
        anchors = hand_crafted_features(backbone, texts, names)
        return unit(anchors.mean(0, keepdims=True)) if self.config.prompts.ensemble else anchors

    def image_features(
        self,
        backbone: Backbone,
        learned: Learned,
        views: Float[Array, "views batch height width 3"],
    ) -> Float[Array, "templates_or_1 batch embed"]:
        """See `Method`."""
        visual = self.prompts.visual(learned.part("prompts").trained)
        if visual is None:
            return frozen_features(backbone, views)
        views = jnp.broadcast_to(views, (len(visual), *views.shape[1:]))
        return jax.vmap(backbone.encode_images)(views, visual)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Float[Array, "templates classes embed"]:
        """See `Method`."""
        del image
        return self.prompts.text_features(backbone, learned.part("prompts").trained, classes)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The head's loss + beta L_de + gamma L_con. A single template has no L_de."""
        loss = self.config.loss
        terms = super().terms(batch)
        if self.templates > 1:
            value = DECOUPLING[loss.decoupling](batch, loss)
            terms["decoupling"] = Term(value, loss.decoupling_weight)
        value = CONSISTENCY[loss.consistency](batch)
        return terms | {"consistency": Term(value, loss.consistency_weight)}

    def word_vectors(self, learned: Learned) -> Float[Array, "templates d width"] | None:
        """See `Method`."""
        return self.prompts.vectors(learned.part("prompts").trained)

    def facts(self, learned: Learned) -> Mapping[str, Any]:
        """The phrases that the templates started from."""
        del learned
        return {"phrases": self.config.prompts.phrases}


@dataclasses.dataclass(frozen=True)
class PromptTuningFamily(Family):
    """A family of prompt tuning.

    Attributes:
      padded: see `prompts.Templates`.
    """

    method: type[PromptTuning]
    padded: bool = False

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The texts of `prompts.anchors`, or the task's text."""
        return _hand_crafted(config.prompts, template)

    def settle(self, config: ConfigDict, problem: Problem, support: Support) -> ConfigDict:
        """Fills in the settings that depend on the shots, see `Family`.

        With `prompts.pick` they have one initial phrase, the most accurate one on the shots.

        Raises:
          ValueError: a template has no {}.
        """
        if config.prompts.pick:
            config = config.copy_and_resolve_references().unlock()
            phrases = config.prompts.phrases.split("|")
            texts = [_as_template(phrase) for phrase in phrases]
            logits = support_logits(problem.backbone, texts, problem.class_names, support)
            correct = logits.argmax(-1) == support.labels
            config.prompts.phrases = phrases[int(correct.mean(1).argmax())].strip()
            config.prompts.pick = False
        return super().settle(config, problem, support)

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The prompts and the hand-crafted texts.

        Raises:
          ValueError: a setting has an unknown value, a template has no {}, or the number of
            hand-crafted templates is neither 1 nor the number of templates.
        """
        require_choice(config.loss.decoupling, DECOUPLING, "loss.decoupling")
        require_choice(config.loss.consistency, CONSISTENCY, "loss.consistency")
        hand_crafted = _hand_crafted(config.prompts, problem.template)
        anchors = 1 if config.prompts.ensemble else len(hand_crafted)
        if config.prompts.context and anchors not in (1, config.prompts.templates):
            raise ValueError(
                f"prompts.anchors has {anchors} hand-crafted templates for "
                f"{config.prompts.templates} learned templates: give one anchor, or one for each "
                "learned template"
            )
        templates = templates_of(config.prompts, problem.template)
        templates = dataclasses.replace(templates, padded=self.padded)
        made = kind_of(config.prompts)(templates, problem.backbone)
        return {"prompts": made, "hand_crafted": hand_crafted}

    def changes_images(self, config: ConfigDict) -> bool:
        """Whether prompts of these settings enter the image tower."""
        return kind_of(config.prompts).changes_images

    def suit_unfamiliar_names(self, config: ConfigDict) -> None:
        """Gives each class its own learned text prompts.

        This suits class names that the backbone has never read (CoOp's class-specific context, Zhou
        et al. 2022). The method can then classify among the training classes only.
        """
        of_text = True in _LEARNED.get(config.prompts.modality, {})
        config.prompts.class_specific = bool(config.prompts.context) and of_text


def kind_of(config: ConfigDict) -> type[prompts.HandCrafted]:
    """The kind of prompts for the settings.

    Args:
      config: the settings `prompts`.

    Raises:
      ValueError: the modality is unknown, or class-specific prompts have another modality than
        text.
    """
    require_choice(config.modality, _LEARNED, "prompts.modality")
    if not config.context:
        return prompts.HandCrafted
    if config.class_specific not in _LEARNED[config.modality]:
        raise ValueError(
            f"class-specific prompts are of text only, got modality {config.modality!r}: set "
            "prompts.class_specific=False"
        )
    return _LEARNED[config.modality][config.class_specific]


def templates_of(config: ConfigDict, template: Template) -> prompts.Templates:
    """The templates of the settings `prompts`.

    Args:
      config: the settings. Without `layers`, prompts are shallow.
      template: the task's hand-crafted text, in place of an empty setting `phrases`.

    Raises:
      ValueError: a phrase has a brace.
    """
    if "{" in config.phrases or "}" in config.phrases:
        raise ValueError(
            f"prompts.phrases are the words before the class name, without {{}}: got "
            f"{config.phrases!r}"
        )
    before, _, after = single(template).partition("{}")
    phrases, suffix = (config.phrases.split("|"), ".") if config.phrases else ([before], after)
    return prompts.Templates(
        phrases=prompts.cycle([phrase.strip() for phrase in phrases], config.templates),
        context=config.context,
        suffix=suffix,
        layers=config.get("layers", 1),
        noise=config.noise,
    )


def _hand_crafted(config: ConfigDict, template: Template) -> tuple[Template, ...]:
    if config.anchors == "":
        texts: tuple[Template, ...] = (template,)
    elif config.anchors == "own":
        texts = tuple(_as_template(phrase) for phrase in templates_of(config, template).phrases)
    else:
        texts = tuple(text.strip() for text in config.anchors.split("|"))
    for text in texts:
        require_template(single(text), "prompts.anchors" if config.anchors else "a template")
    return texts


def _as_template(phrase: str) -> str:
    return f"{phrase.strip()} {{}}."


DECOUPLING: dict[str, Callable[[Batch, ConfigDict], Array]] = {
    "pairwise": lambda batch, loss: losses.pairwise(batch.forward.text, loss.margin),
    "match": lambda batch, loss: losses.match(
        batch.forward.image, batch.forward.text, batch.labels, batch.backbone.logit_scale
    ),
    "negative_correlation": lambda batch, loss: losses.negative_correlation(batch.forward.logits),
}
"""The forms of L_de."""

CONSISTENCY: dict[str, Callable[[Batch], Array]] = {
    "cosine": lambda batch: losses.cosine_consistency(batch.forward.text, batch.classes.anchors),
    "softmax": lambda batch: losses.softmax_consistency(
        batch.forward.text, batch.classes.anchors, batch.backbone.logit_scale
    ),
}
"""The forms of L_con."""

PROMPT_TUNING = PromptTuningFamily(PromptTuning)
