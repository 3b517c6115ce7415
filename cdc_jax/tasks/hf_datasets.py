"""Hugging Face datasets of labelled images: from the hub, or from a local folder.

They are read by the package `datasets`, the extra `hf`. From its release 4.0 on, it runs no code
that comes with a dataset. Images stay undecoded, so that `decode` treats them like any file.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors
from ml_collections import ConfigDict

from cdc_jax.tasks import class_folders, splits
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split

OTHER_SPLITS = "not CoOp's splits"
"""What tables say of datasets from the hub: some are the field's, divided in another way."""

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_TEXTS = ("string", "large_string", "string_view")
_FILES = ("binary", "large_binary", "binary_view")
_SAVED = ("dataset_dict.json", "state.json")  # what `save_to_disk` writes
_ID = re.compile(r"\d+|True|False|n\d{8}")  # numbers, and WordNet's ids
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

_Splits = Mapping[str, Any]  # name -> datasets.Dataset


def read(data: ConfigDict, allow_fewer: bool = False) -> Dataset:
    """A Hugging Face dataset, with its classes in the order of its labels.

    Args:
      data: `name`, an id on the hub or a local path (a folder of Parquet files or of images, what
        `save_to_disk` wrote, or a Parquet file), and `hf`, what it does not say itself; see
        `settings.experiment`.
      allow_fewer: see `Dataset`.

    Raises:
      FileNotFoundError: no such folder, file or dataset.
      PermissionError: a gated dataset whose terms were not accepted.
      ConnectionError: the hub can't be reached and its cache does not hold the dataset.
      ValueError: `datasets` is not installed, or can't read it; splits, columns or class names that
        are missing or ambiguous, the message names the setting; images with several labels, or
        with none.
    """
    if not data.name:
        raise ValueError(
            "data.name must say which dataset: add data.name=ID_ON_THE_HUB or a folder"
        )
    if data.split:
        raise ValueError(
            f"data.split={data.split} lists files, and {data.name} has none: unset it, and name "
            "its splits by data.hf.train, data.hf.val and data.hf.test"
        )
    hf, where = data.hf, f"the dataset {data.name}"
    loaded, notes = _load(data.name, hf)
    chosen = _choose_splits(list(loaded), hf, where)
    features = loaded[chosen["train"]].features
    image = _image_column(features, hf.image, where)
    label = _label_column(features, hf.label, image, where)
    for name, column in itertools.product(chosen.values(), (image, label)):
        if loaded[name].features.get(column) != features[column]:
            raise ValueError(
                f"{where}: the column {column} is not of one type in the splits {chosen['train']} "
                f"and {name}: choose others by data.hf.train, data.hf.val or data.hf.test"
            )
    values = {name: _values(loaded[name], label) for name in chosen.values()}
    split = _split(chosen, *_classes(features[label], values, label, hf, where))
    splits.check(split, where)
    undecoded = _library().Image(decode=False)
    images = {
        name: loaded[name].select_columns([image]).cast_column(image, undecoded)
        for name in chosen.values()
    }

    def contents(path: str) -> Path | bytes:
        name, _, number = path.rpartition("/")
        return _file(images[name][int(number)][image], path)

    template = class_folders.DEFAULTS["template"]
    unused = [name for name in loaded if name not in chosen.values()]
    notes += [f"without the splits {_listed(unused)}"] if unused else []
    return Dataset(split, contents, template, note="; ".join(notes), allow_fewer=allow_fewer)


def _library() -> Any:
    try:
        import datasets  # takes a second
    except ModuleNotFoundError as error:
        raise ValueError(
            f"dataset=hf needs a package that is not there ({error}): pip install -e '.[hf]'"
        ) from None
    return datasets


def _load(name: str, hf: ConfigDict) -> tuple[_Splits, list[str]]:
    """The dataset's splits, whose rows are read when asked for; and what must be said of them."""
    datasets = _library()
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
    datasets = _library()
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
    taken = {Path(file) for listed in files.values() for file in listed}
    suffixes = {file.suffix for file in taken}
    visible = (file for file in path.rglob("*") if "/." not in str(file.relative_to(path.parent)))
    left = sorted(file for file in visible if file.suffix in suffixes and file not in taken)
    named = f", such as {left[0].relative_to(path)}" if left else ""
    return loaded, [f"without {len(left)} of its files{named}"] if left else []


def _load_from_hub(name: str, hf: ConfigDict) -> Any:
    datasets = _library()
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
                f"the dataset {name} is not in the cache {datasets.config.HF_DATASETS_CACHE}, and "
                f"the Hugging Face hub can't be reached ({_reason(offline)}). To work offline, run "
                f"`hf download --repo-type dataset {name} --local-dir FOLDER` on a machine with a "
                "network, and set data.name to that folder"
            ) from None
        raise ValueError(
            f"the dataset {name} can't be read ({_reason(error)}); data.hf.config chooses one of "
            "several in it, and code that comes with a dataset is never run"
        ) from None


def _reason(error: Exception) -> str:
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]}…"


def _choose_splits(names: Sequence[str], hf: ConfigDict, where: str) -> dict[str, str]:
    """Part -> split of the dataset. Without one for test, that for training is to be divided."""
    given = {part: hf[part] for part in PARTS if hf[part]}
    for part, name in given.items():
        _check_known(f"data.hf.{part}", name, names, where, "split")
    if len(set(given.values())) < len(given):
        raise ValueError(f"data.hf.train, val and test must be different splits, got {given}")
    chosen = {}
    for part in PARTS:
        usual = [name for name in names if name.lower() in _SPLIT_NAMES[part]]
        free = [name for name in usual if name not in given.values()]
        if part not in given and len(free) > 1:
            raise ValueError(
                f"{where} has the splits {_listed(free)}, and each could be for {part}: add "
                f"data.hf.{part}={free[0]}, say"
            )
        if part in given or free:
            chosen[part] = given.get(part) or free[0]
    known = {name for usual in _SPLIT_NAMES.values() for name in usual}
    if not chosen and len(names) == 1 and names[0].lower() not in known:
        chosen["train"] = names[0]
    if "train" not in chosen:
        raise ValueError(
            f"{where} has the splits {_listed(names)}, and none is called train: add "
            "data.hf.train=NAME; without a split for test, that one is divided"
        )
    if "val" in chosen and "test" not in chosen:
        raise ValueError(
            f"{where} has the splits {_listed(names)}, and none is called test: add "
            f"data.hf.test={chosen['val']} to test on that one"
        )
    return chosen


def _image_column(features: Mapping[str, Any], given: str, where: str) -> str:
    datasets = _library()

    def holds_files(feature: Any) -> bool:
        if isinstance(feature, Mapping):
            return "bytes" in feature and set(feature) <= {"bytes", "path"}
        return isinstance(feature, datasets.Value) and feature.dtype in _FILES

    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    untyped = [name for name, kind in features.items() if holds_files(kind)]
    if not given:
        return _only("image", typed or untyped, features, where)
    _check_known("data.hf.image", given, features, where)
    if given not in typed + untyped:
        raise ValueError(f"{where}: the column {given} holds no image a row, but {features[given]}")
    return given


def _label_column(features: Mapping[str, Any], given: str, image: str, where: str) -> str:
    """The column that is typed as classes or has a usual name; else the only one that can be it."""
    datasets = _library()

    def is_label(feature: Any) -> bool:
        if isinstance(feature, datasets.Value):
            return feature.dtype in (*_INTEGERS, *_TEXTS)
        return isinstance(feature, datasets.ClassLabel)

    if given:
        _check_known("data.hf.label", given, features, where)
        if not is_label(features[given]):
            raise ValueError(
                f"{where}: the column {given} must hold one label a row, a class, text or integer, "
                f"and holds {features[given]}: images with several labels are not supported"
            )
        return given
    scalars = [name for name, kind in features.items() if name != image and is_label(kind)]
    likely = [
        name
        for name in scalars
        if isinstance(features[name], datasets.ClassLabel) or name.lower() in _LABEL_NAMES
    ]
    simple = (datasets.Value, datasets.ClassLabel, datasets.Image)
    several = [
        name for name, kind in features.items() if name != image and not isinstance(kind, simple)
    ]
    if several and not likely:
        raise ValueError(
            f"{where}: the column {several[0]} holds several values an image, as for detection or "
            "for several labels, and a task needs one label an image. If another column holds it, "
            "add data.hf.label=COLUMN"
        )
    return _only("label", likely or scalars, features, where)


def _only(kind: str, names: Sequence[str], features: Iterable[str], where: str) -> str:
    if len(names) == 1:
        return names[0]
    if names:
        raise ValueError(
            f"{where} has the columns {_listed(names)}, and each could be the {kind}: add "
            f"data.hf.{kind}={names[0]}, say"
        )
    raise ValueError(
        f"{where} has no {kind} column (its columns: {_listed(features)}); if one of these holds "
        f"it, add data.hf.{kind}=COLUMN"
    )


def _values(rows: Any, column: str) -> list[Any]:
    """A column's labels; None where there is none. Texts lose the spaces around them."""
    values = rows.select_columns([column])[:][column]
    return [(value.strip() or None) if isinstance(value, str) else value for value in values]


def _classes(
    feature: Any, values: Mapping[str, Sequence[Any]], column: str, hf: ConfigDict, where: str
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Each split's labels, 0, 1, 2, … in the order of the dataset's own; and the class names."""
    if typed := isinstance(feature, _library().ClassLabel):
        known, own = list(range(len(feature.names))), feature.names
    else:
        known = sorted({value for listed in values.values() for value in listed} - {None})
        own = [str(value) for value in known]
    labels = {value: label for label, value in enumerate(known)}
    for name, listed in values.items():
        if missing := sum(value not in labels for value in listed):
            raise ValueError(
                f"{where}: {missing} of the {len(listed)} images of the split {name} have no "
                f"{column}: take another split by data.hf.train, data.hf.val or data.hf.test"
            )
    most = max(map(len, values.values()))
    if not typed and not hf.label and 2 * len(known) > most:
        raise ValueError(
            f"{where}: the column {column} has {len(known)} different values for {most} images, "
            f"which is no label: add data.hf.label=COLUMN, {column} if it is right"
        )
    names = _named(own, hf.class_names, column, where)
    return {name: [labels[value] for value in listed] for name, listed in values.items()}, names


def _named(own: Sequence[str], file: str, column: str, where: str) -> tuple[str, ...]:
    """Class names: the dataset's own, or what a file has for them."""
    ids = all(map(_ID.fullmatch, own))
    if not file:
        if ids:
            raise ValueError(
                f"{where}: the labels of {column} are ids, such as {own[0]}, and CLIP reads names: "
                "add data.hf.class_names=FILE, with a name a line in the order of the labels, or "
                "a JSON object of id and name"
            )
        return tuple(own)
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"data.hf.class_names: there is no file {path}")
    if path.suffix.lower() == ".json":
        names = _renamed(own, splits.read_json(path), path, ids)
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not a text in UTF-8: {error}") from None
        names = tuple(line.strip() for line in lines if line.strip())
        if len(names) != len(own):
            raise ValueError(
                f"{path} has {len(names)} class names, and {where} has {len(own)} classes "
                f"({own[0]} to {own[-1]})"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} calls two classes {twice[0]!r}: CLIP could not tell them")
    return names


def _renamed(own: Sequence[str], changes: Any, path: Path, all_of_them: bool) -> tuple[str, ...]:
    if not isinstance(changes, Mapping):
        raise ValueError(f"{path} must hold a JSON object of id and name, got {changes!r:.80}")
    for old, new in changes.items():
        _check_known(str(path), old, own, "the dataset", "class")
        if not isinstance(new, str) or not new.strip():
            raise ValueError(f"{path}: {old!r} needs a name, got {new!r:.80}")
    if all_of_them and (missing := [name for name in own if name not in changes]):
        raise ValueError(f"{path} has no name for the class {missing[0]}")
    return tuple(changes.get(name, name).strip() for name in own)


def _split(
    chosen: Mapping[str, str], labels: Mapping[str, Sequence[int]], names: tuple[str, ...]
) -> Split:
    """Images are called by split and number, so that they sort as they are stored."""
    parts = {
        part: tuple(
            Item(f"{name}/{number:07d}", label) for number, label in enumerate(labels[name])
        )
        for part, name in chosen.items()
    }
    if list(chosen) == ["train"]:
        shares = (class_folders.DEFAULTS[key] for key in ("val", "test", "seed"))
        return splits.partition(parts["train"], names, *shares)
    return Split(parts["train"], parts.get("val", ()), parts["test"], names)


def _file(image: Mapping[str, Any] | None, path: str) -> Path | bytes:
    """What an undecoded image's file holds, or where it is."""
    if image is None or (image["bytes"] is None and not image.get("path")):
        return b""
    if image["bytes"] is not None:
        return image["bytes"]
    if "://" in image["path"]:
        raise UnreadableImage(path, f"it is at {image['path']}, which is not a file here")
    return Path(image["path"])


def _check_known(
    key: str, value: str, known: Iterable[str], where: str, kind: str = "column"
) -> None:
    listed = list(known)
    if value not in listed:
        near = difflib.get_close_matches(value, listed, 1, 0)
        raise ValueError(f"{key}: {where} has no {kind} {value!r}, but {_listed(near or listed)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
