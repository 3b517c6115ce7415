"""trust/temperature.py by hand, against dense grids, and by what a calibration must not change."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax import evidence
from cdc_jax.trust import temperature

FEW = settings(deadline=None, max_examples=30, derandomize=True)


def drawn(seed, images=400, classes=5, spread=3.0, sharpness=1.0):
    """Scores, and labels drawn from the softmax of sharpness times them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, spread, (images, classes))
    p = scipy.special.softmax(sharpness * z, axis=1)
    labels = (rng.random((images, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    return z, labels.clip(max=classes - 1)


def softmax_loss(z, y, t):
    return -scipy.special.log_softmax(z / t, axis=1)[np.arange(len(y)), y].mean()


def evidence_loss(log_e, y, log_factor, power):
    """-log p_y with p = (1 + e') / (K + sum e'), written out."""
    e = np.exp(log_factor) * np.exp(log_e) ** power
    p = (1 + e) / (log_e.shape[1] + e.sum(axis=1, keepdims=True))
    return -np.log(p[np.arange(len(y)), y]).mean()


def inside(log_e, log_factor, power):
    """Whether these are within the bounds of the fit."""
    largest = log_factor + power * log_e.max(axis=1)
    return largest.max() >= -5 and largest.min() <= 5 + math.log(log_e.shape[1])


# ---- temperature


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 0.5, 1.0, 3.0]))
def test_temperature_is_the_minimum_of_a_dense_grid(seed, sharpness):
    z, y = drawn(seed, images=60, sharpness=sharpness)
    fit = temperature.fit_temperature(z, y)
    grid = np.geomspace(*temperature.TEMPERATURES, 500)
    losses = [softmax_loss(z, y, t) for t in grid]
    assert softmax_loss(z, y, fit) <= min(losses) + 1e-12
    assert abs(math.log(fit / grid[np.argmin(losses)])) < 0.013  # the grid's step is 0.012


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.5, 2.0]), st.integers(1, 60))
def test_temperature_with_a_prior_is_the_minimum_of_a_dense_grid(seed, deviation, images):
    z, y = drawn(seed, images)
    fit = temperature.fit_temperature(z, y, deviation=deviation)

    def loss(t):
        return len(y) * softmax_loss(z, y, t) + math.log(t) ** 2 / (2 * deviation**2)

    grid = np.geomspace(*temperature.TEMPERATURES, 500)
    assert loss(fit) <= min(map(loss, grid)) + 1e-9


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.05, 0.5, 2.0]))
def test_evidence_with_a_prior_is_the_minimum_of_a_dense_grid(seed, deviation):
    z, y = drawn(seed, images=20)
    fit = temperature.calibrate_evidence(z, y, power=True, deviation=deviation)

    def loss(log_factor, power):
        prior = (log_factor**2 + math.log(power) ** 2) / (2 * deviation**2)
        return len(y) * evidence_loss(z, y, log_factor, power) + prior

    grid = [(f, p) for f in np.linspace(-4, 4, 33) for p in np.geomspace(0.05, 20, 41)]
    assert loss(*fit) <= min(loss(*x) for x in grid) + 1e-6


def test_a_prior_needs_a_positive_deviation():
    for fit in (temperature.fit_temperature, temperature.calibrate_evidence):
        for deviation in (0.0, -1.0, math.nan):
            with pytest.raises(ValueError, match="deviation must be positive"):
                fit([[1.0, 0.0]], [0], deviation=deviation)


def test_temperature_is_that_of_the_labels():
    z, y = drawn(0, images=50_000, sharpness=0.4)
    assert temperature.fit_temperature(z, y) == pytest.approx(2.5, rel=0.03)
    # Logits and log-probabilities have the same fit.
    log_p = scipy.special.log_softmax(z, axis=1)
    assert temperature.fit_temperature(log_p, y) == pytest.approx(temperature.fit_temperature(z, y))


def test_temperature_is_bounded():
    z, _ = drawn(1)
    assert temperature.fit_temperature(z, z.argmax(axis=1)) == 0.05
    assert temperature.fit_temperature(z, z.argmin(axis=1)) == 20
    assert temperature.fit_temperature(z, z.argmax(axis=1), bounds=(0.5, 2.0)) == 0.5


# ---- evidence


@FEW
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.2, 1.0, 2.0]), st.floats(-20, 20))
def test_factor_is_the_minimum_of_a_dense_grid(seed, sharpness, level):
    log_e, y = drawn(seed, images=60, sharpness=sharpness)
    log_e += level
    fit = temperature.calibrate_evidence(log_e, y)
    assert fit.power == 1
    grid = np.linspace(-60, 60, 800)
    best = min(evidence_loss(log_e, y, f, 1) for f in grid if inside(log_e, f, 1))
    assert evidence_loss(log_e, y, *fit) <= best + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_factor_and_power_are_the_minimum_of_a_dense_grid(seed):
    log_e, y = drawn(seed, sharpness=[0.3, 0.7, 1.0, 2.0][seed])
    fit = temperature.calibrate_evidence(log_e, y, power=True)
    grid = [(f, a) for f in np.linspace(-6, 12, 73) for a in np.geomspace(0.1, 5, 60)]
    best = min(evidence_loss(log_e, y, f, a) for f, a in grid if inside(log_e, f, a))
    assert evidence_loss(log_e, y, *fit) <= best + 1e-9
    assert evidence_loss(log_e, y, *fit) <= evidence_loss(
        log_e, y, *temperature.calibrate_evidence(log_e, y)
    )


def test_with_large_evidence_the_power_is_an_inverse_temperature():
    z, y = drawn(2, images=2000, sharpness=0.4)
    fit = temperature.calibrate_evidence(z + 60, y, power=True)
    assert fit.power == pytest.approx(1 / temperature.fit_temperature(z, y), rel=0.05)


def test_calibration_keeps_the_class_and_the_factor_keeps_the_order_of_vacuity():
    log_e, y = drawn(3, sharpness=0.3)
    fit = temperature.calibrate_evidence(log_e, y)
    calibrated = fit.apply(log_e)
    np.testing.assert_array_equal(calibrated.argmax(axis=1), log_e.argmax(axis=1))
    before, after = (evidence.log_vacuity(jnp.asarray(x)) for x in (log_e, calibrated))
    np.testing.assert_array_equal(np.argsort(before), np.argsort(after))
    # The fit's loss is that of the probabilities of `evidence`.
    p = np.asarray(evidence.expected_probability(jnp.asarray(calibrated)), np.float64)
    loss = -np.log(p[np.arange(len(y)), y]).mean()
    assert loss == pytest.approx(evidence_loss(log_e, y, *fit), rel=1e-5)
    assert loss < evidence_loss(log_e, y, 0, 1)


def test_factor_is_bounded_where_all_are_right_and_where_evidence_tells_nothing():
    log_e, _ = drawn(4)
    classes, largest = log_e.shape[1], log_e.max(axis=1)
    sure = temperature.calibrate_evidence(log_e, log_e.argmax(axis=1))
    assert sure.log_factor == pytest.approx(5 + math.log(classes) - largest.min())
    vacuity = classes / (classes + np.exp(sure.apply(log_e)).sum(axis=1))
    assert vacuity.max() < math.exp(-5)
    unsure = temperature.calibrate_evidence(log_e, log_e.argmin(axis=1))
    assert unsure.log_factor == pytest.approx(-5 - largest.max())


def test_no_evidence_for_some_classes_or_images():
    log_e, y = drawn(5, sharpness=0.5)
    none = np.where(log_e < 0, -np.inf, log_e)
    none[:3] = -np.inf
    with np.errstate(divide="ignore"):
        grid = [evidence_loss(none, y, f, 1) for f in np.linspace(-10, 12, 2000)]
    fit = temperature.calibrate_evidence(none, y)
    assert evidence_loss(none, y, *fit) <= min(grid) + 1e-9
    assert (fit.apply(none)[:3] == -np.inf).all()
    both = temperature.calibrate_evidence(none, y, power=True)
    assert evidence_loss(none, y, *both) <= evidence_loss(none, y, *fit) + 1e-12


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: temperature.fit_temperature([[1.0, -np.inf]], [0]), "of 1 images are infinite"),
        (lambda: temperature.fit_temperature([[1.0, 0.0]], [2]), "labels in 0..1"),
        (lambda: temperature.fit_temperature([[1.0, 0.0]], [0], (2.0, 1.0)), "0 < low < high"),
        (lambda: temperature.calibrate_evidence([[-np.inf] * 2], [0]), "more than -inf"),
        (lambda: temperature.calibrate_evidence([[np.inf, 0.0]], [0]), "below inf"),
        (lambda: temperature.calibrate_evidence([[np.nan, 0.0]], [0]), "1 images are NaN"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
