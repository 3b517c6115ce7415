"""Hugging Face datasets of labelled images: from the hub, or from a local folder.

Images stay undecoded, so that `decode` reads them like files.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax import spelling
from cdc_jax.config_type import ConfigDict
from cdc_jax.tasks import splits, task_toml, text_file
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.hf_loading import library, load
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split

_SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_TEXTS = ("string", "large_string", "string_view")
_FILES = ("binary", "large_binary", "binary_view")
_ID = re.compile(r"\d+|True|False|n\d{8}")  # numbers, and WordNet's ids


def read(data: ConfigDict, allow_fewer: bool = False) -> Dataset:
    """A Hugging Face dataset, with its classes in the order of its labels.

    Args:
      data: `name` is an id on the hub or a local path. A path leads to a folder of Parquet files,
        a folder of images, an output of `save_to_disk`, or a Parquet file. `hf` names columns,
        splits and classes; see `settings.experiment`.
      allow_fewer: see `Dataset`.

    Raises:
      FileNotFoundError: no such folder, file or dataset.
      PermissionError: a gated dataset whose terms were not accepted.
      ConnectionError: the hub can't be reached and its cache does not hold the dataset.
      ValueError: `datasets` is not installed, or can't read the dataset. Splits, columns or class
        names are missing or ambiguous; the message names the setting. An image has several labels,
        or none.
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
    loaded, notes = load(data.name, hf)
    names_by_part = _choose_splits(list(loaded), hf, where)
    features = loaded[names_by_part["train"]].features
    image = _image_column(features, hf.image, where)
    label = _label_column(features, hf.label, image, where)
    for name, column in itertools.product(names_by_part.values(), (image, label)):
        if loaded[name].features.get(column) != features[column]:
            raise ValueError(
                f"{where}: the column {column} is not of one type in the splits "
                f"{names_by_part['train']} and {name}: choose others by data.hf.train, "
                "data.hf.val or data.hf.test"
            )
    values = {name: _values(loaded[name], label) for name in names_by_part.values()}
    split = _split(names_by_part, *_classes(features[label], values, label, hf, where))
    splits.check(split, where)
    undecoded = library().Image(decode=False)
    images = {
        name: loaded[name].select_columns([image]).cast_column(image, undecoded)
        for name in names_by_part.values()
    }

    def contents(path: str) -> Path | bytes:
        name, _, number = path.rpartition("/")
        return _file(images[name][int(number)][image], path)

    template = task_toml.DEFAULTS["template"]
    unused = [name for name in loaded if name not in names_by_part.values()]
    notes += [f"without the splits {_listed(unused)}"] if unused else []
    return Dataset(split, contents, template, note="; ".join(notes), allow_fewer=allow_fewer)


def _choose_splits(names: Sequence[str], hf: ConfigDict, where: str) -> dict[str, str]:
    """Part -> split of the dataset. Without a test split, the training split is partitioned."""
    user_names = {part: hf[part] for part in PARTS if hf[part]}
    for part, name in user_names.items():
        _require_name(f"data.hf.{part}", name, names, where, "split")
    if len(set(user_names.values())) < len(user_names):
        raise ValueError(f"data.hf.train, val and test must be different splits, got {user_names}")
    names_by_part = {}
    for part in PARTS:
        usual = [name for name in names if name.lower() in _SPLIT_NAMES[part]]
        free = [name for name in usual if name not in user_names.values()]
        if part not in user_names and len(free) > 1:
            raise ValueError(
                f"{where} has the splits {_listed(free)}, and each could be for {part}: add "
                f"data.hf.{part}={free[0]}, say"
            )
        if part in user_names or free:
            names_by_part[part] = user_names.get(part) or free[0]
    usual_names = {name for usual in _SPLIT_NAMES.values() for name in usual}
    if not names_by_part and len(names) == 1 and names[0].lower() not in usual_names:
        names_by_part["train"] = names[0]
    if "train" not in names_by_part:
        raise ValueError(
            f"{where} has the splits {_listed(names)}, and none is called train: add "
            "data.hf.train=NAME; without a split for test, that one is divided"
        )
    if "val" in names_by_part and "test" not in names_by_part:
        raise ValueError(
            f"{where} has the splits {_listed(names)}, and none is called test: add "
            f"data.hf.test={names_by_part['val']} to test on that one"
        )
    return names_by_part


def _image_column(features: Mapping[str, Any], column: str, where: str) -> str:
    datasets = library()

    def holds_files(feature: Any) -> bool:
        if isinstance(feature, Mapping):
            return "bytes" in feature and set(feature) <= {"bytes", "path"}
        return isinstance(feature, datasets.Value) and feature.dtype in _FILES

    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    untyped = [name for name, kind in features.items() if holds_files(kind)]
    if not column:
        return _only("image", typed or untyped, features, where)
    _require_name("data.hf.image", column, features, where)
    if column not in typed + untyped:
        raise ValueError(
            f"{where}: the column {column} holds no image a row, but {features[column]}"
        )
    return column


def _label_column(features: Mapping[str, Any], column: str, image: str, where: str) -> str:
    """The column of class type or with a usual name; else the only column that can hold labels."""
    datasets = library()

    def is_label(feature: Any) -> bool:
        if isinstance(feature, datasets.Value):
            return feature.dtype in (*_INTEGERS, *_TEXTS)
        return isinstance(feature, datasets.ClassLabel)

    if column:
        _require_name("data.hf.label", column, features, where)
        if not is_label(features[column]):
            raise ValueError(
                f"{where}: the column {column} must hold one label a row, a class, text or "
                f"integer, and holds {features[column]}: images with several labels are not "
                "supported"
            )
        return column
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
    """A column's labels; None for a missing label. Texts are stripped."""
    values = rows.select_columns([column])[:][column]
    return [(value.strip() or None) if isinstance(value, str) else value for value in values]


def _classes(
    feature: Any, values: Mapping[str, Sequence[Any]], column: str, hf: ConfigDict, where: str
) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    """Each split's labels, 0, 1, 2, … in the dataset's order, and the class names."""
    if typed := isinstance(feature, library().ClassLabel):
        distinct, value_names = list(range(len(feature.names))), feature.names
    else:
        distinct = sorted({value for listed in values.values() for value in listed} - {None})
        value_names = [str(value) for value in distinct]
    labels = {value: label for label, value in enumerate(distinct)}
    for name, listed in values.items():
        if missing := sum(value not in labels for value in listed):
            raise ValueError(
                f"{where}: {missing} of the {len(listed)} images of the split {name} have no "
                f"{column}: take another split by data.hf.train, data.hf.val or data.hf.test"
            )
    most = max(map(len, values.values()))
    if not typed and not hf.label and 2 * len(distinct) > most:
        raise ValueError(
            f"{where}: the column {column} has {len(distinct)} different values for {most} images, "
            f"which is no label: add data.hf.label=COLUMN, {column} if it is right"
        )
    names = _named(value_names, hf.class_names, column, where)
    return {name: [labels[value] for value in listed] for name, listed in values.items()}, names


def _named(value_names: Sequence[str], file: str, column: str, where: str) -> tuple[str, ...]:
    """Class names from the dataset or from a file."""
    ids = all(map(_ID.fullmatch, value_names))
    if not file:
        if ids:
            raise ValueError(
                f"{where}: the labels of {column} are ids, such as {value_names[0]}, and CLIP "
                "reads names: add data.hf.class_names=FILE, with a name a line in the order of the "
                "labels, or a JSON object of id and name"
            )
        return tuple(value_names)
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"data.hf.class_names: there is no file {path}")
    if path.suffix.lower() == ".json":
        names = _renamed(value_names, text_file.read_json(path), path, ids)
    else:
        names = tuple(line.strip() for line in text_file.lines(path) if line.strip())
        if len(names) != len(value_names):
            raise ValueError(
                f"{path} has {len(names)} class names, and {where} has {len(value_names)} classes "
                f"({value_names[0]} to {value_names[-1]})"
            )
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path} calls two classes {twice[0]!r}: CLIP could not tell them")
    return names


def _renamed(
    value_names: Sequence[str], changes: Any, path: Path, all_of_them: bool
) -> tuple[str, ...]:
    if not isinstance(changes, Mapping):
        raise ValueError(f"{path} must hold a JSON object of id and name, got {changes!r:.80}")
    for old, new in changes.items():
        _require_name(str(path), old, value_names, "the dataset", "class")
        if not isinstance(new, str) or not new.strip():
            raise ValueError(f"{path}: {old!r} needs a name, got {new!r:.80}")
    if all_of_them and (missing := [name for name in value_names if name not in changes]):
        raise ValueError(f"{path} has no name for the class {missing[0]}")
    return tuple(changes.get(name, name).strip() for name in value_names)


def _split(
    names_by_part: Mapping[str, str], labels: Mapping[str, Sequence[int]], names: tuple[str, ...]
) -> Split:
    """The split. Paths of images are split and number, so that they sort in stored order."""
    parts = {
        part: tuple(
            Item(f"{name}/{number:07d}", label) for number, label in enumerate(labels[name])
        )
        for part, name in names_by_part.items()
    }
    if list(names_by_part) == ["train"]:
        shares = (task_toml.DEFAULTS[key] for key in ("val", "test", "seed"))
        return splits.partition(parts["train"], names, *shares)
    return Split(parts["train"], parts.get("val", ()), parts["test"], names)


def _file(image: Mapping[str, Any] | None, path: str) -> Path | bytes:
    """The content or the path of an undecoded image."""
    if image is None or (image["bytes"] is None and not image.get("path")):
        return b""
    if image["bytes"] is not None:
        return image["bytes"]
    if "://" in image["path"]:
        raise UnreadableImage(path, f"it is at {image['path']}, which is not a file here")
    return Path(image["path"])


def _require_name(
    key: str, value: str, names: Iterable[str], where: str, kind: str = "column"
) -> None:
    listed = list(names)
    if value not in listed:
        near = spelling.nearest(value, listed) or "none"
        raise ValueError(f"{key}: {where} has no {kind} {value!r}, but {near}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
