"""Made `torch_forms.npz`: what the benchmark's PyTorch forms answer on its small CLIP.

  pip install torch==2.13.0 && python make_torch_forms.py [PYTHON_WITH_TORCH]

Of each method: the losses of three training steps, and the optimiser's momentum after them. To be
made again whenever `benchmarks.pytorch` draws other inputs.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("torch_forms.npz")
sys.path.insert(0, str(FILE.parents[2] / "experiments"))


def main():
    from benchmarks import pytorch

    stored = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in pytorch.METHODS:
            python = sys.argv[1] if len(sys.argv) > 1 else sys.executable
            losses, velocity = pytorch.torch_steps(pytorch.small(method), python, Path(folder))
            stored[f"{method}/losses"] = losses
            stored |= {f"{method}/{name}": array for name, array in velocity.items()}
    np.savez_compressed(FILE, **{name: np.float32(array) for name, array in stored.items()})


if __name__ == "__main__":
    main()
