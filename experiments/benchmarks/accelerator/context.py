"""What every measurement is given."""

import dataclasses

from benchmarks import measuring
from benchmarks.accelerator import parity

from cdc_jax.clip import ClipConfig


@dataclasses.dataclass(frozen=True)
class Context:
    """The size of the work, and the time for it.

    Attributes:
      tiny: small models and few cases, to try the script where there is no accelerator.
      seconds: that all measurements of a part may take.
      torch_python: an interpreter that has torch, where there is one.
    """

    tiny: bool
    seconds: float
    torch_python: str

    @property
    def clip(self) -> ClipConfig:
        """Of the training steps."""
        return parity.SIZES if self.tiny else measuring.VIT_B16

    @property
    def classes(self) -> int:
        """Of the training steps."""
        return 6 if self.tiny else 100

    @property
    def side(self) -> int:
        """Of the square matrices whose product is the device's rate."""
        return 256 if self.tiny else 8192

    @property
    def round_seconds(self) -> float:
        """The least duration of a round of timed calls."""
        return 0.02 if self.tiny else 0.3


def batches(tiny: bool) -> tuple[int, int]:
    """The small batch of a training step and the large one."""
    return (2, 4) if tiny else (4, 32)
