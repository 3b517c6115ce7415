"""Both heads against their formulas in float64 NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, log_softmax, softmax

from cdc_jax import heads

LOGITS = np.random.default_rng(0).normal(20, 3, (5, 3, 4))  # images, templates, classes
LABELS = np.array([0, 1, 2, 3, 1])
ROWS = np.arange(5)


def test_softmax_fusions():
    mean_logit = softmax(LOGITS.mean(1), -1)
    mean_probability = softmax(LOGITS, -1).mean(1)
    for name, expected in {"mean_logit": mean_logit, "mean_probability": mean_probability}.items():
        predicted = heads.SoftmaxHead(name).predict(jnp.asarray(LOGITS))
        np.testing.assert_allclose(predicted.probability, expected, rtol=1e-4)
        np.testing.assert_allclose(predicted.uncertainty, 1 - expected.max(-1), atol=1e-5)
        np.testing.assert_allclose(predicted.template_probability, softmax(LOGITS, -1), rtol=1e-4)


def test_softmax_loss():
    own = -log_softmax(LOGITS, -1)[ROWS[:, None], np.arange(3), LABELS[:, None]].sum(1)
    fused = -log_softmax(LOGITS.mean(1), -1)[ROWS, LABELS]
    head = heads.SoftmaxHead(template_weight=0.5, fused_weight=2.0)
    got = head.loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.3)
    np.testing.assert_allclose(got, 0.5 * own + 2 * fused, rtol=1e-5)


def test_evidential_head():
    evidence = np.exp(LOGITS - 20)
    fused = 4 * (np.prod(1 + evidence / 4, axis=1) - 1)  # Dempster's rule, K = 4
    head = heads.EvidentialHead(shift=20.0, fused_weight=2.0)
    predicted = head.predict(jnp.asarray(LOGITS))
    alpha = fused + 1
    np.testing.assert_allclose(
        predicted.probability, alpha / alpha.sum(-1, keepdims=True), rtol=1e-4
    )
    np.testing.assert_allclose(predicted.uncertainty, np.log(4 / alpha.sum(-1)), rtol=1e-4)
    own = evidence + 1
    np.testing.assert_allclose(
        predicted.template_probability, own / own.sum(-1, keepdims=True), rtol=1e-4
    )

    def expected_cross_entropy(alpha, labels):
        picked = np.take_along_axis(alpha, labels[..., None], -1)[..., 0]
        return digamma(alpha.sum(-1)) - digamma(picked)

    rows = np.broadcast_to(LABELS[:, None], (5, 3))
    loss = expected_cross_entropy(own, rows).sum(1) + 2 * expected_cross_entropy(alpha, LABELS)
    got = head.loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0)
    np.testing.assert_allclose(got, loss, rtol=1e-4)


def test_the_choice_is_that_of_the_evidence_where_rounding_hides_it():
    """Far below the shift, float32 probabilities are all equal."""
    logits = np.random.default_rng(1).normal(25, 1.5, (50, 4, 37))
    evidence = np.exp(logits - 50)
    fused = 37 * np.expm1(np.log1p(evidence / 37).sum(1))
    predicted = heads.EvidentialHead(shift=50.0).predict(jnp.asarray(logits, jnp.float32))
    assert (predicted.probability.max(-1) == predicted.probability.min(-1)).all()
    np.testing.assert_array_equal(predicted.predicted, fused.argmax(-1))
    np.testing.assert_array_equal(predicted.template_predicted, logits.argmax(-1))


def test_the_loss_is_of_the_fusion_that_predicts():
    alpha = np.exp(LOGITS - 20).sum(1) + 1
    loss = digamma(alpha.sum(-1)) - digamma(alpha[ROWS, LABELS])
    head = heads.EvidentialHead(shift=20.0, fusion="cumulate", template_weight=0.0)
    np.testing.assert_allclose(
        head.loss(jnp.asarray(LOGITS), jnp.asarray(LABELS), 0.0), loss, rtol=1e-4
    )


def test_the_kl_weight_rises_over_the_first_half():
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    head = heads.EvidentialHead(shift=20.0, kl_weight=0.1)
    at = {t: np.asarray(head.loss(logits, labels, t)) for t in (0.0, 0.25, 0.5, 1.0)}
    np.testing.assert_allclose(at[0.25] - at[0.0], (at[0.5] - at[0.0]) / 2, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(at[0.5], at[1.0], rtol=1e-6)
    assert (at[0.5] > at[0.0]).all()


@pytest.mark.parametrize("head", [heads.SoftmaxHead, lambda f: heads.EvidentialHead(0.0, fusion=f)])
def test_unknown_fusion(head):
    with pytest.raises(ValueError, match="unknown fusion 'dampster' for this head"):
        head("dampster")


@pytest.mark.parametrize("fusion", heads.EVIDENCE_FUSIONS)
def test_every_fusion_gives_probabilities_and_gradients(fusion):
    head = heads.EvidentialHead(shift=20.0, fusion=fusion)
    logits = jnp.asarray(LOGITS, jnp.float32)
    np.testing.assert_allclose(head.predict(logits).probability.sum(-1), 1, rtol=1e-5)
    gradient = jax.grad(lambda z: head.loss(z, jnp.asarray(LABELS), 1.0).sum())(logits)
    assert np.isfinite(gradient).all()
    assert (np.take_along_axis(np.asarray(gradient), LABELS[:, None, None], 2) < 0).all()


def test_confidence_as_the_uncertainty_of_an_evidential_head():
    head = heads.EvidentialHead(shift=20.0, uncertainty="confidence")
    predicted = head.predict(jnp.asarray(LOGITS))
    np.testing.assert_allclose(
        predicted.uncertainty, 1 - predicted.probability.max(-1), rtol=1e-4, atol=1e-6
    )
    by_vacuity = heads.EvidentialHead(shift=20.0).predict(jnp.asarray(LOGITS))
    np.testing.assert_array_equal(predicted.log_vacuity, by_vacuity.uncertainty)
    with pytest.raises(ValueError, match="unknown uncertainty 'u': choose one of vacuity"):
        heads.EvidentialHead(shift=20.0, uncertainty="u")


def test_centred_evidence_ignores_what_all_classes_share():
    head = heads.EvidentialHead(shift=5.0, centred=True)
    first, second = (head.predict(jnp.asarray(LOGITS + c)) for c in (0.0, 7.0))
    np.testing.assert_allclose(first.probability, second.probability, rtol=1e-3, atol=1e-5)
