"""Features on disk: what is read is what was written, whoever writes and whatever breaks."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cdc_jax import user_caches
from cdc_jax.feature_cache import FeatureCache

WIDTH = 6


def key(number):
    return hashlib.sha256(f"image {number}".encode()).digest()


def keys(*numbers):
    return [key(number) for number in numbers]


def feature(number):
    """What stands for the feature of an image, drawn from its number alone."""
    return np.random.default_rng(number).standard_normal(WIDTH, np.float32)


def features(*numbers):
    return np.stack([feature(number) for number in numbers])


def of(folder, gigabytes=1.0, encoder="encoder"):
    """As a process sees the cache that has not used it yet."""
    return FeatureCache(folder, gigabytes).of(encoder, WIDTH)


def present(folder, *numbers):
    """Which of the images are there. Each of those must have its own feature, bit by bit."""
    found, there = of(folder).read(keys(*numbers))
    for number, row in zip(np.array(numbers)[there], found[there], strict=True):
        assert row.tobytes() == feature(number).tobytes()
    return there.tolist()


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def size(folder):
    return sum(path.stat().st_size for path in files(folder))


def test_another_process_reads_the_bits_that_were_written(tmp_path):
    of(tmp_path).write(keys(0, 1, 2), features(0, 1, 2))
    assert present(tmp_path, 2, 7, 0, 2) == [True, False, True, True]
    assert present(tmp_path) == []


def test_the_format_of_a_file(tmp_path):
    """Typed from the description, without the module's own reader."""
    of(tmp_path).write(keys(4, 5), features(4, 5))
    (file,) = files(tmp_path)
    content = file.read_bytes()
    assert file.name == f"{hashlib.sha256(content).hexdigest()}.features"
    assert struct.unpack("<8sII", content[:16]) == (b"cdcfeat1", 2, WIDTH)
    assert content[16:48] == key(4) and content[48:80] == key(5)
    assert np.array_equal(np.frombuffer(content[80:], "<f4").reshape(2, WIDTH), features(4, 5))


def test_an_encoder_or_a_width_has_features_of_its_own(tmp_path):
    of(tmp_path).write(keys(0), features(0))
    assert not of(tmp_path, encoder="another").read(keys(0))[1].any()
    assert not FeatureCache(tmp_path).of("encoder", WIDTH + 1).read(keys(0))[1].any()


def test_an_image_without_a_key_is_neither_kept_nor_found(tmp_path):
    of(tmp_path).write([b"", key(1)], features(0, 1))
    assert of(tmp_path).read([b"", key(1)])[1].tolist() == [False, True]


def test_what_is_there_is_not_written_again(tmp_path):
    of(tmp_path).write(keys(0, 1), features(0, 1))
    cache = of(tmp_path)
    cache.read(keys(0, 1, 2))
    cache.write(keys(0, 1), features(0, 1))
    assert len(files(tmp_path)) == 1


def test_processes_see_what_others_write_meanwhile(tmp_path):
    one, other = of(tmp_path), of(tmp_path)
    assert not one.read(keys(0))[1].any()
    other.write(keys(0), features(0))
    assert one.read(keys(0))[1].all()


DAMAGES = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[:-1],
    "cut in its head": lambda content: content[:9],
    "longer": lambda content: content + b"\0",
    "another head": lambda content: b"cdcfeat0" + content[8:],
    "a flipped bit of a feature": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "a flipped bit of a key": lambda c: c[:16] + bytes([c[16] ^ 1]) + c[17:],
    "zeros": lambda content: bytes(len(content)),
    "foreign": lambda content: b"\x80\x04cos\nsystem\n" * 30,
    "as many images as no file can hold": lambda content: content[:8] + b"\xff" * 4 + content[12:],
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_not_read_and_removed(tmp_path, damage, capsys):
    of(tmp_path).write(keys(0, 1), features(0, 1))
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    of(tmp_path).write(keys(2), features(2))
    there = present(tmp_path, 0, 1, 2)
    assert there[2] and not all(there[:2])
    present(tmp_path, 0, 1)
    assert not file.exists()
    assert capsys.readouterr() == ("", "")
    of(tmp_path).write(keys(0, 1), features(0, 1))
    assert present(tmp_path, 0, 1, 2) == [True] * 3


def test_every_flipped_bit_and_every_length_is_noticed(tmp_path):
    of(tmp_path).write(keys(0), features(0))
    (file,) = files(tmp_path)
    content = file.read_bytes()
    wrong = [content[:length] for length in range(len(content))]
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        wrong.append(bytes(changed))
    for changed in wrong:
        file.write_bytes(changed)
        assert present(tmp_path, 0) == [False]
    file.write_bytes(content)
    assert present(tmp_path, 0) == [True]


def test_files_of_others_are_left_alone(tmp_path):
    of(tmp_path).write(keys(0), features(0))
    (file,) = files(tmp_path)
    foreign = [tmp_path / "thesis.tex", file.parent / "notes.txt", file.parent / "x.features"]
    for path in foreign:
        path.write_text("kept")
    (file.parent / ("0" * 64 + ".features")).mkdir()
    link = file.parent / ("1" * 64 + ".features")
    link.symlink_to(foreign[0])
    of(tmp_path, gigabytes=1e-9 * size(tmp_path)).write(keys(1, 2), features(1, 2))
    assert all(path.read_text() == "kept" for path in [*foreign, link])


def test_the_bound_holds_and_the_files_used_last_stay(tmp_path):
    bound = 2000  # bytes; a file of two images takes 16 + 2 (32 + 24) = 128
    for number in range(0, 60, 2):
        of(tmp_path, bound / 1e9).write(keys(number, number + 1), features(number, number + 1))
        for file in files(tmp_path):  # by age, whatever the clock's resolution
            os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 10**10))
        if number >= 2:
            (first,) = (f for f in files(tmp_path) if key(0) in f.read_bytes())
            os.utime(first)  # as a process that uses it
        assert size(tmp_path) <= bound
    there = np.array(present(tmp_path, *range(60)))
    assert there[:2].all() and there[-28:].all() and there.sum() == 30


def test_use_is_noted(tmp_path):
    of(tmp_path).write(keys(0), features(0))
    (file,) = files(tmp_path)
    os.utime(file, (1e9, 1e9))
    assert present(tmp_path, 0) == [True]
    assert time.time() - file.stat().st_mtime < 60


def test_a_batch_beyond_the_bound_is_not_kept_and_removes_nothing(tmp_path):
    of(tmp_path, 100e-9).write(keys(0), features(0))
    of(tmp_path, 100e-9).write(keys(1, 2), features(1, 2))
    assert present(tmp_path, 0, 1, 2) == [True, False, False]


def test_many_small_files_become_one(tmp_path):
    reader = of(tmp_path)
    for number in range(70):
        of(tmp_path).write(keys(number), features(number))
        reader.read(keys(number))
    assert len(files(tmp_path)) < 10
    assert present(tmp_path, *range(70)) == [True] * 70
    found, there = reader.read(keys(*range(70)))  # which knew the files before
    assert there.all() and np.array_equal(found, features(*range(70)))


def test_a_file_that_is_merged_while_it_is_read(tmp_path, monkeypatch):
    for number in range(63):
        of(tmp_path).write(keys(number), features(number))
    reader, read = of(tmp_path), Path.read_bytes

    def merging(path):
        monkeypatch.setattr(Path, "read_bytes", read)
        of(tmp_path).write(keys(63), features(63))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", merging)
    found, there = reader.read(keys(*range(63)))
    assert there.all() and np.array_equal(found, features(*range(63)))
    assert len(files(tmp_path)) == 1


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    of(tmp_path).write(keys(0), features(0))
    (file,) = files(tmp_path)
    old, new = (file.parent / f".{digit * 16}.part" for digit in "01")
    old.touch()
    new.touch()
    os.utime(old, (1e9, 1e9))
    of(tmp_path).write(keys(1), features(1))
    assert not old.exists() and new.exists()


def test_off_is_off(tmp_path):
    assert of(tmp_path, gigabytes=0) is None
    assert not files(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_read(tmp_path, capsys):
    of(tmp_path).write(keys(0), features(0))
    (file,) = files(tmp_path)
    file.parent.chmod(0o555)
    cache = of(tmp_path)
    assert cache.read(keys(0))[1].all()
    cache.write(keys(1), features(1))
    file.parent.chmod(0o755)
    assert "can't be written to (Permission denied)" in capsys.readouterr().err


def test_a_folder_that_can_not_be_written_to_is_told_once(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "below").of("encoder", WIDTH)
    for number in range(3):
        cache.write(keys(number), features(number))
        assert not cache.read(keys(number))[1].any()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"the cache of image features in {tmp_path}/file/below can't be written to (Not a "
        "directory): the run goes on and adds nothing to it; name another folder, or set its "
        "gigabytes to 0"
    )


def test_a_full_disk_leaves_no_part(tmp_path, capsys, monkeypatch):
    write = Path.write_bytes

    def full(path, content):
        write(path, content[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    of(tmp_path).write(keys(0), features(0))
    assert "(No space left on device)" in capsys.readouterr().err
    assert not files(tmp_path)


def test_the_default_folder(monkeypatch):
    monkeypatch.delenv("CDC_JAX_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert str(user_caches.path("features")) == "/home/someone/.cache/cdc_jax/features"
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert str(user_caches.path("features")) == "/scratch/cdc_jax/features"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification ignores
    assert str(user_caches.path("features")) == "/home/someone/.cache/cdc_jax/features"
    monkeypatch.setenv("CDC_JAX_CACHE", "~/mine")
    assert str(user_caches.path("features")) == "/home/someone/mine/features"


@pytest.mark.parametrize(
    ("folder", "gigabytes", "message"),
    [
        ("", -1.0, r"cache.gigabytes must be at least 0 \(no cache\), got -1.0"),
        ("", float("nan"), "cache.gigabytes must be at least 0"),
        ("", float("inf"), "cache.gigabytes must be at least 0"),
        ("gs://bucket/x", 1.0, "cache.folder must be a folder on a disk, got 'gs://bucket/x'"),
        (__file__, 1.0, "cache.folder must be a folder, and .* is a file: name a folder"),
    ],
)
def test_settings_that_can_not_be_are_refused(folder, gigabytes, message):
    with pytest.raises(ValueError, match=message):
        FeatureCache(folder, gigabytes)


def writers(mode, folder):
    """What tests/cache_writers.py prints. It forks, which JAX's threads in this process forbid."""
    script = Path(__file__).parent / "cache_writers.py"
    command = [sys.executable, str(script), mode, str(folder)]
    return json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    )


def test_killed_at_any_moment_nothing_wrong_is_read(tmp_path):
    told = writers("killed", tmp_path)
    assert told["kills"] >= 20 and told["killed while writing"] >= 5
    assert told["wrong"] == 0 and told["right"] > 0
    assert told["missing after another process wrote them"] == 0


def test_writers_at_once_lose_and_mix_nothing(tmp_path):
    told = writers("at once", tmp_path)
    assert told["exit codes"] == [0] * 4 and told["errors"] == ""
    assert told["wrong"] == 0 and told["missing"] == 0


def test_writers_at_once_stay_within_the_bound(tmp_path):
    told = writers("bounded", tmp_path)
    assert told["exit codes"] == [0] * 4 and told["errors"] == ""
    assert told["wrong"] == 0 and told["right"] > 0
    assert size(tmp_path) <= told["bound"]
