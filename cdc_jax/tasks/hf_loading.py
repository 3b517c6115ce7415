"""Loads a Hugging Face dataset from the hub, its cache, or a local path.

The package `datasets`, the extra `hf`, reads it. Since its release 4.0 the package runs no code of
a dataset.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from cdc_jax.config_type import ConfigDict

OTHER_SPLITS = "not CoOp's splits"
"""The note in tables for datasets of the hub. Some are the field's datasets with other splits."""

_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def library() -> Any:
    """The package `datasets`.

    Raises:
      ValueError: the package is not installed.
    """
    try:
        import datasets  # takes a second
    except ModuleNotFoundError as error:
        raise ValueError(
            f"dataset=hf needs a package that is not there ({error}): pip install -e '.[hf]'"
        ) from None
    return datasets


def load(name: str, hf: ConfigDict) -> tuple[Mapping[str, Any], list[str]]:
    """The dataset's splits, whose rows are read at access, and notes about them.

    Args:
      name: an id on the hub, or a local path.
      hf: its `config` and `revision`.

    Raises:
      FileNotFoundError, PermissionError, ConnectionError, ValueError: see `hf_datasets.read`.
    """
    datasets = library()
    path = Path(name).expanduser().absolute()  # never a name that means something to `datasets`
    if path.exists() and hf.revision:
        raise ValueError(
            f"data.hf.revision={hf.revision} is of the hub, and {path} is local: unset it"
        )
    if not path.exists() and not _HUB_ID.fullmatch(name):
        raise FileNotFoundError(
            f"data.name: there is no folder or file {path}, and an id on the hub is owner/name"
        )
    if huggingface_hub.utils.are_progress_bars_disabled():
        datasets.disable_progress_bars()
    if path.exists():
        loaded, notes = _load_local(path, hf)
    else:
        loaded, notes = _load_from_hub(name, hf), [OTHER_SPLITS]
    if isinstance(loaded, datasets.Dataset):
        loaded = {str(loaded.split or "train"): loaded}
    return {str(split): rows.with_format(None) for split, rows in loaded.items()}, notes


def _load_local(path: Path, hf: ConfigDict) -> tuple[Any, list[str]]:
    datasets = library()
    try:
        if any((path / file).is_file() for file in _SAVED):
            return datasets.load_from_disk(str(path)), []
        if path.is_file():
            return datasets.load_dataset("parquet", data_files=str(path)), []
        builder = datasets.load_dataset_builder(str(path), hf.config or None)
        builder.download_and_prepare()
        loaded = builder.as_dataset()
    except Exception as error:  # of datasets, Arrow and parsers: no common class
        raise ValueError(
            f"data.name: {path} can't be read as a Hugging Face dataset ({_reason(error)}); "
            "data.hf.config chooses one of several in it"
        ) from None
    # Where some names have train or test in them, `datasets` takes these files only.
    files = builder.config.data_files or {}
    loaded_files = {Path(file) for listed in files.values() for file in listed}
    suffixes = {file.suffix for file in loaded_files}
    visible = (file for file in path.rglob("*") if "/." not in str(file.relative_to(path.parent)))
    others = sorted(
        file for file in visible if file.suffix in suffixes and file not in loaded_files
    )
    named = f", such as {others[0].relative_to(path)}" if others else ""
    return loaded, [f"without {len(others)} of its files{named}"] if others else []


def _load_from_hub(name: str, hf: ConfigDict) -> Any:
    datasets = library()
    revision, offline = hf.revision or None, None
    try:
        try:
            huggingface_hub.HfApi().dataset_info(name, revision=revision, timeout=10)
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
            raise
        except Exception as error:  # the HTTP library's errors differ by release
            offline = error
            if revision:  # the cache does not tell which it holds
                raise
        # Without a network, `datasets` would try for half a minute before it looks in its cache.
        was_offline = datasets.config.HF_HUB_OFFLINE
        datasets.config.HF_HUB_OFFLINE = was_offline or bool(offline)
        try:
            return datasets.load_dataset(name, hf.config or None, revision=revision)
        finally:
            datasets.config.HF_HUB_OFFLINE = was_offline
    except errors.GatedRepoError:
        raise PermissionError(
            f"the dataset {name} is gated: accept its terms on https://huggingface.co/datasets/"
            f"{name}, then log in by `hf auth login` or set HF_TOKEN"
        ) from None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise FileNotFoundError(
            f"data.name: {name} is neither a folder here nor a dataset on the Hugging Face hub, or "
            "data.hf.revision is none of its revisions; for a private one, log in by "
            "`hf auth login` or set HF_TOKEN"
        ) from None
    except Exception as error:
        if offline:
            raise ConnectionError(
                f"the dataset {name} is not in the cache {datasets.config.HF_DATASETS_CACHE} (of "
                "several there, data.hf.config chooses one), and the Hugging Face hub can't be "
                f"reached ({_reason(offline)}). To work offline, run `hf download --repo-type "
                f"dataset {name} --local-dir FOLDER` on a machine with a network, and set "
                "data.name to that folder"
            ) from None
        raise ValueError(
            f"the dataset {name} can't be read ({_reason(error)}); data.hf.config chooses one of "
            "several in it, and code that comes with a dataset is never run"
        ) from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"
