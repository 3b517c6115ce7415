"""Features on disk: a second sweep, several processes, a second prediction, and what they cost.

    python experiments/benchmark.py --only=cache
    CDC_JAX_PHOTOS=FOLDER CDC_JAX_IMAGES=0 python experiments/benchmark.py --only=cache

The model has ViT-B/16's sizes, random weights and the bundled tokenizer. Photographs are those of
the folder that CDC_JAX_PHOTOS names, which holds a folder a class; otherwise they are drawn.
CDC_JAX_IMAGES is the most images that are used: 120 unless set, 0 for all. CDC_JAX_DTYPE is the
towers' dtype, float32 unless set. Predictions are made of 120 images at most. Nothing is trained,
because steps take the same time in both sweeps. Every run starts in a process of its own. Images
that were encoded are counted where the image tower is called.
"""

import contextlib
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import rich.box
import rich.console
import rich.table
from benchmarks import measuring, pipeline

from cdc_jax import backbone, config_file, devices, inference, settings, sweep, tasks, train
from cdc_jax import clip as clip_lib
from cdc_jax.feature_cache import FeatureCache
from cdc_jax.tasks.photographs import Photographs

IMAGES, CLASSES, ROUNDS, BATCH = 120, 4, 3, 24
DTYPE = os.environ.get("CDC_JAX_DTYPE", "float32")
METHODS = "zero_shot,linear_probe,coop,kgcoop"


def main() -> None:
    """Prints a table a part."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        paths = photographs(root / "photos")
        save_model(root / "model")
        some = subset(paths, root / "some")
        title = f"images, ViT-B/16's sizes, {DTYPE}, {len(os.sched_getaffinity(0))} cores"
        show(f"Sweep over 3 seeds and {METHODS}: {len(paths)} {title}", "sweep", sweeps(root))
        show(f"predict.py: {some} {title}", "command", predictions(root))
        show("Hosts, each with a core of its own", "processes", hosts(root, paths))
    show("The bundled model, a process and cores as they are", "features", small())


def photographs(folder: Path) -> list[Path]:
    """Copies of the photographs in a folder a class, as many of each class as the most allow."""
    given, most = os.environ.get("CDC_JAX_PHOTOS"), int(os.environ.get("CDC_JAX_IMAGES", IMAGES))
    if not given:
        folder.mkdir()
        drawn = [Path(path) for path in pipeline.draw(folder, most or IMAGES)]
        classes = [drawn[k::CLASSES] for k in range(CLASSES)]
        names = [f"class {k}" for k in range(CLASSES)]
    else:
        parents = sorted(path for path in Path(given).iterdir() if path.is_dir())
        classes = [sorted(path.rglob("*.[jp][pn]*g")) for path in parents]
        names = [path.name for path in parents]
    copies = []
    for name, files in zip(names, classes, strict=True):
        (folder / name).mkdir(parents=True)
        for file in files[: most // len(names) if most else None]:
            copies.append(folder / name / file.name)
            shutil.copy(file, copies[-1])
            if not given:
                file.unlink()
    return copies


def subset(paths: Sequence[Path], folder: Path) -> int:
    """Links at most `IMAGES` of the photographs, of all classes, into a folder; their number."""
    chosen = paths[:: -(-len(paths) // IMAGES)]
    for path in chosen:
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).hardlink_to(path)
    return len(chosen)


def save_model(folder: Path) -> None:
    """A CLIP of ViT-B/16's sizes with random weights and the bundled tokenizer."""
    _, tokenizer = clip_lib.load("world")
    sizes = {"model_type": "clip", "vision_config": {"patch_size": 16}}
    end = tokenizer.vocab_size - 1
    text = {"vocab_size": tokenizer.vocab_size, "eos_token_id": end}
    config = clip_lib.ClipConfig.from_hf(sizes | {"text_config": text})
    clip_lib.save_pretrained(measuring.random_clip(config), tokenizer, folder)


# ---- A sweep


def sweeps(root: Path) -> Iterator[tuple[str, list[float], str]]:
    """Seconds of the first sweep and of later ones, and how many images they encoded."""
    first = in_process(run_sweep, root, "first")
    yield "first", [first[0]], f"{first[1]} images encoded"
    later = [in_process(run_sweep, root, f"later-{i}") for i in range(ROUNDS)]
    seconds = [one[0] for one in later]
    encoded = sum(one[1] for one in later)
    yield "later", seconds, f"{encoded} images encoded, {ratio([first[0]], seconds)} as fast"


def run_sweep(root: Path, name: str) -> tuple[float, int]:
    """Seconds, and images encoded."""
    made = []

    class Counting(inference.FrozenFeatures):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    train.FrozenFeatures = Counting
    values = (
        f"dataset=folder,data.root={root}/photos,data.allow_fewer=True,model={root}/model,"
        f"methods={METHODS},shots=4,sweep.seeds=1,2,3,progress=False,cache.folder={root}/cache,"
        f"evaluation_batch_size={BATCH},dtype={DTYPE},"
    )
    values += ",".join(f"{method}.optimizer.epochs=0" for method in METHODS.split(",")[1:])
    config = config_file.apply(settings.experiment(), values)
    start = time.perf_counter()
    with contextlib.redirect_stdout(None):
        sweep.run(config, root / name)
    return time.perf_counter() - start, sum(frozen.encoded for frozen in made)


# ---- Prediction


def predictions(root: Path) -> Iterator[tuple[str, list[float], str]]:
    """Seconds of the whole command: without features on disk, with none of them, with all."""
    (run, *_) = sorted(root.glob("first/*/coop"))
    cache = f"--cache_folder={root}/predictions"

    def seconds(*options: str) -> float:
        script = Path(__file__).parent.parent / "predict.py"
        command = [sys.executable, script, run, root / "some", "--batch_size=24", *options]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    off = seconds("--cache_gigabytes=0")
    yield "no cache", [off], ""
    yield "an empty cache", [seconds(cache)], ""
    warm = [seconds(cache) for _ in range(ROUNDS)]
    yield "all features", warm, f"{ratio([off], warm)} as fast as no cache"


# ---- Hosts


def hosts(root: Path, paths: Sequence[Path]) -> Iterator[tuple[str, list[float], str]]:
    """Seconds to encode the same images, compiled before, by 1 and 2 processes in turns."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    some = [str(path) for path in paths[: 2 * BATCH]]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(ROUNDS):
        for count in seconds:
            cache = root / f"hosts-{turn}-{count}"
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                address = f"127.0.0.1:{free.getsockname()[1]}"
            arguments = [
                (root / "model", some, cache, cores[i], address, count, i) for i in range(count)
            ]
            with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
                seconds[count].append(max(pool.map(encode, *zip(*arguments, strict=True))))
    yield "1", seconds[1], f"{len(some)} images"
    yield "2", seconds[2], f"{ratio(seconds[1], seconds[2])} as fast"


def encode(
    model: Path, paths: list[str], cache: Path, core: int, address: str, count: int, number: int
) -> float:
    """Seconds of one process for all of the images, of which it encodes its share."""
    os.sched_setaffinity(0, [core])  # before JAX counts them
    if count > 1:
        devices.start(address, count, number)
    loaded, mesh = backbone.load(model, jnp.dtype(DTYPE)), devices.make_mesh()
    stored = FeatureCache(cache).of(*inference.encoder(loaded))
    frozen = inference.FrozenFeatures(devices.replicate(loaded, mesh), mesh, BATCH, stored)
    size = loaded.sizes.image_size
    frozen.encode(np.zeros((1, size, size, 3), np.uint8))  # compiles
    images = Photographs(paths, Path, loaded.preprocessing, size, workers=1)
    start = time.perf_counter()
    frozen.encode(images)
    seconds = time.perf_counter() - start
    if frozen.encoded != 1 + len(paths):
        raise RuntimeError(f"{frozen.encoded - 1} of {len(paths)} images were encoded")
    return seconds


# ---- The bundled model


def small() -> list[tuple[str, list[float], str]]:
    """Seconds for all test images of a cell: encoded, encoded and written, read."""
    return in_process(encode_world)


def encode_world() -> list[tuple[str, list[float], str]]:
    """See `small`."""
    config = config_file.apply(settings.experiment(), "")
    world, mesh = backbone.load("world"), devices.make_mesh()
    splits = tasks.load(config, world.preprocessing).test.values()
    encoder, size = inference.encoder(world), config.evaluation_batch_size
    warm = inference.FrozenFeatures(world, mesh, size)
    seconds: dict[str, list[float]] = {"encoded": [], "encoded and written": [], "read": []}
    for _ in range(1 + ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            for name, values in seconds.items():
                frozen = inference.FrozenFeatures(world, mesh, size)
                frozen._encode = warm._encode  # compiled once
                if name != "encoded":
                    frozen._cache = FeatureCache(folder).of(*encoder)
                start = time.perf_counter()
                for examples in splits:
                    frozen.encode(examples.images)
                values.append(time.perf_counter() - start)
    encoded = seconds["encoded"][1:]
    count = sum(map(len, splits))
    return [
        (name, values[1:], f"{count} images, {ratio(values[1:], encoded)} of the time")
        for name, values in seconds.items()
    ]


# ---- Common


def in_process(function, *arguments):
    """What a function returns in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def ratio(seconds: Sequence[float], others: Sequence[float]) -> str:
    """The ratio of medians, with its extremes."""
    middle = statistics.median(seconds) / statistics.median(others)
    low, high = min(seconds) / max(others), max(seconds) / min(others)
    return f"{middle:.2f} [{low:.2f} .. {high:.2f}] times"


def show(title: str, what: str, rows: Iterator | Sequence) -> None:
    """Prints a table of cases with their seconds."""
    table = rich.table.Table(title=title, box=rich.box.SIMPLE_HEAD, title_justify="left")
    for column in (what, "seconds, median [min .. max]", ""):
        table.add_column(column)
    for name, seconds, note in rows:
        median = f"{statistics.median(seconds):.2f}"
        spread = f" [{min(seconds):.2f} .. {max(seconds):.2f}]" if len(seconds) > 1 else ""
        table.add_row(name, median + spread, note)
    rich.console.Console(width=120).print(table)
