"""Time and memory of reading and checking a list of 1.3 million images, ImageNet's own number.

    python experiments/benchmark.py --only=lists

The images are hard links to one empty file a folder, 1000 folders of 1300, in the folder for
temporary files. Each form of the list is read in a process of its own: parsed, every image looked
up, classes and splits checked. Memory is the process's peak, interpreter and libraries included.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import rich.box
import rich.console
import rich.table
from benchmarks import measuring

from cdc_jax.tasks import class_folders

FOLDERS, IMAGES = 1000, 1300
SECONDS, BYTES = 60, 2e9
"""What a list may take on two cores."""

Entry = dict[str, str]


def main() -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), FOLDERS, IMAGES)


def measure(root: Path, folders: int, images: int) -> None:
    """Makes the images below a folder, and prints seconds and memory of every form of list."""
    make(root, folders, images)
    title = f"{folders * images:,} images, at most {SECONDS} s and {BYTES / 1e9:.0f} GB"
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD)
    for column in ("list", "classes", "size", "seconds", "of a core", "peak memory"):
        table.add_column(column, justify="left" if column == "list" else "right")
    for name, (write, per_class) in FORMS.items():
        file = root / name.replace(" ", "_")
        file.write_text(write(entries(folders, images, per_class)), encoding="utf-8")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            seconds, own, classes = process.submit(read, root, file).result()
            held = process.submit(measuring.peak).result()
        size = f"{file.stat().st_size / 1e6:.0f} MB"
        table.add_row(
            name, f"{classes:,}", size, f"{seconds:.1f}", f"{own:.1f}", f"{held / 1e9:.2f} GB"
        )
        file.unlink()
    rich.console.Console().print(table)


def make(root: Path, folders: int, images: int) -> None:
    """Makes folders of images."""
    for k in range(folders):
        folder = root / f"n{k:08}"
        folder.mkdir()
        (folder / "0.JPEG").touch()
        for i in range(1, images):
            os.link(folder / "0.JPEG", folder / f"{i}.JPEG")


def entries(folders: int, images: int, per_class: int) -> Iterator[Entry]:
    """Path and label of every image; classes of so many images, 0 for one a folder."""
    for number in range(folders * images):
        k, i = divmod(number, images)
        label = f"class {number // per_class if per_class else k}"
        yield {"path": f"n{k:08}/{i}.JPEG", "label": label}


def read(root: Path, file: Path) -> tuple[float, float, int]:
    """Seconds that a list takes, those of a core, and its number of classes."""
    start, worked = time.perf_counter(), time.process_time()
    dataset = class_folders.read(root, str(file), progress=True)
    seconds = time.perf_counter() - start, time.process_time() - worked
    return *seconds, len(dataset.split.class_names)


def _csv(listed: Iterator[Entry]) -> str:
    return "path,label\n" + "".join(f"{entry['path']},{entry['label']}\n" for entry in listed)


def _text(listed: Iterator[Entry]) -> str:
    return "".join(f"{entry['path']} {entry['label']}\n" for entry in listed)


def _json_lines(listed: Iterator[Entry]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in listed)


def _json(listed: Iterator[Entry]) -> str:
    return json.dumps(list(listed))


FORMS: dict[str, tuple[Callable[[Iterator[Entry]], str], int]] = {
    "list.csv": (_csv, 0),
    "list.txt": (_text, 0),
    "list.jsonl": (_json_lines, 0),
    "list.json": (_json, 0),
    "many classes.csv": (_csv, 2),
}
"""A list's name -> what writes it, and images a class."""
