"""Conformal scores: how badly each class suits an image, from probabilities, (images, classes).

`conformal` turns the scores of calibration images into a threshold for sets of classes. All scores
are float64, and the scores of an image depend on no other image. Equally probable classes of an
image have equal scores, in whatever order the classes stand.

Sources: Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error
levels"; Romano, Sesia and Candès 2020, "Classification with valid and adaptive coverage";
Angelopoulos et al. 2021, "Uncertainty sets for image classifiers using conformal prediction".
"""

import numpy as np

from cdc_jax.trust.checks import ArrayLike, by_class


def lac_scores(probabilities: ArrayLike) -> np.ndarray:
    """LAC: s(x, k) = 1 - p_k. Of the three scores it has the smallest sets on average.

    Args:
      probabilities: p, rows that sum to 1, (images, classes).

    Returns:
      (images, classes).

    Raises:
      ValueError: the rows are not probabilities.

    >>> lac_scores([[0.75, 0.25]]).tolist()
    [[0.25, 0.75]]

    Sadinle, Lei and Wasserman 2019.
    """
    return 1 - _probabilities(probabilities)


def aps_scores(probabilities: ArrayLike, uniforms: ArrayLike | None = None) -> np.ndarray:
    """APS: s(x, k) = (sum of all p_j > p_k) + u p_k. Sets grow with the difficulty of the image.

    Without randomisation u is 1: the score is the mass of the most probable classes down to k, and
    scores near 1 are often tied, so that sets cover too much. With u drawn uniformly, coverage is
    exact.

    Args:
      probabilities: p, rows that sum to 1, (images, classes).
      uniforms: u in [0, 1], one an image, (images,); None for u = 1. For example
        `np.random.default_rng(seed).random(images)`, drawn anew for calibration and test.

    Returns:
      (images, classes).

    Raises:
      ValueError: the rows are not probabilities; uniforms of a wrong shape or range.

    >>> aps_scores([[0.25, 0.5, 0.25], [0.75, 0.25, 0.0]]).tolist()
    [[0.75, 0.5, 0.75], [0.75, 1.0, 1.0]]
    >>> aps_scores([[0.75, 0.25, 0.0]], uniforms=[0.5]).tolist()
    [[0.375, 0.875, 1.0]]

    Romano, Sesia and Candès 2020, eq. 5 to 7; in this form Angelopoulos et al. 2021, eq. 4.
    """
    return raps_scores(probabilities, uniforms, penalty=0.0)


def raps_scores(
    probabilities: ArrayLike,
    uniforms: ArrayLike | None = None,
    penalty: float = 0.01,
    free: int = 5,
) -> np.ndarray:
    """RAPS: APS + penalty max(0, o_k - free), o_k = number of classes with p_j >= p_k.

    The penalty keeps a long tail of improbable classes out of the sets. The guarantee holds only if
    `penalty` and `free` are fixed before the calibration images are seen.

    Args:
      probabilities: p, rows that sum to 1, (images, classes).
      uniforms: as in `aps_scores`.
      penalty: lambda >= 0; 0 gives APS.
      free: k_reg >= 0, the number of classes without a penalty.

    Returns:
      (images, classes).

    Raises:
      ValueError: the rows are not probabilities; uniforms of a wrong shape or range; a negative
        penalty or `free`.

    >>> raps_scores([[0.75, 0.25, 0.0]], penalty=0.125, free=1).tolist()
    [[0.75, 1.125, 1.25]]

    Angelopoulos et al. 2021, eq. 4.
    """
    p = _probabilities(probabilities)
    u = np.ones(len(p)) if uniforms is None else np.asarray(uniforms, np.float64)
    if u.shape != p.shape[:1] or not ((u >= 0) & (u <= 1)).all():
        raise ValueError(
            f"expected uniforms in [0, 1] of shape {p.shape[:1]}, one an image, got shape {u.shape}"
            + (f" and values {u.min()}..{u.max()}" if u.size else "")
        )
    if not (penalty >= 0 and free >= 0):
        raise ValueError(f"expected penalty >= 0 and free >= 0, got {penalty} and {free}")
    order = np.argsort(-p, axis=1, kind="stable")
    falling = np.take_along_axis(p, order, axis=1)
    above, at_least = _tied_ranks(falling)
    mass = np.cumsum(np.pad(falling[:, :-1], ((0, 0), (1, 0))), axis=1)  # before each place
    ranked = np.take_along_axis(mass, above, axis=1) + u[:, None] * falling
    ranked += penalty * np.maximum(0, at_least - free)
    scores = np.empty_like(p)
    np.put_along_axis(scores, order, ranked, axis=1)
    return scores


def _tied_ranks(falling: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each value of falling rows: how many values are larger, how many at least as large."""
    classes = falling.shape[1]
    places = np.arange(classes)
    change = falling[:, 1:] != falling[:, :-1]
    first = np.pad(change, ((0, 0), (1, 0)), constant_values=True)
    last = np.pad(change, ((0, 0), (0, 1)), constant_values=True)
    above = np.maximum.accumulate(np.where(first, places, 0), axis=1)
    end = np.where(last, places + 1, classes)[:, ::-1]
    return above, np.minimum.accumulate(end, axis=1)[:, ::-1]


def _probabilities(probabilities: ArrayLike) -> np.ndarray:
    p = by_class("probabilities", probabilities)
    if p.min() < 0 or not np.allclose(p.sum(axis=1), 1, atol=1e-3):
        raise ValueError("expected rows of probabilities: not negative, summing to 1 within 1e-3")
    return p
