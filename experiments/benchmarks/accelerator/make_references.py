"""Makes `references.npz`, the answers of this machine's CPU that `parity` compares devices with.

  cd experiments && JAX_PLATFORMS=cpu python -m benchmarks.accelerator.make_references

The stored file was made with jax 0.12 on x86. tests/test_published_methods.py compares the same
methods with plain PyTorch in float64.
"""

import numpy as np
from benchmarks.accelerator import parity


def main() -> None:
    """Computes and writes all references."""
    stored = {f"views/{name}": value for name, value in parity.view_figures().items()}
    for row in parity.ROWS:
        stored |= {f"{row}/{name}": value for name, value in parity.figures(row).items()}
    chosen, checksums = parity.decisions("float32", parity.TASKS, parity.IMAGES)
    np.savez_compressed(parity.REFERENCES, decisions=chosen, checksums=checksums, **stored)
    for name, value in stored.items():
        print(f"{name:<24} {value.shape!s:<16} largest {np.abs(value).max():.3g}")
    print(f"{chosen.size} decisions; {parity.REFERENCES.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
