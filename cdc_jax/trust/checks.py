"""Checks of arguments at entry: shares, vectors, scores of classes, labels."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike as ArrayLike
else:  # checked at run time, as in the tests, NumPy's own refuses a list of floats
    ArrayLike = Any


def share(name: str, value: float | Fraction) -> Fraction:
    """A share between 0 and 1 as the exact fraction that its decimals write.

    0.1 becomes 1/10. Products with a number of images are then exact: in floats 100 * 0.07 exceeds
    7, and a rank that is rounded up would be one too high.

    Args:
      name: of the argument, for the error.
      value: the share.

    Returns:
      The fraction.

    Raises:
      ValueError: the share is not between 0 and 1.

    >>> share("level", 0.1)
    Fraction(1, 10)
    """
    if not 0 < value < 1:
        raise ValueError(f"expected {name} between 0 and 1, got {value}")
    return Fraction(str(value))


def vectors(**arrays: ArrayLike) -> list[np.ndarray]:
    """Vectors of one length: numbers as float64, booleans as they are.

    Args:
      arrays: by name, each (images,).

    Returns:
      The vectors in the same order.

    Raises:
      ValueError: a wrong shape, unequal lengths, no image, NaN.
    """
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in checked.items()}
    if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
        raise ValueError(f"expected vectors of one length, got shapes {shapes}")
    for name, array in checked.items():
        if not len(array):
            raise ValueError(f"{name} is empty: give at least one image")
        if array.dtype != bool:
            checked[name] = array = array.astype(np.float64)
            if np.isnan(array).any():
                raise ValueError(f"{name} of {np.isnan(array).sum()} images is NaN")
    return list(checked.values())


def by_class(name: str, values: ArrayLike) -> np.ndarray:
    """One number an image and class, as float64.

    Args:
      name: of the argument, for the error.
      values: (images, classes).

    Returns:
      The array.

    Raises:
      ValueError: a wrong shape, no image, fewer than 2 classes, NaN.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(
            f"expected {name} of shape (images, classes), at least 1 image and 2 classes, got "
            f"{array.shape}"
        )
    if np.isnan(array).any():
        raise ValueError(f"{name} of {np.isnan(array).any(axis=1).sum()} images are NaN")
    return array


def classes_of(name: str, classes: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """One class index an image.

    Args:
      name: of the argument, for the error.
      classes: (images,).
      shape: (images, number of classes) of the array that they belong to.

    Returns:
      The indices.

    Raises:
      ValueError: a wrong shape, type or range.
    """
    array = np.asarray(classes)
    if array.shape != shape[:1] or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"expected {shape[0]} integer {name}, one an image, got {array.dtype} of shape "
            f"{array.shape}"
        )
    if array.min() < 0 or array.max() >= shape[1]:
        raise ValueError(f"expected {name} in 0..{shape[1] - 1}, got {array.min()}..{array.max()}")
    return array
