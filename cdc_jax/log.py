"""The logs of a run: lines of JSON, and event files for TensorBoard."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cdc_jax import devices, run_folder, writing

_FILES = ("metrics", "curve")
_EVENTS = "events.out.tfevents."


class Log:
    """`metrics.jsonl` and `curve.jsonl` of a run's folder; a context manager.

    With TensorBoard, event files beside them hold the same figures, such as `metrics/loss`, and the
    figures of the final evaluation, such as `results/H_int`. A run that starts or goes on writes
    them anew from the lines, so that they show no lost steps. An object store can't append to
    files: there the event files appear when the run ends or stops. Only process 0 writes.

    Args:
      folder: the run's.
      tensorboard: whether to write event files.
    """

    def __init__(self, folder: run_folder.Folder, tensorboard: bool = False):
        self._folder = folder
        self._tensorboard = tensorboard and devices.is_first()
        self._writer: Any = None
        self._local: Path | None = None  # of event files that belong in an object store

    def start(self, step: int) -> None:
        """Removes lines after the checkpoint at which an interrupted run goes on.

        Args:
          step: of that checkpoint; 0 for a new run.
        """
        for name in _FILES:
            run_folder.cut(self._path(name), step)
        if devices.is_first():
            for old in self._folder.iterdir() if self._folder.exists() else ():
                if old.name.startswith(_EVENTS):
                    old.unlink()
        if not self._tensorboard:
            return
        if writing.remote(self._folder):
            self._local = Path(tempfile.mkdtemp())
        self._writer = _writer_class()(str(self._local or self._folder))
        for name in _FILES:
            if self._path(name).exists():
                for line in run_folder.read_log(self._path(name))[0]:
                    self._show(name, line)

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        """Logs a line of figures.

        Args:
          name: `metrics` or `curve`.
          line: its `step`, and the figures of it by name.
        """
        run_folder.append(self._path(name), line)
        self._show(name, line)

    def finish(self, line: Mapping[str, Any]) -> None:
        """Shows the figures of the final evaluation, which results.json keeps, in TensorBoard."""
        self._show("results", line)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *exception) -> None:
        if self._writer:
            self._writer.close()
        if self._local:
            for file in self._local.iterdir():
                (self._folder / file.name).write_bytes(file.read_bytes())
            shutil.rmtree(self._local)

    def _path(self, name: str) -> run_folder.Folder:
        return self._folder / f"{name}.jsonl"

    def _show(self, name: str, line: Mapping[str, Any]) -> None:
        if not self._writer:
            return
        for key, value in line.items():
            if key != "step" and value is not None:
                self._writer.add_scalar(f"{name}/{key}", value, line["step"])
        self._writer.flush()


def require_tensorboard() -> None:
    """Raises ValueError if the package that writes event files is not installed."""
    _writer_class()


def _writer_class() -> Callable[[str], Any]:
    try:
        from tensorboard.summary import Writer
    except ModuleNotFoundError as error:
        raise ValueError(
            f"tensorboard=True needs a package that is not there ({error}): "
            "pip install -e '.[tensorboard]', or leave it out"
        ) from None
    return Writer
