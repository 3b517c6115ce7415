"""Where tasks come from: CoOp's folders, TFDS, one's own images, the world; and what is refused."""

import dataclasses
import io
import json
import sys
import zlib

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from cdc_jax import tasks
from cdc_jax.tasks import catalog, coop_splits, sources, splits, task_toml, tfds_records

# ---- files to work with


def picture(path, seed=0, size=(24, 20)):
    """A photograph of noise at the path; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def make_class_folders(root, counts, suffix=".png"):
    for name, count in counts.items():
        for i in range(count):
            path = root / name / f"{i}{suffix}"
            picture(path, seed=zlib.crc32(str(path).encode()))  # no two alike
    return root


@pytest.fixture
def photos(tmp_path):
    """Three classes of ten images."""
    return make_class_folders(tmp_path / "photos", {"cat": 10, "dog": 10, "newt": 10})


@pytest.fixture
def config(get_config):
    """The few-shot configuration with some values changed: data.root and so on."""

    def changed(**changes):
        config = get_config("fewshot", "shots=2,dataset=folder")
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
        return config

    return changed


def split_of(names, count=3):
    """A split file's contents: `count` images a class and part, in folders 0, 1, …"""
    return {
        part: [
            [f"{k}/{part}{i}.png", k, name] for k, name in enumerate(names) for i in range(count)
        ]
        for part in splits.PARTS
    }


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---- one's own images


def test_class_folders(photos, config):
    (photos / "cat" / "notes.txt").write_text("not an image")
    (photos / "cat" / ".hidden.png").write_text("nor this")
    task = tasks.load(config(data__root=str(photos)), 16)
    assert task.class_names == ("cat", "dog", "newt")
    assert task.template == "a photo of a {}." and task.label_properties == ("category",)
    assert len(task.train) == len(task.val) == 6
    assert len(task.test["test"]) == 9  # 0.3 of ten, of each
    assert task.train.images[:2].shape == (2, 16, 16, 3)
    items = task.items()
    files = [file for part in items.values() for file, _, _ in part]
    assert len(set(files)) == len(files) == 6 + 6 + 9
    for file, label, name in items["test"]:
        assert file.startswith(name) and task.class_names[label] == name
    again = tasks.load(config(data__root=str(photos)), 16)
    assert again.items() == items
    other = tasks.load(config(data__root=str(photos), seed=2), 16).items()
    assert other["test"] == items["test"] and other["train"] != items["train"]


def test_saved_items_are_a_split_file(photos, config, tmp_path):
    items = tasks.load(config(data__root=str(photos)), 16).items()
    file = write(tmp_path / "split.json", items)
    changed = config(data__root=str(photos), data__split=str(file))
    assert {k: sorted(v) for k, v in tasks.load(changed, 16).items().items()} == {
        k: sorted(v) for k, v in items.items()
    }


def test_base_and_new(photos, config):
    with pytest.raises(ValueError, match="at least 4 classes, got 3: set classes=all"):
        tasks.load(config(data__root=str(photos), classes="base_new"), 16)
    make_class_folders(photos, {"owl": 10})
    task = tasks.load(config(data__root=str(photos), classes="base_new"), 16)
    assert task.class_names == ("cat", "dog")
    assert set(task.test) == {"base_test", "new_test"}
    assert task.test["new_test"].class_names == ("newt", "owl")
    assert task.test["new_test"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(file.startswith(("newt", "owl")) for file in task.test["new_test"].files)


def test_folders_of_parts(tmp_path, config):
    for part, count in (("train", 3), ("val", 1), ("test", 2)):
        make_class_folders(tmp_path / "p" / part, {"a": count, "b": count})
    task = tasks.load(config(data__root=str(tmp_path / "p")), 16)
    assert task.class_names == ("a", "b")
    assert task.test["test"].files == ("test/a/0.png", "test/a/1.png", "test/b/0.png",
                                       "test/b/1.png")  # fmt: skip
    assert len(task.train) == 4 and len(task.val) == 2


def test_task_toml(photos, config):
    toml = 'template = "a {}, drawn."\nval = 0\ntest = 0.5\n[class_names]\nnewt = "crested newt"\n'
    write(photos / "task.toml", toml)
    task = tasks.load(config(data__root=str(photos)), 16)
    assert task.template == "a {}, drawn."
    assert task.class_names == ("cat", "dog", "crested newt")
    assert len(task.val) == 0 and len(task.test["test"]) == 15
    changed = config(data__root=str(photos), data__template="an {}")
    assert tasks.load(changed, 16).template == "an {}"


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_lists(photos, config, kind):
    rows = [
        {"path": f"{name}/{i}.png", "label": name, "split": "train" if i < 4 else "test"}
        for name in ("dog", "cat")
        for i in range(10)
    ]
    text = json.dumps(rows)
    if kind == "csv":
        text = "path,label,split\n" + "".join(
            f"{row['path']},{row['label']},{row['split']}\n" for row in rows
        )
    write(photos / f"items.{kind}", text)
    write(photos / "task.toml", f'items = "items.{kind}"')
    for root in (photos, photos / f"items.{kind}"):
        task = tasks.load(config(data__root=str(root)), 16)
        assert task.class_names == ("cat", "dog")
        assert len(task.train) == 4 and len(task.test["test"]) == 12


def test_all_there_are_where_shots_are_more(photos, config):
    few = config(data__root=str(photos), shots=16)
    message = "class 'cat' has 5 training images, fewer than 16 shots: lower shots, or set"
    with pytest.raises(ValueError, match=message):
        tasks.load(few, 16)
    few.data.allow_fewer = True
    assert len(tasks.load(few, 16).train) == 15


# ---- what can't be decoded


def broken(photos):
    (photos / "cat" / "3.png").write_bytes(b"")
    (photos / "dog" / "1.png").write_text("a text")
    content = (photos / "newt" / "5.png").read_bytes()
    (photos / "newt" / "5.png").write_bytes(content[: len(content) // 2])


def test_unreadable_images_at_first_touch(photos, config):
    broken(photos)
    every = config(data__root=str(photos), shots=5)
    write(photos / "task.toml", "val = 0\ntest = 0.5")
    task = tasks.load(every, 16)
    with pytest.raises(ValueError, match=r"photos/(cat/3|dog/1|newt/5)\.png") as error:
        for examples in (task.train, *task.test.values()):
            examples.images[:]
    assert "\n" not in str(error.value)


def test_unreadable_images_at_the_check(photos, config):
    broken(photos)
    write(photos / "task.toml", "val = 0\ntest = 0.9")
    every = config(data__root=str(photos), shots=1, data__check=True)
    with pytest.raises(ValueError, match=r"of the \d+ (train|test) images can't be used; the firs"):
        tasks.load(every, 16)


def test_unreadable_images_are_left_out(photos, config):
    broken(photos)
    write(photos / "task.toml", "val = 0\ntest = 0.5")
    task = tasks.load(config(data__root=str(photos), shots=5, data__on_error="skip"), 16)
    assert len(task.train) + len(task.test["test"]) == 27
    assert sorted(skipped.file[-10:] for skipped in task.skipped) == [
        "/cat/3.png", "/dog/1.png", "newt/5.png"
    ]  # fmt: skip
    assert all(skipped.reason for skipped in task.skipped)
    for examples in (task.train, task.test["test"]):
        assert len(examples.images[:]) == len(examples) == len(examples.files)


def test_a_class_that_is_all_left_out(photos, config):
    for file in (photos / "dog").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match="class 'dog' has no usable training image"):
        tasks.load(config(data__root=str(photos), data__on_error="skip"), 16)


# ---- what is refused of one's own


def test_bad_roots(tmp_path, config):
    with pytest.raises(
        ValueError, match="dataset=folder needs the folder of its images: add data.root=PATH"
    ):
        tasks.load(config(), 16)
    with pytest.raises(FileNotFoundError, match="data.root .*nowhere is not there: give a folder"):
        tasks.load(config(data__root=str(tmp_path / "nowhere")), 16)
    with pytest.raises(ValueError, match="holds no class folders"):
        tasks.load(config(data__root=str(tmp_path)), 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the class folder .*empty holds no image"):
        tasks.load(config(data__root=str(tmp_path)), 16)


def test_links(photos, config, tmp_path):
    outside = picture(tmp_path / "elsewhere" / "x.png")
    link = photos / "cat" / "x.png"
    for target, message in [
        (outside, "x.png leads out of .*photos, to .*elsewhere"),
        (link, "x.png can't be followed: "),
        (photos / "cat" / "0.png", "are the same file"),
    ]:
        link.symlink_to(target)
        with pytest.raises(ValueError, match=message):
            tasks.load(config(data__root=str(photos)), 16)
        link.unlink()
    for place, target in [("cat/loop", photos), ("loop", photos), ("self", photos / "self")]:
        (photos / place).symlink_to(target)
        wrong = "can't be followed: " if place == "self" else "is a link to a folder"
        with pytest.raises(ValueError, match=f"{place} {wrong}"):
            tasks.load(config(data__root=str(photos)), 16)
        (photos / place).unlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("template = ", "is not TOML"),
        ('tmplate = "a {}"', "unknown key 'tmplate' in .*: did you mean 'template'"),
        ('val = "a"', "val must be a finite number from 0 to 1, got 'a'"),
        ("seed = 1.5", "seed must be a whole number from 0 to .*, got 1.5"),
        ('template = "a photo"', "needs one {} for the class name, got 'a photo'"),
        ("val = 0.5\ntest = 0.5", "got val=0.5, test=0.5"),
        ('[class_names]\ncta = "x"', "no class 'cta', but 'cat'"),
        ('[class_names]\ncat = " "', "class_names.cat must be a text that is not empty, got ' '"),
        ("[class_names]\ncat = 1", "class_names.cat must be a text that is not empty, got 1"),
        ('[class_names]\ncat = "dog"', "two classes are called 'dog'"),
        ('items = "nowhere.csv"', "there is no file .*nowhere.csv"),
        ('items = "nowhere.json"', "there is no file .*nowhere.json"),
    ],
)
def test_bad_toml(photos, config, text, message):
    write(photos / "task.toml", text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        tasks.load(config(data__root=str(photos)), 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("i.csv", "file,name\na,b\n", "i.csv has no label column: it has 'file', 'name'; call one"),
        ("i.csv", "path,label\ncat/0.png\n", "line 2: a label is the name of its class, got ''"),
        ("i.csv", "path,label\ncat/0.png,cat,train\n", "has 3 values, the header names 2 columns"),
        ("i.csv", "path,label\ncat/0.png, \n", "a label is the name of its class"),
        ("i.csv", "path,label\n", "lists no image"),
        ("i.csv", "path,label\n../x.png,cat\n", "'../x.png' must be a path under the image root"),
        ("i.csv", "path,label,split\ncat/0.png,cat,tset\n", "split must be one of train, val, tes"),
        ("i.csv", "path,label,split\ncat/0.png,cat,train\ncat/1.png,cat,\n", "either all entries"),
        ("i.csv", "path,label,split\ncat/0.png,cat,test\n", "marks no image as train"),
        ("i.csv", "path,label,split\ncat/0.png,cat,train\n", "has no test image"),
        (
            "i.csv", "path,label,split\ncat/0.png,cat,train\ncat/0.png,cat,test\n",
            "lists cat/0.png twice",
        ),
        ("i.csv", 'path,label\n"cat/0.png,cat\n', "is not CSV"),
        ("i.json", '[{"path": "cat/0.png", "label": true}]', "a label is the name of its class"),
        ("i.json", '["cat/0.png"]', "must be a list of objects with path and label"),
        ("i.json", "3", "must be a list of objects with path and label"),
        (
            "i.json", json.dumps([{"path": f"cat/{i}9.png", "label": "cat"} for i in range(9)]),
            "9 of the 9 images that .*i.json lists are no files below .*: cat/09.png, cat/19.png, ",
        ),
    ],
)  # fmt: skip
def test_bad_lists(photos, config, name, text, message):
    file = write(photos / name, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        tasks.load(config(data__root=str(photos), data__split=str(file)), 16)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "OxfordPet"}, "unknown dataset 'OxfordPet': did you mean 'OxfordPets'"),
        ({"classes": "base"}, "unknown classes 'base': did you mean 'base_new'"),
        ({"data__on_error": "skp"}, "unknown data.on_error 'skp': did you mean 'skip'"),
        ({"data__workers": -1}, "data.workers must be at least 0"),
        ({"data__side": -5}, "data.side must be at least 0"),
        ({"shots": 0}, "shots must be at least 1, got 0"),
        ({"validation_shots": -1}, "validation_shots must be at least 0, got -1: 0 takes"),
    ],
)
def test_bad_settings(photos, config, changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.load(config(data__root=str(photos), **changes), 16)


# ---- the field's datasets in CoOp's folders


def test_every_dataset_says_what_is_missing(tmp_path):
    assert len(catalog.PUBLISHED) == 15
    for name, published in catalog.PUBLISHED.items():
        with pytest.raises(FileNotFoundError) as error:
            coop_splits.read(name, tmp_path)
        message = str(error.value)
        assert str(tmp_path / published.folder) in message and "\n" not in message
        assert published.size in message and published.publisher in message
        assert published.template.count("{}") == 1


PLACES = {  # CoOp's folder, the images in it, and CoOp's hand-crafted template
    "ImageNet": ("imagenet", "images", "a photo of a {}."),
    "Caltech101": ("caltech-101", "101_ObjectCategories", "a photo of a {}."),
    "OxfordPets": ("oxford_pets", "images", "a photo of a {}, a type of pet."),
    "StanfordCars": ("stanford_cars", "", "a photo of a {}."),
    "OxfordFlowers": ("oxford_flowers", "jpg", "a photo of a {}, a type of flower."),
    "Food101": ("food-101", "images", "a photo of {}, a type of food."),
    "FGVCAircraft": ("fgvc_aircraft", "images", "a photo of a {}, a type of aircraft."),
    "SUN397": ("sun397", "SUN397", "a photo of a {}."),
    "DescribableTextures": ("dtd", "images", "{} texture."),
    "EuroSAT": ("eurosat", "2750", "a centered satellite photo of {}."),
    "UCF101": ("ucf101", "UCF-101-midframes", "a photo of a person doing {}."),
    "ImageNetV2": ("imagenetv2", "imagenetv2-matched-frequency-format-val", "a photo of a {}."),
    "ImageNet-Sketch": ("imagenet-sketch", "images", "a photo of a {}."),
    "ImageNet-A": ("imagenet-adversarial", "imagenet-a", "a photo of a {}."),
    "ImageNet-R": ("imagenet-rendition", "imagenet-r", "a photo of a {}."),
}


def test_places_and_templates_are_those_of_the_protocol():
    found = {k: (p.folder, p.images, p.template) for k, p in catalog.PUBLISHED.items()}
    assert found == PLACES


def test_a_published_split(tmp_path, config):
    root = tmp_path / "eurosat"
    names = [f"land {k}" for k in range(10)]
    write(root / "split_zhou_EuroSAT.json", split_of(names))
    with pytest.raises(FileNotFoundError, match="EuroSAT is expected in .*eurosat/2750"):
        coop_splits.read("EuroSAT", tmp_path)
    for entries in split_of(names).values():
        for path, label, _ in entries:
            picture(root / "2750" / path, label)
    eurosat = config(dataset="EuroSAT", data__root=str(tmp_path), shots=16)
    task = tasks.load(eurosat, 16)
    assert task.class_names == tuple(names) and task.record.note == ""
    assert task.template == "a centered satellite photo of {}."
    assert len(task.train) == 30  # all there are, as in the protocol
    pets = write(tmp_path / "other.json", split_of(["cat", "dog"]))
    with pytest.raises(ValueError, match="EuroSAT has 10 classes, .*other.json lists 2: is it ano"):
        coop_splits.read("EuroSAT", tmp_path, str(pets))
    strange = write(
        tmp_path / "x.json", json.loads(json.dumps(split_of(names)).replace("/t", "/u"))
    )
    with pytest.raises(
        ValueError, match="20 of the 20 train images can't be used; the first: .*no"
    ):
        tasks.load(
            config(dataset="EuroSAT", data__root=str(tmp_path), data__split=str(strange)), 16
        )
    (root / "split_zhou_EuroSAT.json").unlink()
    with pytest.raises(FileNotFoundError, match="EuroSAT needs CoOp's split file .* data.split"):
        coop_splits.read("EuroSAT", tmp_path)


def test_fgvc_text_files(tmp_path, monkeypatch):
    shrink(monkeypatch, "FGVCAircraft", 2)
    folder = tmp_path / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    write(folder / "variants.txt", "Boeing 717\nA300\n")
    for part, text in (("train", "1 A300\n2 Boeing 717\n"), ("val", ""), ("test", "3 A300\n")):
        write(folder / f"images_variant_{part}.txt", text)
    split = coop_splits.read("FGVCAircraft", tmp_path).split
    assert split.class_names == ("Boeing 717", "A300")
    assert split.train == (("1.jpg", 1), ("2.jpg", 0)) and split.test == (("3.jpg", 1),)
    write(folder / "images_variant_val.txt", "4 A310\n")
    with pytest.raises(ValueError, match="images_variant_val.txt: '4 A310' names no class of"):
        coop_splits.read("FGVCAircraft", tmp_path)


def shrink(monkeypatch, name, classes):
    entry = dataclasses.replace(catalog.PUBLISHED[name], classes=classes)
    monkeypatch.setitem(catalog.PUBLISHED, name, entry)


def test_imagenet_and_its_variants(tmp_path, monkeypatch, config):
    # Two classes of one name, as ImageNet has them; folders in another order than labels' names.
    write(tmp_path / "imagenet/classnames.txt", "n01 crane\nn02 maillot\nn03 crane\n")
    for wnid in ("n03", "n01", "n02"):
        for part, count in (("train", 3), ("val", 1)):
            for i in range(count):
                picture(tmp_path / "imagenet/images" / part / wnid / f"{wnid}_{i}.JPEG", i)
    for name, classes in (("ImageNet", 3), ("ImageNetV2", 3), ("ImageNet-A", 2)):
        shrink(monkeypatch, name, classes)
    task = tasks.load(config(dataset="ImageNet", data__root=str(tmp_path)), 16)
    assert task.class_names == ("crane", "maillot", "crane")
    assert task.test["test"].files == tuple(f"val/n0{k}/n0{k}_0.JPEG" for k in (1, 2, 3))
    assert task.test["test"].labels.tolist() == [0, 1, 2]
    assert len(task.train) == 6 and len(task.val) == 0

    v2 = tmp_path / "imagenetv2/imagenetv2-matched-frequency-format-val"
    for label in (0, 1, 2):
        picture(v2 / str(label) / "x.jpeg")
    split = coop_splits.read("ImageNetV2", tmp_path).split
    assert split.test == (("0/x.jpeg", 0), ("1/x.jpeg", 1), ("2/x.jpeg", 2)) and not split.train

    adversarial = tmp_path / "imagenet-adversarial/imagenet-a"
    for wnid in ("n03", "n02"):
        picture(adversarial / wnid / "y.jpg")
    write(adversarial / "README.txt", "not a class")
    split = coop_splits.read("ImageNet-A", tmp_path).split
    assert split.class_names == ("maillot", "crane")
    assert split.test == (("n02/y.jpg", 0), ("n03/y.jpg", 1))
    with pytest.raises(ValueError, match="the set is a test set"):
        tasks.load(config(dataset="ImageNet-A", data__root=str(tmp_path)), 16)
    write(tmp_path / "imagenet/classnames.txt", "n01 crane\nn01 maillot\n")
    with pytest.raises(ValueError, match="'n01 maillot' must be a new WordNet id"):
        coop_splits.read("ImageNetV2", tmp_path)


# ---- TFDS


def test_protocol_names_of_tfds_datasets(tmp_path):
    """Facts of the published splits: numbers of classes, the first names, names that differ."""
    first = {
        "Caltech101": ("face", "leopard", "motorbike", "accordion", "airplane", "anchor", "ant"),
        "OxfordPets": ("abyssinian", "american_bulldog", "american_pit_bull_terrier"),
        "StanfordCars": ("2000 AM General Hummer SUV", "2012 Acura RL Sedan"),
        "OxfordFlowers": ("pink primrose", "hard-leaved pocket orchid"),
        "Food101": ("apple_pie", "baby_back_ribs", "baklava"),
        "SUN397": ("abbey", "airplane_cabin"),
        "DescribableTextures": ("banded", "blotchy"),
        "EuroSAT": ("Annual Crop Land", "Forest", "Herbaceous Vegetation Land", "Highway or Road"),
    }
    inside = {"Food101": "cheese_plate", "SUN397": "indoor apse", "OxfordFlowers":
              "pink-yellow dahlia", "EuroSAT": "Sea or Lake"}  # fmt: skip
    for name, expected in first.items():
        entry = catalog.PUBLISHED[name].tfds
        names = tfds.builder(entry.name, data_dir=tmp_path).info.features["label"].names
        records = {
            f"{split}/{wanted}/{i}": tfds_records._Record(split, i, wanted)
            for split in filter(None, entry.splits)
            for wanted in names
            for i in range(2)
        }
        split = tfds_records._own_split(name, entry, records, names, tmp_path)
        assert split.class_names[: len(expected)] == expected
        assert len(split.class_names) == catalog.PUBLISHED[name].classes
        assert name not in inside or inside[name] in split.class_names


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (20, 12), colour).save(file, "JPEG", quality=95)
    return file.getvalue()


LANDS = ["AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
         "PermanentCrop", "Residential", "River", "SeaLake"]  # fmt: skip
COLOURS = [(20 * k, 250 - 20 * k, 100) for k in range(10)]


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory):
    """EuroSAT with five images a class, prepared as ArrayRecord files."""
    if "tensorflow" in sys.modules:
        pytest.skip("TensorFlow is loaded: nothing shows that it isn't needed")

    class Eurosat(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("2.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="rgb")]
        name = "eurosat"

        def _info(self):
            features = {
                "image": tfds.features.Image(),
                "label": tfds.features.ClassLabel(names=LANDS),
                "filename": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for k, land in enumerate(LANDS):
                for i in range(5):
                    image = io.BytesIO(jpeg(COLOURS[k]))
                    name = f"{land}_{i}.jpg"
                    yield name, {"image": image, "label": k, "filename": name}

    folder = tmp_path_factory.mktemp("tfds")
    Eurosat(data_dir=folder, config="rgb").download_and_prepare(file_format="array_record")
    return folder


def test_tfds_without_tensorflow(eurosat, config):
    changed = config(dataset="EuroSAT", data__root=str(eurosat), data__format="tfds")
    task = tasks.load(changed, 8)
    assert task.class_names[::3] == (
        "Annual Crop Land", "Highway or Road", "Permanent Crop Land", "Sea or Lake"
    )  # fmt: skip
    assert task.record.note == tfds_records.OTHER_SPLITS == "not CoOp's splits"
    assert len(task.train) == 20 and task.train.files[0].startswith("AnnualCrop/AnnualCrop_")
    for examples in (task.train, *task.test.values()):
        for image, label in zip(examples.images[:], examples.labels, strict=True):
            assert np.abs(image.mean((0, 1)) - COLOURS[label]).max() < 6
    assert "tensorflow" not in sys.modules


def test_tfds_matched_to_a_split(eurosat, config, tmp_path):
    lists = {
        part: [[f"{land}/{land}_{i}.jpg", k, f"name {k}"] for k, land in enumerate(LANDS)]
        for part, i in (("train", 4), ("val", 2), ("test", 0))
    }
    file = write(tmp_path / "split.json", lists)
    changed = config(
        dataset="EuroSAT", data__root=str(eurosat), data__format="tfds", data__split=str(file)
    )
    task = tasks.load(changed, 8)
    assert task.record.note == "" and task.class_names == tuple(f"name {k}" for k in range(10))
    assert {k: [tuple(v) for v in lists[k]] for k in lists} == task.items()
    for image, label in zip(task.test["test"].images[:], task.test["test"].labels, strict=True):
        assert np.abs(image.mean((0, 1)) - COLOURS[label]).max() < 6
    lists["test"].append(["Forest/Forest_9.jpg", 1, "name 1"])
    write(file, lists)
    with pytest.raises(ValueError, match="1 of the 31 images of .* are not in TFDS's EuroSAT"):
        tasks.load(changed, 8)


def test_tfds_mocked(config, tmp_path):
    """Food101, of which TFDS keeps no file names."""

    def examples(self, split, decoders, **_):
        assert "image" in decoders
        labels = [label for label in range(101) for _ in range(3)]
        return [{"image": jpeg((label, label, label)), "label": label} for label in labels]

    changed = config(dataset="Food101", data__root=str(tmp_path), data__format="tfds")
    with tfds.testing.mock_data(as_data_source_fn=examples):
        task = tasks.load(changed, 8)
        # In alphabetical order, unlike TFDS's: "_" comes before "c".
        plate = task.class_names.index("cheese_plate")
        assert task.class_names[plate + 1] == "cheesecake"
        assert len(task.train) == 202 and len(task.test["test"]) == 303
        shown = task.test["test"].images[np.flatnonzero(task.test["test"].labels == plate)]
        assert np.abs(shown - float(plate + 1)).max() < 2  # TFDS has it after cheesecake
        changed.data.split = str(write(tmp_path / "s.json", split_of(["a", "b"])))
        with pytest.raises(ValueError, match="TFDS keeps no file names of Food101"):
            tasks.load(changed, 8)


@pytest.mark.parametrize(("name", "first"), [("ImageNet-A", 3), ("ImageNet-R", 4)])
def test_tfds_variants_are_over_their_own_classes(config, tmp_path, name, first):
    """200 of the 1000 labels that TFDS gives them, in the order of ImageNet's class list."""
    entry = catalog.PUBLISHED[name].tfds
    ids = tfds.builder(entry.name, data_dir=tmp_path).info.features["label"].names
    write(tmp_path / "imagenet/classnames.txt", "".join(f"{n} a {n}\n" for n in reversed(ids)))
    own = range(first, 1000, 5)

    def examples(self, split, decoders, **_):
        assert split == "test"
        grey = [(k // 4,) * 3 for k in own]
        files = [f"{ids[k]}_{i}.jpg".encode() for i, k in enumerate(own)]
        records = zip(grey, own, files, strict=True)
        return [{"image": jpeg(g), "label": k, "file_name": file} for g, k, file in records]

    with tfds.testing.mock_data(as_data_source_fn=examples):
        read = sources.read(
            name, config(dataset=name, data__root=str(tmp_path), data__format="tfds")
        )
        names = read.split.class_names
        assert names == tuple(f"a {ids[k]}" for k in reversed(own)) and len(names) == 200
        assert len(read.split.test) == 200 and not read.split.train and not read.note
        for path, label in read.split.test[::40]:
            assert path.startswith(names[label][2:])
            grey = np.asarray(Image.open(io.BytesIO(read.contents(path)))).mean()
            assert abs(grey - ids.index(names[label][2:]) // 4) < 2


def test_tfds_that_is_not_prepared(config, tmp_path):
    for name, published in catalog.PUBLISHED.items():
        changed = config(dataset=name, data__root=str(tmp_path), data__format="tfds")
        if published.tfds is None:
            with pytest.raises(ValueError, match=f"TFDS does not have {name} as images"):
                sources.read(name, changed)
            continue
        with pytest.raises(FileNotFoundError) as error:
            sources.read(name, changed)
        message = str(error.value)
        assert "pip install -e '.[tf]'" in message and published.tfds.name in message
        assert published.size in message and published.publisher in message


def test_the_world_needs_no_data(get_config):
    world = get_config("fewshot", "shots=1,world.test_images=1")
    task = tasks.load(world)
    assert task.items()["base_iid"][0] == ("base_iid/0", 0, task.class_names[0])


def test_validation_images_of_the_world(get_config):
    world = get_config("fewshot", "shots=2,world.test_images=1,validation_shots=5")
    more = tasks.load(world)
    world.validation_shots = 0
    assert len(more.val) == 5 * len(more.class_names)
    assert len(tasks.load(world).val) == 2 * len(more.class_names)


def test_documented_defaults():
    for key in task_toml.DEFAULTS:
        assert key in task_toml.__doc__
