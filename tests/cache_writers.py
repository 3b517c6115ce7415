"""Processes that write to one cache of features at once, or are killed while they write.

python tests/cache_writers.py killed FOLDER    at least 20 kills (SIGKILL) at random moments
python tests/cache_writers.py "at once" FOLDER four processes, of which two write the same
python tests/cache_writers.py bounded FOLDER   the same, with room for a quarter of it

Prints what is then read. A number says what the feature of its image is.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from cdc_jax.feature_cache import FeatureCache

WIDTH, BATCH, IMAGES = 512, 500, 5000  # a batch takes 1.04 MB; images a kill
KILLS = 20
SMALL, FEW = 8, 1600  # batches that are merged
BOUND = 900_000


def key(number):
    return hashlib.sha256(str(number).encode()).digest()


def features(numbers):
    return np.add.outer(WIDTH * np.array(numbers), np.arange(WIDTH)).astype(np.float32)


def cache(folder, gigabytes=1.0):
    return FeatureCache(folder, gigabytes).of("encoder", WIDTH)


def write(folder, numbers, batch, gigabytes=1.0):
    stored = cache(folder, gigabytes)
    for first in range(0, len(numbers), batch):
        part = numbers[first : first + batch]
        keys = [key(number) for number in part]
        if not stored.read(keys)[1].all():
            stored.write(keys, features(part))


def read(folder, numbers):
    """How many are right, wrong and missing, for a process that has read nothing before."""
    found, present = cache(folder).read([key(number) for number in numbers])
    right = (found.view(np.uint32) == features(numbers).view(np.uint32)).all(1)
    return int((present & right).sum()), int((present & ~right).sum()), int((~present).sum())


def fork(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid


def killed(folder):
    rng, attempts = random.Random(0), 0
    told = {"kills": 0, "killed while writing": 0, "right": 0, "wrong": 0}
    # On a fast disk few kills meet a write: then there are more kills.
    enough = False
    while not enough and attempts < 20 * KILLS:
        numbers = range(attempts * IMAGES, (attempts + 1) * IMAGES)
        attempts += 1
        pid = fork(lambda n=numbers: write(folder, n, BATCH))
        skipped, ended = rng.randrange(5), (0, 0)
        while skipped >= 0 and not ended[0]:
            skipped -= bool(parts(folder))
            ended = os.waitpid(pid, os.WNOHANG)
        time.sleep(rng.random() * 0.002)
        if not ended[0]:
            os.kill(pid, signal.SIGKILL)
            ended = os.waitpid(pid, 0)
        told["kills"] += os.waitstatus_to_exitcode(ended[1]) == -signal.SIGKILL
        left = parts(folder)
        told["killed while writing"] += bool(left)
        enough = told["kills"] >= KILLS and told["killed while writing"] >= KILLS / 4
        for part in left:
            part.unlink()
        right, wrong, _ = read(folder, numbers)
        told["right"] += right
        told["wrong"] += wrong
    write(folder, numbers, BATCH)
    return told | {"missing after another process wrote them": read(folder, numbers)[2]}


def parts(folder):
    return list(Path(folder).glob("*/.*.part"))


def at_once(folder, gigabytes=1.0):
    ends, errors = [], Path(folder) / "errors"
    sys.stderr.flush()
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
    half = FEW // 2
    shares = [range(half), range(half), range(half, FEW), range(half, FEW)]
    pids = [fork(lambda s=share: write(folder, s, SMALL, gigabytes)) for share in shares]
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    told = errors.read_text()
    errors.unlink()
    right, wrong, missing = read(folder, range(FEW))
    return {
        "exit codes": ends, "errors": told, "right": right, "wrong": wrong, "missing": missing,
        "bound": BOUND,
    }  # fmt: skip


if __name__ == "__main__":
    mode, folder = sys.argv[1:]
    work = {
        "killed": killed,
        "at once": at_once,
        "bounded": lambda folder: at_once(folder, BOUND / 1e9),
    }
    print(json.dumps(work[mode](folder)))
