"""The one reader: files that are no files, damaged text, values of another kind."""

import json
import os
import socket

import pytest
from etils import epath

from cdc_jax import schema
from cdc_jax.schema import boolean, either, integer, list_of, number, one_of, optional, record, text

REMEDY = "mend it"


def pipe(path):
    os.mkfifo(path)


def bound_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (pipe, "a pipe"),
        (lambda path: path.mkdir(), "a folder"),
        (bound_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
    ],
)
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, what):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    path = tmp_path / "a.json"
    make(path.relative_to(tmp_path))
    with pytest.raises(ValueError, match=f"a.json is {what}, not a regular file: put the file"):
        schema.read_json(path, remedy=REMEDY)


def test_a_file_that_is_missing(tmp_path):
    for path in (tmp_path / "a.json", tmp_path / "b" / "a.json"):
        with pytest.raises(FileNotFoundError, match="a.json is missing from"):
            schema.read_json(path, remedy=REMEDY)
    (tmp_path / "b").write_text("")
    with pytest.raises(FileNotFoundError, match="a.json is missing from"):
        schema.read_json(tmp_path / "b" / "a.json", remedy=REMEDY)
    (tmp_path / "c").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match="c is missing from"):
        schema.read_json(tmp_path / "c", remedy=REMEDY)


def test_a_link_to_a_file_is_read(tmp_path):
    (tmp_path / "blob").write_text('{"a": 1}')
    (tmp_path / "a.json").symlink_to("blob")
    assert schema.read_json(epath.Path(tmp_path / "a.json"), remedy=REMEDY) == {"a": 1}


def test_objects_of_a_bucket_are_read(bucket):
    (bucket / "a.json").write_text('{"a": 1}')
    assert schema.read_json(bucket / "a.json", remedy=REMEDY) == {"a": 1}
    with pytest.raises(FileNotFoundError, match="b.json is missing from"):
        schema.read_json(bucket / "b.json", remedy=REMEDY)
    with pytest.raises(ValueError, match="holds 8 bytes, more than the 7 that"):
        schema.read_json(bucket / "a.json", remedy=REMEDY, largest=7)


@pytest.mark.parametrize(
    "text", ['{"a": [1, "é"]}', '\ufeff{"a": [1, "é"]}', ' {"a":[1,"\\u00e9"]}\n']
)
def test_good_objects(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert schema.read_json(tmp_path / "a.json", remedy=REMEDY) == {"a": [1, "é"]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "half-written or not JSON"),
        (b'{"a": 1', "half-written or not JSON"),
        (b'{"a": 1}\0\0\0', "half-written or not JSON"),
        (b"\0" * 9, "half-written or not JSON"),
        (b'{"a": 1} {"a": 2}', "half-written or not JSON"),
        (b"{'a': 1}", "half-written or not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "half-written or not JSON"),
        (b"[1]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
        (b'{"a": "\xff"}', "not text in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not text in UTF-8"),
        (b'{"a": 1, "b": 2, "a": 3}', "has the key 'a' twice"),
        (b'{"a": {"b\\n": 2, "b\\n": 3}}', "has the key 'b\\n' twice"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "is nested more than 64 deep"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "is nested"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "is nested"),
        (b"[" * 100_000, "is nested"),
    ],
)
def test_damaged_text(tmp_path, content, problem):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        schema.read_json(tmp_path / "a.json", remedy=REMEDY)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "a.json")) and message.endswith(f"; {REMEDY}")
    assert problem in message and message.isprintable()


def test_a_line_of_a_file():
    assert schema.parse('{"step": 3}', where="log, line 3", remedy=REMEDY) == {"step": 3}
    with pytest.raises(ValueError, match="^log, line 3: half-written or not JSON .*; mend it$"):
        schema.parse('{"step": ', where="log, line 3", remedy=REMEDY)
    with pytest.raises(
        ValueError, match="^log, line 3: step must be a whole number, got 'x'; mend"
    ):
        schema.parse('{"step": "x"}', record(step=integer()), where="log, line 3", remedy=REMEDY)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (integer(), [0, -5, 10**30], [True, 1.0, "1", None, [1], NAN]),
        (integer(1, 9), [1, 9], [0, 10, -1, 1.5, False]),
        (integer(1), [1, 10**9], [0]),
        (number(), [0, -1.5, 3], [True, "1", None, NAN, INF, -INF, 10**400, 1e301]),
        (number(0, 1), [0, 1, 0.5], [-1e-9, 1.1]),
        (number(above=0), [1e-300, 3], [0, -1]),
        (boolean(), [True, False], [0, 1, "true", None]),
        (text(), ["", "é", "a\nb"], [None, 3, ["a"], "\ud800", "x" * (2**20 + 1)]),
        (text(empty=False, longest=3), ["abc"], ["", "abcd"]),
        (text(unicode=False), ["\udcff"], [3]),
        (one_of("a", "b"), ["a", "b"], ["c", "", None, ["a"], 3]),
        (one_of(3), [3], [4, 3.0, "3"]),
        (one_of(True), [True], [1, False]),
        (list_of(integer(), 2, 2), [[1, 2]], [[1], [1, 2, 3], (1, 2), "12", {"0": 1}, ["a", 1]]),
        (
            schema.items(text(), integer()),
            [["a", 1]],
            [["a"], ["a", 1, 2], [1, "a"], ("a", 1), "a1"],
        ),
        (schema.table(integer(), least=1), [{"a": 1}], [{}, [], {"a": "b"}, None]),
        (either(integer(1), list_of(integer(1), 2, 2)), [3, [1, 2]], [0, [1], [1, 0], "3", 3.0]),
        (schema.anything(), [None, 3, [1]], []),
    ],
)
def test_kinds(kind, good, bad):
    for value in good:
        assert schema.check({"k": value}, record(k=kind), "f", REMEDY) == {"k": value}
    for value in bad:
        with pytest.raises(ValueError) as caught:
            schema.check({"k": value}, record(k=kind), "f", REMEDY)
        message = str(caught.value)
        assert message.startswith("f: k") and message.endswith(f"; {REMEDY}")
        assert " must be " in message and ", got " in message
        assert message.isprintable() and len(message) < 400


def test_fields_that_are_missing_null_or_more():
    kind = record(a=integer(), b=optional(integer(), 7), c=optional(text()))
    assert schema.check({"a": 1, "x": []}, kind, "f", REMEDY) == {
        "a": 1,
        "b": 7,
        "c": None,
        "x": [],
    }
    assert schema.check({"a": 1, "b": None}, kind, "f", REMEDY)["b"] == 7
    with pytest.raises(ValueError, match="^f: a must be a whole number, got None; mend it$"):
        schema.check({"a": None}, kind, "f", REMEDY)
    outer = record(part=record(a=integer(), d=integer()))
    with pytest.raises(ValueError, match="^f: part lacks a, d; mend it$"):
        schema.check({"part": {}}, outer, "f", REMEDY)
    with pytest.raises(ValueError, match="^f lacks part; mend it$"):
        schema.check({}, outer, "f", REMEDY)
    with pytest.raises(ValueError, match=r"^f: list\[1\].a must be a whole number, got 'x'; mend"):
        schema.check({"list": [{"a": 1}, {"a": "x"}]}, record(list=list_of(kind)), "f", REMEDY)


def test_odd_keys_and_values_stay_in_one_line():
    kind = schema.table(integer())
    for key in ("\x1b[31m", "a\nb", "x" * 5000, "\ud800"):
        with pytest.raises(ValueError) as caught:
            schema.check(json.loads(json.dumps({key: "\n\x1b" * 5000})), kind, "f", REMEDY)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 400
