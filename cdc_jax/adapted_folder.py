"""The folder of a run's adapted model; `export` reads its contents."""

from pathlib import Path

DESCRIPTION, ARRAYS = "adapted.json", "learned.safetensors"


def find(run: str | Path) -> Path:
    """The folder of a run's adapted model.

    Args:
      run: a method's folder, the folder of a run or sweep with a single method, or a copy of the
        folder `adapted` itself.

    Raises:
      FileNotFoundError: there is no adapted model, or there are several; the message names them.
    """
    run = Path(run).expanduser()
    if not run.is_dir():
        raise FileNotFoundError(f"{run} is no folder: give a run's, such as runs/NAME/cdc")
    for folder in (run, run / "adapted"):
        if (folder / DESCRIPTION).is_file():
            return folder
    below = (f"{depth}/adapted/{DESCRIPTION}" for depth in ("*", "*/*"))
    folders = sorted(path.parent for pattern in below for path in run.glob(pattern))
    if not folders:
        raise FileNotFoundError(
            f"{run} holds no adapted/{DESCRIPTION}: a run writes it when its training "
            "ends, so let the run end first"
        )
    if len(folders) > 1:
        choices = ", ".join(str(folder.parent) for folder in folders[:9])
        raise FileNotFoundError(
            f"{run} holds {len(folders)} adapted models, choose one: {choices}"
            + (", …" if folders[9:] else "")
        )
    return folders[0]
