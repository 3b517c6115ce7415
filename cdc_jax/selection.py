"""Validation images on which a method chooses, apart from the images that calibrate guarantees.

A guarantee holds for images that had no part in what it describes. A method that chooses arrays
gets half of the validation images of each class, and the other half calibrates. All images
calibrate other methods. All images also fit the two numbers of a calibrated head.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from cdc_jax.methods import Method
from cdc_jax.tasks import Examples


class Parts(NamedTuple):
    """Numbers of validation images.

    Attributes:
      choosing: the images of `Stage.best` and `Method.conclude`.
      calibrating: the images that calibrate guarantees.
    """

    choosing: Int[np.ndarray, "choosing"]
    calibrating: Int[np.ndarray, "calibrating"]


def parts(method: Method, val: Examples) -> Parts:
    """The validation images by use. The first image of a class, the third … are for choosing."""
    numbers = np.arange(len(val))
    if not method.selects:
        return Parts(numbers, numbers)
    order = np.argsort(val.labels, kind="stable")
    ordered = val.labels[order]
    within = np.empty_like(numbers)  # number of each image within its class
    within[order] = numbers - np.searchsorted(ordered, ordered)
    return Parts(numbers[within % 2 == 0], numbers[within % 2 == 1])
