"""Standard output that ends before the program does, or that can't have every letter."""

import os
import subprocess
import sys

import pytest

from cdc_jax import streams

# Without the package, which takes seconds to import.
SCRIPT = f"""
import runpy, sys
endure = runpy.run_path({streams.__file__!r})["endure"]
endure()
for i in range(20000):
    print("line", i)
print("error text", file=sys.stderr)
open(sys.argv[1], "w").write("done")
"""


def start(tmp_path, code=SCRIPT, **options):
    command = [sys.executable, "-c", code, str(tmp_path / "done")]
    return subprocess.Popen(command, **options)


@pytest.mark.parametrize("name", ["stdout", "stderr", "both"])
def test_a_reader_that_leaves_ends_nothing(tmp_path, name):
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pipes |= {key: writer for key in pipes if name in (key, "both")}
    run = start(tmp_path, **pipes)
    os.close(writer)
    _, errors = run.communicate(timeout=30)
    assert run.returncode == 0
    assert (tmp_path / "done").read_text() == "done"
    assert errors in (None, b"error text\n")


def test_one_that_reads_a_line_gets_it(tmp_path):
    run = start(tmp_path, stdout=subprocess.PIPE)
    assert run.stdout.readline() == b"line 0\n"
    run.stdout.close()
    assert run.wait(30) == 0 and (tmp_path / "done").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_a_full_disk_is_told_once(tmp_path):
    with open("/dev/full", "w") as full:
        run = start(tmp_path, stdout=full, stderr=subprocess.PIPE)
        _, errors = run.communicate(timeout=30)
    assert run.returncode == 0 and (tmp_path / "done").exists()
    assert errors.decode().splitlines()[0] == (
        "<stdout> can't be written to (No space left on device): nothing more is printed"
    )


def test_no_standard_output_at_all(tmp_path):
    closing = ["sh", "-c", 'exec "$0" "$@" >&- 2>&-']
    run = subprocess.Popen([*closing, sys.executable, "-c", SCRIPT, str(tmp_path / "done")])
    assert run.wait(30) == 0 and (tmp_path / "done").read_text() == "done"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_an_encoding_without_a_letter_shows_its_escape(tmp_path, encoding):
    text = "é 日本 \udce9"
    code = SCRIPT.replace('"line", i', ascii(text)).replace("20000", "1")
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    run = start(tmp_path, code, stdout=subprocess.PIPE, env=environment)
    printed, _ = run.communicate(timeout=30)
    assert (
        printed.decode(encoding)
        == text.encode(encoding, "backslashreplace").decode(encoding) + "\n"
    )


def test_streams_that_a_test_or_notebook_put_in_place_stay(capsys):
    before = sys.stdout
    streams.endure()
    assert sys.stdout is before
