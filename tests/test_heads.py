"""Both heads against their formulas in float64 NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.special import digamma, log_softmax, softmax

from cdc_jax import trust
from cdc_jax.methods import Learned, heads

LOGITS = np.random.default_rng(0).normal(20, 3, (5, 3, 4))  # images, templates, classes
LABELS = np.array([0, 1, 2, 3, 1])
ROWS = np.arange(5)
NOTHING = Learned({}, {})


def with_scale(scale, shift):
    """Arrays of a head that has learned a scale and a shift."""
    trained = {"log_scale": jnp.log(jnp.float32(scale)), "shift": jnp.float32(shift)}
    return Learned(trained, {})


def test_softmax_fusions():
    mean_logit = softmax(LOGITS.mean(1), -1)
    mean_probability = softmax(LOGITS, -1).mean(1)
    for name, expected in {"mean_logit": mean_logit, "mean_probability": mean_probability}.items():
        predicted = heads.SoftmaxHead(name).predict(NOTHING, jnp.asarray(LOGITS))
        np.testing.assert_allclose(predicted.probability, expected, rtol=1e-4)
        np.testing.assert_allclose(predicted.uncertainty, 1 - expected.max(-1), atol=1e-5)
        own = softmax(LOGITS, -1)
        np.testing.assert_array_equal(predicted.template_predicted, own.argmax(-1))
        np.testing.assert_allclose(predicted.template_confidence, own.max(-1), rtol=1e-4)
        np.testing.assert_allclose(predicted.template_uncertainty, 1 - own.max(-1), atol=1e-5)


def test_a_softmax_head_has_no_opinions():
    head = heads.SoftmaxHead()
    predicted = head.predict(NOTHING, jnp.asarray(LOGITS))
    assert not head.has_opinions
    assert predicted.log_vacuity is None
    assert not predicted.conflict.any()
    np.testing.assert_array_equal(predicted.novelty, predicted.uncertainty)


def test_softmax_loss():
    own = -log_softmax(LOGITS, -1)[ROWS[:, None], np.arange(3), LABELS[:, None]].sum(1)
    fused = -log_softmax(LOGITS.mean(1), -1)[ROWS, LABELS]
    head = heads.SoftmaxHead(template_weight=0.5, fused_weight=2.0)
    got = head.loss(NOTHING, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.3)
    np.testing.assert_allclose(got, 0.5 * own + 2 * fused, rtol=1e-5)


def expected_cross_entropy(alpha, labels):
    picked = np.take_along_axis(alpha, labels[..., None], -1)[..., 0]
    return digamma(alpha.sum(-1)) - digamma(picked)


def trusted(evidence):
    """Dempster's rule with K = 4: concentrations of each template and of their fusion."""
    return evidence + 1, 4 * (np.prod(1 + evidence / 4, axis=1) - 1) + 1


def test_evidential_head():
    own, alpha = trusted(np.exp(LOGITS - 20))
    head = heads.EvidentialHead(20.0, fused_weight=2.0, uncertainty="vacuity")
    predicted = head.predict(NOTHING, jnp.asarray(LOGITS))
    assert head.has_opinions
    np.testing.assert_allclose(
        predicted.probability, alpha / alpha.sum(-1, keepdims=True), rtol=1e-4
    )
    np.testing.assert_allclose(predicted.uncertainty, np.log(4 / alpha.sum(-1)), rtol=1e-4)
    np.testing.assert_array_equal(predicted.predicted, alpha.argmax(-1))
    np.testing.assert_array_equal(predicted.template_predicted, own.argmax(-1))
    np.testing.assert_allclose(predicted.template_confidence, own.max(-1) / own.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(predicted.template_uncertainty, np.log(4 / own.sum(-1)), rtol=1e-4)
    # C = 1 - prod_m u^m / u
    conflict = 1 - np.prod(4 / own.sum(-1), -1) / (4 / alpha.sum(-1))
    np.testing.assert_allclose(predicted.conflict, conflict, rtol=1e-4, atol=1e-6)

    rows = np.broadcast_to(LABELS[:, None], (5, 3))
    loss = expected_cross_entropy(own, rows).sum(1) + 2 * expected_cross_entropy(alpha, LABELS)
    got = head.loss(NOTHING, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0)
    np.testing.assert_allclose(got, loss, rtol=1e-4)


@pytest.mark.slow
def test_the_choice_is_that_of_the_evidence_where_rounding_hides_it():
    """Far below the shift, float32 probabilities are all equal."""
    logits = np.random.default_rng(1).normal(25, 1.5, (50, 4, 37))
    evidence = np.exp(logits - 50)
    fused = 37 * np.expm1(np.log1p(evidence / 37).sum(1))
    predicted = heads.EvidentialHead(50.0).predict(NOTHING, jnp.asarray(logits, jnp.float32))
    assert (predicted.probability.max(-1) == predicted.probability.min(-1)).all()
    np.testing.assert_array_equal(predicted.predicted, fused.argmax(-1))
    np.testing.assert_array_equal(predicted.template_predicted, logits.argmax(-1))


def test_the_loss_is_of_the_fusion_that_predicts():
    alpha = np.exp(LOGITS - 20).sum(1) + 1
    loss = digamma(alpha.sum(-1)) - digamma(alpha[ROWS, LABELS])
    head = heads.EvidentialHead(20.0, fusion="cumulate", template_weight=0.0)
    np.testing.assert_allclose(
        head.loss(NOTHING, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0), loss, rtol=1e-4
    )


def test_the_kl_weight_rises_over_the_first_half():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    head = heads.EvidentialHead(20.0, kl_weight=0.1)
    at = {t: np.asarray(head.loss(NOTHING, logits, labels, t)) for t in (0, 0.25, 0.5, 1.0)}
    np.testing.assert_allclose(at[0.25] - at[0.0], (at[0.5] - at[0.0]) / 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(at[0.5], at[1.0], rtol=1e-6)
    assert (at[0.5] > at[0.0]).all()


@pytest.mark.parametrize("head", [heads.SoftmaxHead, heads.EvidentialHead])
def test_unknown_fusion(head):
    known = {heads.SoftmaxHead: "mean_logit, mean_probability", heads.EvidentialHead: "dempster, a"}
    message = f"unknown head.fusion 'dampster': choose one of {known[head]}"
    with pytest.raises(ValueError, match=message):
        head(fusion="dampster")


def test_a_fusion_of_the_other_head_is_unknown():
    with pytest.raises(ValueError, match="unknown head.fusion 'dempster': choose one of mean"):
        heads.SoftmaxHead("dempster")
    with pytest.raises(ValueError, match="unknown head.fusion 'mean_logit': choose one of demps"):
        heads.EvidentialHead(fusion="mean_logit")


def test_unknown_evidence():
    message = "unknown head.evidence 'tanh': choose one of exp, softplus, relu"
    with pytest.raises(ValueError, match=message):
        heads.EvidentialHead(kind="tanh")


@pytest.mark.slow
@pytest.mark.parametrize("fusion", heads.EVIDENCE_FUSIONS)
def test_every_fusion_gives_probabilities_and_gradients(fusion):
    head, learned = heads.EvidentialHead(20.0, fusion=fusion), NOTHING
    logits = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_allclose(head.predict(learned, logits).probability.sum(-1), 1, rtol=1e-5)
    gradient = jax.grad(lambda z: head.loss(learned, z, jnp.asarray(LABELS), 1.0).sum())(logits)
    assert np.isfinite(gradient).all()
    assert (np.take_along_axis(np.asarray(gradient), LABELS[:, None, None], 2) < 0).all()


@pytest.mark.parametrize("fusion", ["mean_logit", "mean_probability"])
def test_a_scaled_softmax(fusion):
    head = heads.SoftmaxHead(fusion)
    plain = head.predict(NOTHING, jnp.asarray(LOGITS))
    scaled = head.predict(NOTHING, jnp.asarray(LOGITS), heads.Scale(0.7, 0.5))
    root = np.sqrt(np.asarray(plain.probability, np.float64))
    expected = root / root.sum(-1, keepdims=True)
    np.testing.assert_allclose(scaled.probability, expected, rtol=1e-5)
    np.testing.assert_allclose(scaled.uncertainty, 1 - expected.max(-1), rtol=1e-4)
    alone = np.exp(LOGITS / 2)
    alone /= alone.sum(-1, keepdims=True)
    np.testing.assert_allclose(scaled.template_confidence, alone.max(-1), rtol=1e-4)
    for name in ("predicted", "template_predicted"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(plain, name))
    fit = head.calibrate(NOTHING, jnp.asarray(LOGITS), LABELS, 0.5)
    assert fit.power == pytest.approx(
        1 / trust.fit_temperature(np.log(plain.probability), LABELS, deviation=0.5), rel=1e-4
    )


def test_scaled_evidence():
    evidence = np.exp(LOGITS - 20)
    head = heads.EvidentialHead(20.0, fusion="average")
    plain = head.predict(NOTHING, jnp.asarray(LOGITS))
    scaled = head.predict(NOTHING, jnp.asarray(LOGITS), heads.Scale(np.log(3), 0.5))
    s, u = (evidence + 1).sum(-1), 4 / (evidence + 1).sum(-1)
    belief, vacuity = (evidence / s[..., None]).mean(1), u.mean(1)
    fused = 4 * belief / vacuity[:, None]
    alpha, own = 3 * np.sqrt(fused) + 1, 3 * np.sqrt(evidence) + 1
    np.testing.assert_allclose(scaled.probability, alpha / alpha.sum(-1, keepdims=True), rtol=1e-4)
    np.testing.assert_allclose(scaled.log_vacuity, np.log(4 / alpha.sum(-1)), rtol=1e-4)
    np.testing.assert_allclose(scaled.template_confidence, own.max(-1) / own.sum(-1), rtol=1e-4)
    for name in ("predicted", "template_predicted", "conflict"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(plain, name))
    fit = head.calibrate(NOTHING, jnp.asarray(LOGITS), LABELS, 0.5)
    expected = trust.calibrate_evidence(np.log(fused), LABELS, power=True, deviation=0.5)
    np.testing.assert_allclose(fit, expected, rtol=1e-3, atol=1e-3)


def test_confidence_as_the_uncertainty_of_an_evidential_head():
    head = heads.EvidentialHead(20.0)
    predicted = head.predict(NOTHING, jnp.asarray(LOGITS))
    np.testing.assert_allclose(
        predicted.uncertainty, 1 - predicted.probability.max(-1), rtol=1e-4, atol=1e-6
    )
    by_vacuity = heads.EvidentialHead(20.0, uncertainty="vacuity").predict(
        NOTHING, jnp.asarray(LOGITS)
    )
    np.testing.assert_array_equal(predicted.log_vacuity, by_vacuity.uncertainty)
    np.testing.assert_array_equal(predicted.novelty, by_vacuity.uncertainty)
    with pytest.raises(ValueError, match="unknown head.uncertainty 'u': choose one of vacuity"):
        heads.EvidentialHead(uncertainty="u")


def test_centred_evidence_ignores_what_all_classes_share():
    head, learned = heads.EvidentialHead(5.0, centred=True), NOTHING
    first, second = (head.predict(learned, jnp.asarray(LOGITS + c)) for c in (0.0, 7.0))
    np.testing.assert_allclose(first.probability, second.probability, rtol=1e-3, atol=1e-5)


# ---- What a head has learned


@pytest.mark.parametrize("multiple", [1.0, 1.5])
def test_the_shift_is_a_multiple_of_the_mean_logit_of_the_training_images(multiple):
    logits = np.random.default_rng(2).normal(24, 3, (2, 7, 4)).astype(np.float32)
    settings = ConfigDict(SETTINGS | {"shift_multiple": multiple})
    heads.settle(settings, logits)
    expected = multiple * logits.astype(np.float64).mean()
    assert heads.build(settings).shift == settings.shift == pytest.approx(expected, rel=1e-6)


def test_a_softmax_head_has_no_shift():
    settings = ConfigDict(SETTINGS | {"name": "softmax"})
    heads.settle(settings, np.ones((1, 2, 3)))
    assert "shift" not in settings


@pytest.mark.parametrize("kind", [heads.SoftmaxHead, heads.EvidentialHead])
def test_a_head_has_no_arrays_unless_it_learns_a_scale(kind):
    assert kind().initialize() == {}
    assert kind(learned=True).initialize() == {"head": {"log_scale": 0, "shift": 0}}


@pytest.mark.parametrize("kind", [heads.SoftmaxHead, heads.EvidentialHead])
def test_a_head_that_learns_a_scale_starts_where_the_plain_one_is(kind):
    logits, labels = jnp.asarray(LOGITS, jnp.float32), jnp.asarray(LABELS)
    answers = []
    for learned in (False, True):
        head = kind(learned=learned)
        arrays = Learned(head.initialize(), {}).part("head")
        prediction = head.predict(arrays, logits)
        answers.append([*prediction, head.loss(arrays, logits, labels, 1.0)])
    for plain, scaled in zip(*answers, strict=True):
        assert (plain is None) == (scaled is None)
        if plain is not None:
            np.testing.assert_array_equal(plain, scaled)


def test_a_learned_scale_and_shift_of_the_softmax_head():
    scaled = 0.25 * LOGITS - 3  # the shift changes no probability
    head, learned = heads.SoftmaxHead(template_weight=0.5, learned=True), with_scale(0.25, 3.0)
    predicted = head.predict(learned, jnp.asarray(LOGITS))
    np.testing.assert_allclose(predicted.probability, softmax(scaled.mean(1), -1), rtol=1e-4)
    np.testing.assert_allclose(
        predicted.template_confidence, softmax(scaled, -1).max(-1), rtol=1e-4
    )
    loss = 0.5 * -log_softmax(scaled, -1)[ROWS[:, None], np.arange(3), LABELS[:, None]].sum(1)
    loss += -log_softmax(scaled.mean(1), -1)[ROWS, LABELS]
    got = head.loss(learned, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0)
    np.testing.assert_allclose(got, loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "function"),
    [("exp", np.exp), ("softplus", lambda x: np.log1p(np.exp(x))), ("relu", lambda x: x.clip(0))],
)
@pytest.mark.parametrize("centred", [False, True])
def test_a_learned_scale_and_shift_of_the_evidential_head(kind, function, centred):
    scaled = 0.5 * LOGITS - 3
    fixed = scaled.mean(-1, keepdims=True) if centred else 6.0
    own, alpha = trusted(function(scaled - fixed))
    head = heads.EvidentialHead(6.0, kind=kind, centred=centred, learned=True)
    learned = with_scale(0.5, 3.0)
    predicted = head.predict(learned, jnp.asarray(LOGITS))
    np.testing.assert_allclose(
        predicted.probability, alpha / alpha.sum(-1, keepdims=True), rtol=1e-4
    )
    np.testing.assert_allclose(predicted.log_vacuity, np.log(4 / alpha.sum(-1)), rtol=1e-3)
    np.testing.assert_allclose(predicted.template_confidence, own.max(-1) / own.sum(-1), rtol=1e-4)
    rows = np.broadcast_to(LABELS[:, None], (5, 3))
    loss = expected_cross_entropy(own, rows).sum(1) + expected_cross_entropy(alpha, LABELS)
    got = head.loss(learned, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0)
    np.testing.assert_allclose(got, loss, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loss_has_derivatives_by_the_scale_and_the_shift():
    """Against central differences in float64, written out in NumPy."""

    def expected(log_scale, shift):
        own, alpha = trusted(np.exp(np.exp(log_scale) * LOGITS - shift - 6))
        rows = np.broadcast_to(LABELS[:, None], (5, 3))
        return (
            expected_cross_entropy(own, rows).sum(1) + expected_cross_entropy(alpha, LABELS)
        ).sum()

    head, learned = heads.EvidentialHead(6.0, learned=True), with_scale(0.5, 3.0)

    def loss(trained):
        arrays = Learned(trained, learned.fixed)
        return head.loss(arrays, jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0).sum()

    gradient, at, h = jax.grad(loss)(learned.trained), np.log(0.5), 1e-5
    by_scale = (expected(at + h, 3) - expected(at - h, 3)) / (2 * h)
    by_shift = (expected(at, 3 + h) - expected(at, 3 - h)) / (2 * h)
    np.testing.assert_allclose(gradient["log_scale"], by_scale, rtol=1e-3)
    np.testing.assert_allclose(gradient["shift"], by_shift, rtol=1e-3)


# ---- From settings


SETTINGS = {
    "name": "evidential", "fusion": "pool", "template_weight": 0.5, "fused_weight": 2.0,
    "evidence": "relu", "shift_multiple": 1.5, "centred": True, "learned": True, "kl_weight": 0.25,
    "uncertainty": "confidence",
}  # fmt: skip


def test_settings_reach_the_heads():
    assert heads.build(ConfigDict(SETTINGS | {"shift": 7.5})) == heads.EvidentialHead(
        7.5, "relu", "pool", 0.5, 2.0, 0.25, True, True, "confidence"
    )
    softmax_settings = ConfigDict(SETTINGS | {"name": "softmax", "fusion": "mean_probability"})
    assert heads.build(softmax_settings) == heads.SoftmaxHead("mean_probability", 0.5, 2.0, True)


def test_an_unknown_head_is_refused():
    message = "unknown head.name 'svm': choose one of softmax, evidential"
    with pytest.raises(ValueError, match=message):
        heads.build(ConfigDict(SETTINGS | {"name": "svm"}))
