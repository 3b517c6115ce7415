"""Hugging Face datasets: what is read from each form, and what is refused in which words."""

import io
import json
from unittest import mock

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Features, Image, List, Value
from huggingface_hub import errors
from PIL import Image as Pillow

from cdc_jax import tasks
from cdc_jax.tasks import hf_datasets

CLASSES = ("cat", "dog", "newt")
PARTS = {"train": 4, "validation": 2, "test": 3}  # images a class


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The package's cache is the test's."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)


@pytest.fixture
def config(get_config):
    """The few-shot configuration for a dataset called `name`, with some values changed."""

    def changed(name, **changes):
        config = get_config("fewshot", "shots=2,dataset=hf")
        config.data.name = str(name)
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        return config

    return changed


def png(seed, size=(24, 20)):
    """A file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def folders(root, parts=PARTS):
    """Images as split/class/number.png."""
    for p, (part, count) in enumerate(parts.items()):
        for k, name in enumerate(CLASSES):
            for i in range(count):
                file = root / part / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(100 * p + 10 * k + i))
    return root


def rows(count=2, **columns):
    """A split: an image column and the columns given, or `count` images of each class."""
    columns = columns or {"label": [k for k in range(len(CLASSES)) for _ in range(count)]}
    length = len(next(iter(columns.values())))
    return {"image": [{"bytes": png(i), "path": None} for i in range(length)], **columns}


TYPED = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})


def typed(label):
    return Features({"image": Image(), "label": label})


def save(path, splits, features=None):
    """What `save_to_disk` writes."""
    made = {
        name: datasets.Dataset.from_dict(columns, features=features)
        for name, columns in splits.items()
    }
    datasets.DatasetDict(made).save_to_disk(path)
    return path


def read(config):
    return hf_datasets.read(config.data)


def pixels(task):
    return [part.images[:] for part in (task.train, task.val, *task.test.values())]


# ---- the same images in each form


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return folders(tmp_path_factory.mktemp("root") / "pets")


@pytest.fixture
def reference(tmp_path, get_config):
    """The task that the project's own reader of class folders makes of the same images."""
    folders(tmp_path / "own", {"train": 4, "val": 2, "test": 3})
    config = get_config("fewshot", "shots=2,dataset=folder")
    config.data.root = str(tmp_path / "own")
    return tasks.load(config, 16)


def parquet(root, path):
    """A Parquet file a split, in the usual names."""
    path.mkdir()
    for part, rows in datasets.load_dataset(str(root)).items():
        embedded = rows.map(lambda row: row)  # the files' contents in place of their paths
        embedded.to_parquet(path / f"{part}-00000-of-00001.parquet")
    return path


def saved(root, path):
    datasets.load_dataset(str(root)).save_to_disk(path)
    return path


@pytest.mark.parametrize("form", [lambda root, path: root, parquet, saved])
def test_the_same_task_as_class_folders(root, reference, config, tmp_path, form):
    name = form(root, tmp_path / "made")
    for _ in range(2):  # the second time from the cache
        task = tasks.load(config(name), 16)
        assert task.class_names == reference.class_names == CLASSES
        assert task.template == reference.template and task.record.note == reference.record.note
        assert task.record.dataset == f"hf {name.name}"
        for part, of in ((task.train, reference.train), (task.val, reference.val),
                         (task.test["test"], reference.test["test"])):  # fmt: skip
            np.testing.assert_array_equal(part.labels, of.labels)
            np.testing.assert_array_equal(part.images[:], of.images[:])
    assert [len(part) for part in (task.train, task.val, task.test["test"])] == [6, 6, 9]
    assert task.test["test"].files[:2] == ("test/0000000", "test/0000001")


def test_one_split_is_divided_as_class_folders_are(tmp_path, config, get_config):
    root = folders(tmp_path, {"all": 10}) / "all"
    task = tasks.load(config(root), 16)
    own = get_config("fewshot", "shots=2,dataset=folder")
    own.data.root = str(root)
    for mine, other in zip(pixels(task), pixels(tasks.load(own, 16)), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert len(task.test["test"]) == 9


def test_a_parquet_file_as_pandas_writes_it(tmp_path, config):
    """No types of Hugging Face's, an index, and labels as text."""
    labels = [name for name in CLASSES for _ in range(10)]
    table = datasets.Dataset.from_dict(rows(image_id=list(range(30)), label=labels))
    frame = table.to_pandas().set_index("image_id")
    frame.to_parquet(tmp_path / "photos.parquet")
    task = tasks.load(config(tmp_path / "photos.parquet"), 16)
    assert task.class_names == CLASSES and len(task.test["test"]) == 9
    original = {name: png(i) for i, name in enumerate(labels)}
    dataset = read(config(tmp_path / "photos.parquet"))
    assert dataset.contents("train/0000009") == original["cat"]


@pytest.mark.parametrize("format", ["numpy", "pandas", "arrow"])
def test_a_format_that_was_saved_does_not_matter(tmp_path, config, format):
    rows_ = datasets.Dataset.from_dict(rows(10), features=TYPED).with_format(format)
    rows_.shuffle(seed=0).save_to_disk(tmp_path / "d")
    dataset = read(config(tmp_path / "d"))
    label = rows_.with_format(None).shuffle(seed=0)["label"]
    for item in (*dataset.split.train, *dataset.split.test):
        assert item.label == label[int(item.path[-7:])]
        assert isinstance(dataset.contents(item.path), bytes)


def test_base_and_new_and_skipping(tmp_path, config):
    names = ["cat", "dog", "newt", "owl"]
    columns = rows(label=[k for k in range(4) for _ in range(4)])
    columns["image"][0] = {"bytes": b"no image", "path": "0.png"}
    columns["image"][4] = None
    features = typed(ClassLabel(names=names))
    path = save(tmp_path / "d", {"train": rows(label=[0, 1, 2, 3] * 2), "test": columns}, features)
    with pytest.raises(
        ValueError, match="2 of the 8 base_test images can't be used; the first: te"
    ):
        tasks.load(config(path, classes="base_new", data__check=True), 16)
    task = tasks.load(config(path, classes="base_new", data__on_error="skip"), 16)
    assert [skipped.file for skipped in task.skipped] == ["test/0000000", "test/0000004"]
    assert task.test["base_test"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert task.test["new_test"].class_names == ("newt", "owl")


# ---- splits


@pytest.mark.parametrize(
    ("names", "settings", "expected"),
    [
        (("train", "test"), {}, ("train", "", "test")),
        (("Train", "valid", "Testing"), {}, ("Train", "valid", "Testing")),
        (("training", "dev", "test", "extra"), {}, ("training", "dev", "test")),
        (("everything",), {}, ("everything", "", "")),
        (("test",), {"train": "test"}, ("test", "", "")),
        (("train", "validation"), {"test": "validation"}, ("train", "", "validation")),
        (("train", "val", "validation", "test"), {"val": "val"}, ("train", "val", "test")),
        (("train", "test", "validation"), {"test": "validation", "val": "test"},
         ("train", "test", "validation")),
        (("a", "b"), {"train": "a", "test": "b"}, ("a", "", "b")),
        (("a", "b"), {"train": "b"}, ("b", "", "")),
    ],
)  # fmt: skip
def test_splits(config, names, settings, expected):
    chosen = hf_datasets._choose_splits(names, config("d", **hf(settings)).data.hf, "d")
    assert tuple(chosen.get(part, "") for part in ("train", "val", "test")) == expected


def hf(settings):
    return {f"data__hf__{key}": str(value) for key, value in settings.items()}


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (("train", "validation"), {}, "none is called test: add data.hf.test=validation"),
        (
            ("train", "val", "valid", "test"),
            {},
            "splits val, valid, and each could be for val: add",
        ),
        (
            ("train", "Train", "test"),
            {},
            "train, Train, and each could be for train: add data.hf.t",
        ),
        (("test",), {}, "the splits test, and none is called train: add data.hf.train=NAME"),
        (("a", "b"), {}, "the splits a, b, and none is called train"),
        (("train", "test"), {"test": "tst"}, "data.hf.test: d has no split 'tst', but test"),
        (
            ("train", "test"),
            {"test": "train[:9%]"},
            "data.hf.test: d has no split 'train.:9%.', bu",
        ),
        (("train", "test"), {"train": "test", "test": "test"}, "must be different splits, got"),
    ],
)
def test_splits_that_are_refused(config, names, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        hf_datasets._choose_splits(names, config("d", **hf(settings)).data.hf, "d")
    assert "\n" not in str(error.value)


# ---- columns and class names

IDS = [*["n01440764"] * 4, *["n02102040"] * 4]
NUMBERS = [0, 0, 0, 0, 7, 7, 7, 7]
TEXTS = [*["owl"] * 4, *["cat "] * 4]
TWO = ClassLabel(names=["ant", "bee"])


@pytest.mark.parametrize(
    ("columns", "features", "settings", "names", "expected"),
    [
        ({"label": [1] * 4 + [0] * 4}, {"label": TWO}, {}, "", ("ant", "bee")),
        ({"y": [1] * 4 + [0] * 4, "id": list(range(8))}, {"y": TWO, "id": Value("int64")}, {}, "",
         ("ant", "bee")),
        ({"label": TEXTS}, {}, {}, "", ("cat", "owl")),
        ({"breed": TEXTS}, {}, {}, "", ("cat", "owl")),
        ({"Label": TEXTS, "image_id": list(range(8))}, {}, {}, "", ("cat", "owl")),
        ({"label": TEXTS, "class": NUMBERS}, {}, {"label": "label"}, "", ("cat", "owl")),
        ({"label": NUMBERS}, {}, {}, "zero\n\nseven\n", ("zero", "seven")),
        ({"label": NUMBERS}, {}, {}, {"7": "seven", "0": "zero"}, ("zero", "seven")),
        ({"label": [False] * 4 + [True] * 4}, {}, {}, "no\nyes", ("no", "yes")),
        ({"label": IDS}, {}, {}, {"n02102040": "spaniel", "n01440764": " tench"},
         ("tench", "spaniel")),
        ({"label": TEXTS}, {}, {}, {"owl": "barn owl"}, ("cat", "barn owl")),
        ({"label": [0] * 4 + [1] * 4}, {"label": ClassLabel(names=["n01440764", "n02102040"])}, {},
         "tench\r\nspaniel", ("tench", "spaniel")),
        ({"label": list("abcdefgh")}, {}, {"label": "label"}, "", tuple("abcdefgh")),
        ({"label": TEXTS, "boxes": [[1, 2]] * 8}, {}, {}, "", ("cat", "owl")),
    ],
)  # fmt: skip
def test_labels(tmp_path, config, columns, features, settings, names, expected):
    typing = Features({"image": Image(), **features}) if features else None
    path = save(tmp_path / "d", {"train": rows(**columns), "test": rows(**columns)}, typing)
    if names:
        file = tmp_path / ("names.txt" if isinstance(names, str) else "names.json")
        file.write_text(names if isinstance(names, str) else json.dumps(names))
        settings = {**settings, "class_names": file}
    split = read(config(path, **hf(settings))).split
    assert split.class_names == expected
    original = next(iter(columns.values()))
    own = sorted({str(v).strip() for v in original})
    for item in split.test:
        value = original[int(item.path[-7:])]
        assert item.label == (value if features else own.index(str(value).strip()))


@pytest.mark.parametrize(
    ("columns", "features", "settings", "names", "message"),
    [
        ({"fine": [0, 1] * 4, "coarse": [0, 1] * 4}, {"fine": TWO, "coarse": TWO}, {}, "",
         "the columns fine, coarse, and each could be the label: add data.hf.label=fine, say"),
        ({"label": [0, 1] * 4, "category": TEXTS}, {"label": TWO, "category": Value("string")}, {},
         "", "the columns label, category, and each could be the label"),
        ({"width": [9] * 8, "height": [9] * 8}, {}, {}, "", "columns width, height, and each coul"),
        ({"score": [0.5] * 8}, {}, {}, "", "has no label column .its columns: image, score."),
        ({"label": [0.0] * 8}, {}, {"label": "label"}, "", "must hold one label a row, a class, t"),
        ({"text": [f"caption {i}" for i in range(8)]}, {}, {}, "",
         "the column text has 8 different values for 8 images, which is no label: add data.hf.l"),
        ({"labels": [[0, 1]] * 8, "id": NUMBERS}, {"labels": List(TWO), "id": Value("int8")}, {},
         "", "labels holds several values an image, as for detection or for several labels"),
        ({"objects": [{"bbox": [[1.0] * 4], "category": [0]}] * 8}, {}, {}, "",
         "objects holds several values an image, as for detection or for several labels"),
        ({"labels": [[0, 1]] * 8}, {}, {"label": "labels"}, "", "images with several labels are n"),
        ({"label": TEXTS}, {}, {"label": "lable"}, "", "data.hf.label: .* has no column 'lable',"),
        ({"label": TEXTS}, {}, {"image": "img"}, "", "data.hf.image: .* has no column 'img', but"),
        ({"label": TEXTS}, {}, {"image": "label"}, "", "the column label holds no image a row, bu"),
        ({"label": TEXTS, "mask": [{"bytes": b"", "path": None}] * 8},
         {"label": Value("string"), "mask": Image()}, {}, "",
         "the columns image, mask, and each could be the image: add data.hf.image=image, say"),
        ({"label": NUMBERS}, {}, {}, "", "the labels of label are ids, such as 0, and CLIP reads"),
        ({"label": IDS}, {}, {}, "", "are ids, such as n01440764, and CLIP reads names: add data."),
        ({"label": [0, 1] * 4}, {"label": ClassLabel(names=["0", "1"])}, {}, "", "are ids, such a"),
        ({"label": NUMBERS}, {}, {}, "one", "names.txt has 1 class names, and .* has 2 classes .0"),
        ({"label": NUMBERS}, {}, {}, "one\none", "names.txt calls two classes 'one': CLIP could n"),
        ({"label": NUMBERS}, {}, {}, {"0": "zero"}, "names.json has no name for the class 7"),
        ({"label": NUMBERS}, {}, {}, {"0": "a", "7": " "}, "names.json: '7' needs a name, got ' '"),
        ({"label": NUMBERS}, {}, {}, {"0": "a", "7": 3}, "names.json: '7' needs a name, got 3"),
        ({"label": TEXTS}, {}, {}, {"cta": "x"}, "names.json: the dataset has no class 'cta', but"),
        ({"label": TEXTS}, {}, {}, ["x", "y"], "must hold a JSON object of id and name, got "),
        ({"label": TEXTS}, {}, {"class_names": "nowhere.txt"}, "", "there is no file nowhere.txt"),
        ({"label": [0, -1] * 4}, {"label": TWO}, {}, "", "4 of the 8 images of the split train ha"),
        ({"label": ["a", None, " ", "b"] * 2}, {}, {}, "", "4 of the 8 images of the split train"),
        ({"label": [0] * 8}, {"label": TWO}, {}, "", "class 'bee' .label 1. of .* has no training"),
    ],
)  # fmt: skip
def test_labels_that_are_refused(tmp_path, config, columns, features, settings, names, message):
    typing = Features({"image": Image(), **features}) if features else None
    path = save(tmp_path / "d", {"train": rows(**columns), "test": rows(**columns)}, typing)
    if names:
        file = tmp_path / ("names.txt" if isinstance(names, str) else "names.json")
        file.write_text(names if isinstance(names, str) else json.dumps(names))
        settings = {**settings, "class_names": file}
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read(config(path, **hf(settings)))
    assert "\n" not in str(error.value)


def test_columns_that_differ_between_splits(tmp_path, config):
    made = {"train": rows(label=TEXTS), "test": rows(label=NUMBERS)}
    with pytest.raises(
        ValueError, match="the column label is not of one type in the splits train and test"
    ):
        read(config(save(tmp_path / "d", made)))


# ---- where it comes from


def test_a_dataset_of_the_hub(config, monkeypatch):
    """Names, revision and so on are handed on; the note tells that CoOp's splits are others."""
    made = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows(4), features=TYPED) for name in ("train", "test")}
    )
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((arguments, options))
        return made

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    task = tasks.load(config("org/pets", **hf({"config": "small", "revision": "v1"})), 16)
    assert asked == [(("org/pets", "small"), {"revision": "v1"})]
    assert task.record.note == "not CoOp's splits" and task.record.dataset == "hf org/pets"
    assert task.record.settings["data.hf.revision"] == "v1"
    assert len(task.train) == 6 and len(task.val) == 0 and len(task.test["test"]) == 12


@pytest.mark.parametrize(
    ("raised", "at_first", "expected", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=mock.MagicMock()), True, FileNotFoundError,
         "org/pets is neither a folder here nor a dataset on the Hugging Face hub"),
        (errors.RevisionNotFoundError("404", response=mock.MagicMock()), True, FileNotFoundError,
         "data.hf.revision is none of its revisions"),
        (errors.GatedRepoError("404", response=mock.MagicMock()), True, PermissionError,
         "org/pets is gated: accept its terms on https://huggingface.co/datasets/org/pets"),
        (RuntimeError("Dataset scripts are no longer supported, but found pets.py"), False,
         ValueError, "but found pets.py.; .* code that comes with a dataset is never run"),
        (ValueError("Config name is missing.\nPlease pick one among: ['a', 'b']"), False,
         ValueError, r"missing. Please pick one among: \['a', 'b'\]\); data.hf.config chooses one"),
    ],
)  # fmt: skip
def test_what_the_hub_refuses(config, monkeypatch, raised, at_first, expected, message):
    def fail(*_, **__):
        raise raised

    where = "huggingface_hub.HfApi.dataset_info" if at_first else "datasets.load_dataset"
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: None)
    monkeypatch.setattr(where, fail)
    with pytest.raises(expected, match=message) as error:
        read(config("org/pets"))
    assert type(error.value) is expected and "\n" not in str(error.value)


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise TimeoutError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)


def test_offline(config, offline, root, tmp_path):
    with pytest.raises(ConnectionError, match="org/pets is not in the cache.*To work offline") as e:
        read(config("org/pets"))
    assert "\n" not in str(e.value)
    assert datasets.config.HF_HUB_OFFLINE is False
    # What was downloaded once is in the cache under the id.
    datasets.load_dataset(str(root))
    (tmp_path / "cache" / root.name).rename(tmp_path / "cache" / f"org___{root.name}")
    assert len(tasks.load(config("org/pets"), 16).train) == 6
    with pytest.raises(ConnectionError, match="Name or service not known"):
        read(config("org/pets", data__hf__revision="v2"))
    assert len(tasks.load(config(root), 16).train) == 6  # needs no network


def a_script(path):
    (path / f"{path.name}.py").write_text("raise SystemExit('this must not run')")


def of_texts(path):
    (path / "train.jsonl").write_text('{"image": "x.png", "label": "cat"}\n')


def damaged(path):
    (path / "train.parquet").write_bytes(b"PAR1 no more")


def a_broken_save(path):
    (path / "dataset_dict.json").write_text("{")


def pickled(path):
    (path / "train.pkl").write_bytes(b"\x80\x04c__main__\nthis_must_not_run\n)R.")


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (lambda path: None, {}, "can't be read as a Hugging Face dataset .*data.hf.config"),
        (a_script, {}, "can't be read as a Hugging Face dataset"),
        (of_texts, {}, "has no image column .its columns: image, label.; if one of these"),
        (damaged, {}, "can't be read as a Hugging Face dataset"),
        (a_broken_save, {}, "can't be read as a Hugging Face dataset"),
        (pickled, {}, "can't be read as a Hugging Face dataset"),
        (
            folders,
            {"revision": "v1"},
            "data.hf.revision=v1 is of the hub, and .* is local: unset it",
        ),
        (folders, {"config": "nothing"}, "can't be read as a Hugging Face dataset .*nothing"),
    ],
)
def test_folders_that_are_refused(tmp_path, config, content, settings, message):
    path = tmp_path / "given"
    path.mkdir()
    content(path)
    with pytest.raises(ValueError, match=message) as error:
        read(config(path, **hf(settings)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["/nowhere/pets", "./pets", "~/pets-nowhere", "a/b/c", "pets?", "pandas", "imagefolder"]
)
def test_folders_that_are_not_there(config, name):
    with pytest.raises(FileNotFoundError, match="data.name: there is no folder or file "):
        read(config(name))


def test_what_is_left_out_is_said(tmp_path, config):
    """Of a folder with train and test in some names, the package takes these files only."""
    folders(tmp_path / "d", {"train": 4, "test": 2, "more": 1, ".hidden": 1})
    task = tasks.load(config(tmp_path / "d"), 16)
    assert task.record.note == "without 3 of its files, such as more/cat/0.png"
    path = save(tmp_path / "e", dict.fromkeys(("train", "test", "extra"), rows(3)), TYPED)
    assert tasks.load(config(path), 16).record.note == "without the splits extra"


def test_settings_that_are_refused(config):
    with pytest.raises(ValueError, match="data.name must say which dataset"):
        tasks.load(config(""), 16)
    with pytest.raises(ValueError, match="data.split=x.csv lists files, and d has none: unset it"):
        tasks.load(config("d", data__split="x.csv"), 16)


def test_images_that_are_elsewhere(tmp_path, config):
    """A path in place of contents: a file is read, a URL is refused."""
    (tmp_path / "0.png").write_bytes(png(0))
    columns = rows(label=TEXTS)
    columns["image"] = [{"bytes": None, "path": str(tmp_path / "0.png")}] * 8
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")},
                         "label": Value("string")})  # fmt: skip
    path = save(tmp_path / "d", {"train": columns, "test": columns}, features)
    assert tasks.load(config(path), 16).train.images[:].shape == (4, 16, 16, 3)
    columns["image"] = [{"bytes": None, "path": "https://example.org/0.png"}] * 8
    path = save(tmp_path / "e", {"train": columns, "test": columns}, features)
    with pytest.raises(ValueError, match="it is at https://example.org/0.png, which is not a file"):
        tasks.load(config(path), 16)


def test_the_package_is_optional(config, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(
        ValueError, match=r"needs a package that is not there .* install -e '.\[hf\]'"
    ):
        read(config("org/pets"))
