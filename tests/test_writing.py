"""Output files: whole or as before; links, pipes and devices are written through."""

import os
import stat
import threading

import pytest

from cdc_jax import image_prediction, writing
from cdc_jax.report.files import Report
from cdc_jax.report.files import write as write_report


def test_a_file_is_replaced_and_nothing_is_left_over(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")
    path.chmod(0o640)
    writing.write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["out.csv"]


def test_a_new_file_has_the_users_permissions(tmp_path):
    writing.write_text(tmp_path / "new", "")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_lay_there_stays_until_all_is_written(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(ZeroDivisionError):
        with writing.writing(tmp_path / "out") as file:
            file.write(b"half")
            raise ZeroDivisionError
    assert (tmp_path / "out").read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_a_neighbour_called_part_is_no_concern(tmp_path):
    (tmp_path / "out.csv.part").write_text("mine")
    (tmp_path / "out.part").write_text("mine")
    writing.write_text(tmp_path / "out.csv", "new")
    assert (tmp_path / "out.csv.part").read_text() == (tmp_path / "out.part").read_text() == "mine"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("links", [1, 3])
def test_a_link_stays_and_its_target_is_written(tmp_path, there, links):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far/target"
    if there:
        target.write_text("old")
    last = target
    for i in range(links):
        link = tmp_path / f"link{i}"
        link.symlink_to(os.path.relpath(last, tmp_path))
        last = link
    writing.write_text(last, "new")
    assert last.is_symlink() and target.read_text() == "new" and not target.is_symlink()


def test_a_long_name_is_no_hindrance(tmp_path):
    writing.write_text(tmp_path / ("x" * 255), "new")
    assert (tmp_path / ("x" * 255)).read_text() == "new"


WRITERS = [
    lambda path: writing.write_text(path, "content"),
    lambda path: image_prediction.write_csv([], path),
    lambda path: image_prediction.write_json([], path),
    lambda path: write_report(Report([], {path.name: "content"}, []), path.parent),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_pipe_gets_the_bytes_and_stays_one(tmp_path, write):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write(pipe)
    reader.join(10)
    assert got and got[0] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("write", WRITERS)
def test_a_device_stays_one(tmp_path, write):
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in (link, *([writing.Path("/dev/null")] if os.getuid() else [])):
        write(path)
        assert stat.S_ISCHR(path.stat().st_mode)
    assert link.is_symlink()


@pytest.mark.parametrize("write", WRITERS)
def test_a_link_to_a_file_is_written_through_by_all(tmp_path, write):
    (tmp_path / "far").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "far/target")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "far/target").read_bytes()


@pytest.mark.parametrize("form", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_an_open_file_goes_on_where_it_was(tmp_path, form, kind):
    """As standard output does, when it is called /dev/stdout."""
    if kind == "file":
        reader = writer = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    else:
        reader, writer = os.pipe()
    path = tmp_path / "link" if form == "link" else form.format(writer)
    if form == "link":
        path.symlink_to(f"/dev/fd/{writer}")
    os.write(writer, b"before,")
    writing.write_text(path, "content,")
    os.write(writer, b"after")
    if kind == "file":
        os.lseek(reader, 0, os.SEEK_SET)
        assert os.listdir(tmp_path)[0] in ("out", "link")
    assert os.read(reader, 100) == b"before,content,after"
    for one in {reader, writer}:
        os.close(one)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda path: path.mkdir(), IsADirectoryError, "is a folder: name a file in it"),
        (lambda path: path.symlink_to(path), OSError, "a link that leads to itself"),
        (lambda path: path.symlink_to("gone/far"), FileNotFoundError, "there is no folder .*gone"),
        (lambda path: path.symlink_to("."), IsADirectoryError, "is a folder"),
    ],
)
def test_a_place_that_can_not_be_written_is_refused_before_work(tmp_path, make, error, message):
    make(tmp_path / "out")
    with pytest.raises(error, match=message):
        writing.checked_path(tmp_path / "out")


def test_what_no_encoding_has_is_written_as_an_escape(tmp_path):
    writing.write_text(tmp_path / "out", "caf\udce9")
    assert (tmp_path / "out").read_bytes() == rb"caf\udce9"


def test_a_full_disk_is_told():
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="No space left"):
            writing.write_text("/dev/full", "x")
