"""The field's datasets as TensorFlow Datasets prepared them, read without TensorFlow.

Preparing one needs the extra `tf`, once; reading its ArrayRecord files does not.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cdc_jax.escaping import reason
from cdc_jax.progress import Progress
from cdc_jax.tasks import catalog, coop_splits, splits, task_toml
from cdc_jax.tasks.catalog import Published, Tfds
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import PARTS, Item, Split

OTHER_SPLITS = "not CoOp's splits"
"""The note in tables for TFDS's own splits."""

_Sources = Mapping[str, Sequence[Mapping[str, Any]]]


class _Record(NamedTuple):
    """The place of an image: its TFDS split and number; and its class name in TFDS."""

    split: str
    number: int
    class_name: str


def read(name: str, root: Path, split_file: str = "") -> Dataset:
    """A dataset of `catalog.PUBLISHED`, in the protocol's class order and names.

    Args:
      name: a key of `catalog.PUBLISHED`.
      root: TFDS's data_dir. ImageNet and its variants need imagenet/classnames.txt in it.
      split_file: CoOp's split file, whose images are matched by file names. "" takes TFDS's own
        splits, which the dataset's note says.

    Raises:
      FileNotFoundError: the dataset is not prepared in `root`; the message has the command.
      ValueError: TFDS does not have the dataset, or lacks files of the split.
    """
    published = catalog.PUBLISHED[name]
    entry = published.tfds
    if entry is None:
        names = ", ".join(n for n, p in catalog.PUBLISHED.items() if p.tfds)
        raise ValueError(
            f"TFDS does not have {name} as images: set data.format=coop. It has {names}"
        )
    split = splits.read_split(split_file) if split_file else None
    sources, class_names = _open(name, published, entry, root)
    records = _records(sources, class_names, entry)
    if split:
        records = _matched(split, records, name, entry, split_file)
    else:
        split = _own_split(name, entry, records, class_names, root)
        splits.check(split, f"TFDS's {name}")
    coop_splits.check_classes(name, split, split_file or f"TFDS's {name}")

    def contents(path: str) -> bytes:
        record = records[path]
        return sources[record.split][record.number]["image"]

    # Of ImageNet and its variants, TFDS's parts are those that CoOp takes.
    other = not split_file and not name.startswith("ImageNet")
    note = OTHER_SPLITS if other else ""
    return Dataset(split, contents, published.template, published.label_properties, note)


def _open(
    name: str, published: Published, entry: Tfds, root: Path
) -> tuple[_Sources, tuple[str, ...]]:
    """TFDS's splits with undecoded images, and its class names."""
    import tensorflow_datasets as tfds  # takes seconds

    builder = tfds.builder(entry.name, data_dir=root)
    decoders = {"image": tfds.decode.SkipDecoding()}
    used = [split for split in entry.splits if split]
    try:
        sources = {split: builder.as_data_source(split, decoders=decoders) for split in used}
    except (ValueError, NotImplementedError) as error:
        if builder.is_prepared():
            raise ValueError(
                f"{builder.data_dir} can't be read without TensorFlow ({reason(error)}): prepare "
                "it again with file_format='array_record'"
            ) from None
        raise FileNotFoundError(
            f"{name} is not prepared in {builder.data_dir}: get it (about {published.size}, "
            f"published by {published.publisher}) by pip install -e '.[tf]' && python -c "
            f"\"import tensorflow_datasets as tfds; tfds.builder('{entry.name}', data_dir='{root}')"
            ".download_and_prepare(file_format='array_record')\""
        ) from None
    return sources, tuple(builder.info.features["label"].names)


def _records(sources: _Sources, class_names: Sequence[str], entry: Tfds) -> dict[str, _Record]:
    """Path -> record. All records are read once, since TFDS has no index of names."""
    records: dict[str, _Record] = {}
    with Progress("listing the images", sum(map(len, sources.values()))) as progress:
        for split, source in sources.items():
            for number in range(len(source)):
                example = source[number]
                class_name = class_names[int(example["label"])]
                path = f"{split}/{number:07d}"  # sorts as counted
                if entry.file:
                    file = bytes(example[entry.file]).decode().strip("/")
                    path = entry.path.format(file=file, label=class_name, split=split)
                if path in records:
                    raise ValueError(f"TFDS's {entry.name} has two images called {path}")
                records[path] = _Record(split, number, class_name)
                progress.advance()
    return records


def _matched(
    split: Split, records: Mapping[str, _Record], name: str, entry: Tfds, split_file: str
) -> dict[str, _Record]:
    """The records of a split's images. TFDS writes some names of folders in lower case."""
    if not entry.file:
        raise ValueError(
            f"TFDS keeps no file names of {name}, so that its images can't be matched to "
            f"{split_file}: unset data.split, or set data.format=coop"
        )
    small = {path.lower(): record for path, record in records.items()}
    paths = [item.path for part in PARTS for item in getattr(split, part)]
    if unknown := [path for path in paths if path.lower() not in small]:
        raise ValueError(
            f"{len(unknown)} of the {len(paths)} images of {split_file} are not in TFDS's {name}, "
            f"the first is {unknown[0]}: is it another dataset's split?"
        )
    return {path: small[path.lower()] for path in paths}


def _own_split(
    name: str, entry: Tfds, records: Mapping[str, _Record], names: Sequence[str], root: Path
) -> Split:
    """TFDS's splits, or a partition of a dataset with a single split."""
    classes = [class_name for class_name in names if class_name not in entry.drop]
    if entry.order:
        classes.sort(key=entry.order)
    renamed = [entry.rename(class_name) for class_name in classes]
    if name.startswith("ImageNet"):
        # Classes are called by WordNet ids; a variant has only some of them.
        table = coop_splits.class_names(root, "imagenet")
        there = {record.class_name for record in records.values()}
        classes = [wnid for wnid in table if wnid in there]
        renamed = [table[wnid] for wnid in classes]
    labels = {class_name: label for label, class_name in enumerate(classes)}
    items: dict[str, list[Item]] = {split: [] for split in entry.splits}
    # Sorted, so that shots do not depend on how TFDS shuffled its files.
    for path, record in sorted(records.items()):
        if record.class_name in labels:
            items[record.split].append(Item(path, labels[record.class_name]))
    train, val, test = (tuple(items[split]) if split else () for split in entry.splits)
    if not test:
        shares = (task_toml.DEFAULTS[key] for key in ("val", "test", "seed"))
        return splits.partition(train, renamed, *shares)
    return Split(train, val, test, tuple(renamed))
