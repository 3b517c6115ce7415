"""Images a second that the host pipeline delivers, beside Pillow alone on one thread.

    python experiments/benchmark.py --only=pipeline

Photographs are those of the folder that CDC_JAX_PHOTOS names, or drawn ones of 500 x 375 pixels.
Both forms are measured: test images (short side 224, centre crop) and training batches (squeezed
to 336 x 336). Cold: nothing decoded before, files in the disk's cache. Warm: the same again, which
are kept decoded while they fit into 1 GiB. Pillow and the pipeline take turns.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rich.box
import rich.console
import rich.table
from PIL import Image

from cdc_jax import settings
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.tasks.photographs import Photographs, threads

SIZE, SIDE, BATCH, PHOTOGRAPHS, ROUNDS = 224, 336, 32, 480, 5


def main() -> None:
    """Prints a table."""
    folder = os.environ.get("CDC_JAX_PHOTOS")
    if folder:
        files = sorted(Path(folder).rglob("*.jp*g"))[:PHOTOGRAPHS]
        measure([str(file) for file in files], folder)
        return
    with tempfile.TemporaryDirectory() as drawn:
        measure(draw(Path(drawn), PHOTOGRAPHS), "drawn photographs, 500 x 375")


def measure(paths: list[str], title: str) -> None:
    """Prints images a second of both forms, cold and warm, and their ratios to Pillow's.

    Raises:
      ValueError: fewer photographs than a batch.
    """
    if len(paths) < BATCH:
        raise ValueError(f"at least {BATCH} photographs are needed, got {len(paths)} in {title}")
    paths = paths[: len(paths) // BATCH * BATCH]
    rates: dict[str, list[float]] = {}

    def timed(case: str, work: Callable[[], object]) -> None:
        start = time.perf_counter()
        work()
        rates.setdefault(case, []).append(len(paths) / (time.perf_counter() - start))

    for _ in range(1 + ROUNDS):  # the first brings the files into the disk's cache
        for form, pillow, pipeline in (
            ("test images", pillow_test, evaluated),
            ("training batches", pillow_squeezed, trained),
        ):
            timed(f"{form}, Pillow", lambda pillow=pillow: [pillow(path) for path in paths])
            images = Photographs(paths, Path, SIZE, SIDE)
            for state in ("cold", "warm"):
                timed(f"{form}, {state}", lambda p=pipeline, images=images: p(images))

    cores = threads(0)
    table = rich.table.Table(title=f"{len(paths)} images: {title}", box=rich.box.SIMPLE_HEAD)
    for column in ("", "images/s", "times Pillow", f"of {cores} cores"):
        table.add_column(column, justify="left" if not column else "right")
    for case, values in rates.items():
        alone = rates[f"{case.rpartition(',')[0]}, Pillow"]
        ratio = statistics.median(np.divide(values[1:], alone[1:]).tolist())
        rate = statistics.median(values[1:])
        table.add_row(case, f"{rate:.0f}", f"{ratio:.2f}", f"{ratio / cores:.2f}")
    rich.console.Console().print(table)


def evaluated(images: Photographs) -> None:
    """Reads all test images, as an evaluation does."""
    batch = settings.experiment().evaluation_batch_size
    for first in range(0, len(images), batch):
        images[first : first + batch]


def trained(images: Photographs) -> None:
    """Reads an epoch of training batches, without a device."""
    examples = Examples(images, np.zeros(len(images), np.int64), ("photograph",))
    batches = TrainingBatches(examples, BATCH, seed=0)
    for _ in batches.stream(0, batches.per_epoch, put=lambda batch: batch):
        pass


def pillow_test(path: str) -> np.ndarray:
    """The test's image by plain Pillow."""
    image = Image.open(path).convert("RGB")
    scale = SIZE / min(image.size)
    width, height = (int(side * scale) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def pillow_squeezed(path: str) -> np.ndarray:
    """The view stage's image by plain Pillow."""
    image = Image.open(path).convert("RGB")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw(folder: Path, count: int) -> list[str]:
    """Writes JPEG files of noise at several scales, about 70 kB each, as photographs have."""
    paths = []
    for i in range(count):
        rng = np.random.default_rng(i)
        image = np.zeros((375, 500, 3), np.float32)
        for cells in (3, 12, 48, 190):
            coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
            image += np.float32(coarse.resize((500, 375), Image.Resampling.BICUBIC)) / 4
        paths.append(str(folder / f"{i}.jpg"))
        Image.fromarray(image.astype(np.uint8)).save(paths[-1], quality=90)
    return paths
