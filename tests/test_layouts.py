"""Folders as labelling tools, hubs and people lay them out: what is read, and what is refused."""

import os
import socket

import pytest

from cdc_jax.tasks import class_folders, layouts
from cdc_jax.tasks.splits import PARTS, part_of

CLASSES = ("cat", "dog", "newt")


def tree(root, *paths):
    """Files at paths under the root; each holds its own path, so that no two are alike."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            file.mkdir(exist_ok=True)
        else:
            file.write_text(path)
    return root


def images(pattern, classes=CLASSES, count=2):
    return [pattern.format(c=name) + f"/{i}.jpg" for name in classes for i in range(count)]


def divided(*patterns, **options):
    return [path for pattern in patterns for path in images(pattern, **options)]


def found(listing):
    """(part, class) -> how many images."""
    counts = {}
    for path, name, part in listing.rows:
        assert path.endswith(".jpg")
        counts[part, name] = counts.get((part, name), 0) + 1
    return counts


def of_parts(*parts, classes=CLASSES, count=2):
    return {(part, name): count for part in parts for name in classes}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Train", "train"), ("TRAINING", "train"),
        ("val", "val"), ("Valid", "val"), ("validation", "val"), ("dev", "val"),
        ("test", "test"), ("Testing", "test"), ("eval", "test"),
        ("invalid", ""), ("tests", ""), ("train2", ""), ("cat", ""), ("", ""),
    ],
)  # fmt: skip
def test_names_of_splits(name, part):
    assert part_of(name) == part


ODD = ["猫 (1)", "l'été", "e\u0301", "[b]", "a;b", "-x", "=1+1", "tab\there"]
THREE = ("train/{c}", "valid/{c}", "test/{c}")


@pytest.mark.parametrize(
    ("paths", "expected", "layout"),
    [
        (images("{c}"), of_parts(""), "a folder a class"),
        (images("{c}/indoors") + images("{c}/outdoors", ["cat"]),
         of_parts("") | {("", "cat"): 4}, "a folder a class"),
        (divided(*THREE), of_parts(*PARTS), "class folders in split folders"),
        (divided("Train/{c}", "Test/{c}"), of_parts("train", "test"), "class folders in split"),
        (divided("training/{c}", "testing/{c}"), of_parts("train", "test"), "class folders in"),
        (divided("train/{c}", "validation/{c}", "test/{c}"), of_parts(*PARTS), "class folders in"),
        (divided("{c}/train", "{c}/test"), of_parts("train", "test"), "split folders in class"),
        (divided("{c}/Training", "{c}/Val", "{c}/Testing"), of_parts(*PARTS), "split folders in"),
        # One folder too many, or several; beside what holds no images.
        (images("images/{c}"), of_parts(""), "a folder a class in images/"),
        (images("a/b/c/{c}"), of_parts(""), "a folder a class in a/b/c/"),
        ([*images("images/{c}"), "annotations/x.xml"], of_parts(""), "a folder a class in images/"),
        (divided(*(f"set/{one}" for one in THREE)), of_parts(*PARTS), "split folders in set/"),
        (divided("train/train/{c}", "test/test/{c}"), of_parts("train", "test"), "class folders"),
        ([*divided(*THREE), "labels/x.txt", "README.roboflow.txt"], of_parts(*PARTS), "class fol"),
        (images("train/{c}"), of_parts(""), "a folder a class in train/"),
        # Classes that are called as splits are, or hold folders that are.
        (images("{c}", ["valid", "invalid"]), of_parts("", classes=["valid", "invalid"]), "a fold"),
        (images("{c}", ["car", "train"]), of_parts("", classes=["car", "train"]), "a folder a cla"),
        ([*images("road/{c}", ["car", "bus"]), *images("rail/{c}", ["train", "tram"])],
         of_parts("", classes=["road", "rail"], count=4), "a folder a class"),
        # Names in other scripts, with spaces, with quotes, decomposed.
        (images("{c}", ODD), of_parts("", classes=ODD), "a folder a class"),
    ],
)  # fmt: skip
def test_what_is_read(tmp_path, paths, expected, layout):
    listing = layouts.read(tree(tmp_path, *paths))
    assert found(listing) == expected
    assert layout in listing.layout
    assert all((tmp_path / path).is_file() for path, _, _ in listing.rows)
    for key in expected:
        paths = [path for path, name, part in listing.rows if (part, name) == key]
        assert paths == sorted(paths)


@pytest.mark.parametrize(
    "paths",
    [
        ["cat/.ipynb_checkpoints/0-checkpoint.jpg"], ["__MACOSX/cat/._0.jpg"],
        ["__MACOSX/cat/0.jpg"], ["cat/.thumbnails/0.jpg"], ["cat/@eaDir/0.jpg/thumb.jpg"],
        [".git/0.jpg"], ["cat/._0.jpg"], ["cat/.hidden.jpg"], ["#recycle/0.jpg"],
        ["$RECYCLE.BIN/0.jpg"], ["lost+found/"], [".cache/huggingface/0.jpg"],
        ["cat/System Volume Information/0.jpg"], ["__pycache__/x.pyc"],
    ],
)  # fmt: skip
def test_hidden_and_tools_folders_hold_no_images(tmp_path, paths):
    listing = layouts.read(tree(tmp_path, *images("{c}"), *paths))
    assert found(listing) == of_parts("")
    assert "1 hidden or tools' files and folders are left out" in " ".join(listing.remarks)


def test_what_is_left_out_is_counted_and_named(tmp_path, monkeypatch):
    without_heif(monkeypatch)
    extra = [f"cat/{i}.HEIC" for i in range(6)] + ["cat/a.txt", "dog/b.txt", "dog/c", "x.jpg"]
    listing = layouts.read(tree(tmp_path, *images("{c}"), *extra))
    assert found(listing) == of_parts("")
    assert list(listing.remarks) == [
        "1 images outside the class folders are left out",
        "6 HEIC files are left out, such as cat/0.HEIC (pip install -e '.[heif]' reads HEIC)",
        "3 files that are no images are left out (2 .txt, 1 no suffix)",
    ]


def without_heif(monkeypatch):
    monkeypatch.setattr(layouts.decode, "suffixes", lambda: frozenset({".jpg", ".png"}))


@pytest.mark.parametrize(
    ("paths", "layout", "expected"),
    [
        ([*divided(*THREE), *images("extra")], "split/class", of_parts(*PARTS)),
        (divided("train/{c}", "test/{c}"), "classes",
         of_parts("", classes=["train", "test"], count=6)),
        (images("{c}", ["train", "test"]), "classes", of_parts("", classes=["train", "test"])),
        (divided("{c}/train", "{c}/test", "{c}/more"), "class/split", of_parts("train", "test")),
        (divided("{c}/train", "{c}/test"), "classes", of_parts("", count=4)),
        ([*divided("train/{c}", "test/{c}"), "train/stray.jpg"], "split/class",
         of_parts("train", "test")),
        (images("images/{c}"), "classes", {("", "images"): 6}),
        (divided("images/{c}", "masks/{c}"), "classes",
         of_parts("", classes=["images", "masks"], count=6)),
    ],
)  # fmt: skip
def test_a_setting_chooses(tmp_path, paths, layout, expected):
    listing = layouts.read(tree(tmp_path, *paths), layout)
    assert found(listing) == expected
    outside = len(set(paths)) - len(listing.rows)
    told = f"{outside} images outside the class folders are left out"
    assert (told in listing.remarks) == bool(outside)


BOTH = "can be read in two ways. Either .*: add data.layout={}. Or .* data.layout=classes"


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([*divided(*THREE), *images("extra")], BOTH.format("split/class")),
        ([*divided(*THREE), *images("unlabelled/{c}")], BOTH.format("split/class")),
        (images("{c}", ["train", "test"]), BOTH.format("split/class")),
        ([*images("train/{c}"), *images("test")], "test has images outside class folders"),
        ([*divided("train/{c}", "test/{c}"), "train/0.jpg"], BOTH.format("split/class")),
        ([*images("train/{c}"), *images("{c}", ["car"])], BOTH.format("split/class")),
        ([*divided("{c}/train", "{c}/test"), "cat/0.jpg"], BOTH.format("class/split")),
        ([*divided("{c}/train", "{c}/test"), *images("owl")], BOTH.format("class/split")),
        (divided("{c}/train", "{c}/test", "{c}/more"), BOTH.format("class/split")),
        (divided("images/{c}", "masks/{c}"), "either its folders images, masks are the classes"),
        (divided("camera 1/{c}", "camera 2/{c}"), "set data.root to one of them, .*camera 1$"),
        (divided("seg_train/{c}", "seg_test/{c}"), "folders in each of them, cat, dog, newt"),
        (divided("train/{c}", "Train/{c}", "test/{c}"), "Train and .*train are both for train"),
        (divided("train/{c}", "val/{c}", "valid/{c}"), "val and .*valid are both for val"),
        ([*images("train/images/", [""]), *images("test/images/", [""]), "train/labels/0.txt"],
         "as datasets for detection do. Their photos have several labels each"),
        ([*images("images/{c}", ["train", "val"])], BOTH.format("split/class")),
        ([], "holds no class folders, and no task.toml"),
        (["0.jpg", "1.jpg"], "holds 2 images and no class folders"),
        (["__MACOSX/cat/0.jpg"], "holds no class folders"),
        ([*images("{c}"), "empty/"], "the class folder .*/empty holds no image: put"),
        ([*images("{c}"), "notes/a.txt"], "the class folder .*/notes holds no image"),
        (["cat/a/0.jpg", "cat/b/0.jpg", "dog/"], "the class folder .*/dog holds no image"),
        ([*divided("train/{c}", "test/{c}"), "train/owl/"], "folder .*/train/owl holds no image"),
        ([*images("train/{c}"), "test/"], "the class folder .*/test holds no image"),
        (["/".join(["x"] * 40) + "/0.jpg"], "lies more than 32 folders deep"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, paths, message):
    with pytest.raises(ValueError, match=f"(?i){message}") as error:
        layouts.read(tree(tmp_path, *paths))
    assert "\n" not in str(error.value)


def test_a_class_of_heic_files_only(tmp_path, monkeypatch):
    without_heif(monkeypatch)
    tree(tmp_path, *images("{c}"), "owl/0.heic")
    with pytest.raises(ValueError, match=r"owl holds no image, but 1 HEIC files \(pip install -e"):
        layouts.read(tmp_path)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("folders", "data.layout must be empty or one of classes, .*, got 'folders'"),
        ("split/class", "holds no folders train, val or test with images"),
        ("class/split", "/cat holds no folders train, val or test with images"),
    ],
)
def test_a_setting_that_does_not_fit(tmp_path, layout, message):
    with pytest.raises(ValueError, match=message):
        layouts.read(tree(tmp_path, *images("{c}")), layout)


@pytest.mark.parametrize("place", [b"caf\xe9/0.jpg", b"cat/caf\xe9.jpg"])
def test_names_that_are_not_utf8(tmp_path, place):
    tree(tmp_path, *images("{c}"))
    file = os.fsencode(tmp_path) + b"/" + place
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "wb"):
        pass
    with pytest.raises(ValueError, match=r"the name of b'.*caf\\xe9.*' is not UTF-8: rename it"):
        layouts.read(tmp_path)


# ---- what is no file, and what links lead to


def pipe(path):
    os.mkfifo(path)


def listening(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (pipe, "it is a pipe, a socket or a device, not a regular file"),
        (listening, "it is a pipe, a socket or a device, not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a pipe, a socket or a device"),
        (lambda path: path.symlink_to("/annex/x"), "it is a link to /annex/x, which is not there"),
    ],
)
def test_what_is_no_regular_file(tmp_path, make, reason, monkeypatch):
    tree(tmp_path, *images("{c}"))
    monkeypatch.chdir(tmp_path)  # sockets have short paths only
    os.chdir("cat")
    make(type(tmp_path)("x.png"))
    listing = layouts.read(tmp_path)
    assert found(listing) == of_parts("")
    assert [error.name for error in listing.unusable] == [str(tmp_path / "cat/x.png")]
    assert listing.unusable[0].reason.startswith(reason)


def of_links(tmp_path):
    """As the hub's cache lays out a snapshot: links to files that are called by their hash."""
    blobs, root = tmp_path / "blobs", tmp_path / "snapshots" / "main"
    for number, path in enumerate(divided("train/{c}", "test/{c}")):
        tree(blobs, f"{number:040x}")
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to(os.path.relpath(blobs / f"{number:040x}", (root / path).parent))
    return root


def test_links_out_of_the_folder_need_a_word(tmp_path):
    root = of_links(tmp_path)
    with pytest.raises(
        ValueError, match=r"0.jpg leads out of .*, to .*blobs.* add data.follow_links"
    ):
        class_folders.read(root)
    split = class_folders.read(root, choices=class_folders.Choices(follow_links=True)).split
    assert split.class_names == CLASSES and len(split.train) == len(split.test) == 6


def test_links_inside_the_folder_need_none(tmp_path):
    for path in images("{c}", count=4):
        tree(tmp_path, f".git/annex/objects/{path}")
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).symlink_to(tmp_path / ".git/annex/objects" / path)
    split = class_folders.read(tmp_path).split
    assert len(split.train) + len(split.val) + len(split.test) == 12


def test_links_to_folders_need_a_word(tmp_path):
    tree(tmp_path, *(f"elsewhere/{path}" for path in images("{c}", count=4)))
    root = tmp_path / "root"
    root.mkdir()
    for name in CLASSES:
        (root / name).symlink_to(tmp_path / "elsewhere" / name)
    with pytest.raises(ValueError, match="cat is a link to a folder: .* data.follow_links=True"):
        class_folders.read(root)
    chosen = class_folders.Choices(follow_links=True)
    assert class_folders.read(root, choices=chosen).split.class_names == CLASSES
    (root / "cat" / "loop").symlink_to(root / "cat")
    with pytest.raises(ValueError, match="loop leads to .*, which it lies in: remove that link"):
        class_folders.read(root, choices=chosen)


def test_a_listed_folder_that_is_a_link(tmp_path):
    tree(tmp_path / "root", *images("{c}", count=4))
    (tmp_path / "root" / "again").symlink_to("cat")
    rows = [f"{name}/{i}.jpg,{name}\n" for name in CLASSES for i in range(4)]
    file = tmp_path / "list.csv"
    file.write_text("path,label\n" + "".join(rows) + "again/0.jpg,dog\n")
    with pytest.raises(ValueError, match="again/0.jpg and cat/0.jpg are the same file"):
        class_folders.read(tmp_path / "root", str(file))


# ---- validation images as the test


@pytest.mark.parametrize("patterns", [("train/{c}", "val/{c}"), ("{c}/train", "{c}/valid")])
def test_val_is_the_test_if_said(tmp_path, patterns):
    tree(tmp_path, *divided(*patterns))
    with pytest.raises(
        ValueError, match="no test image, but 6 validation images: add data.val_is_t"
    ):
        class_folders.read(tmp_path)
    dataset = class_folders.read(tmp_path, choices=class_folders.Choices(val_is_test=True))
    assert len(dataset.split.train) == len(dataset.split.test) == 6 and not dataset.split.val
    assert "the images of val are the test" in dataset.remarks


@pytest.mark.parametrize(
    ("patterns", "message"),
    [(THREE, "has test images of its own: leave it out"), (["{c}"], "has test images of its own")],
)
def test_val_is_the_test_where_there_is_one(tmp_path, patterns, message):
    tree(tmp_path, *divided(*patterns, count=5))
    with pytest.raises(ValueError, match=message):
        class_folders.read(tmp_path, choices=class_folders.Choices(val_is_test=True))
