"""Views: a uint8 batch becomes M augmented, normalised float batches, on device.

The visual half of VSD: each semantic template sees the training images through its own
augmentation. `build("set2", templates=4, ...)` makes the function for a training step. `clean_view`
makes the view of a test image. `pixels` has the image operations, `augmentations` the random draws,
and `compose` the sets and the function.

The package imports JAX and no other module of this project. No library fits: dm-pix 0.4.5 and
augmax 0.4.1 have no antialiased random resized crop. The colours of dm-pix differ by 30 to 80 of
255 levels from the colours of Pillow and torchvision, on which the field's numbers stand.
"""

from cdc_jax.views.augmentations import AUGMENTATIONS
from cdc_jax.views.compose import PROPERTIES, SETS, are_random, build, clean_view, compositions

__all__ = [
    "PROPERTIES",
    "AUGMENTATIONS",
    "SETS",
    "are_random",
    "build",
    "clean_view",
    "compositions",
]
