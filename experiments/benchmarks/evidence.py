"""Dempster's rule in closed form against the usual outer-product rule, in one run.

    python experiments/benchmark.py --only=evidence

Prints time and compiled temporary memory of both at K = 100 and 1000 (M = 4, float32), and how
often each fails on logits of the sizes that CLIP gives.
"""

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cdc_jax import evidence

IMAGES, SOURCES, CASES, CHUNK = 32, 4, 3_400, 5


def outer_product(
    log_evidence: Float[Array, "images sources classes"],
) -> Float[Array, "images classes"]:
    """The usual rule, pair by pair on alpha = e + 1 with K x K products for the conflict.

    Han et al. 2021, the form of their published code.
    """
    classes = log_evidence.shape[-1]

    def pair(alpha1: Array, alpha2: Array) -> Array:
        strength1, strength2 = (a.sum(axis=-1, keepdims=True) for a in (alpha1, alpha2))
        b1, b2 = (alpha1 - 1) / strength1, (alpha2 - 1) / strength2
        u1, u2 = classes / strength1, classes / strength2
        products = b1[:, :, None] * b2[:, None, :]
        same = jnp.trace(products, axis1=-2, axis2=-1)
        agreement = 1 - (products.sum(axis=(-2, -1)) - same)[:, None]
        belief = (b1 * b2 + b1 * u2 + b2 * u1) / agreement
        return belief * (classes / (u1 * u2 / agreement)) + 1

    alphas = jnp.moveaxis(jnp.exp(log_evidence) + 1, 1, 0)
    return functools.reduce(pair, alphas)


def seconds(function, argument, repeats: int) -> list[float]:
    """Time of each call, after one that is not counted."""
    jax.block_until_ready(function(argument))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(argument))
        times.append(time.perf_counter() - start)
    return times


KINDS = {  # of CLIP's logits: mean, spread
    "20..40": (25, 3),  # as they are, the best class up to 40
    "shifted": (0, 3),  # the same less their mean
    "near -20": (-20, 2),
}


def logits(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A chunk of cases with K = 1000; one class stands out by up to 12 in each source."""
    mean, spread = KINDS[kind]
    z = mean + spread * rng.normal(size=(CHUNK, SOURCES, 1000))
    z[np.arange(CHUNK), :, rng.integers(1000, size=CHUNK)] += rng.uniform(0, 12, (CHUNK, SOURCES))
    return np.minimum(z, 40).astype(np.float32)


def failures(function, kind: str) -> tuple[float, float]:
    """Shares of cases with a value that isn't finite, and with another argmax than float64's."""
    rng, bad, wrong = np.random.default_rng(0), 0, 0
    for _ in range(CASES // CHUNK):
        z = logits(rng, kind)
        ratio = np.exp(z.astype(np.float64)) / z.shape[-1]
        exact = ratio[:, 0]
        for m in range(1, SOURCES):
            exact = exact + ratio[:, m] + exact * ratio[:, m]
        got = np.asarray(function(z))
        finite = np.isfinite(got).all(axis=-1)
        bad += (~finite).sum()
        wrong += (finite & (got.argmax(axis=-1) != exact.argmax(axis=-1))).sum()
    return bad / CASES, wrong / CASES


def main() -> None:
    """Prints both tables."""
    rules = {"closed form": jax.jit(evidence.combine), "outer product": jax.jit(outer_product)}
    print(f"{IMAGES} images, {SOURCES} sources, float32 on {jax.devices()[0].device_kind}")
    print(f"{'K':>5} {'rule':<14} {'median':>10} {'min .. max':>22} {'temp memory':>12}")
    for classes, repeats in ((100, 50), (1000, 7)):
        z = jax.random.normal(jax.random.key(0), (IMAGES, SOURCES, classes))
        medians = []
        for name, rule in rules.items():
            times = 1e3 * np.array(seconds(rule, z, repeats))
            memory = rule.lower(z).compile().memory_analysis().temp_size_in_bytes
            medians.append(np.median(times))
            span = f"{times.min():.3f} .. {times.max():.3f} ms"
            print(
                f"{classes:>5} {name:<14} {medians[-1]:>7.3f} ms {span:>22} {memory / 1e6:>9.2f} MB"
            )
        print(f"{classes:>5} ratio {medians[1] / medians[0]:.0f}x")
    print(f"\nfloat32 failures in {CASES} cases of each kind, K = 1000, against float64")
    for kind in KINDS:
        for name, rule in rules.items():
            bad, wrong = failures(rule, kind)
            print(f"{kind:<9} {name:<14} not finite {bad:8.2%}   wrong argmax {wrong:8.2%}")


if __name__ == "__main__":
    main()
