"""What a run leaves in a method's folder, and how it is written: complete or not at all.

config.json          the settings; a folder belongs to one configuration
metrics.jsonl        losses, one object every few steps; not of what takes no steps
curve.jsonl          accuracies in the course of training, where the configuration asks for them
events.out.tfevents… the same for TensorBoard, where it asks for that, see `log`
results.json         every figure; it is there when the run is complete
scores.npz           for every test image what the method said of it
interpretation.json  what the templates learned
adapted/             all that predictions need, see `adapted`
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
from typing import Any

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from PIL import Image

from cdc_jax import methods, metrics
from cdc_jax.devices import first_only
from cdc_jax.evaluate import Scores
from cdc_jax.tasks import Examples

LOCK = ".lock"
_GALLERY = 6  # images at each end of a split


@contextlib.contextmanager
def locked(folder: epath.Path) -> Iterator[None]:
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


def require_space(folder: epath.Path, needed: int) -> None:
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


def check(folder: epath.Path, settings: dict[str, Any]) -> None:
    """Checks that no run of other settings has begun in a folder.

    Raises:
      ValueError: one has; the message lists the differences.
    """
    path = folder / "config.json"
    if not path.exists() or not _begun(folder):
        return
    old, new = (flatten_dict(x, sep=".") for x in (json.loads(path.read_text()), settings))
    # What an older release had no setting for, it did as the default says.
    defaults = flatten_dict({"method": methods.DEFAULTS}, sep=".")
    old = {key: value for key, value in defaults.items() if key in new} | old
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


def require_same_items(
    folder: epath.Path, items: Mapping[str, Sequence[tuple[str, int, str]]]
) -> None:
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


def _begun(folder: epath.Path) -> bool:
    begun = [folder / "metrics.jsonl", folder / "results.json", *folder.glob("checkpoints/[0-9]*")]
    return any(file.exists() for file in begun)


def claim(folder: epath.Path, settings: dict[str, Any]) -> None:
    """Writes config.json.

    Raises:
      ValueError: see `check`.
    """
    check(folder, settings)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)


@first_only
def write_json(path: epath.Path, content: Any) -> None:
    """Writes a file that is either complete or not there."""
    _write(path, json.dumps(content, indent=2) + "\n")


@first_only
def append(path: epath.Path, line: Mapping[str, Any]) -> None:
    """Adds an object to a file of one object a line."""
    text = json.dumps(line) + "\n"
    if remote(path):  # an object is written whole
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    with open(path, "a") as file:
        file.write(text)


@first_only
def cut(path: epath.Path, step: int) -> None:
    """Drops what an interrupted run logged after the checkpoint it goes on from."""
    if path.exists():
        # Without its end, the last line is one that a kill cut short.
        lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
        _write(path, "".join(line for line in lines if json.loads(line)["step"] <= step))


@first_only
def write_error(folder: epath.Path, text: str | None) -> None:
    """Writes error.txt, or removes it where there is no error."""
    if text is None:
        (folder / "error.txt").unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(text)


@first_only
def write_scores(folder: epath.Path, scores: Mapping[str, Scores]) -> None:
    """Writes scores.npz: `<split>/labels`, `/predicted`, `/confidence`, and so on."""
    arrays = {
        f"{split}/{name}": array
        for split, one in scores.items()
        for name, array in {
            "labels": one.labels.astype(np.int32),
            "predicted": one.predicted.astype(np.int32),
            "confidence": one.probability.max(-1),
            "uncertainty": one.uncertainty,
            "log_vacuity": one.log_vacuity,
            "conflict": one.conflict,
            "template_predicted": one.template_predicted.astype(np.int32),
        }.items()
    }
    part = folder / "scores.part"
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)
    part.replace(folder / "scores.npz")


@first_only
def write_gallery(
    folder: epath.Path, scores: Mapping[str, Scores], test: Mapping[str, Examples]
) -> None:
    """Writes the most and the least certain images of every split with their opinions."""
    (folder / "gallery").mkdir(exist_ok=True)
    entries = []
    for split, one in scores.items():
        names = test[split].class_names
        order = np.argsort(one.uncertainty, kind="stable")
        chosen = {
            "most certain": order[:_GALLERY],
            "least certain": order[_GALLERY:][::-1][:_GALLERY],
        }
        for end, indices in chosen.items():
            for rank, i in enumerate(indices):
                file = f"gallery/{split}-{end.split()[0]}-{rank}.png"
                with (folder / file).open("wb") as png:
                    Image.fromarray(test[split].images[i : i + 1][0]).save(png, "PNG")
                entries.append(
                    {"split": split, "end": end, "file": file, "label": names[one.labels[i]]}
                    | _opinion(one, i, names)
                )
    write_json(folder / "gallery.json", entries)


def _opinion(scores: Scores, i: int, names: tuple[str, ...]) -> dict[str, Any]:
    probability = scores.probability[i]
    best = metrics.ranked(probability, scores.predicted[i])[:3]
    return {
        "predicted": names[best[0]],
        "probability": [[names[k], float(probability[k])] for k in best],
        "uncertainty": float(scores.uncertainty[i]),
        "conflict": float(scores.conflict[i]),
        "templates": [
            [names[k], float(p), float(u)]
            for k, p, u in zip(
                scores.template_predicted[i],
                scores.template_confidence[i],
                scores.template_uncertainty[i],
                strict=True,
            )
        ],
    }


def _write(path: epath.Path, text: str) -> None:
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def remote(path: epath.Path) -> bool:
    """Whether a folder or file lies in an object store."""
    return "://" in os.fspath(path)
