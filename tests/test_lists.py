"""Lists of images in the forms that people write; what is ignored, and what is refused."""

import csv
import gzip
import io
import json
import os
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_jax.tasks import class_folders, lists, splits, task_toml, text_file
from cdc_jax.tasks.files import Files
from cdc_jax.tasks.splits import Item

LABELS = ("cat", "dog")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two folders of three files; nothing here decodes them."""
    folder = tmp_path_factory.mktemp("images")
    for name in (*LABELS, "my own"):
        (folder / name).mkdir()
        for i in range(3):
            (folder / name / f"{i}.png").touch()
    (folder / "flat.png").touch()
    (folder / "flat.jpg").touch()
    (folder / "flat.txt").touch()
    return folder


def read(root, tmp_path, text, name="list.csv", toml=""):
    """The dataset of a list that lies elsewhere than the images."""
    (root / "task.toml").write_text(toml)
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        return class_folders.read(root, str(file))
    finally:
        (root / "task.toml").unlink()


def rows(dataset):
    """Part, path and class name of every image."""
    split = dataset.split
    return sorted(
        (part, item.path, split.class_names[item.label])
        for part in splits.PARTS
        for item in getattr(split, part)
    )


ENTRIES = [
    (f"{label}/{i}.png", label, part)
    for label in LABELS
    for i, part in enumerate(("train", "test", "val"))
]
PLAIN = "path,label,split\n" + "".join(f"{','.join(entry)}\n" for entry in ENTRIES)
EXPECTED = sorted((part, path, label) for path, label, part in ENTRIES)


def table(header, line, separator=",", end="\n"):
    """A list of the entries; `line` is a row's cells with {path}, {label}, {split}, {k}, {row}."""
    texts = [separator.join(header)]
    for row, (path, label, part) in enumerate(ENTRIES):
        values = {
            "path": path, "label": label, "split": part, "k": LABELS.index(label), "row": row,
        }  # fmt: skip
        texts.append(separator.join(cell.format(**values) for cell in line))
    return end.join(texts) + end


H, L = ("path", "label", "split"), ("{path}", "{label}", "{split}")


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (PLAIN, ""),
        (table(H, L, ";"), ""),
        (table(H, L, "\t"), ""),
        (table(H, L, "|"), ""),
        (table(H, L, ", "), ""),
        (table(H, L, " ; "), ""),
        (table(H, L, "  "), ""),
        (table(H, L, end="\r\n"), ""),
        (table(H, L, end="\n\n"), ""),
        (table(H, L, end="\r"), ""),
        ("\n\n" + PLAIN, ""),
        ("\ufeff" + PLAIN, ""),
        (PLAIN.rstrip("\n"), ""),
        (PLAIN + ",,\n , ,\n", ""),
        ("sep=;\n" + table(H, L, ";"), ""),
        (table([f'"{name}"' for name in H], [f'"{cell}"' for cell in L]), ""),
        (table((*H, ""), (*L, "")), ""),
        (table(("", *H), ("{row}", *L)), ""),
        (table(("Unnamed: 0", *H), ("{row}", *L)), "ignored columns: 'Unnamed: 0'"),
        (table(("index", *H), ("{row}", *L)), "ignored columns: 'index'"),
        (table(("id", *H), ("{row}", *L)), "ignored columns: 'id'"),
        (table((*H, "width", "a;b"), (*L, "3", "x")), "ignored columns: 'width', 'a;b'"),
        (table(("split", "label", "path"), L[::-1]), ""),
        (table(("Path", "LABEL", "Split"), L), ""),
        (table((" path ", "label ", " split"), L), ""),
        (table(("file_name", "label", "split"), L), "column 'file_name' as path"),
        (table(("File Name", "Class", "Set"), L), "column 'File Name' as path, 'Class' as label"),
        (table(("image", "category", "subset"), L), "'category' as label, 'subset' as split"),
        (table(("image_path", "target", "partition"), L), "column 'image_path' as path"),
        (table(("image_id", "class_name", "fold"), L), "column 'image_id' as path"),
        (table(("filename", "Species", "dataset-split"), L), "'dataset-split' as split"),
        (table(("filepath", "breed", "Usage"), L), "'breed' as label"),
        (table(("id", "label", "split"), L), "column 'id' as path"),
    ],
)
@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_tables(root, tmp_path, text, remark, name):
    dataset = read(root, tmp_path, text, name)
    assert rows(dataset) == EXPECTED
    assert dataset.split.class_names == LABELS
    assert remark in " ".join(dataset.remarks)
    assert bool(dataset.remarks) == bool(remark)


NAMES = {
    "train": ["train", "TRAIN", "Training", " training "],
    "val": ["val", "Valid", "VALIDATION", "validation"],
    "test": ["test", "Test", "testing", "TESTING"],
}


@pytest.mark.parametrize("k", range(4))
def test_names_of_splits(root, tmp_path, k):
    text = "path,label,split\n" + "".join(f"{p},{n},{NAMES[s][k]}\n" for p, n, s in ENTRIES)
    assert rows(read(root, tmp_path, text)) == EXPECTED


OBJECTS = [dict(zip(H, entry, strict=True)) for entry in ENTRIES]


def lines_of(objects):
    return "".join(json.dumps(entry) + "\n" for entry in objects)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("text", "remark"),
    [
        (json.dumps(OBJECTS), ""),
        (json.dumps(OBJECTS, indent=1), ""),
        (lines_of(OBJECTS), ""),
        (lines_of(OBJECTS).replace("\n", "\r\n\r\n"), ""),
        (lines_of({"file_name": o["path"], **o, "path": 0, "w": 1} for o in OBJECTS), None),
        (lines_of({"file_name": o["path"], "label": o["label"], "split": o["split"], "w": 1}
                  for o in OBJECTS), "ignored columns: 'w'"),
        (lines_of(o | {"label": [o["label"]]} for o in OBJECTS), ""),
        (lines_of(dict(reversed(o.items())) if i % 2 else o for i, o in enumerate(OBJECTS)), ""),
        (json.dumps({n: [[p, LABELS.index(k), k] for p, k, s in ENTRIES if s == part]
                     for part, n in {"train": "Training", "val": "valid", "test": "TEST"}.items()}),
         ""),
        (json.dumps({part: [{"path": p, "label": k} for p, k, s in ENTRIES if s == part]
                     for part in splits.PARTS}), ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "list.txt"])
def test_json(root, tmp_path, text, remark, name, mark):
    if remark is None:
        with pytest.raises(ValueError, match="several columns for the path: 'file_name', 'path'"):
            read(root, tmp_path, mark + text, name)
        return
    dataset = read(root, tmp_path, mark + text, name)
    assert rows(dataset) == EXPECTED
    assert remark in " ".join(dataset.remarks) and bool(dataset.remarks) == bool(remark)


def halves(dataset):
    """Path and class name of every image, where the list has no split."""
    return sorted((path, name) for _, path, name in rows(dataset))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat/0.png cat\ncat/1.png cat\n", "cat"),
        ("cat/0.png\tcat\ncat/1.png\tcat\n", "cat"),
        ("\ufeffcat/0.png   big  cat\ncat/1.png   big  cat\n\n", "big  cat"),
        ("path label\ncat/0.png a cat\ncat/1.png a cat", "a cat"),
        ("cat/0.png,cat\ncat/1.png,cat\n", "cat"),
        ("cat/0.png; cat\r\ncat/1.png; cat\r\n", "cat"),
        ("cat/0.png bullet train\ncat/1.png bullet train\n", None),
    ],
)
def test_lines_without_a_header(root, tmp_path, text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="all labels end in the name of a split"):
            read(root, tmp_path, text, "list.txt")
        return
    dataset = read(root, tmp_path, text, "list.txt")
    assert halves(dataset) == [("cat/0.png", expected), ("cat/1.png", expected)]
    assert bool(dataset.remarks) != text.startswith("path")


def test_paths_with_spaces(root, tmp_path):
    text = "my own/0.png 0\nmy own/1.PNG 0\nmy own/2.png 1\ncat/0.png 1\n".replace("PNG", "png")
    found = halves(read(root, tmp_path, text, "list.txt", 'names = ["hot dog", "cat"]'))
    assert found == [("cat/0.png", "cat"), ("my own/0.png", "hot dog"), ("my own/1.png", "hot dog"),
                     ("my own/2.png", "cat")]  # fmt: skip


def test_headerless_with_splits(root, tmp_path):
    text = "".join(f"{','.join(entry)}\n" for entry in ENTRIES)
    dataset = read(root, tmp_path, text)
    assert rows(dataset) == EXPECTED
    assert dataset.remarks == (
        "list.csv has no header: its columns are read as path, label, split",
    )


@pytest.mark.parametrize(
    ("header", "toml"),
    [
        (("image_id", "file", "label", "split"), '[columns]\npath = "file"'),
        (("a", "file", "class", "split"), '[columns]\nlabel = "CLASS"'),
        (("image", "foto", "klasse", "teil"),
         '[columns]\npath = "foto"\nlabel = "klasse"\nsplit = "teil"'),
        (("fold", "path", "label", "split"), '[columns]\nsplit = "split"'),
    ],
)  # fmt: skip
def test_chosen_columns(root, tmp_path, header, toml):
    text = table(header, ("{row}", "{path}", "{label}", "{split}"))
    assert rows(read(root, tmp_path, text, toml=toml)) == EXPECTED


def test_a_column_that_is_no_split(root, tmp_path):
    text = table(("path", "label", "fold"), ("{path}", "{label}", "{row}"))
    with pytest.raises(ValueError, match=r"got '0'; if that column is no split.* split = \"\""):
        read(root, tmp_path, text)
    found = halves(read(root, tmp_path, text, toml='[columns]\nsplit = ""'))
    assert found == sorted((path, label) for path, label, _ in ENTRIES)


NUMBERED = table(("path", "label", "split"), ("{path}", "{k}", "{split}"))


@pytest.mark.parametrize("form", ["{}", "{}.0", "{}.00"])
@pytest.mark.parametrize(
    ("names", "file"),
    [
        ('["cat", "dog"]', None),
        ('"n.txt"', "cat\ndog\n"),
        ('"n.txt"', "\ufeffcat\r\ndog"),
        ('"n.txt"', "0 cat\n1 dog\n"),
        ('"n.txt"', "1: dog\n0: cat\n"),
        ('"n.txt"', "id,name\n0,cat\n1,dog\n"),
        ('"n.json"', '["cat", "dog"]'),
        ('"n.json"', '{"0": "cat", "1": "dog"}'),
        ('"n.json"', '{"dog": 1, "cat": 0}'),
    ],
)
def test_numbers_and_their_names(root, tmp_path, form, names, file):
    text = table(("path", "label", "split"), ("{path}", form.format("{k}"), "{split}"))
    toml = f"names = {names}"
    if file is not None:
        toml = toml.replace('"n.', f'"{tmp_path}/n.')
        (tmp_path / names.strip('"')).write_bytes(file.encode())
    dataset = read(root, tmp_path, text, toml=toml)
    assert rows(dataset) == EXPECTED and dataset.split.class_names == LABELS
    assert dataset.remarks == ()
    objects = [{"path": p, "label": LABELS.index(k), "split": s} for p, k, s in ENTRIES]
    assert rows(read(root, tmp_path, lines_of(objects), toml=toml)) == EXPECTED


def test_numbers_are_in_numeric_order(root, tmp_path):
    text = "path,label\n" + "".join(
        f"{folder}/{i}.png,{number}\n"
        for folder, number in (("cat", 10), ("dog", "9.0"), ("my own", 2))
        for i in range(3)
    )
    dataset = read(root, tmp_path, text)
    assert dataset.split.class_names == ("2", "9", "10")
    assert "labels are numbers without names" in dataset.remarks[0]
    named = read(root, tmp_path, text, toml='[class_names]\n2 = "a"\n9 = "b"\n10 = "c"')
    assert named.split.class_names == ("a", "b", "c") and named.remarks == ()


def test_names_of_more_classes_than_there_are(root, tmp_path):
    dataset = read(root, tmp_path, NUMBERED, toml='names = ["cat", "dog", "newt"]')
    assert dataset.split.class_names == LABELS
    assert dataset.remarks == ("list.csv: 1 of the named classes have no image",)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ('["a", "b", "c"]', "no image has label 0, so labels may start at 1, .* would be one off"),
        ('"{tmp}/n.txt"', ("b", "c")),
        ('"{tmp}/n.json"', ("a", "b")),
        ('"{tmp}/l.json"', "no image has label 0, so labels may start at 1"),
    ],
)
def test_labels_that_start_at_one(root, tmp_path, names, expected):
    """Names that are not numbered would be one off, and nothing would tell."""
    (tmp_path / "n.txt").write_text("0 a\n1 b\n2 c\n")
    (tmp_path / "n.json").write_text('{"1": "a", "2": "b"}')
    (tmp_path / "l.json").write_text('["a", "b", "c"]')
    text = NUMBERED.replace(",1,", ",2,").replace(",0,", ",1,")
    toml = f"names = {names}".replace("{tmp}", str(tmp_path))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            read(root, tmp_path, text, toml=toml)
        return
    assert read(root, tmp_path, text, toml=toml).split.class_names == expected


def test_names_order_classes_that_a_list_names(root, tmp_path):
    assert read(root, tmp_path, PLAIN, toml='names = ["dog", "cat"]').split.class_names == (
        "dog", "cat",
    )  # fmt: skip


@pytest.mark.parametrize("link", [False, True])
def test_absolute_paths_below_the_root(root, tmp_path, link):
    above = root
    if link:
        above = tmp_path / "link"
        above.symlink_to(root)
    text = PLAIN.replace("cat/", f"{above}/cat/").replace("dog/", f"{root}/./dog//")
    (tmp_path / "l.csv").write_text(text)
    dataset = class_folders.read(above, str(tmp_path / "l.csv"))
    assert rows(dataset) == EXPECTED
    assert dataset.remarks == (f"l.csv: 6 absolute paths are taken as below {above}",)


def test_names_without_their_suffix(root, tmp_path):
    text = "id,breed,split\n" + "".join(f"{p[:-4]},{n},{s}\n" for p, n, s in ENTRIES)
    dataset = read(root, tmp_path, text)
    assert rows(dataset) == EXPECTED
    assert "list.csv: 6 paths have no suffix; their files' are taken" in dataset.remarks
    with pytest.raises(ValueError, match="'flat' without a suffix, and there are flat.jpg and fla"):
        read(root, tmp_path, text + "flat,cat,train\n")


def test_missing_images(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="2 of the 8 images that .* lists are no files .*: "
                       "cat/8.png, no/1.png; paths are relative") as error:  # fmt: skip
        read(root, tmp_path, PLAIN + "cat/8.png,cat,train\nno/1.png,dog,test\n")
    assert "\n" not in str(error.value)
    inside = "path,label\n0.png,cat\n1.png,cat\n"
    with pytest.raises(FileNotFoundError, match="the first is in cat/: set data.root to that"):
        read(root, tmp_path, inside)
    with pytest.raises(FileNotFoundError, match="1 of the 6 images that .*no/1.png"):
        split = {n: [[p, LABELS.index(k), k] for p, k, s in ENTRIES if s == n] for n in NAMES}
        split["val"][0][0] = "no/1.png"
        read(root, tmp_path, json.dumps(split))
    (tmp_path / "l.csv").write_text(PLAIN + "cat/8.png,cat,train\n")
    dataset = class_folders.read(root, str(tmp_path / "l.csv"), skip_missing=True)
    assert len(dataset.split.train) == 3
    assert dataset.remarks == ("l.csv: 1 images are not there, such as cat/8.png",)


def test_folders_and_pipes_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    files = Files(tmp_path)
    assert [files.real(f"{n}.png") for n in ("a", "b", "gone", "c")] == [None] * 4
    (tmp_path / "l.csv").write_text("path,label\na.png,x\nb.png,x\n")
    with pytest.raises(FileNotFoundError, match="2 of the 2 images"):
        class_folders.read(tmp_path / "l.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="pipe.csv is not a regular file"):
        class_folders.read(tmp_path, str(tmp_path / "pipe.csv"))
    with pytest.raises(ValueError, match="pipe.csv is neither a folder nor a list"):
        class_folders.read(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match="b.png is not a regular file"):
        class_folders.read(tmp_path, str(tmp_path / "b.png"))


HEAD = "path,label\n"
ONE = '[{"path": "cat/0.png", "label": %s}]'
SEVERAL = "multi-label.* is not supported: give every image one label"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty: it lists no image"),
        ("\n \n", "is empty: it lists no image"),
        ("\ufeff", "is empty: it lists no image"),
        (HEAD, "lists no image"),
        ("a\nb\n", "has no path column: it has 'a'"),
        ("foto,klasse\ncat/0.png,cat\n", "no path column: it has 'foto', 'klasse'; call one"),
        ("path;name\ncat/0.png;cat\n", "no label column: it has 'path', 'name'; .*label = "),
        ("path,file,label\na,b,c\n", r"several columns for the path: 'path', 'file'; choose .*\["),
        ("path,label,class\na,b,c\n", "several columns for the label: 'label', 'class'; choose in"),
        ("path,label,split,fold\na,b,c,d\n", 'several columns for the split.* or = "" for none'),
        ("path,label,Label\na,b,c\n", "several columns for the label: 'label', 'Label'"),
        (HEAD + "cat/0.png,cat,dog\n", "line 2 has 3 values, the header names 2 columns: put quo"),
        (HEAD + "cat/0.png\n", "line 2: a label is the name of its class, got ''"),
        (HEAD + "\ncat/0.png,cat\n,dog\n", "line 4: a path is a text, got ''"),
        (HEAD + '"cat/0.png,cat\n', "line 2, is not CSV"),
        (HEAD + '"a"b,cat\n', "line 2, is not CSV"),
        (HEAD + "x" * 200_000 + ",cat\n", "line 2, is not CSV: field larger than"),
        (HEAD + "cat/0.png,-1\ncat/1.png,0\n", "label -1 is no class: leave such images out"),
        (HEAD + "cat/0.png,0.5\ncat/1.png,1\n", "'0.5' is no label: a class .* regression is not"),
        (HEAD + "cat/0.png,cat\ncat/0.png,dog\ncat/1.png,cat\ndog/1.png,dog\n",
         r"lists cat/0.png as '(cat' and as 'dog|dog' and as 'cat)': data with several"),
        (HEAD + "cat/0.png,cat\ncat/0.png,cat\ncat/1.png,cat\n", "lists cat/0.png twice"),
        (HEAD + "cat/0.png,cat|dog\ncat/1.png,cat\n", rf"'cat\|dog' looks like several.*{SEVERAL}"),
        (HEAD + "cat/0.png,cat;dog\ncat/1.png,dog\n", f"'cat;dog' looks like several.*{SEVERAL}"),
        (HEAD + 'cat/0.png,"cat, dog"\ncat/1.png,dog\ncat/2.png,cat\n', f"'cat, dog' .*{SEVERAL}"),
        (HEAD + "cat/0.png,\"['cat', 'dog']\"\n", f"looks like several labels: .*{SEVERAL}"),
        (HEAD + "cat/0.png,16 0\ncat/1.png,3\n", f"'16 0' looks like several labels: .*{SEVERAL}"),
        (ONE % '["cat", "dog"]', f"entry 1 has 2 labels, .*{SEVERAL}"),
        (ONE % "[]", "entry 1 has 0 labels"),
        (ONE % "null", "a label is the name of its class, got None"),
        (ONE % "true", "a label is the name of its class, got True"),
        (ONE % "NaN", "a label is the name of its class, got nan"),
        (ONE % '{"id": 3}', "a label is the name of its class, got {'id': 3}"),
        (ONE % '"a\\nb"', r"entry 1: a path and a label are plain texts of one line.*'a\\nb'"),
        (ONE % '"\\ud800"', "entry 1: a path and a label are plain texts"),
        (ONE % '"\\u001b[31m"', "entry 1: a path and a label are plain texts"),
        (ONE % f'"{"x" * 501}"', "a label of at most 500 characters; got"),
        ('[{"path": "a\\udce9.png", "label": "cat"}]', "entry 1: a path and a label are plain"),
        (HEAD + '"cat/0\n.png",cat\n', "line 3: a path and a label are plain texts of one line"),
        (HEAD + "../" * 5000 + ",cat\n", "must be a path under the image root"),
        ("x" * 5000 + ",y\na,b\n", "has no path column: it has 'xxxx"),
        (ONE % '" "', "a label is the name of its class, got ' '"),
        (ONE % '"a", "label": "b"', "has the key 'label' twice"),
        ('[{"path": 3, "label": "cat"}]', "entry 1: a path is a text, got 3"),
        ('[{"path": {"bytes": ""}, "label": "cat"}]', "entry 1: a path is a text, got {'bytes'"),
        ('[{"path": "cat/0.png"}]', "has no label column: it has 'path'"),
        ('["cat/0.png"]', "must be a list of objects with path and label"),
        ("[", "not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"a":' * 100_000, "is nested too deeply|not JSON"),
        ("[" + "9" * 5000 + "]", "not JSON: Exceeds the limit|not JSON"),
        ('{"path": {"0": "cat/0.png"}, "label": {"0": "cat"}}', "is a table by columns: .*records"),
        ('{"images": [], "annotations": [], "categories": []}', "of COCO's form"),
        ('{"cat/0.png": "cat"}', "it is an object of 'cat/0.png'"),
        ('{"train": [], "Training": []}', "holds the train images twice, the second as 'Training'"),
        ('{"train": 3}', "train in .* must be a list, got 3"),
        ('{"path": "cat/0.png", "label": "cat"}\n{"path"', "line 2: half-written or not JSON"),
        ('{"path": "cat/0.png", "label": "cat"}\n3\n', "line 2 must be an object with path and l"),
        ('{"path": "cat/0.png", "label": "cat"}\n{"path": "x.png"}', "no label column"),
        (lines_of([OBJECTS[0], {"path": "cat/1.png", "label": "cat"}]), "either all entries"),
        ("cat/0.png cat\ncat/1.png\n", "line 2 must be the path of an image and its label, got"),
        (HEAD + "https://x.org/1.png,cat\n", "'https://x.org/1.png' is a URL, and nothing is"),
        (HEAD + "s3://b/1.png,cat\n", "is a URL"),
        (HEAD + '"data:image/png;base64,xx",cat\n', "is a URL"),
        (HEAD + "/etc/passwd,cat\n", "'/etc/passwd' is not below the image root"),
        (HEAD + "{root}/../x.png,cat\n", "is not below the image root"),
        (HEAD + "../x.png,cat\n", "must be a path under the image root"),
        (HEAD + "C:/data/cat/0.png,cat\n", "'C:/data/cat/0.png' is not below the image root"),
        (HEAD + "C:\\cat\\0.png,cat\n", "is not below the image root"),
        ("path label split\ncat/0.png cat\ncat/1.png cat test\n", "line 3: either all entries"),
        (gzip.compress(PLAIN.encode(), mtime=0), "is compressed by gzip and not a text: write its"),
        (pickle.dumps(ENTRIES), "is a pickle and not a text"),
        (b"PAR1" + bytes(90), "is a Parquet file and not a text"),
        (b"PK\x03\x04" + bytes(90), "is a zip archive or an Excel workbook and not a text"),
        (bytes(100), "holds NUL characters"),
        (HEAD + "cat\\0.png,cat\n", "must be a path under the image root, with / between"),
        ("\ufeffpath,label\n".encode("utf-16"), "is in UTF-16: save it as UTF-8"),
        ("path,label\n".encode("utf-16-le"), "is in UTF-16: save it as UTF-8"),
        ("path,label\n".encode("utf-16-be"), "is in UTF-16: save it as UTF-8"),
        ("path,label\n".encode("utf-32"), "is in UTF-32: save it as UTF-8"),
        ("path,label\na.png,caf\xe9\n".encode("cp1252"), r"line 2, is not UTF-8 \(byte 0xe9\): .*"),
        ("path,label\na.png,x\xc3".encode("latin-1"), r"line 2, is not UTF-8 \(byte 0xc3\)"),
        (b"path,label\n" + b"a" * 3000 + b"\0,x\n", "holds NUL characters"),
    ],
)  # fmt: skip
def test_refused(root, tmp_path, text, message):
    if isinstance(text, str):
        text = text.replace("{root}", str(root))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read(root, tmp_path, text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize(
    ("toml", "text", "message"),
    [
        ("names = []\n[columns]\nfile = 'a'", PLAIN, "may name the columns of path, label, split"),
        ("[columns]\npath = 3", PLAIN, "columns.path must be a text, got 3"),
        ("[columns]\npath = 'pth'", PLAIN, "has no column 'pth', which columns in task.toml names"),
        ("names = 3", PLAIN, "names must be a text or a list, got 3"),
        ("names = [1]", PLAIN, r"names\[0\] must be a text that is not empty, got 1"),
        ("names = ['cat']", PLAIN, "'dog' is not among the names in task.toml; 'cat' is"),
        ("names = ['cat']", NUMBERED, "label 1 has no name: task.toml names 1 classes, 0 to 0; if"),
        ("names = ['cat', 'cat']", NUMBERED, "two classes are called 'cat'"),
        ("names = 'no.txt'", NUMBERED, "there is no file .*no.txt"),
        ("names = '{tmp}/blank.txt'", NUMBERED, "blank.txt, line 2, is empty: one name a line"),
        ("names = '{tmp}/bad.json'", NUMBERED, "must be a list of names, or an object of number"),
        ("names = ['cat', 'dog']", json.dumps({"train": [["cat/0.png", 0, "cat"]],
         "test": [["cat/1.png", 0, "cat"]]}), "is a split file, which names its classes"),
    ],
)  # fmt: skip
def test_settings_of_a_list_that_are_refused(root, tmp_path, toml, text, message):
    (tmp_path / "blank.txt").write_text("cat\n\ndog\n")
    (tmp_path / "bad.json").write_text('{"cat": "x"}')
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        read(root, tmp_path, text, toml=toml.replace("{tmp}", str(tmp_path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("toml", ["names = ['a', 'b']", "[columns]\npath = 'file'"])
def test_settings_of_a_list_without_one(tmp_path, toml):
    for name in LABELS:
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").touch()
    (tmp_path / "task.toml").write_text(toml)
    with pytest.raises(ValueError, match="names and columns in .*task.toml belong to a list: add"):
        class_folders.read(tmp_path)


@pytest.mark.parametrize(
    ("root_given", "items"),
    [("https://x.org/images", ""), ("{root}", "https://x.org/list.csv"), ("gs://bucket/a", "")],
)
def test_urls_in_place_of_files(root, root_given, items):
    with pytest.raises(ValueError, match="is a URL, and nothing is downloaded"):
        class_folders.read(Path(root_given.replace("{root}", str(root))), items)


def test_labels_with_commas_are_names(root, tmp_path):
    """ImageNet has the classes "maillot" and "maillot, tank suit"."""
    text = HEAD + "".join(
        f'{folder}/{i}.png,"{name}"\n'
        for folder, name in (("cat", "maillot"), ("dog", "maillot, tank suit"))
        for i in range(3)
    )
    assert read(root, tmp_path, text).split.class_names == ("maillot", "maillot, tank suit")


def test_a_file_that_is_too_large(root, tmp_path, monkeypatch):
    monkeypatch.setattr(text_file, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match="has 1,000 bytes, at most 100 are read"):
        read(root, tmp_path, " " * 1000)


CELL = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8
)


@given(
    labels=st.lists(CELL.filter(str.strip), min_size=1, max_size=9, unique_by=str.strip),
    separator=st.sampled_from(",;\t|"),
    seed=st.integers(0, 9),
)
def test_what_csv_writes_is_read(labels, separator, seed, tmp_path_factory):
    """The standard library writes the list with quotes where they are needed, and other columns."""
    folder = tmp_path_factory.mktemp("l")
    names = [f"{i}.png" for i in range(2 * len(labels))]
    for name in names:
        (folder / name).touch()
    listed = list(zip(names, [label.strip() for label in labels] * 2, strict=True))
    random.Random(seed).shuffle(listed)
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerow(["n", "Label", "width", "file_name"])
    writer.writerows([i, label, "1,5;3", path] for i, (path, label) in enumerate(listed))
    (folder / "l.csv").write_text(text.getvalue(), encoding="utf-8", newline="")
    settings = {"columns": {}, "names": [], "class_names": {}}
    try:
        listing = lists.read(folder / "l.csv", settings, Files(folder))
    except ValueError as error:
        assert any(word in str(error) for word in ("several labels", "no label", "no class"))
        return
    assert [path for path, _, _ in listing.rows] == [path for path, _ in listed]
    if "numbers" not in " ".join(listing.remarks):
        assert [label for _, label, _ in listing.rows] == [label for _, label in listed]


def test_counting_is_not_quadratic(tmp_path):
    """40,000 classes of two images each: quadratic work would need 10^9 steps and more."""
    count = 40_000
    items = tuple(Item(f"{k}", k // 2) for k in range(2 * count))
    names = [f"class {k}" for k in range(count)]
    split = splits.partition(items, names, 0.2, 0.3, 0)
    splits.check(split, "here")
    changed = {f"class {k}": f"kind {k}" for k in range(count)}
    assert task_toml.renamed(split, changed).class_names[-1] == f"kind {count - 1}"
    with pytest.raises(ValueError, match="no class 'clas 3', but 'class "):
        task_toml.renamed(split, {"clas 3": "x"})
