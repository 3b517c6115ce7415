"""Evidence against literal float64 rules, SciPy, Monte-Carlo and finite differences."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_jax import evidence as ev

FUSIONS = (ev.combine, ev.average, ev.cumulate, ev.cautious, ev.most_certain, ev.pool)
LOSSES = (ev.trusted_cross_entropy, ev.type_two_likelihood, ev.expected_squared_error)
MEASURES = (
    ev.log_vacuity,
    ev.dissonance,
    ev.least_confidence,
    ev.entropy,
    ev.expected_entropy,
    ev.mutual_information,
)
FEW = settings(deadline=None, max_examples=60, derandomize=True)
jitted = functools.cache(jax.jit)  # one compilation a function and shape


def float64(function, *args):
    """The function's value in float64, as NumPy."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jitted(function)(*args))


def log_of(*rows):
    return jnp.log(jnp.array(rows, float))


# ---- Dempster's rule


def mass_function(evidence):
    """{focal set: mass} of an opinion, the frame being the set of all classes."""
    strength = len(evidence) + sum(evidence)
    masses = {frozenset([k]): e / strength for k, e in enumerate(evidence)}
    masses[frozenset(range(len(evidence)))] = len(evidence) / strength
    return masses


def dempster(first, second):
    """The literal rule: products on intersections, the empty set left out. Also 1 - C."""
    fused = dict.fromkeys(first, 0.0)
    for (a, mass_a), (b, mass_b) in itertools.product(first.items(), second.items()):
        if a & b:
            fused[a & b] += mass_a * mass_b
    kept = sum(fused.values())
    return {focal: mass / kept for focal, mass in fused.items()}, kept


@st.composite
def opinions(draw, sources=(1, 2, 5), classes=(2, 3, 8)):
    """Log-evidence (sources, classes): any, near-vacuous, near-certain and none, mixed freely."""
    k, m = draw(st.sampled_from(classes)), draw(st.sampled_from(sources))
    kinds = [st.floats(-8, 8), st.floats(-30, -15), st.floats(15, 25), st.just(-math.inf)]
    kinds.append(st.one_of(kinds))
    source = st.one_of([st.lists(kind, min_size=k, max_size=k) for kind in kinds])
    return np.array(draw(st.lists(source, min_size=m, max_size=m)), np.float64)


def fuse_and_compare(log_evidence):
    fused = ev.opinion(ev.combine(log_evidence))
    return fused, ev.conflict(log_evidence), ev.weight_of_conflict(log_evidence)


@pytest.mark.slow
@FEW
@given(opinions())
def test_combine_and_conflict_are_the_pairwise_rule_over_focal_sets(log_evidence):
    fused, agreement = mass_function(np.exp(log_evidence[0])), 1.0
    for source in log_evidence[1:]:
        fused, kept = dempster(fused, mass_function(np.exp(source)))
        agreement *= kept
    got, conflict, weight = float64(fuse_and_compare, log_evidence)
    classes = range(log_evidence.shape[1])
    np.testing.assert_allclose(got.belief, [fused[frozenset([k])] for k in classes], atol=1e-10)
    np.testing.assert_allclose(got.uncertainty, fused[frozenset(classes)], atol=1e-10)
    np.testing.assert_allclose(got.belief.sum() + got.uncertainty, 1, atol=1e-12)
    np.testing.assert_allclose(conflict, 1 - agreement, atol=1e-10)
    np.testing.assert_allclose(weight, -math.log(agreement), atol=1e-10)


@pytest.mark.slow
@FEW
@given(opinions(sources=(3,)), st.permutations(range(3)))
def test_combine_ignores_order_grouping_and_vacuous_sources(log_evidence, order):
    fused = float64(ev.combine, log_evidence)
    pair = float64(ev.combine, log_evidence[:2])
    vacuous = np.full_like(log_evidence[:1], -np.inf)
    variants = {
        "order": log_evidence[order],
        "grouping": np.stack([pair, log_evidence[2]]),
        "vacuous": np.concatenate([vacuous, log_evidence]),
    }
    for name, variant in variants.items():
        got = float64(ev.combine, variant)
        np.testing.assert_allclose(got, fused, atol=1e-10, err_msg=name)
    alone = float64(ev.combine, log_evidence[:1])
    np.testing.assert_allclose(alone, log_evidence[0], atol=1e-13)


def test_combine_by_hand():
    log_evidence = log_of([6, 0], [2, 2], [0, 1])  # 6+2+6*2/2 = 14, 2; then 14, 2+1+2*1/2 = 4
    np.testing.assert_allclose(jnp.exp(ev.combine(log_evidence)), [14, 4], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS, ids=lambda f: f.__name__)
def test_fusion_works_on_any_axis_and_under_jit_and_vmap(fusion):
    batch = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    expected = jitted(fusion)(batch)
    assert expected.shape == (2, 3, 5)
    first = jax.jit(fusion, static_argnames="axis")(jnp.moveaxis(batch, 2, 0), axis=0)
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-6)
    mapped = jax.jit(jax.vmap(jax.vmap(fusion)))(batch)
    np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-6)


def clip_like_logits(rng, size):
    """K = 1000, M = 4: around -20, or around 20..30 with a best class that reaches up to 40."""
    noise = rng.normal(size=(size, 4, 1000))
    low = rng.random(size) < 0.5
    logits = np.where(low[:, None, None], -20 + 2 * noise, 25 + 3 * noise)
    best = rng.integers(1000, size=size)
    logits[np.arange(size), :, best] += rng.uniform(0, 12, (size, 4))
    return np.minimum(logits, 40).astype(np.float32)


@pytest.mark.slow
def test_float32_fusion_of_clip_sized_logits_equals_float64():
    rng, fuse = np.random.default_rng(0), jax.jit(lambda z: ev.combine(ev.from_logits(z)))
    wrong, worst = 0, 0.0
    for _ in range(20):
        logits = clip_like_logits(rng, 500)
        got = np.asarray(fuse(logits))
        evidence = np.exp(logits.astype(np.float64))
        fused = evidence[:, 0]
        for m in range(1, 4):
            fused = fused + evidence[:, m] + fused * evidence[:, m] / 1000
        worst = max(worst, np.abs(got - np.log(fused)).max())  # NaN would stay
        wrong += (got.argmax(-1) != fused.argmax(-1)).sum()
    assert wrong == 0
    assert worst < 1e-4


@pytest.mark.parametrize(("sources", "classes"), [(1, 2), (64, 1000), (3, 21_000)])
def test_float32_fusion_from_minus_80_to_80(sources, classes):
    rng = np.random.default_rng(1)
    for low, high in ((-80, 80), (-80, -75), (-20, -10), (75, 80)):
        log_evidence = rng.uniform(low, high, (sources, classes)).astype(np.float32)
        fused = log_evidence[0].astype(np.float64)
        for source in log_evidence[1:].astype(np.float64):  # log(e1 + e2 + e1 e2 / K)
            pair = fused + source - math.log(classes)
            fused = np.logaddexp(np.logaddexp(fused, source), pair)
        np.testing.assert_allclose(jitted(ev.combine)(log_evidence), fused, rtol=1e-6, atol=2e-5)


# ---- other fusions, discounting


@FEW
@given(opinions(sources=(3,)))
def test_average_is_the_mean_of_the_masses(log_evidence):
    masses = [mass_function(e) for e in np.exp(log_evidence)]
    mean = [np.mean([m[focal] for m in masses]) for focal in masses[0]]
    belief, uncertainty, _ = float64(ev.opinion, float64(ev.average, log_evidence))
    np.testing.assert_allclose([*belief, uncertainty], mean, atol=1e-12)


@FEW
@given(opinions(sources=(3,)))
def test_pool_is_the_geometric_mean_of_plausibilities(log_evidence):
    masses = [mass_function(e) for e in np.exp(log_evidence)]
    frame = frozenset(range(log_evidence.shape[1]))
    singletons = [frozenset([k]) for k in sorted(frame)]
    plausibility = np.array([[(m[f] + m[frame]) / m[frame] for f in singletons] for m in masses])
    belief = scipy.stats.gmean(plausibility, axis=0) - 1
    expected = np.array([*belief, 1]) / (belief.sum() + 1)
    got = float64(ev.opinion, float64(ev.pool, log_evidence))
    np.testing.assert_allclose([*got.belief, got.uncertainty], expected, atol=1e-9)
    same = float64(ev.pool, np.repeat(log_evidence[:1], 4, axis=0))
    np.testing.assert_allclose(np.exp(same), np.exp(log_evidence[0]), rtol=1e-9)
    whole = float64(ev.combine, np.repeat(float64(ev.pool, log_evidence)[None], 3, axis=0))
    np.testing.assert_allclose(whole, float64(ev.combine, log_evidence), atol=1e-9)


def canonical_weights(masses, frame):
    """Denoeux 2008: w(A) = prod over B containing A of q(B)^((-1)^(|B|-|A|+1)), A != frame."""
    sizes = range(len(frame) + 1)
    subsets = [frozenset(c) for n in sizes for c in itertools.combinations(frame, n)]
    q = {b: sum(mass for a, mass in masses.items() if a >= b) for b in subsets}
    return {
        a: math.prod(q[b] ** (-1.0) ** (len(b) - len(a) + 1) for b in subsets if b >= a)
        for a in subsets
        if a != frame
    }


@FEW
@given(st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=3, max_size=3))
def test_cautious_takes_the_least_canonical_weights(log_evidence):
    frame = frozenset(range(3))
    weights = [canonical_weights(mass_function(np.exp(row)), frame) for row in log_evidence]
    least = {a: min(w[a] for w in weights) for a in weights[0]}
    fused = {frame: 1.0}  # conjunctive combination of the simple functions A^w; w(empty) last
    for a, w in least.items():
        step: dict[frozenset, float] = {}
        for (b, mass), (c, share) in itertools.product(fused.items(), ((a, 1 - w), (frame, w))):
            step[b & c] = step.get(b & c, 0.0) + mass * share
        fused = step
    kept = sum(mass for focal, mass in fused.items() if focal)
    got = float64(ev.cautious, np.array(log_evidence))
    again = float64(ev.cautious, np.array([got, *log_evidence]))
    expected = [fused.get(frozenset([k]), 0.0) / kept for k in range(3)]
    np.testing.assert_allclose(float64(ev.opinion, got)[0], expected, atol=1e-9)
    np.testing.assert_array_equal(again, got)


def test_cumulate_and_most_certain_by_hand():
    sources = log_of([6, 0], [2, 2], [0, 0])
    np.testing.assert_allclose(jnp.exp(ev.cumulate(sources)), [8, 2], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(ev.most_certain(sources[::-1])), [6, 0], rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(ev.most_certain(log_of([1, 3], [2, 2]))), [1, 3], rtol=1e-6)


@FEW
@given(opinions(sources=(3,)), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_discount_scales_belief_per_source(log_evidence, reliability):
    r = np.array(reliability)
    before = ev.Opinion(*float64(ev.opinion, log_evidence))
    after = ev.Opinion(*float64(ev.opinion, float64(ev.discount, log_evidence, r)))
    np.testing.assert_allclose(after.belief, r[:, None] * before.belief, atol=1e-12)
    np.testing.assert_allclose(after.uncertainty, 1 - r + r * before.uncertainty, atol=1e-12)


def test_discount_ends_are_all_and_nothing_with_finite_gradients():
    log_evidence = log_of([6, 0], [2, 2])
    got = jitted(ev.discount)(log_evidence, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(got, [log_evidence[0], [-np.inf, -np.inf]])
    np.testing.assert_allclose(ev.combine(got), log_evidence[0], rtol=1e-6)

    def uncertainty(log_e, r):
        return ev.opinion(ev.combine(ev.discount(log_e, r))).uncertainty

    gradient = jax.jit(jax.grad(uncertainty, (0, 1)))
    for r in ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0], [0.3, 0.7]):
        by_evidence, by_reliability = gradient(log_evidence, jnp.array(r))
        assert np.isfinite(by_evidence).all() and np.isfinite(by_reliability).all()


# ---- evidence and opinions


def test_from_logits_kinds_against_numpy():
    z = np.array([-300.0, -90.0, -30.0, -20.0, -19.9, -1.0, 0.5, 3.0, 40.0])
    x = 2 * z - 1.5
    softplus = np.where(x < -30, x, np.log(np.log1p(np.exp(np.minimum(x, 700)))))
    with np.errstate(divide="ignore"):
        expected = {"exp": x, "softplus": softplus, "relu": np.log(np.maximum(x, 0))}
    for kind, value in expected.items():
        got = ev.from_logits(jnp.array(z), kind, scale=2.0, shift=1.5)
        np.testing.assert_allclose(got, value, rtol=1e-6, atol=1e-6)
        with jax.enable_x64(True):
            got = ev.from_logits(jnp.array(z), kind, scale=2.0, shift=1.5)
            assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, value, rtol=1e-9, atol=1e-12)
        low = ev.from_logits(jnp.array(z, jnp.bfloat16), kind)
        assert low.dtype == jnp.float32


def test_relu_evidence_of_zero_and_denormals_has_finite_gradients():
    z = jnp.array([-3.0, 0.0, 1e-40, 1.2e-38, 1e-20, 2.0])

    def loss(z, scale, shift):
        return ev.trusted_cross_entropy(ev.from_logits(z, "relu", scale, shift), jnp.array(0), 0.1)

    value, grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(z, 1.0, 0.0)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
    assert grads[0][0] == 0 and grads[0][5] > 0


def test_calibrated_shift_and_row_centring():
    logits = jnp.array([[20.0, 30.0], [18.0, 20.0]])
    assert ev.calibrate_shift(logits) == 22
    assert ev.calibrate_shift(logits, scale=0.5, multiple=2.0) == 22
    shift = ev.calibrate_shift(logits, scale=3.0)
    np.testing.assert_allclose(ev.from_logits(logits, scale=3.0, shift=shift).mean(), 0, atol=1e-5)
    centred = ev.from_logits(logits, shift=logits.mean(-1, keepdims=True))
    np.testing.assert_array_equal(centred, [[-5, 5], [-1, 1]])


def test_scale_and_shift_can_be_learned_under_jit():
    def loss(parameters):
        log_scale, shift = parameters
        logits = jnp.array([[22.0, 25.0, 19.0]])
        log_evidence = ev.from_logits(logits, "softplus", jnp.exp(log_scale), shift)
        return ev.trusted_cross_entropy(log_evidence, jnp.array([1])).sum()

    at, step = np.array([0.1, 20.0]), 1e-6 * np.eye(2)
    slopes = [(float64(loss, at + s) - float64(loss, at - s)) / 2e-6 for s in step]
    np.testing.assert_allclose(float64(jax.grad(loss), at), slopes, rtol=1e-6)


def test_opinion_concentration_and_probability_by_hand():
    log_evidence = log_of([6, 0, 0], [0, 0, 0], [1, 2, 3])
    belief, uncertainty, log_uncertainty = ev.opinion(log_evidence)
    np.testing.assert_allclose(belief, [[2 / 3, 0, 0], [0, 0, 0], [1 / 9, 2 / 9, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(uncertainty, [1 / 3, 1, 1 / 3], rtol=1e-6)
    np.testing.assert_allclose(log_uncertainty, np.log([1 / 3, 1, 1 / 3]), rtol=1e-6)
    np.testing.assert_allclose(
        jnp.exp(ev.log_concentration(log_evidence)), [[7, 1, 1], [1, 1, 1], [2, 3, 4]], rtol=1e-6
    )
    np.testing.assert_allclose(
        ev.expected_probability(log_evidence),
        [[7 / 9, 1 / 9, 1 / 9], [1 / 3] * 3, [2 / 9, 3 / 9, 4 / 9]],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("dtype", "kept"), [("bfloat16", "float32"), ("float16", "float32"), ("float64", "float64")]
)
def test_low_precision_is_promoted_and_float64_kept(dtype, kept):
    functions = (*FUSIONS, *MEASURES, ev.conflict, ev.opinion, ev.expected_probability)
    functions += tuple(
        functools.partial(f, labels=jnp.array([0, 1]), kl_weight=0.1) for f in LOSSES
    )
    functions += (functools.partial(ev.discount, reliability=0.5), ev.from_logits)
    with jax.enable_x64(True):
        log_evidence = jax.ShapeDtypeStruct((2, 3), dtype)
        results = [jax.eval_shape(f, log_evidence) for f in functions]
    assert {str(r.dtype) for r in jax.tree.leaves(results)} == {kept}


# ---- measures


@pytest.mark.slow
@FEW
@given(opinions(sources=(1,), classes=(2, 8)))
def test_measures_against_literal_formulas(log_evidence):
    e = np.exp(np.minimum(log_evidence[0], 12))
    alpha, strength, psi = e + 1, len(e) + e.sum(), scipy.special.psi
    p, b = alpha / strength, e / strength
    total = scipy.stats.entropy(p)
    data = psi(strength + 1) - (p * psi(alpha + 1)).sum()
    contradiction = 0.0
    for k in range(len(e)):
        others = [j for j in range(len(e)) if j != k]
        if b[others].sum() > 0 and b[k] > 0:
            balance = [1 - abs(b[j] - b[k]) / (b[j] + b[k]) for j in others]
            contradiction += b[k] * (b[others] @ balance) / b[others].sum()
    expected = {
        ev.log_vacuity: -np.log1p(e.sum() / len(e)),
        ev.dissonance: contradiction,
        ev.least_confidence: 1 - p.max(),
        ev.entropy: total,
        ev.expected_entropy: data,
        ev.mutual_information: total - data,
    }
    for measure, value in expected.items():
        got = float64(measure, np.minimum(log_evidence[0], 12))
        np.testing.assert_allclose(got, value, atol=1e-9, err_msg=measure.__name__)


@pytest.mark.slow
def test_float32_measures_equal_float64_at_any_evidence():
    rng = np.random.default_rng(2)
    spans = ((-80, 80), (-80, -60), (-3, 9), (60, 80))
    log_evidence = np.concatenate([rng.uniform(*span, (8, 40)) for span in spans])
    log_evidence = log_evidence.astype(np.float32)
    for measure in (*MEASURES, ev.dirichlet_kl_to_uniform):
        expected = float64(measure, log_evidence.astype(np.float64))
        got = jitted(measure)(log_evidence)
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-6, err_msg=measure.__name__)
    assert len(np.unique(jitted(ev.log_vacuity)(log_evidence))) == len(log_evidence)


# ---- losses


def literal_loss(loss, alpha, y):
    strength, psi = alpha.sum(), scipy.special.psi
    p, target = alpha / strength, np.eye(len(alpha))[y]
    if loss is ev.trusted_cross_entropy:
        return psi(strength) - psi(alpha[y])
    if loss is ev.type_two_likelihood:
        return np.log(strength) - np.log(alpha[y])
    return ((target - p) ** 2 + p * (1 - p) / (strength + 1)).sum()


def literal_kl(alpha):
    """Textbook form, float64: good to 1e-9 while alpha is below 1e5."""
    strength, k = alpha.sum(), len(alpha)
    gammaln, psi = scipy.special.gammaln, scipy.special.psi
    normaliser = gammaln(strength) - gammaln(k) - gammaln(alpha).sum()
    return normaliser + ((alpha - 1) * (psi(alpha) - psi(strength))).sum()


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
@FEW
@given(opinions(sources=(1,), classes=(2, 8)), st.integers(0, 1), st.floats(0, 1))
def test_losses_against_scipy(loss, log_evidence, y, kl_weight):
    log_evidence = np.minimum(log_evidence[0], 10)
    alpha = 1 + np.exp(log_evidence)
    misleading = np.where(np.arange(len(alpha)) == y, 1, alpha)
    expected = literal_loss(loss, alpha, y) + kl_weight * literal_kl(misleading)
    np.testing.assert_allclose(float64(loss, log_evidence, y, kl_weight), expected, atol=1e-8)
    got = jitted(loss)(log_evidence.astype(np.float32), y, kl_weight)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_losses_are_dirichlet_expectations():
    alpha, y = np.array([3.5, 1.2, 8.0, 1.0]), 2
    p = scipy.stats.dirichlet.rvs(alpha, 400_000, random_state=0)
    log_density = scipy.stats.dirichlet.logpdf(p[:20_000].T, alpha)  # uniform: log Gamma(4)
    samples = {
        ev.trusted_cross_entropy: -np.log(p[:, y]),
        ev.expected_squared_error: ((np.eye(4)[y] - p) ** 2).sum(1),
        ev.expected_entropy: -(p * np.log(p)).sum(1),
        ev.dirichlet_kl_to_uniform: log_density - np.log(6),
    }
    log_evidence = jnp.log(jnp.array(alpha - 1))
    for function, draws in samples.items():
        got = function(log_evidence, jnp.array(y)) if function in LOSSES else function(log_evidence)
        error = draws.std() / np.sqrt(len(draws))
        assert abs(got - draws.mean()) < 4 * error, function.__name__
    got = ev.type_two_likelihood(log_evidence, jnp.array(y))
    np.testing.assert_allclose(got, -np.log(p[:, y].mean()), rtol=3e-3)


def stable_kl(log_evidence):
    """float64, by phi(a) = (a - 1) psi(a) - log Gamma(a) - a, Stirling's series from a = 1e4."""
    alpha = 1 + np.exp(log_evidence.astype(np.float64))

    def phi(a):
        x = np.minimum(a, 1e4)
        near = (x - 1) * scipy.special.psi(x) - scipy.special.gammaln(x) - x
        far = -np.log(a) / 2 - 0.5 - np.log(2 * np.pi) / 2 + 1 / (3 * a) + 1 / (12 * a**2)
        return np.where(a < 1e4, near, far)

    k, strength = alpha.shape[-1], alpha.sum(-1)
    rest = (k - 1) * scipy.special.psi(strength) - scipy.special.gammaln(k)
    return phi(alpha).sum(-1) - phi(strength) + rest


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_kl_in_float32_from_vacuous_to_certain(classes):
    rng = np.random.default_rng(3)
    levels = np.arange(-10.0, 41.0)[:, None]
    for spread in (0, 1, 10):
        log_evidence = levels + rng.uniform(-spread, spread, (len(levels), classes))
        log_evidence = np.clip(log_evidence, -10, 40).astype(np.float32)
        expected = stable_kl(log_evidence)
        error = np.abs(jitted(ev.dirichlet_kl_to_uniform)(log_evidence) - expected)
        assert (error < 3e-5 * np.maximum(1, expected)).all()


# 80 digits, mpmath: log-evidence -> KL of the textbook form.
EXACT_KL = [
    ([-10.0] * 2, 7.3179629960691645e-10),
    ([-6.0] * 1000, 0.0019726673697722583),
    ([16.0, 14.0, 12.0], 15.826304244440782),
    ([40.0] + [-10.0] * 999, 33055.734223954451),
    ([80.0, -80.0, -math.inf, 80.0], 197.21531712952708),
    ([60.0] * 100, 2928.6053133489771),
    ([-2.0] * 21_000, 103.09692944974663),
    ([2.0] * 21_000, 14394.05639083264),
]


@pytest.mark.parametrize(("log_evidence", "expected"), EXACT_KL, ids=range(len(EXACT_KL)))
def test_kl_against_exact_values(log_evidence, expected):
    got = jitted(ev.dirichlet_kl_to_uniform)(jnp.array(log_evidence))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    got = float64(ev.dirichlet_kl_to_uniform, np.array(log_evidence))
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


def test_annealed_kl_weight_rises_to_the_middle():
    weights = [ev.annealed_kl_weight(t, 200, 0.03) for t in (0, 50, 100, 200)]
    np.testing.assert_allclose(weights, [0, 0.015, 0.03, 0.03], rtol=1e-6)
    whole = jax.jit(lambda t: ev.annealed_kl_weight(t, 200, 1.0, warmup=1.0))(jnp.array(50))
    np.testing.assert_allclose(whole, 0.25)


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "fuse"), list(zip(LOSSES, FUSIONS[:3], strict=True)))
def test_trusted_loss_is_the_weighted_sum(loss, fuse):
    rng = np.random.default_rng(4)
    log_evidence, labels = jnp.array(rng.normal(size=(3, 2, 5))), jnp.array([0, 4, 2])
    one = jax.jit(lambda log_e: loss(log_e, labels, 0.1))
    expected = sum(w * one(log_evidence[:, m]) for m, w in enumerate((0.5, 2)))
    expected += 3 * one(fuse(log_evidence))
    weights = jnp.array([0.5, 2.0])
    got = jax.jit(lambda x: ev.trusted_loss(x, labels, 0.1, weights, 3.0, loss, fuse))(log_evidence)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


# ---- gradients


GRADIENT_CASES = {
    **{f.__name__: lambda x, f=f: (f(x) * jnp.arange(1, 6)).sum() for f in FUSIONS},
    **{f.__name__: lambda x, f=f: f(x).sum() for f in (*MEASURES, ev.dirichlet_kl_to_uniform)},
    **{f.__name__: lambda x, f=f: f(x).sum() for f in (ev.conflict, ev.weight_of_conflict)},
    **{f.__name__: lambda x, f=f: f(x, jnp.array([0, 1, 1]), 0.7).sum() for f in LOSSES},
    "trusted_loss": lambda x: ev.trusted_loss(x, jnp.array(1), 0.7),
    "discount": lambda x: (ev.discount(x, jnp.array([0.2, 0.9, 1.0])) * jnp.arange(5)).sum(),
    "opinion": lambda x: (ev.opinion(x).belief * jnp.arange(5)).sum(),
    "expected_probability": lambda x: (ev.expected_probability(x) * jnp.arange(5)).sum(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_gradients_against_finite_differences_and_at_the_limits(name):
    function, rng, h = GRADIENT_CASES[name], np.random.default_rng(5), 1e-5
    middle = np.stack([rng.uniform(*span, (3, 5)) for span in ((-9, -2), (-2, 3), (3, 9), (-9, 9))])
    steps = h * np.stack([np.eye(15), -np.eye(15)]).reshape(2, 15, 3, 5)
    ends = [rng.uniform(*span, (3, 5)) for span in ((-80, 80), (-80, -70), (70, 80), (80, 80))]
    ends += [np.full((3, 5), -80.0), np.where(rng.random((3, 5)) < 0.5, -np.inf, 80.0)]
    points = np.concatenate([middle, ends]).astype(np.float32)

    value, gradient = (jax.jit(jax.vmap(f)) for f in (function, jax.grad(function)))
    with jax.enable_x64(True):
        exact = np.asarray(gradient(points.astype(np.float64)))
        shifted = (points[:4, None, None].astype(np.float64) + steps).reshape(-1, 3, 5)
        around = np.asarray(value(shifted)).reshape(4, 2, 3, 5)
    slopes = (around[:, 0] - around[:, 1]) / (2 * h)
    np.testing.assert_allclose(exact[:4], slopes, rtol=1e-5, atol=1e-7)
    assert np.isfinite(exact).all()
    np.testing.assert_allclose(gradient(points), exact, rtol=1e-3, atol=1e-4)
    points[:] = -np.inf  # no evidence at all
    assert np.isfinite(gradient(points)).all()


@pytest.mark.slow
def test_loss_of_64_fused_sources_is_finite_though_their_evidence_overflows():
    log_evidence = jnp.full((64, 3), 80.0).at[:, 0].set(79.0)
    value, gradient = jax.jit(jax.value_and_grad(ev.trusted_loss))(log_evidence, jnp.array(0), 0.03)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    assert ev.combine(log_evidence).max() > 4000
    fused = ev.opinion(ev.combine(log_evidence))
    np.testing.assert_allclose(fused.belief, [0, 0.5, 0.5], atol=1e-6)


# ---- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ev.from_logits(jnp.zeros(3), "tanh"), "'tanh'.*exp, softplus, relu"),
        (lambda: ev.from_logits(jnp.zeros(3), scale=0.0), "scale > 0, got 0.0"),
        (lambda: ev.from_logits(jnp.zeros((3, 1))), r"2 classes.*\(3, 1\)"),
        (lambda: ev.calibrate_shift(jnp.zeros((0, 3))), r"no logits.*\(0, 3\)"),
        (lambda: ev.combine(jnp.zeros((2, 0, 3))), r"axis -2 of shape \(2, 0, 3\) is empty"),
        (lambda: ev.cumulate(jnp.zeros((2, 3)), axis=-1), r"axis=-1 .*\(2, 3\)"),
        (lambda: ev.conflict(jnp.zeros((2, 3)), axis=2), r"axis=2 .*\(2, 3\)"),
        (lambda: ev.combine(jnp.zeros((2, 3)), axis=-3), r"axis=-3 .*\(2, 3\)"),
        (lambda: ev.discount(jnp.zeros((2, 3)), jnp.array([0.5, 1.5])), r"\[0, 1\], got 0.5..1.5"),
        (lambda: ev.discount(jnp.zeros(3), -0.1), r"\[0, 1\], got -0.1"),
        (lambda: ev.trusted_loss(jnp.zeros((2, 3, 4)), jnp.zeros(3, int)), r"\(2,\).*\(3,\)"),
        (lambda: ev.trusted_cross_entropy(jnp.zeros((1, 3)), jnp.array([3])), r"0..2, got 3..3"),
        (lambda: ev.annealed_kl_weight(1, 0, 0.1), "num_steps >= 1.*got 0"),
    ],
)
def test_errors_name_the_value_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_must_be_integers():
    with pytest.raises((ValueError, TypeError)):  # TypeError where annotations are enforced
        ev.type_two_likelihood(jnp.zeros((2, 3)), jnp.zeros(2))


def test_known_values_are_checked_inside_jit_and_traced_ones_give_nan():
    known = jnp.array([3])
    with pytest.raises(ValueError, match="got 3..3"):
        jax.jit(lambda x: ev.trusted_cross_entropy(x, known))(jnp.zeros((1, 3)))
    for loss in LOSSES:
        values = jax.jit(loss)(jnp.zeros((4, 3)), jnp.array([3, -1, 0, 2]))
        assert np.isnan(values).tolist() == [True, True, False, False]
    assert np.isnan(jax.jit(ev.discount)(jnp.zeros((1, 3)), jnp.array([2.0]))).all()


UNARY = (ev.opinion, ev.log_concentration, ev.expected_probability, ev.dirichlet_kl_to_uniform)
TAKE_EVIDENCE = (
    *UNARY, *MEASURES, *FUSIONS, ev.conflict,
    *(functools.partial(ev.from_logits, kind=kind) for kind in ev.KINDS),
    functools.partial(ev.discount, reliability=0.5),
    *(functools.partial(loss, labels=jnp.array([0, 1])) for loss in LOSSES),
)  # fmt: skip


@pytest.mark.parametrize("function", TAKE_EVIDENCE)
def test_nan_is_refused_and_a_traced_nan_stays(function):
    broken = jnp.array([[0.5, jnp.nan, -1.0], [0.5, 1.0, -1.0]])
    with pytest.raises(ValueError, match="1 of 6 values of (log-evidence|logits) are NaN"):
        function(broken)
    leaves = jax.tree.leaves(jax.jit(function)(broken))
    assert all(np.isnan(leaf).any() for leaf in leaves)
    assert not any(
        np.isnan(leaf).any() for leaf in jax.tree.leaves(function(broken[1:].repeat(2, 0)))
    )


def test_nan_is_not_averaged_into_a_shift():
    with pytest.raises(ValueError, match="1 of 2 values of logits are NaN"):
        ev.calibrate_shift(jnp.array([jnp.nan, 1.0]))


def test_a_known_nan_is_refused_inside_jit():
    known = jnp.array([jnp.nan, 1.0])
    with pytest.raises(ValueError, match="1 of 2 values of log-evidence are NaN"):
        jax.jit(lambda x: x + ev.log_vacuity(known))(0.0)
