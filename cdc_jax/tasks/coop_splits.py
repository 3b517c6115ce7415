"""The field's datasets in CoOp's folders: `<root>/oxford_pets/images`, and so on."""

import os
from collections.abc import Callable
from pathlib import Path

from cdc_jax.tasks import catalog, splits
from cdc_jax.tasks.catalog import Published
from cdc_jax.tasks.photographs import Dataset
from cdc_jax.tasks.splits import Item, Split


def read(name: str, root: Path, split_file: str = "") -> Dataset:
    """A dataset of `catalog.PUBLISHED`.

    Args:
      name: a key of `catalog.PUBLISHED`.
      root: the folder that holds the datasets' folders.
      split_file: a split file in place of the published file; "" is the published file.

    Raises:
      FileNotFoundError: a file or folder is missing; the message says where it is expected, how
        large it is and who publishes it.
      ValueError: a file differs from the published form, or the split is another dataset's.
    """
    published = catalog.PUBLISHED[name]
    folder = root / published.folder
    images = folder / published.images
    if not images.is_dir():
        raise FileNotFoundError(
            f"{name} is expected in {images}, and there is no such folder: get its images (about "
            f"{published.size}) from {published.publisher}, or set data.root (now {root})"
        )
    if split_file:
        split = splits.read_split(split_file)
    else:
        split = LAYOUTS[published.layout](name, published, root)
        splits.check(split, str(folder))
    check_classes(name, split, split_file or str(folder))
    return Dataset(split, images.joinpath, published.template, published.label_properties)


def check_classes(name: str, split: Split, where: str) -> None:
    """Checks that a split has as many classes as the dataset.

    Raises:
      ValueError: the numbers differ; the message has `where`, the source of the split.
    """
    if len(split.class_names) != catalog.PUBLISHED[name].classes:
        raise ValueError(
            f"{name} has {catalog.PUBLISHED[name].classes} classes, {where} lists "
            f"{len(split.class_names)}: is it another dataset's?"
        )


def _split(name: str, published: Published, root: Path) -> Split:
    file = root / published.folder / published.split
    if not file.is_file():
        raise FileNotFoundError(
            f"{name} needs CoOp's split file {file}: get it (some MB) from "
            f"{catalog.SPLIT_PUBLISHER}, or set data.split to where it is"
        )
    return splits.read_split(file)


def _fgvc(name: str, published: Published, root: Path) -> Split:
    """Text files: a class a line, and `image class` a line for each part."""
    folder = root / published.folder
    class_names = tuple(_lines(folder / "variants.txt", name, published.publisher))
    labels = {class_name: label for label, class_name in enumerate(class_names)}
    parts = {}
    for part in splits.PARTS:
        file = folder / f"images_variant_{part}.txt"
        items = []
        for line in _lines(file, name, published.publisher):
            image, _, variant = line.partition(" ")
            if variant.strip() not in labels:
                raise ValueError(f"{file}: {line!r} names no class of {folder / 'variants.txt'}")
            items.append(Item(splits.safe_path(f"{image}.jpg", str(file)), labels[variant.strip()]))
        parts[part] = tuple(items)
    return Split(**parts, class_names=class_names)


def _imagenet(name: str, published: Published, root: Path) -> Split:
    """A folder a class, in sorted order. CoOp takes the order of the disk, so its shots differ.

    CoOp validates on the test images and selects nothing by it. Here there are no validation
    images.
    """
    names = class_names(root, published.folder)
    images = root / published.folder / published.images
    train, test = (_listing(images, part, tuple(names)) for part in ("train", "val"))
    return Split(train, (), test, tuple(names.values()))


def _numbered(name: str, published: Published, root: Path) -> Split:
    """A folder a class. Its name is the number of the class's line in classnames.txt."""
    names = class_names(root, published.folder)
    images = root / published.folder / published.images
    folders = tuple(str(number) for number in range(len(names)))
    return Split((), (), _listing(images, "", folders), tuple(names.values()))


def _wordnet(name: str, published: Published, root: Path) -> Split:
    """A folder a class. Its name is the WordNet id. Classes without a folder are left out."""
    names = class_names(root, published.folder)
    images = root / published.folder / published.images
    there = tuple(wnid for wnid in names if (images / wnid).is_dir())
    return Split((), (), _listing(images, "", there), tuple(names[wnid] for wnid in there))


LAYOUTS: dict[str, Callable[[str, Published, Path], Split]] = {
    "split": _split,
    "fgvc": _fgvc,
    "imagenet": _imagenet,
    "numbered": _numbered,
    "wordnet": _wordnet,
}
"""How a dataset's images are listed -> (name, entry, data root) -> its split."""


def class_names(root: Path, folder: str) -> dict[str, str]:
    """ImageNet's classes, WordNet id -> name, in order of label, from a classnames.txt.

    Args:
      root: the data root.
      folder: of the dataset. Its classnames.txt takes precedence over ImageNet's.

    Raises:
      FileNotFoundError: both files are missing.
      ValueError: a line is not `id name`, or an id occurs twice.
    """
    local, imagenet = root / folder / "classnames.txt", root / "imagenet" / "classnames.txt"
    file = local if local.is_file() else imagenet
    names: dict[str, str] = {}
    for line in _lines(file, "ImageNet", catalog.SPLIT_PUBLISHER):
        wnid, _, class_name = line.partition(" ")
        if not class_name.strip() or wnid in names:
            raise ValueError(f"{file}: {line!r} must be a new WordNet id and its class name")
        names[wnid] = class_name.strip()
    return names


def _lines(file: Path, name: str, publisher: str) -> list[str]:
    if not file.is_file():
        raise FileNotFoundError(f"{name} needs {file} (some kB): get it from {publisher}")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _listing(images: Path, part: str, folders: tuple[str, ...]) -> tuple[Item, ...]:
    """The files of class folders, sorted."""
    items = []
    for label, folder in enumerate(folders):
        path = images / part / folder
        if not path.is_dir():
            raise FileNotFoundError(f"the class folder {path} is missing: is data.root right?")
        files = sorted(entry.name for entry in os.scandir(path) if not entry.name.startswith("."))
        items += [Item(str(Path(part, folder, file)), label) for file in files]
    return tuple(items)
