"""From a method's configuration to its adapter."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from cdc_jax import heads, prompts
from cdc_jax.adapter.model import CONSISTENCY, DECOUPLING, Adapter, hand_crafted_features
from cdc_jax.clip.model import Clip
from cdc_jax.clip.tokenizer import Tokenizer


def calibrate(
    config: ConfigDict,
    clip: Clip,
    tokenizer: Tokenizer,
    template: str,
    class_names: Sequence[str],
    features: Float[Array, "images embed"],
    labels: Int[np.ndarray, "images"],
) -> tuple[ConfigDict, float]:
    """What a method takes from the training images before it is tuned on them.

    Args:
      config: the method's configuration.
      clip: the frozen model.
      tokenizer: its tokenizer.
      template: the task's hand-crafted template.
      class_names: the classes trained on.
      features: normalised features of the training images' clean views.
      labels: their labels.

    Returns:
      The configuration with one initial phrase, the most accurate of them on these images, where
      `prompts.pick` asks for that, and else as it is; and the mean logit of these images under the
      method's hand-crafted templates.
    """

    def logits(templates: Sequence[str]) -> np.ndarray:
        text = hand_crafted_features(clip, tokenizer, templates, class_names)
        return np.asarray(clip.logit_scale * jnp.einsum("bd,mkd->mbk", features, text))

    if config.prompts.pick:
        phrases = config.prompts.phrases.split("|")
        correct = logits([_as_template(phrase) for phrase in phrases]).argmax(-1) == labels
        config = config.copy_and_resolve_references()
        with config.unlocked():
            config.prompts.phrases = phrases[int(correct.mean(1).argmax())].strip()
            config.prompts.pick = False
        config.lock()
    return config, float(logits(_hand_crafted(config.prompts, template)).mean())


def create(
    config: ConfigDict,
    clip: Clip,
    tokenizer: Tokenizer,
    template: str,
    class_names: Sequence[str],
    mean_logit: float,
) -> Adapter:
    """Puts a method together.

    Args:
      config: the method's configuration, see `methods.DEFAULTS`, after `calibrate`.
      clip: the frozen model.
      tokenizer: its tokenizer.
      template: the hand-crafted template t^0, with {} for the class name.
      class_names: the classes trained on.
      mean_logit: zero-shot mean logit of the training images, for the evidential head's shift.

    Raises:
      ValueError: a value that no part knows, a template without {}, or hand-crafted templates that
        are neither one nor one a template.
    """
    for value, known, key in (
        (config.loss.decoupling, DECOUPLING, "loss.decoupling"),
        (config.loss.consistency, CONSISTENCY, "loss.consistency"),
        (config.head.name, _HEADS, "head.name"),
    ):
        if value not in known:
            raise ValueError(f"unknown {key} {value!r}: choose one of {', '.join(known)}")
    hand_crafted = _hand_crafted(config.prompts, template)
    for text in hand_crafted:
        if text.count("{}") != 1:
            raise ValueError(f"a template needs one {{}} for the class name, got {text!r}")
    learned = config.prompts.context > 0
    anchors = 1 if config.prompts.ensemble else len(hand_crafted)
    if learned and anchors not in (1, config.prompts.templates):
        raise ValueError(
            f"prompts.anchors names {anchors} hand-crafted templates: {config.prompts.templates} "
            "learned ones need one, or one each"
        )
    templates = _templates(config.prompts, template)
    return Adapter(
        templates=templates,
        fixed_words=templates.words(tokenizer)[:, templates.context :],
        hand_crafted=hand_crafted,
        own_template=not config.prompts.anchors,
        ensemble=config.prompts.ensemble,
        class_names=tuple(class_names),
        tokenizer=tokenizer,
        head=_HEADS[config.head.name](config.head, mean_logit),
        learned_scale=config.head.learned,
        loss=config.loss,
    )


def _templates(config: ConfigDict, template: str) -> prompts.Templates:
    before, _, after = template.partition("{}")
    phrases, suffix = (config.phrases.split("|"), ".") if config.phrases else ([before], after)
    return prompts.Templates(
        phrases=prompts.cycle([phrase.strip() for phrase in phrases], config.templates),
        context=config.context,
        suffix=suffix,
        layers=config.layers,
        modality=config.modality,
        class_specific=config.class_specific,
        noise=config.noise,
    )


def _hand_crafted(config: ConfigDict, template: str) -> tuple[str, ...]:
    if config.anchors == "":
        return (template,)
    if config.anchors == "own":
        phrases = _templates(config, template).phrases
        return tuple(_as_template(phrase) for phrase in phrases)
    return tuple(text.strip() for text in config.anchors.split("|"))


def _as_template(phrase: str) -> str:
    return f"{phrase.strip()} {{}}."


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
        centred=config.centred,
        uncertainty=config.uncertainty,
    )


_HEADS: dict[str, Any] = {"softmax": _softmax, "evidential": _evidential}
