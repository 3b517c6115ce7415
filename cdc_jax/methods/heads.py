"""Heads: the logits of M templates -> one prediction that knows how sure it is, and its loss.

Two heads, one interface: `predict(learned, logits)` and `loss(learned, logits, labels, progress)`,
with logits of shape (..., templates, classes). `SoftmaxHead` is CLIP's usual one; `EvidentialHead`
is DSTC. With `learned=True` a head has its own learned scale a and shift b, and the logits become
a z − b. `calibrate` fits a `Scale` of the fused prediction on validation images, after training.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from cdc_jax import evidence
from cdc_jax.config_type import ConfigDict

Logits = Float[Array, "*b templates classes"]


@runtime_checkable
class Arrays(Protocol):
    """The arrays of a head."""

    trained: Any
    fixed: Any


class Scale(NamedTuple):
    """log x' = log_factor + power · log x, of fused evidence or of fused probabilities x.

    Probabilities are normalised afterwards. Their power is 1 / T of temperature scaling, and a
    factor changes nothing. No scale of a positive power changes the predicted class.
    """

    log_factor: Float[Array, ""] | float
    power: Float[Array, ""] | float

    def apply(self, log_values: Float[Array, "..."]) -> Float[Array, "..."]:
        """The scaled logs."""
        return self.log_factor + self.power * log_values


class Prediction(NamedTuple):
    """The prediction of a method for each image.

    Attributes:
      predicted: the class of the largest fused logit or evidence, (...). If all evidence is small,
        rounding makes the probabilities equal, and only this field tells the class.
      probability: fused class probabilities, (..., classes).
      uncertainty: higher is less certain, (...). It is 1 − max probability. With the setting
        `uncertainty="vacuity"`, an evidential head has the log-vacuity of the fused opinion.
      conflict: disagreement among the templates in [0, 1], Dempster's C; 0 in the softmax head.
      template_predicted: the class of each template alone, (..., templates).
      template_confidence: the largest probability of each template alone, (..., templates).
      template_uncertainty: the uncertainty of each template alone, (..., templates).
      log_vacuity: log u of the fused opinion, (...); None in a head without opinions.
    """

    predicted: Int[Array, "*b"]
    probability: Float[Array, "*b classes"]
    uncertainty: Float[Array, "*b"]
    conflict: Float[Array, "*b"]
    template_predicted: Int[Array, "*b templates"]
    template_confidence: Float[Array, "*b templates"]
    template_uncertainty: Float[Array, "*b templates"]
    log_vacuity: Float[Array, "*b"] | None = None

    @property
    def novelty(self) -> Float[Array | np.ndarray, "*b"]:
        """The score for new classes: the log-vacuity, or without opinions the uncertainty."""
        return self.uncertainty if self.log_vacuity is None else self.log_vacuity


@runtime_checkable
class Head(Protocol):
    """The interface of all heads."""

    @property
    def has_opinions(self) -> bool:
        """Whether predictions have a vacuity and a conflict."""
        ...

    def initialize(self) -> dict[str, Any]:
        """The head's initial arrays by name of their part; {} for a head that learns nothing."""
        ...

    def fixed(self) -> dict[str, Any]:
        """The head's fixed arrays by name of their part."""
        ...

    def predict(self, learned: Arrays, logits: Logits, scale: Scale | None = None) -> Prediction:
        """Fuses the templates' logits into one prediction.

        Args:
          learned: the head's arrays.
          logits: of the templates.
          scale: of the fused prediction and of each template alone; None for none.
        """
        ...

    def calibrate(
        self, learned: Arrays, logits: Logits, labels: Int[np.ndarray, "*b"], deviation: float
    ) -> Scale:
        """The scale that fits validation images, see `trust.temperature`.

        Args:
          learned: the head's arrays.
          logits: of the validation images, (images, templates, classes).
          labels: their classes.
          deviation: of the prior on the logarithms of factor and power.
        """
        ...

    def loss(
        self,
        learned: Arrays,
        logits: Logits,
        labels: Int[Array | np.ndarray, "*b"],
        progress: Float[Array, ""] | float,
    ) -> Float[Array, "*b"]:
        """One value an image; `progress` is the share of training done, in [0, 1]."""
        ...


def mean_logit(logits: Logits) -> Float[Array, "*b classes"]:
    """Log-probabilities of the templates' mean logit (a normalised geometric mean)."""
    return jax.nn.log_softmax(logits.mean(-2), -1)


def mean_probability(logits: Logits) -> Float[Array, "*b classes"]:
    """Log of the templates' mean probability."""
    return jax.nn.logsumexp(jax.nn.log_softmax(logits, -1), -2) - jnp.log(logits.shape[-2])


SOFTMAX_FUSIONS: dict[str, Callable[[Array], Array]] = {
    "mean_logit": mean_logit,
    "mean_probability": mean_probability,
}
EVIDENCE_FUSIONS: dict[str, Callable[[Array], Array]] = {
    "dempster": evidence.combine,
    "average": evidence.average,
    "cumulate": evidence.cumulate,
    "cautious": evidence.cautious,
    "pool": evidence.pool,
    "most_certain": evidence.most_certain,
}


_UNCERTAINTIES = {"vacuity": evidence.log_vacuity, "confidence": evidence.least_confidence}


def _require(what: str, value: str, choices: Mapping[str, Any]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}")


def _initial_scale(learned: bool) -> dict[str, Any]:
    zero = {name: jnp.zeros((), jnp.float32) for name in ("log_scale", "shift")}
    return {"head": zero} if learned else {}


def _scaled(logits: Logits, trained: Mapping[str, Array]) -> Logits:
    """a z − b of a learned scale a and shift b."""
    return jnp.exp(trained["log_scale"]) * logits - trained["shift"]


@dataclasses.dataclass(frozen=True)
class SoftmaxHead:
    """Softmax of the fused logits; cross-entropy of the fused and of each template's prediction.

    Attributes:
      fusion: a name of `SOFTMAX_FUSIONS`.
      template_weight: weight of the sum of the templates' cross-entropies.
      fused_weight: weight of the fused prediction's cross-entropy.
      learned: whether the head learns a scale and a shift of the logits.

    Raises:
      ValueError: the fusion is unknown.
    """

    fusion: str = "mean_logit"
    template_weight: float = 0.0
    fused_weight: float = 1.0
    learned: bool = False

    def __post_init__(self):
        _require("head.fusion", self.fusion, SOFTMAX_FUSIONS)

    @property
    def has_opinions(self) -> bool:
        """See `Head`."""
        return False

    def initialize(self) -> dict[str, Any]:
        """See `Head`."""
        return _initial_scale(self.learned)

    def fixed(self) -> dict[str, Any]:
        """See `Head`."""
        return {}

    def predict(self, learned: Arrays, logits: Logits, scale: Scale | None = None) -> Prediction:
        """See `Head`."""
        logits = self._logits(learned, logits)
        fused = SOFTMAX_FUSIONS[self.fusion](logits)
        predicted = fused.argmax(-1)
        if scale:
            fused = jax.nn.log_softmax(scale.apply(fused), -1)
            logits = scale.apply(logits)
        probability = jnp.exp(fused)
        uncertainty = 1 - probability.max(-1)
        confidence = jax.nn.softmax(logits, -1).max(-1)
        return Prediction(
            predicted=predicted,
            probability=probability,
            uncertainty=uncertainty,
            conflict=jnp.zeros_like(uncertainty),
            template_predicted=logits.argmax(-1),
            template_confidence=confidence,
            template_uncertainty=1 - confidence,
        )

    def calibrate(
        self, learned: Arrays, logits: Logits, labels: Int[np.ndarray, "*b"], deviation: float
    ) -> Scale:
        """See `Head`."""
        from cdc_jax import trust  # imports SciPy, which takes half a second

        fused = SOFTMAX_FUSIONS[self.fusion](self._logits(learned, logits))
        return Scale(0.0, 1 / trust.fit_temperature(fused, labels, deviation=deviation))

    def loss(
        self,
        learned: Arrays,
        logits: Logits,
        labels: Int[Array | np.ndarray, "*b"],
        progress: Float[Array, ""] | float,
    ) -> Float[Array, "*b"]:
        """See `Head`."""
        del progress
        logits = self._logits(learned, logits)
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        rows = jnp.broadcast_to(labels[..., None], logits.shape[:-1])
        separate = cross_entropy(logits, rows).sum(-1)
        fused = cross_entropy(SOFTMAX_FUSIONS[self.fusion](logits), labels)
        return self.template_weight * separate + self.fused_weight * fused

    def _logits(self, learned: Arrays, logits: Logits) -> Logits:
        return _scaled(logits, learned.trained) if self.learned else logits


@dataclasses.dataclass(frozen=True)
class EvidentialHead:
    """DSTC: the evidence of the templates is fused; trusted losses of each and of the fused one.

    Attributes:
      shift: b in log h(z) = z − b, a constant. `settle` computes it from the training images.
      kind: evidence function, see `evidence.from_logits`.
      fusion: a name of `EVIDENCE_FUSIONS`.
      template_weight: weight of the sum of the templates' losses.
      fused_weight: omega, weight of the fused opinion's loss.
      kl_weight: final lambda. Lambda rises linearly over the first half of training.
      centred: whether the mean of each row of logits over the classes replaces the shift.
      learned: whether the head learns a scale and a shift of the logits.
      uncertainty: measure that a prediction reports: "confidence", 1 − max p, finds errors;
        "vacuity" tells new classes from training classes.

    Raises:
      ValueError: the fusion, the evidence function or the uncertainty is unknown.
    """

    shift: float = 0.0
    kind: str = "exp"
    fusion: str = "dempster"
    template_weight: float = 1.0
    fused_weight: float = 1.0
    kl_weight: float = 0.0
    centred: bool = False
    learned: bool = False
    uncertainty: str = "confidence"

    def __post_init__(self):
        _require("head.fusion", self.fusion, EVIDENCE_FUSIONS)
        _require("head.uncertainty", self.uncertainty, _UNCERTAINTIES)
        _require("head.evidence", self.kind, evidence.KINDS)

    @property
    def has_opinions(self) -> bool:
        """See `Head`."""
        return True

    def initialize(self) -> dict[str, Any]:
        """See `Head`."""
        return _initial_scale(self.learned)

    def fixed(self) -> dict[str, Any]:
        """The shift. As an argument it leaves programs alike for all training images."""
        return {"head": {"shift": np.float32(self.shift)}}

    def predict(self, learned: Arrays, logits: Logits, scale: Scale | None = None) -> Prediction:
        """See `Head`. The conflict is that of the unscaled opinions."""
        log_evidence = self._evidence(learned, logits)
        conflict = evidence.conflict(log_evidence)
        fused = EVIDENCE_FUSIONS[self.fusion](log_evidence)
        predicted, template_predicted = fused.argmax(-1), log_evidence.argmax(-1)
        if scale:
            fused, log_evidence = scale.apply(fused), scale.apply(log_evidence)
        measure = _UNCERTAINTIES[self.uncertainty]
        return Prediction(
            predicted=predicted,
            probability=evidence.expected_probability(fused),
            uncertainty=measure(fused),
            conflict=conflict,
            template_predicted=template_predicted,
            template_confidence=evidence.expected_probability(log_evidence).max(-1),
            template_uncertainty=measure(log_evidence),
            log_vacuity=evidence.log_vacuity(fused),
        )

    def calibrate(
        self, learned: Arrays, logits: Logits, labels: Int[np.ndarray, "*b"], deviation: float
    ) -> Scale:
        """See `Head`."""
        from cdc_jax import trust  # imports SciPy, which takes half a second

        fused = EVIDENCE_FUSIONS[self.fusion](self._evidence(learned, logits))
        return Scale(*trust.calibrate_evidence(fused, labels, power=True, deviation=deviation))

    def loss(
        self,
        learned: Arrays,
        logits: Logits,
        labels: Int[Array | np.ndarray, "*b"],
        progress: Float[Array, ""] | float,
    ) -> Float[Array, "*b"]:
        """See `Head`."""
        return evidence.trusted_loss(
            self._evidence(learned, logits),
            jnp.asarray(labels),
            kl_weight=evidence.annealed_kl_weight(progress, 1, self.kl_weight),
            source_weights=self.template_weight,
            fused_weight=self.fused_weight,
            fuse=EVIDENCE_FUSIONS[self.fusion],
        )

    def _evidence(self, learned: Arrays, logits: Logits) -> Logits:
        if self.learned:
            logits = _scaled(logits, learned.trained)
        shift = learned.fixed.get("shift", self.shift)
        if self.centred:
            shift = logits.mean(-1, keepdims=True)
        return evidence.from_logits(logits, self.kind, shift=shift)


def settle(config: ConfigDict, logits: Float[np.ndarray, "templates images classes"]) -> None:
    """Adds the shift to the settings of an evidential head. Other heads have no shift.

    Args:
      config: the settings, unlocked. Its `shift` becomes `shift_multiple` times the mean logit, see
        `evidence.calibrate_shift`.
      logits: of the training images under the hand-crafted templates.
    """
    if config.name == "evidential":
        config.shift = config.shift_multiple * float(logits.mean())


def build(config: ConfigDict) -> Head:
    """The head of a method's settings `head`, after `settle`.

    Raises:
      ValueError: the head is unknown, or one of its settings has an unknown value.
    """
    _require("head.name", config.name, _HEADS)
    return _HEADS[config.name](config)


def _softmax(config: ConfigDict) -> SoftmaxHead:
    return SoftmaxHead(config.fusion, config.template_weight, config.fused_weight, config.learned)


def _evidential(config: ConfigDict) -> EvidentialHead:
    return EvidentialHead(
        shift=config.shift,
        kind=config.evidence,
        fusion=config.fusion,
        template_weight=config.template_weight,
        fused_weight=config.fused_weight,
        kl_weight=config.kl_weight,
        centred=config.centred,
        learned=config.learned,
        uncertainty=config.uncertainty,
    )


_HEADS: dict[str, Callable[[ConfigDict], Head]] = {"softmax": _softmax, "evidential": _evidential}
