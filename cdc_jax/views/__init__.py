"""Views: a uint8 batch becomes M augmented, normalised float batches, on device.

The visual half of VSD: each semantic template sees the training images through an augmentation of
its own. `build("set2", templates=4, ...)` makes the function for a training step; `clean_view` is
the test's. Read on in `pixels` (what an augmentation does to an image), `augmentations` (what is
drawn) and `compose` (the sets, and the function).

JAX only, nothing else of this project. No library serves: dm-pix 0.4.5 and augmax 0.4.1 have no
antialiased random resized crop, and the colours of dm-pix differ by 30 to 80 of 255 levels from
those of Pillow and torchvision, on which the field's numbers stand.
"""

from cdc_jax.views.augmentations import AUGMENTATIONS
from cdc_jax.views.compose import ASPECTS, SETS, are_random, build, clean_view, compositions

__all__ = ["ASPECTS", "AUGMENTATIONS", "SETS", "are_random", "build", "clean_view", "compositions"]
