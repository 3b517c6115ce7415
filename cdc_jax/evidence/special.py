"""Functions of log-evidence that neither cancel nor overflow, nor do their gradients."""

import jax
import jax.numpy as jnp
from jax import Array


def logsumexp(x: Array, axis: int = -1) -> Array:
    """jax.nn.logsumexp with a gradient of 0, not NaN, where every entry is -inf."""
    empty = jnp.all(x == -jnp.inf, axis=axis)
    safe = jnp.where(jnp.expand_dims(empty, axis), 0.0, x)
    return jnp.where(empty, -jnp.inf, jax.nn.logsumexp(safe, axis=axis))


# c_n = B_2n / 2n, with x (log x - psi(x)) ~ 1/2 + sum_n c_n x^(1-2n), and Stirling's tail of
# log Gamma(x) ~ sum_n c_n / (2n-1) x^(1-2n). From x = 8 on, seven terms are exact to 1e-14.
_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_TAIL = tuple(c / (2 * n + 1) for n, c in enumerate(_SERIES))
_SERIES_FROM = 8


def _odd_polynomial(coefficients: tuple[float, ...], q: Array) -> Array:
    """sum_n c_n q^(2n-1), n from 1."""
    total = jnp.zeros_like(q)
    for c in reversed(coefficients):
        total = total * q * q + c
    return total * q


def digamma_gap(log_x: Array) -> Array:
    """x (log x - psi(x)) for x >= 1, falling from 0.577 to 1/2.

    For large x the difference cancels and x overflows: there the series is used.
    """
    log_border = jnp.log(_SERIES_FROM)
    near = jnp.minimum(log_x, log_border)
    library = jnp.exp(near) * (near - jax.scipy.special.digamma(jnp.exp(near)))
    series = 0.5 + _odd_polynomial(_SERIES, jnp.exp(-jnp.maximum(log_x, log_border)))
    return jnp.where(log_x < log_border, library, series)


def kl_term(log_e: Array, k: int) -> Array:
    """F_k(e) = e - e psi(k + e) + log Gamma(k + e) - log Gamma(k), without its cancellations.

    It is the integral of 1 - t psi'(k + t) over t = 0..e: e at first, (k - 1/2) log e in the end.
    Stirling's series at n + e, n = max(k, 8), and the recurrence
        F_i(e) = F_{i+1}(e) - log(1 + e/i) + e / (i + e), from n down to k,
    give terms that are bounded or grow as log e, exact to rounding from e = 0 to far beyond
    overflow. So are their derivatives: autodiff needs no help.
    """
    n = max(k, _SERIES_FROM)
    y = log_e - jnp.log(n)
    share, complement = jax.nn.sigmoid(y), jax.nn.sigmoid(-y)  # e / (n + e), n / (n + e)
    product = jnp.zeros_like(y)  # prod_i (1 + e/i) / (1 + e/n), less 1 to stay exact near 0
    fractions = jnp.zeros_like(y)  # sum_i e / (i + e)
    for i in range(k, n):
        step = share * ((n - i) / i)
        product = product + step + product * step
        fractions = fractions + share / (share + complement * (i / n))
    logs = (k - 0.5) * jax.nn.softplus(y) - jnp.log1p(product)
    q, q0 = complement / n, jnp.full_like(y, 1 / n)  # 1 / (n + e), and that at e = 0
    series = share * (0.5 + _odd_polynomial(_SERIES, q))
    return logs + fractions + series + _odd_polynomial(_TAIL, q) - _odd_polynomial(_TAIL, q0)
