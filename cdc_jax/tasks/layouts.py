"""Class and split of each image in a user's folders.

Three layouts are read. Images may lie in deeper folders.

  classes      <class>/<image>
  split/class  train/<class>/<image>, val/<class>/<image>, test/<class>/<image>
  class/split  <class>/train/<image>, <class>/test/<image>

A folder whose only content is such a layout, often called `images`, is passed through. A folder
that fits two layouts is refused. Hidden folders and folders of tools are ignored.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cdc_jax.escaping import visible
from cdc_jax.tasks import decode, splits
from cdc_jax.tasks.class_labels import Row
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.files import followed

LAYOUTS = ("classes", "split/class", "class/split")
"""Values of data.layout; "" takes the layout that fits."""

_OF_TOOLS = {
    "__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin",
    "system volume information", "lost+found",
}  # fmt: skip
_DEEPEST = 32  # folders
_OF_DETECTION = {"images", "image", "imgs", "img", "jpegimages"}  # beside their boxes
_SETTINGS = {"task.toml"}


class Listing(NamedTuple):
    """The images of a folder.

    Attributes:
      rows: each image's path under the folder, its class, and its part or "".
      layout: description of the layout.
      remarks: sentences about files that are left out.
      unusable: images that are no readable files. They are in no row.
    """

    rows: list[Row]
    layout: str
    remarks: tuple[str, ...]
    unusable: tuple[UnreadableImage, ...]


@dataclasses.dataclass
class _Folder:
    """A folder that is not ignored: its images, its folders, and counts of everything below."""

    path: str
    images: list[str] = dataclasses.field(default_factory=list)
    folders: dict[str, "_Folder"] = dataclasses.field(default_factory=dict)
    total: int = 0  # images
    others: int = 0  # other files
    heic: int = 0  # of these

    def bearing(self) -> dict[str, "_Folder"]:
        """The folders in it with images below."""
        return {name: folder for name, folder in self.folders.items() if folder.total}

    def below(self) -> list[str]:
        """Paths of all images in it and below, sorted."""
        deeper = (path for folder in self.folders.values() for path in folder.below())
        return sorted([*(f"{self.path}/{name}".lstrip("/") for name in self.images), *deeper])


def ignored(name: str) -> bool:
    """Whether a name is hidden, or belongs to a file or folder of a tool."""
    return name.startswith(".") or name.lower() in _OF_TOOLS


def read(root: Path, layout: str = "", follow_links: bool = False) -> Listing:
    """Lists the images of a folder by class and part.

    Args:
      root: the folder.
      layout: one of `LAYOUTS`, or "" for the layout that fits.
      follow_links: whether links may lead to folders.

    Raises:
      ValueError: there are no class folders, or a class folder has no image. The layout does not
        fit, or two layouts fit. A name is not UTF-8. A link leads to a folder, or a folder lies
        within itself.
    """
    if layout not in ("", *LAYOUTS):
        raise ValueError(
            f"data.layout must be empty or one of {', '.join(LAYOUTS)}, got {layout!r}"
        )
    scan = _Scan(root, follow_links)
    top = scan.folder("", (os.path.realpath(root),))
    if not top.folders:
        loose = f"{top.total} images and " if top.total else ""
        raise ValueError(
            f"{root} holds {loose}no class folders, and no task.toml names a list of items: put "
            "the images of each class in a folder of its name"
        )
    base = top if layout == "classes" else _passed_through(top)
    layout = layout or _fitting(root / base.path, base)
    reader = {"classes": _classes, "split/class": _split_class, "class/split": _class_split}
    rows = reader[layout](root, base)
    kinds = {"classes": "a folder a class", "split/class": "class folders in split folders"}
    how = kinds.get(layout, "split folders in class folders")
    remarks = scan.remarks(top.total - len(rows))
    inside = f" in {base.path}/" if base.path else ""
    return Listing(rows, f"{how}{inside}", remarks, tuple(scan.unusable))


class _Scan:
    """Walks through a folder once, and counts the files that it leaves out."""

    def __init__(self, root: Path, follow_links: bool):
        self._root, self._follow_links = root, follow_links
        self._ignored: Counter[str] = Counter()
        self._others: Counter[str] = Counter()
        self._heic: list[str] = []
        self.unusable: list[UnreadableImage] = []

    def folder(self, path: str, trail: tuple[str, ...]) -> _Folder:
        """The tree below a path under the root. `trail` has the real paths of its parents."""
        if len(trail) > _DEEPEST:
            raise ValueError(f"{self._root / path} lies more than {_DEEPEST} folders deep")
        tree = _Folder(path)
        with os.scandir(self._root / path) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if ignored(entry.name):
                    self._ignored[entry.name] += 1
                elif real := self._real_folder(entry, trail):
                    _require_utf8(entry)
                    below = f"{path}/{entry.name}".lstrip("/")
                    inner = self.folder(below, (*trail, real))
                    tree.folders[entry.name] = inner
                    tree.total += inner.total
                    tree.others += inner.others
                    tree.heic += inner.heic
                elif path or entry.name not in _SETTINGS:
                    self._file(entry, tree)
        return tree

    def _real_folder(self, entry: os.DirEntry, trail: tuple[str, ...]) -> str:
        """The real path of a folder; "" for an entry that is no folder."""
        if not entry.is_symlink():
            return os.path.join(trail[-1], entry.name) if entry.is_dir() else ""
        real = followed(entry.path)
        if real is None or not os.path.isdir(real):
            return ""
        if not self._follow_links:
            # It could lead in a circle, count images twice, or leave the folder.
            raise ValueError(
                f"{entry.path} is a link to a folder: put the folder itself there, or add "
                "data.follow_links=True"
            )
        if real in trail:
            raise ValueError(f"{entry.path} leads to {real}, which it lies in: remove that link")
        return real

    def _file(self, entry: os.DirEntry, folder: _Folder) -> None:
        suffix = os.path.splitext(entry.name)[1].lower()
        if suffix in decode.suffixes():
            _require_utf8(entry)
            regular = entry.is_file(follow_symlinks=False)
            if reason := "" if regular else decode.irregular(entry.path):
                self.unusable.append(UnreadableImage(entry.path, reason))
            else:
                folder.images.append(entry.name)
            folder.total += not reason
            return
        folder.others += 1
        if suffix in decode.HEIC_SUFFIXES:
            folder.heic += 1
            self._heic.append(f"{folder.path}/{entry.name}")
        else:
            plain = suffix.isascii() and suffix.isprintable() and len(suffix) < 10
            self._others[(suffix or "no suffix") if plain else "other"] += 1

    def remarks(self, outside: int) -> tuple[str, ...]:
        """Sentences about files that are left out. `outside` counts images without a class."""
        sentences = []
        if outside:
            sentences.append(f"{outside} images outside the class folders are left out")
        if self._heic:
            sentences.append(
                f"{len(self._heic)} HEIC files are left out, such as {self._heic[0]} "
                f"({decode.HEIC_REMEDY})"
            )
        if self._others:
            kinds = ", ".join(f"{n} {suffix}" for suffix, n in self._others.most_common(4))
            more = ", …" if len(self._others) > 4 else ""
            count = sum(self._others.values())
            sentences.append(f"{count} files that are no images are left out ({kinds}{more})")
        if self._ignored:
            names = ", ".join(name for name, _ in self._ignored.most_common(3))
            count = sum(self._ignored.values())
            sentences.append(f"{count} hidden or tools' files and folders are left out ({names})")
        return tuple(sentences)


def _require_utf8(entry: os.DirEntry) -> None:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the name of {os.fsencode(entry.path)!r} is not UTF-8: rename it"
        ) from None


def _passed_through(folder: _Folder) -> _Folder:
    """The first folder below with several folders of images; the folder itself if none is."""
    inner = folder
    while True:
        bearing = inner.bearing()
        if inner.images or not bearing:
            return folder
        if len(bearing) > 1:
            return inner
        beside = [name for name in inner.folders if name not in bearing]
        if any(splits.part_of(name) or not inner.folders[name].others for name in beside):
            return folder  # an empty folder may be a class that lacks its images
        (inner,) = bearing.values()


def _fitting(where: Path, base: _Folder) -> str:
    """The layout of a folder.

    Raises:
      ValueError: two layouts fit.
    """
    folders = base.bearing()
    named = [name for name in folders if splits.part_of(name)]
    others = [name for name in folders if name not in named]
    parts = {splits.part_of(name) for name in named}
    flat = [name for name in named if not _holds_classes(folders[name])]
    if (
        len(parts) > 1
        or others
        and any(len(folders[n].bearing()) > 1 and n not in flat for n in named)
    ):
        if not flat and not others:
            return "split/class"
        why = f"{flat[0]} has images outside class folders" if flat else f"{_few(others)} left out"
        raise _ambiguous(where, f"{_few(named)} are splits, {why}", "split/class", folders)
    below = {name: folder.bearing() for name, folder in folders.items()}
    divided = [name for name, inner in below.items() if _are_parts(inner)]
    whole = [
        name
        for name in folders
        if folders[name].images or not all(map(splits.part_of, below[name]))
    ]
    if divided:
        if not whole:
            return "class/split"
        raise _ambiguous(
            where, f"{_few(below[divided[0]])} in {divided[0]} are splits, as not all folders of "
            f"{whole[0]} are", "class/split", folders,
        )  # fmt: skip
    names = [set(inner) for inner in below.values()]
    nested = len(names) > 1 and len(names[0]) > 1 and not any(f.images for f in folders.values())
    if nested and all(some == names[0] for some in names):
        raise ValueError(
            f"{where} can be read in two ways. Either its folders {_few(folders)} are the classes: "
            f"add data.layout=classes. Or the folders in each of them, {_few(sorted(names[0]))}, "
            f"are: set data.root to one of them, such as {where / next(iter(folders))}"
        )
    return "classes"


def _are_parts(folders: Mapping[str, _Folder]) -> bool:
    """Whether the names of folders are names of splits: all of them, or two different splits."""
    parts = [splits.part_of(name) for name in folders]
    return bool(parts) and (all(parts) or len({*parts} - {""}) > 1)


def _holds_classes(folder: _Folder) -> bool:
    inner = _passed_through(folder)
    return not inner.images and bool(inner.bearing())


def _ambiguous(where: Path, reading: str, layout: str, folders: Iterable[str]) -> ValueError:
    return ValueError(
        f"{where} can be read in two ways. Either {reading}: add data.layout={layout}. Or "
        f"{_few(folders)} are classes: add data.layout=classes"
    )


def _few(names: Iterable[str]) -> str:
    listed = [visible(name) for name in names]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _classes(root: Path, base: _Folder) -> list[Row]:
    return [row for name, folder in base.folders.items() for row in _of_class(root, folder, name)]


def _split_class(root: Path, base: _Folder) -> list[Row]:
    rows: list[Row] = []
    for part, folder in _by_part(root, base).items():
        inner = _passed_through(folder)
        bearing = inner.bearing()
        if len(bearing) == 1 and {name.lower() for name in bearing} <= _OF_DETECTION:
            raise ValueError(
                f"{root / inner.path} has no class folders, but {next(iter(bearing))}, as datasets "
                "for detection do. Their photos have several labels each, and here each needs one: "
                "export them for classification, with a folder a class"
            )
        if not bearing:
            raise ValueError(f"the split folder {root / inner.path} holds no class folders")
        for name, one in inner.folders.items():
            rows += _of_class(root, one, name, part)
    return rows


def _class_split(root: Path, base: _Folder) -> list[Row]:
    rows: list[Row] = []
    for name, folder in base.folders.items():
        for part, one in _by_part(root, folder).items():
            rows += _of_class(root, one, name, part)
    return rows


def _by_part(root: Path, folder: _Folder) -> dict[str, _Folder]:
    """The split folders in a folder, by part."""
    folders: dict[str, _Folder] = {}
    for name, inner in folder.bearing().items():
        if not (part := splits.part_of(name)):
            continue
        if part in folders:
            raise ValueError(
                f"{root / folders[part].path} and {root / inner.path} are both for {part}: "
                "join them"
            )
        folders[part] = inner
    if not folders:
        raise ValueError(f"{root / folder.path} holds no folders train, val or test with images")
    return folders


def _of_class(root: Path, folder: _Folder, name: str, part: str = "") -> list[Row]:
    paths = folder.below()
    if not paths:
        heic = f", but {folder.heic} HEIC files ({decode.HEIC_REMEDY})" if folder.heic else ""
        raise ValueError(
            f"the class folder {root / folder.path} holds no image{heic}: put its images there, or "
            "remove it"
        )
    return [(path, name, part) for path in paths]
