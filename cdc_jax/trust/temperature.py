"""Calibration after training: a temperature for logits, a factor and a power for evidence.

Both fits minimise the mean of -log p_y over validation images, and neither changes the predicted
class. With few images the fits run to their bounds, because a model that is right on all of them
gets any confidence. A prior prevents this: with `deviation`, the logarithms of the temperature, the
factor and the power are a priori normal with mean 0 and this standard deviation.

* Softmax: p = softmax(z / T). The loss is convex in 1 / T, so its slope has one zero in log T. A
  bracketing method finds it. T is bounded. If every validation image has its largest logit at its
  true class, the loss falls until T = 0, and the fit returns the lower bound. If larger logits go
  with wrong classes, the fit returns the upper bound.
* Evidence, after fusion: e'_k = s e_k^a, in logs log e' = log s + a log e, and p = (1 + e') / S'.
  The factor s alone keeps the ranking by vacuity. It moves p between uniform (s = 0) and
  e_k / sum_j e_j (s = infinity). The optional power a sharpens or flattens e itself. With large
  evidence it is an inverse temperature. This loss is not convex: a coarse grid finds the basin, and
  a bounded simplex search finishes. For the bounds see `calibrate_evidence`.

The head's own rule fuses the templates first. A scale of each template's evidence before fusion
could change which class wins.

Sources: Guo et al. 2017, "On calibration of modern neural networks"; Platt 1999, "Probabilistic
outputs for support vector machines". The forms for evidence: this project's choice.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, special

from cdc_jax.trust.checks import ArrayLike, by_class, classes_of

TEMPERATURES = (0.05, 20.0)
"""Bounds of a temperature, and in their inverse of a power."""
_MARGIN = 5.0  # e^-5 = 0.7 %: of the evidence at one bound, of the vacuity at the other
_GRID = (25, 9)  # points of the factor and of the power; 1 is among the powers


class EvidenceCalibration(NamedTuple):
    """log e' = log_factor + power log e, of fused evidence e."""

    log_factor: float
    power: float

    def apply(self, log_evidence: ArrayLike) -> np.ndarray:
        """Calibrated log-evidence, in the shape of log_evidence; -inf stays -inf.

        >>> EvidenceCalibration(1.0, 0.5).apply([-np.inf, 4.0]).tolist()
        [-inf, 3.0]
        """
        return self.log_factor + self.power * np.asarray(log_evidence, np.float64)


def fit_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    bounds: tuple[float, float] = TEMPERATURES,
    deviation: float = math.inf,
) -> float:
    """The temperature T that minimises the sum of -log softmax(z / T)_y + (log T)² / (2 d²).

    Args:
      logits: z of the validation images, or fused log-probabilities, finite, (images, classes).
      labels: true classes, (images,).
      bounds: least and greatest T.
      deviation: d of the prior; infinite for none, as Guo et al.

    Returns:
      T. A bound, if the loss falls towards it: see the module's docstring.

    Raises:
      ValueError: logits that are not finite; labels that do not fit; bounds out of order; a
        deviation that is not positive.

    >>> round(fit_temperature([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]], [0, 0, 0, 1]), 4)
    1.8205

    >>> fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 0])
    0.05
    >>> round(fit_temperature([[2.0, 0.0]] * 4, [0, 0, 0, 0], deviation=0.5), 4)
    0.8218

    Guo et al. 2017, section 4.2. In the first example p = 3/4 at T = 2 / log 3. The prior is this
    project's choice.
    """
    z = by_class("logits", logits)
    y = classes_of("labels", labels, z.shape)
    if not np.isfinite(z).all():
        raise ValueError(f"logits of {(~np.isfinite(z)).any(axis=1).sum()} images are infinite")
    low, high = bounds
    if not 0 < low < high < math.inf:
        raise ValueError(f"expected bounds of T with 0 < low < high, got {bounds}")
    _require_deviation(deviation)
    z = z - z[np.arange(len(z)), y][:, None]  # z_k - z_y

    def slope(log_temperature: float) -> float:
        """Of the loss in 1 / T: mean of E_p[z_k - z_y]. It falls as T rises."""
        return float((special.softmax(z / math.exp(log_temperature), axis=1) * z).sum(1).mean())

    low, high = math.log(low), math.log(high)
    if deviation < math.inf:
        return math.exp(_with_prior(z, deviation, low, high))
    if slope(low) <= 0:
        return bounds[0]
    if slope(high) >= 0:
        return bounds[1]
    return math.exp(optimize.brentq(slope, low, high, xtol=1e-10))


def _with_prior(z: np.ndarray, deviation: float, low: float, high: float) -> float:
    """The best log T between bounds. The prior is not convex in 1 / T: a grid finds the basin."""

    def loss(log_temperature: float) -> float:
        fit = special.logsumexp(z / math.exp(log_temperature), axis=1).sum()
        return float(fit + _penalty(deviation, log_temperature))

    grid = np.linspace(low, high, 121)
    best = int(np.argmin([loss(x) for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    fit = optimize.minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-9})
    return float(fit.x)


def _penalty(deviation: float, *logs: float) -> float:
    """-log of the normal prior, up to a constant."""
    return sum(x * x for x in logs) / (2 * deviation**2)


def _require_deviation(deviation: float) -> None:
    if not deviation > 0:
        raise ValueError(f"deviation must be positive, got {deviation}")


def calibrate_evidence(
    log_evidence: ArrayLike,
    labels: ArrayLike,
    power: bool = False,
    deviation: float = math.inf,
) -> EvidenceCalibration:
    """The factor s, and with `power` the exponent a, that minimise the sum of -log p_y.

    p_k = (1 + s e_k^a) / (K + sum_j s e_j^a). A prior adds ((log s)² + (log a)²) / (2 d²). The
    factor is bounded: at the lower bound all evidence is below e^-5, at the upper bound the largest
    evidence of each image is above K e^5. So if every validation image is right, the factor reaches
    at most a vacuity of about e^-5. The power is between 1/20 and 20.

    Args:
      log_evidence: log e of the fused opinions of validation images, (images, classes); -inf for
        no evidence.
      labels: true classes, (images,).
      power: whether a is fitted too; otherwise a = 1.
      deviation: d of the prior; infinite for none.

    Returns:
      The calibration.

    Raises:
      ValueError: log-evidence of inf or NaN, or no evidence at all; labels that do not fit; a
        deviation that is not positive.

    >>> fit = calibrate_evidence([[math.log(6), -math.inf]] * 4, [0, 0, 0, 1])
    >>> round(math.exp(fit.log_factor), 4), fit.power
    (0.3333, 1.0)

    This project's choice. In the example p = 3/4 at s e = 2.
    """
    log_e = by_class("log_evidence", log_evidence)
    y = classes_of("labels", labels, log_e.shape)
    _require_deviation(deviation)
    largest = log_e.max(axis=1)
    some = largest[largest > -math.inf]
    if not some.size or some.max() == math.inf:
        raise ValueError(
            "expected log-evidence below inf, and more than -inf in at least one image, got "
            f"{log_e.min()}..{log_e.max()}"
        )

    def calibration(place: float, log_power: float = 0.0) -> EvidenceCalibration:
        """Of a place in [0, 1] between the bounds of the factor, which depend on the power."""
        a = math.exp(log_power)
        low = -_MARGIN - a * some.max()
        high = _MARGIN + math.log(log_e.shape[1]) - a * some.min()
        return EvidenceCalibration(float(low + place * (high - low)), a)

    def loss(x: np.ndarray) -> float:
        scale = calibration(*x)
        log_alpha = np.logaddexp(0, scale.apply(log_e))
        own = log_alpha[np.arange(len(y)), y]
        prior = _penalty(deviation, scale.log_factor, math.log(scale.power)) / len(y)
        return float((special.logsumexp(log_alpha, axis=1) - own).mean() + prior)

    bounds = [(0.0, 1.0), tuple(np.log(TEMPERATURES))][: 1 + power]
    axes = [np.linspace(low, high, n) for (low, high), n in zip(bounds, _GRID, strict=False)]
    start = min(map(np.array, itertools.product(*axes)), key=loss)
    options = {"xatol": 1e-8, "fatol": 1e-13}
    fit = optimize.minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options)
    return calibration(*map(float, fit.x))
