"""The files of a method's folder, and how a run writes them: complete or not at all.

config.json          the settings; a folder belongs to one configuration
metrics.jsonl        losses, one object every few steps; absent for methods that are not trained
curve.jsonl          accuracies during training, if the configuration asks for them
events.out.tfevents… the same for TensorBoard, if the configuration asks for it, see `log`
results.json         every figure; it exists when the run is complete
scores.npz           the prediction for every test image
interpretation.json  what the templates learned
adapted/             all that predictions need, see `export`
gallery.json         some test images, see `gallery`, with gallery/*.png

Of several processes, process 0 writes. Folders may lie in an object store, `gs://bucket/run`.

A file is on the disk before it has its name, and results.json is written last. A whole results.json
therefore means that all files are whole. A power loss can still damage the logs, and a disk can
lose data later. `settle` drops damaged files, and the run goes on from its newest whole checkpoint.
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import socket
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict
from PIL import Image

from cdc_jax import gallery, older_formats, records, schema, writing
from cdc_jax import settings as settings_lib
from cdc_jax.devices import first_only
from cdc_jax.escaping import visible
from cdc_jax.evaluate import Scores
from cdc_jax.folder_names import folder_name
from cdc_jax.named_prediction import of_image
from cdc_jax.tasks import Examples

Folder: TypeAlias = epath.Path | Path
LOCK = ".lock"
LOGS = ("metrics.jsonl", "curve.jsonl")
_HOLDER, _LONGEST_HOLDER = "process ", 300  # the start of a lock's text, and its most characters
_LARGEST = 2**30  # bytes of a log or JSON file
_LINE = schema.record(step=schema.integer(0))
_FIELD = schema.either(schema.integer(), schema.text(unicode=False))
_ITEMS = schema.table(schema.list_of(schema.list_of(_FIELD, 3, 3)))  # of split.json
_SHOWN = ("predicted", "probability", "uncertainty", "conflict", "templates")


@contextlib.contextmanager
def locked(folder: Folder) -> Iterator[None]:
    """Keeps other runs out of a folder.

    The kernel frees the lock when the process ends, for any reason. Object stores have no locks.
    There the file only names the last run, and the user must not start two runs in one folder. A
    run that writes nothing leaves neither the lock's file nor a folder that it created.

    Raises:
      ValueError: another run uses the folder; or the lock's file is a link, a pipe or a file that
        no run wrote.
      OSError: the folder can't be created or written to.
    """
    holder = f"{_HOLDER}{os.getpid()} on {socket.gethostname()}"
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        if writing.remote(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LOCK).write_text(holder)
        else:
            file = _take_lock(folder / LOCK)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{folder} can't be written to ({error.strerror}): choose another --workdir",
        ) from None
    if writing.remote(folder):
        yield
        return
    with file:
        if not (file.read(len(_HOLDER)) or _HOLDER) == _HOLDER:
            raise ValueError(
                f"{folder / LOCK} is not a lock that a run wrote: move it elsewhere, or choose "
                "another --workdir"
            )
        file.seek(0)
        file.truncate()
        file.write(holder)
        file.flush()
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                _remove_empty(created)


def _remove_empty(folders: Sequence[Folder]) -> None:
    """Removes folders, the innermost first, up to one that another process uses."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
                raise
            return


def _take_lock(path: Folder) -> TextIO:
    """Opens the lock's file and locks it; ValueError if another run has it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _open_lock(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:  # else its last holder has removed it meanwhile
                return file
            file.close()
        except BlockingIOError:
            with file:
                raise ValueError(
                    f"{path.parent} is in use by {visible(file.read(_LONGEST_HOLDER))}: wait for "
                    "it, or choose another --workdir"
                ) from None


def _open_lock(path: Folder) -> TextIO:
    """Opens the lock's file. Links and pipes are refused."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ValueError(
                f"{path} is a symbolic link, and a lock follows none: remove it, or choose another "
                "--workdir"
            ) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file: remove it, or choose another --workdir")
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


def require_space(folder: Folder, needed: int) -> None:
    """Raises OSError if a local folder's disk has fewer bytes free than are needed."""
    if writing.remote(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{folder} needs about {needed / 1e6:.0f} MB and has {free / 1e6:.0f} MB free: make "
            "room, or choose another --workdir",
        )


def settle(folder: Folder) -> str:
    """Removes damaged files and log lines from the folder of a run, so that the run can go on.

    Damaged lines of the logs are removed. A damaged file is removed together with results.json.
    The run is then incomplete, and writes the file again from its newest checkpoint.

    Returns:
      One line for the user that names the removed parts; "" if nothing is damaged.

    Raises:
      ValueError: one of the files is a pipe or a device.
    """
    damaged = [name for name, whole in _WHOLE.items() if not whole(folder / name)]
    if damaged and _complete_without_checkpoints(folder, damaged):
        return (
            f"{folder} is complete, but {', '.join(damaged)} can't be read, and no checkpoint is "
            "left to make it from: delete that folder to run it again"
        )
    for name in damaged:
        (folder / name).unlink()
    if damaged:
        (folder / "results.json").unlink(missing_ok=True)
    dropped = [*damaged, *filter(None, (_settle_log(folder / name) for name in LOGS))]
    if not dropped:
        return ""
    settings = ", and takes the settings of now for its own" if "config.json" in damaged else ""
    return (
        f"{folder} was damaged, as by a power loss: dropped {', '.join(dropped)}; the run goes on "
        f"from what is whole{settings}"
    )


def _complete_without_checkpoints(folder: Folder, damaged: Sequence[str]) -> bool:
    results = folder / "results.json"
    if "results.json" in damaged or not results.exists():
        return False
    trained = json.loads(results.read_text()).get("steps") != 0
    return trained and not _has_checkpoints(folder)


def read_log(path: Folder) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a log.

    Args:
      path: of metrics.jsonl or curve.jsonl.

    Returns:
      Their objects, with rising steps; and the number of damaged lines.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is a pipe or a device.
    """
    content = schema.read_bytes(path, _LARGEST)
    *ended, tail = content.split(b"\n")
    lines: list[dict[str, Any]] = []
    for line in ended:
        with contextlib.suppress(ValueError):
            entry = schema.parse(line, _LINE, where=str(path), remedy="")
            if not lines or entry["step"] > lines[-1]["step"]:
                lines.append(entry)
    return lines, len(ended) + bool(tail) - len(lines)


def _settle_log(path: Folder) -> str:
    """Removes the damaged lines of a log. Returns their number in words; "" for none."""
    if not path.exists():
        return ""
    lines, damaged = read_log(path)
    if damaged:
        writing.write_text(path, _as_log(lines))
    return f"{damaged} {'lines' if damaged > 1 else 'line'} of {path.name}" if damaged else ""


def _as_log(lines: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _is_json(path: Folder) -> bool:
    """Whether a JSON file is whole or missing."""
    if not path.exists():
        return True
    content = schema.read_bytes(path, _LARGEST)
    try:
        json.loads(content)
    except (ValueError, RecursionError):
        return False
    return True


def _is_archive(path: Folder) -> bool:
    """Whether a ZIP archive is whole or missing."""
    if not path.exists():
        return True
    schema.require_regular(path)
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError):
        return False


_WHOLE = {  # file of a run, without checkpoints and logs -> test whether it is whole
    "config.json": _is_json,
    "split.json": _is_json,
    "interpretation.json": _is_json,
    "gallery.json": _is_json,
    "adapted/adapted.json": _is_json,
    "scores.npz": _is_archive,
    "results.json": _is_json,
}


def check(folder: Folder, settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Checks that no run of other settings has begun in a folder.

    Args:
      folder: the run's.
      settings: of the run that is to begin or go on. `method` has the method's settings.
      defaults: of the method's settings. A setting that an older release did not have counts as
        the default here or in `settings.experiment`.

    Raises:
      ValueError: a run of other settings has begun; the message lists the differences.
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
    """Checks that the run in a folder began with the images that the task has now.

    Args:
      folder: the run's.
      items: see `Task.items`.

    Raises:
      ValueError: it began with other images; the message names one.
    """
    path = folder / "split.json"
    if not path.exists() or not _begun(folder):
        return
    there = schema.read_json(path, _ITEMS, remedy="delete that folder", largest=_LARGEST)
    old = {(part, *item) for part, listed in there.items() for item in listed}
    new = {(part, *item) for part, listed in items.items() for item in listed}
    if different := sorted(old ^ new):
        part, file, _, name = different[0]
        raise ValueError(
            f"{folder} was begun with other images: {len(different)} differ, such as {file} of "
            f"class {name!r} in {part}. Choose another --workdir, or delete that folder"
        )


def _begun(folder: Folder) -> bool:
    files = (folder / "metrics.jsonl", folder / "results.json")
    return _has_checkpoints(folder) or any(file.exists() for file in files)


def _has_checkpoints(folder: Folder) -> bool:
    checkpoints = folder / "checkpoints"  # no glob: brackets in the path would match as a pattern
    return checkpoints.exists() and any(path.name.isdigit() for path in checkpoints.iterdir())


def claim(folder: Folder, settings: Mapping[str, Any]) -> None:
    """Writes config.json, once `check` has passed."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings)


@first_only
def write_json(path: Folder, content: Any) -> None:
    """Writes a JSON file completely or not at all."""
    writing.write_text(path, json.dumps(content, indent=2) + "\n")


@first_only
def append(path: Folder, line: Mapping[str, Any]) -> None:
    """Adds an object to a file of one object a line."""
    text = json.dumps(line) + "\n"
    if writing.remote(path):  # an object is written whole
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


@first_only
def cut(path: Folder, step: int) -> None:
    """Removes log lines after a step: the interrupted run goes on at a checkpoint of that step."""
    if path.exists():
        kept = [line for line in read_log(path)[0] if line["step"] <= step]
        writing.write_text(path, _as_log(kept))


@first_only
def sync(*paths: Folder) -> None:
    """Waits until files, and all files below folders, are on the disk."""
    for path in paths:
        if path.exists() and not writing.remote(path):
            local = Path(path)
            for one in [*local.rglob("*"), local, local.parent]:
                writing.sync(one)


@first_only
def write_error(folder: Folder, text: str | None) -> None:
    """Writes error.txt, or removes it where there is no error."""
    if text is None:
        (folder / "error.txt").unlink(missing_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        writing.write_text(folder / "error.txt", text)


def read_results(folder: Folder) -> records.Results | None:
    """The results of a run; None where it is not complete.

    Raises:
      FileNotFoundError: results of format 1 without the config.json that they need.
      ValueError: a file is damaged, or has a format that this release does not know; the message
        names the file and the remedy.
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
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    writing.write_bytes(folder / "scores.npz", packed.getvalue())


@first_only
def write_gallery(
    folder: Folder, scores: Mapping[str, Scores], test: Mapping[str, Examples]
) -> None:
    """Writes the images of `gallery.ends` of every split with their opinions."""
    (folder / "gallery").mkdir(exist_ok=True)
    entries = []
    for split, one in scores.items():
        names, prediction = test[split].class_names, one.prediction
        for end, indices in gallery.ends(one).items():
            for rank, i in enumerate(indices):
                file = f"gallery/{folder_name(split)}-{end.split()[0]}-{rank}.png"
                png = io.BytesIO()
                Image.fromarray(test[split].images[i : i + 1][0]).save(png, "PNG")
                writing.write_bytes(folder / file, png.getvalue())
                row = of_image(file, prediction, int(i), names, top_k=3)
                entries.append(
                    {"split": split, "end": end, "file": file, "label": names[one.labels[i]]}
                    | {key: getattr(row, key) for key in _SHOWN}
                )
    write_json(folder / "gallery.json", entries)
