"""What a run takes of one's own images, and what it says of that: shots, copies, one line."""

import os

import numpy as np
import pytest
from PIL import Image

from cdc_jax import tasks
from cdc_jax.tasks import splits
from cdc_jax.tasks.splits import Item, Split


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two classes: six images of each to train on, three to test."""
    seed = 0
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                picture(tmp_path / "photos" / part / name / f"{i}.png", seed)
                seed += 1
    return tmp_path / "photos"


@pytest.fixture
def load(get_config, photos):
    def loaded(argument="shots=2", **data):
        config = get_config("fewshot", f"dataset=folder,{argument}")
        config.data.update({"root": str(photos)} | data)
        return tasks.load(config, 8)

    return loaded


def counts(examples):
    return np.bincount(examples.labels).tolist()


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_shots_are_drawn_from_the_readable_images(load, photos, shots):
    sound = load(f"shots={shots}").train.files
    for name in ("cat", "dog"):  # those that are drawn first, and one more
        drawn = [file for file in sound if f"/{name}/" in file]
        others = [f"train/{name}/{i}.png" for i in range(6)]
        others = [file for file in others if file not in drawn]
        for file in (drawn[0], others[0]):
            (photos / file).write_bytes(b"")
    task = load(f"shots={shots}", on_error="skip")
    assert counts(task.train) == [shots, shots]
    assert len(task.train.images[:]) == 2 * shots  # they can be decoded
    kept = [file for file in sound if (photos / file).stat().st_size]
    assert set(kept) < set(task.train.files)  # the others stay as they were drawn
    assert {skipped.file for skipped in task.skipped} >= {
        str(photos / file) for file in sound if file not in kept
    }
    assert task.train.files == load(f"shots={shots}", on_error="skip").train.files


def test_fewer_readable_images_than_shots(load, photos):
    for i in range(4):
        (photos / "train" / "cat" / f"{i}.png").write_text("no image")
    task = load("shots=4", on_error="skip")
    assert counts(task.train) == [2, 4] and len(task.skipped) == 4


def test_refill_by_hand():
    items = tuple(Item(f"{k}", k % 2) for k in range(12))
    split = Split(items, items[:6], (), ("even", "odd"))
    drawn = Split((items[0], items[2], items[1]), (items[3],), (), ("even", "odd"))
    assert splits.refill(split, drawn, set(), 2, 0) == drawn
    new = splits.refill(split, drawn, {"2", "4", "6", "3", "5"}, 2, 0)
    assert new.train[0] == items[0] and new.train[2] == items[1]
    assert new.train[1] in {items[8], items[10]}
    assert new.val == (items[1],)
    none = splits.refill(split, drawn, {item.path for item in items}, 2, 0)
    assert not none.train and not none.val


def test_one_line_says_what_a_run_takes(load, photos):
    (photos / "train" / "cat" / "notes.txt").write_text("")
    (photos / "train" / ".ipynb_checkpoints").mkdir()
    (photos / "test" / "dog" / "0.png").write_text("no image")
    summary = load(on_error="skip").summary
    assert summary.startswith(
        "folder: 2 classes (cat, dog), class folders in split folders; 9 images a class "
        "(12 train, 0 val, 6 test); used: 4 train, 0 val, 5 test; 1 files that are no images are "
        "left out (1 .txt); 1 hidden or tools' files and folders are left out (.ipynb_checkpoints);"
        f" 1 images that can't be used are left out, such as {photos}/test/dog/0.png: it is damaged"
    )
    assert len(summary.splitlines()) == 1


def test_a_line_does_not_steer_the_terminal(load, photos):
    for part in ("train", "test"):
        os.rename(photos / part / "cat", photos / part / "c\x1b[31mat\n")
    summary = load().summary
    assert summary.isprintable() and r"c\x1b[31mat\n" in summary


@pytest.mark.parametrize("kind", ["pipe", "link"])
@pytest.mark.parametrize("data", [{}, {"check": True}, {"on_error": "skip"}])
def test_what_is_no_file_never_waits(load, photos, kind, data):
    place = photos / "train" / "cat" / "x.png"
    os.mkfifo(place) if kind == "pipe" else place.symlink_to("/none")
    if not data.get("on_error"):
        with pytest.raises(ValueError, match="1 of the 19 listed images can't be used; .*x.png"):
            load(**data)
        return
    task = load(**data)
    assert counts(task.train) == [2, 2] and [s.file for s in task.skipped] == [str(place)]


def test_a_listed_pipe_is_found_before_work(load, photos):
    os.mkfifo(photos / "pipe.png")
    (photos / "list.csv").write_text(
        "path,label,split\ntrain/cat/0.png,cat,train\ntrain/dog/0.png,dog,train\npipe.png,cat,test\n"
    )
    with pytest.raises(FileNotFoundError, match="1 of the 3 images .* are no files .*: pipe.png"):
        load("shots=1", split=str(photos / "list.csv"))


@pytest.mark.parametrize("layout", ["folders", "list"])
def test_one_class_only(load, photos, layout):
    for part in ("train", "test"):
        os.rename(photos / part / "dog", photos.parent / f"{part}_dog")
    data = {}
    if layout == "list":
        rows = ["path,label", *(f"train/cat/{i}.png,cat" for i in range(6))]
        (photos / "list.csv").write_text("\n".join(rows))
        data = {"split": str(photos / "list.csv")}
    with pytest.raises(
        ValueError, match="has only one class, 'cat' .*: there must be at least two"
    ):
        load(**data)


def test_copies(load, photos):
    original = (photos / "train" / "cat" / "0.png").read_bytes()
    (photos / "train" / "cat" / "copy.png").write_bytes(original)
    assert "1 images occur more than once in their class and split" in load().summary
    (photos / "test" / "cat" / "copy.png").write_bytes(original)
    with pytest.raises(ValueError, match="0.png of train and .*test/cat/copy.png of test hold the"):
        load()
    summary = load(allow_copies=True).summary
    assert "1 images are in several splits (data.allow_copies)" in summary
    (photos / "train" / "dog" / "copy.png").write_bytes(original)
    with pytest.raises(
        ValueError, match="once as 'cat' and once as 'dog'.* Photos with several la"
    ):
        load(allow_copies=True)


def test_a_path_listed_under_two_classes(load, photos):
    (photos / "list.csv").write_text(
        "path,label,split\ntrain/cat/0.png,cat,train\ntrain/cat/0.png,dog,train\n"
        "test/cat/0.png,cat,test\n"
    )
    message = "lists train/cat/0.png as 'cat' and as 'dog': data with several labels an image"
    with pytest.raises(ValueError, match=message):
        load("shots=1", split=str(photos / "list.csv"))
