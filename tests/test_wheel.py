"""The wheel: all files of the package, and commands that need nothing else of the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# It comes with tensorboard; the oldest can't read pyproject.toml.
pytest.importorskip("setuptools", "77")
pytestmark = pytest.mark.slow  # builds a wheel
ROOT = Path(__file__).parent.parent
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The files of the wheel, which is built from links: the build writes beside its sources."""
    tree, installed = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("installed")
    for name in ("cdc_jax", "LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        (tree / name).symlink_to(ROOT / name)
    command = [sys.executable, "-c", BUILD, str(tree)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (wheel,) = tree.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def test_the_wheel_holds_every_file_of_the_package(installed):
    assert files(installed / "cdc_jax") == files(ROOT / "cdc_jax")


def test_the_wheel_has_the_command(installed):
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert points.read_text().split("\n")[:2] == [
        "[console_scripts]", "cdc-jax = cdc_jax.commands:main",
    ]  # fmt: skip


# What the console script does.
SCRIPT = "import sys; from cdc_jax import commands; sys.argv[0] = 'bin/cdc-jax'; commands.main()"


@pytest.mark.parametrize("start", [["-m", "cdc_jax"], ["-c", SCRIPT]], ids=["module", "script"])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("ablation.py:methods=cdcc", "unknown method 'cdcc': did you mean 'cdc'?"),
        ("none.py", "cdc_jax/configs: there are ablation.py, base_to_new.py,"),
    ],
)
def test_the_commands_find_the_configurations_of_the_wheel(
    installed, tmp_path, start, config, words
):
    done = subprocess.run(
        [sys.executable, *start, "run", f"--config={config}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr and str(ROOT) not in done.stderr
