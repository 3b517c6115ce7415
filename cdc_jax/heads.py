"""Heads: the logits of M templates -> one prediction that knows how sure it is, and its loss.

Two heads, one interface: `predict(logits)` and `loss(logits, labels, progress)`, with logits of
shape (..., templates, classes). `SoftmaxHead` is CLIP's usual one; `EvidentialHead` is DSTC.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from cdc_jax import evidence

Logits = Float[Array, "*b templates classes"]


class Prediction(NamedTuple):
    """What a head says of each image.

    Attributes:
      predicted: the class of the largest fused logit or evidence, (...). Where all evidence is
        small, rounding leaves the probabilities equal.
      probability: fused class probabilities, (..., classes).
      uncertainty: log-vacuity of the fused opinion in the evidential head unless it is told
        otherwise, 1 − max probability in the softmax head; higher is less certain, (...).
      log_vacuity: log u of the fused opinion; NaN in the softmax head, which has no opinion, (...).
      conflict: disagreement among the templates in [0, 1], Dempster's C; 0 in the softmax head.
      template_predicted: each template's own choice, (..., templates).
      template_probability: each template's own probabilities, (..., templates, classes).
      template_uncertainty: each template's own uncertainty, (..., templates).
    """

    predicted: Int[Array, "*b"]
    probability: Float[Array, "*b classes"]
    uncertainty: Float[Array, "*b"]
    log_vacuity: Float[Array, "*b"]
    conflict: Float[Array, "*b"]
    template_predicted: Int[Array, "*b templates"]
    template_probability: Float[Array, "*b templates classes"]
    template_uncertainty: Float[Array, "*b templates"]


class Head(Protocol):
    """The interface of both heads."""

    def predict(self, logits: Logits) -> Prediction:
        """Fuses the templates' logits into one prediction."""

    def loss(
        self, logits: Logits, labels: Int[Array, "*b"], progress: Float[Array, ""] | float
    ) -> Float[Array, "*b"]:
        """One value an image; `progress` is the share of training done, in [0, 1]."""


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


def _fusion(name: str, known: dict[str, Callable[[Array], Array]]) -> Callable[[Array], Array]:
    if name not in known:
        raise ValueError(f"unknown fusion {name!r} for this head: choose one of {', '.join(known)}")
    return known[name]


@dataclasses.dataclass(frozen=True)
class SoftmaxHead:
    """Softmax of the fused logits, cross-entropy of the fused prediction and of each template's.

    Attributes:
      fusion: a name of `SOFTMAX_FUSIONS`.
      template_weight: weight of the sum of the templates' own cross-entropies.
      fused_weight: weight of the fused prediction's.
    """

    fusion: str = "mean_logit"
    template_weight: float = 0.0
    fused_weight: float = 1.0

    def __post_init__(self):
        _fusion(self.fusion, SOFTMAX_FUSIONS)

    def predict(self, logits: Logits) -> Prediction:
        """See `Head`."""
        fused = SOFTMAX_FUSIONS[self.fusion](logits)
        probability = jnp.exp(fused)
        uncertainty = 1 - probability.max(-1)
        own = jax.nn.softmax(logits, -1)
        return Prediction(
            predicted=fused.argmax(-1),
            probability=probability,
            uncertainty=uncertainty,
            log_vacuity=jnp.full_like(uncertainty, jnp.nan),
            conflict=jnp.zeros_like(uncertainty),
            template_predicted=logits.argmax(-1),
            template_probability=own,
            template_uncertainty=1 - own.max(-1),
        )

    def loss(
        self, logits: Logits, labels: Int[Array, "*b"], progress: Float[Array, ""] | float
    ) -> Float[Array, "*b"]:
        """See `Head`."""
        del progress
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        rows = jnp.broadcast_to(labels[..., None], logits.shape[:-1])
        own = cross_entropy(logits, rows).sum(-1)
        fused = cross_entropy(SOFTMAX_FUSIONS[self.fusion](logits), labels)
        return self.template_weight * own + self.fused_weight * fused


@dataclasses.dataclass(frozen=True)
class EvidentialHead:
    """DSTC: evidence of each template, fused; trusted cross-entropy of each and of the fused.

    Attributes:
      shift: b in log h(z) = z − b, see `evidence.calibrate_shift`.
      kind: evidence function, see `evidence.from_logits`.
      fusion: a name of `EVIDENCE_FUSIONS`.
      template_weight: weight of the sum of the templates' own losses.
      fused_weight: omega, weight of the fused opinion's.
      kl_weight: lambda at the end; it rises linearly over the first half of training.
      centred: take from each row of logits its mean over the classes first, instead of the shift.
      uncertainty: what a prediction reports as its uncertainty: "vacuity", which tells new classes
        from known ones, or "confidence", 1 − max p, which finds errors.
    """

    shift: float
    kind: str = "exp"
    fusion: str = "dempster"
    template_weight: float = 1.0
    fused_weight: float = 1.0
    kl_weight: float = 0.0
    centred: bool = False
    uncertainty: str = "vacuity"

    def __post_init__(self):
        _fusion(self.fusion, EVIDENCE_FUSIONS)
        if self.uncertainty not in _UNCERTAINTIES:
            raise ValueError(
                f"unknown uncertainty {self.uncertainty!r}: choose one of "
                f"{', '.join(_UNCERTAINTIES)}"
            )

    def _evidence(self, logits: Logits) -> Logits:
        shift = logits.mean(-1, keepdims=True) if self.centred else self.shift
        return evidence.from_logits(logits, self.kind, shift=shift)

    def predict(self, logits: Logits) -> Prediction:
        """See `Head`."""
        log_evidence = self._evidence(logits)
        fused = EVIDENCE_FUSIONS[self.fusion](log_evidence)
        measure = _UNCERTAINTIES[self.uncertainty]
        return Prediction(
            predicted=fused.argmax(-1),
            probability=evidence.expected_probability(fused),
            uncertainty=measure(fused),
            log_vacuity=evidence.log_vacuity(fused),
            conflict=evidence.conflict(log_evidence),
            template_predicted=log_evidence.argmax(-1),
            template_probability=evidence.expected_probability(log_evidence),
            template_uncertainty=measure(log_evidence),
        )

    def loss(
        self, logits: Logits, labels: Int[Array, "*b"], progress: Float[Array, ""] | float
    ) -> Float[Array, "*b"]:
        """See `Head`."""
        return evidence.trusted_loss(
            self._evidence(logits),
            labels,
            kl_weight=evidence.annealed_kl_weight(progress, 1, self.kl_weight),
            source_weights=self.template_weight,
            fused_weight=self.fused_weight,
            fuse=EVIDENCE_FUSIONS[self.fusion],
        )
