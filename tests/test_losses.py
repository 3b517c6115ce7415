"""L_de and L_con against the formulas, written out in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from cdc_jax.methods import losses

M, K, B, D = 3, 5, 4, 7


def unit(*shape, seed=0):
    x = np.random.default_rng(seed).normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


TEXT, IMAGE, LABELS = unit(M, K, D), unit(M, B, D, seed=1), np.array([0, 3, 3, 1])


@pytest.mark.parametrize("margin", [-1.0, 0.0, 0.3])
def test_pairwise(margin):
    expected = 0.0
    for m in range(M):
        pairs = [
            max(0.0, TEXT[m, k] @ TEXT[n, k] - margin) for k in range(K) for n in range(M) if n != m
        ]
        expected += np.mean(pairs)
    assert float(losses.pairwise(jnp.asarray(TEXT), margin)) == pytest.approx(expected, rel=1e-5)


def test_negative_correlation():
    logits = np.random.default_rng(2).normal(size=(B, M, K))
    p = np.exp(log_softmax(logits, -1))
    expected = 0.0
    for m in range(M):  # the products of Liu and Yao, as they stand
        others = sum(p[:, n] - p.mean(1) for n in range(M) if n != m)
        expected += ((p[:, m] - p.mean(1)) * others).sum(-1).mean()
    got = float(losses.negative_correlation(jnp.asarray(logits)))
    assert got == pytest.approx(expected, rel=1e-5)
    assert float(losses.negative_correlation(jnp.asarray(logits[:, :1]))) == 0


def test_pairwise_extremes():
    same = np.broadcast_to(TEXT[:1], TEXT.shape)
    assert float(losses.pairwise(jnp.asarray(same))) == pytest.approx(M)
    assert float(losses.pairwise(jnp.asarray(TEXT[:1]))) == 0


def test_match():
    expected = 0.0
    for m in range(M):
        values = []
        for i in range(B):
            logits = np.array([20 * IMAGE[m, i] @ TEXT[n, LABELS[i]] for n in range(M)])
            values.append(-log_softmax(logits)[m])
        expected += np.mean(values)
    got = losses.match(jnp.asarray(IMAGE), jnp.asarray(TEXT), jnp.asarray(LABELS), 20.0)
    assert float(got) == pytest.approx(expected, rel=1e-5)


def test_match_needs_features_by_template():
    with pytest.raises(ValueError, match="image features of each of the 3 templates, got 1"):
        losses.match(jnp.asarray(IMAGE[:1]), jnp.asarray(TEXT), jnp.asarray(LABELS), 20.0)


@pytest.mark.parametrize("own_anchors", [False, True])
def test_consistency(own_anchors):
    anchors = unit(M if own_anchors else 1, K, D, seed=2)
    cosine, softmax = 0.0, 0.0
    for m in range(M):
        anchor = anchors[m if own_anchors else 0]
        cosine += np.mean([1 - TEXT[m, k] @ anchor[k] for k in range(K)])
        softmax += np.mean([-log_softmax(20 * anchor @ TEXT[m, k])[k] for k in range(K)])
    text, anchors = jnp.asarray(TEXT), jnp.asarray(anchors)
    assert float(losses.cosine_consistency(text, anchors)) == pytest.approx(cosine, rel=1e-5)
    got = float(losses.softmax_consistency(text, anchors, 20.0))
    assert got == pytest.approx(softmax, rel=1e-5)


@pytest.mark.parametrize("count", [1, M])
def test_distances_from_a_teacher(count):
    rng = np.random.default_rng(5)
    anchors, logits, taught = unit(count, K, D, seed=4), *rng.normal(size=(2, B, M, K))
    distance, divergence = 0.0, 0.0
    for m in range(M):
        distance += np.mean(np.abs(TEXT[m] - anchors[m % count]))
        log_p, log_p0 = log_softmax(logits[:, m], -1), log_softmax(taught[:, m], -1)
        divergence += (np.exp(log_p0) * (log_p0 - log_p)).sum() / (B * K)
    got = losses.absolute_distance(jnp.asarray(TEXT), jnp.asarray(anchors))
    assert float(got) == pytest.approx(distance, rel=1e-5)
    got = losses.divergence(jnp.asarray(logits), jnp.asarray(taught))
    assert float(got) == pytest.approx(divergence, rel=1e-5)
