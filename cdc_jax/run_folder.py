"""What a run leaves in a method's folder, and how it is written: complete or not at all.

config.json          the settings; a folder belongs to one configuration
metrics.jsonl        losses, one object every few steps; not of what takes no steps
curve.jsonl          accuracies in the course of training, where the configuration asks for them
events.out.tfevents… the same for TensorBoard, where it asks for that, see `log`
results.json         every figure; it is there when the run is complete
scores.npz           for every test image what the method said of it
interpretation.json  what the templates learned
adapted/             all that predictions need, see `export`
gallery.json         the most and least certain test images, with gallery/*.png

Of several processes, process 0 writes. Folders may lie in an object store, `gs://bucket/run`.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from PIL import Image

from cdc_jax import image_prediction, older_formats, records
from cdc_jax import settings as settings_lib
from cdc_jax.devices import first_only
from cdc_jax.evaluate import Scores
from cdc_jax.tasks import Examples

Folder: TypeAlias = epath.Path | Path
LOCK = ".lock"
_GALLERY = 6  # images at each end of a split
_SHOWN = ("predicted", "probability", "uncertainty", "conflict", "templates")


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Keeps other runs out of a folder.

    The kernel frees the lock when the process is gone, however it ended: nothing to be cleaned up.
    Object stores have nothing like it: there the file only says who came last, and that two runs do
    not share a folder is up to the user.

    Raises:
      ValueError: another run is in it.
      OSError: the folder can't be made or written to.
    """
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if remote(folder):
            (folder / LOCK).write_text(holder)
        else:
            file = open(folder / LOCK, "a")
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} can't be written to ({error.strerror}): choose another --workdir",
        ) from None
    if remote(folder):
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = (folder / LOCK).read_text()
            raise ValueError(
                f"{folder} is in use by {other}: wait for it, or choose another --workdir"
            ) from None
        file.truncate(0)
        file.write(holder)
        file.flush()
        yield


def require_space(folder: Folder, needed: int) -> None:
    """Raises OSError if a local folder's disk has fewer bytes free than are needed."""
    if remote(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs about {needed / 1e6:.0f} MB and has {free / 1e6:.0f} MB free: make "
            "room, or choose another --workdir",
        )


def check(folder: Folder, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that no run of other settings has begun in a folder.

    Args:
      folder: the run's.
      settings: of the run that is to begin or go on there; the method's are under `method`.
      defaults: of the method's settings. What an older release had no setting for, it did as they
        and `settings.experiment` say.

    Raises:
      ValueError: one has; the message lists the differences.
    """
    path = folder / "config.json"
    if not path.exists() or not _begun(folder):
        return
    there = records.read_json(path)
    there["method"] = older_formats.upgrade_settings(there["method"])
    old, new = (flatten_dict(dict(x), sep=".") for x in (there, settings))
    by_default = flatten_dict(
        settings_lib.experiment().to_dict() | {"method": dict(defaults)}, sep="."
    )
    old = {key: value for key, value in by_default.items() if key in new} | old
    changed = [
        f"{k}: {old.get(k)!r} there, {new.get(k)!r} now"
        for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): choose another "
            "--workdir, or delete that folder"
        )


def require_same_items(folder: Folder, items: Mapping[str, Sequence[tuple[str, int, str]]]) -> None:
    """Checks that a run that has begun in a folder used the images that there are now.

    Args:
      folder: the run's.
      items: see `Task.items`.

    Raises:
      ValueError: it used others; the message names one.
    """
    path = folder / "split.json"
    if not path.exists() or not _begun(folder):
        return
    old = {
        (part, *item) for part, listed in json.loads(path.read_text()).items() for item in listed
    }
    new = {(part, *item) for part, listed in items.items() for item in listed}
    if different := sorted(old ^ new):
        part, file, _, name = different[0]
        raise ValueError(
            f"{folder} was begun with other images: {len(different)} differ, such as {file} of "
            f"class {name!r} in {part}. Choose another --workdir, or delete that folder"
        )


def _begun(folder: Folder) -> bool:
    begun = [folder / "metrics.jsonl", folder / "results.json", *folder.glob("checkpoints/[0-9]*")]
    return any(file.exists() for file in begun)


def claim(folder: Folder, settings: Mapping[str, Any]) -> None:
    """Writes config.json, once `check` has passed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)


@first_only
def write_json(path: Folder, content: Any) -> None:
    """Writes a file that is either complete or not there."""
    _write(path, json.dumps(content, indent=2) + "\n")


@first_only
def append(path: Folder, line: Mapping[str, Any]) -> None:
    """Adds an object to a file of one object a line."""
    text = json.dumps(line) + "\n"
    if remote(path):  # an object is written whole
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    with open(path, "a") as file:
        file.write(text)


@first_only
def cut(path: Folder, step: int) -> None:
    """Drops what an interrupted run logged after the checkpoint it goes on from."""
    if path.exists():
        # Without its end, the last line is one that a kill cut short.
        lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        _write(path, "".join(line for line in lines if json.loads(line)["step"] <= step))


@first_only
def write_error(folder: Folder, text: str | None) -> None:
    """Writes error.txt, or removes it where there is no error."""
    if text is None:
        (folder / "error.txt").unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(text)


def read_results(folder: Folder) -> records.Results | None:
    """The results of a run; None where it is not complete.

    Raises:
      FileNotFoundError: results of format 1 without the config.json that they need.
      ValueError: a file that is damaged, or of a format that this release does not know; the
        message names it and the remedy.
    """
    path = folder / "results.json"
    if not path.exists():
        return None
    content = records.read_json(path)
    config = {} if "format" in content else records.read_json(folder / "config.json")
    try:
        if "format" not in content:
            content = older_formats.upgrade_results(content, config)
        return records.Results.from_json(content)
    except ValueError as error:
        raise ValueError(
            f"{path}: {error}; delete its folder and run it again, or move it elsewhere"
        ) from None


@first_only
def write_scores(folder: Folder, scores: Mapping[str, Scores]) -> None:
    """Writes scores.npz: `<split>/labels`, `/predicted`, `/confidence`, and so on."""
    arrays: dict[str, np.ndarray] = {}
    for split, one in scores.items():
        prediction = one.prediction
        named: dict[str, Any] = {
            "labels": one.labels.astype(np.int32),
            "predicted": prediction.predicted.astype(np.int32),
            "confidence": prediction.probability.max(-1),
            "uncertainty": prediction.uncertainty,
            "conflict": prediction.conflict,
            "template_predicted": prediction.template_predicted.astype(np.int32),
        }
        if prediction.log_vacuity is not None:
            named["log_vacuity"] = prediction.log_vacuity
        arrays |= {f"{split}/{name}": array for name, array in named.items()}
    part = folder / "scores.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    part.replace(folder / "scores.npz")


@first_only
def write_gallery(
    folder: Folder, scores: Mapping[str, Scores], test: Mapping[str, Examples]
) -> None:
    """Writes the most and the least certain images of every split with their opinions."""
    (folder / "gallery").mkdir(exist_ok=True)
    entries = []
    for split, one in scores.items():
        names, prediction = test[split].class_names, one.prediction
        order = np.argsort(prediction.uncertainty, kind="stable")
        chosen = {
            "most certain": order[:_GALLERY],
            "least certain": order[_GALLERY:][::-1][:_GALLERY],
        }
        for end, indices in chosen.items():
            for rank, i in enumerate(indices):
                file = f"gallery/{split}-{end.split()[0]}-{rank}.png"
                with (folder / file).open("wb") as png:
                    Image.fromarray(test[split].images[i : i + 1][0]).save(png, "PNG")
                row = image_prediction.of_image(file, prediction, int(i), names, top_k=3)
                entries.append(
                    {"split": split, "end": end, "file": file, "label": names[one.labels[i]]}
                    | {key: getattr(row, key) for key in _SHOWN}
                )
    write_json(folder / "gallery.json", entries)


def _write(path: Folder, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def remote(path: Folder) -> bool:
    """Whether a folder or file lies in an object store."""
    return "://" in os.fspath(path)
