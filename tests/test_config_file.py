"""Configuration on the command line: found from anywhere, refused strictly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from cdc_jax import config_file, methods

RUN = Path(__file__).parent.parent / "experiments" / "run.py"


def config():
    return ConfigDict(
        {"shots": 16, "rate": 0.1, "name": "a", "part": {"on": True, "inner": {"x": 1}}}
    )


def test_apply():
    changed = config_file.apply(config(), "shots=4,rate=1,name=b,c,part.on=False,part.inner.x=3")
    assert changed.to_dict() == {
        "shots": 4, "rate": 1.0, "name": "b,c", "part": {"on": False, "inner": {"x": 3}},
    }  # fmt: skip
    assert config_file.apply(config(), "").to_dict() == config().to_dict()
    with pytest.raises(AttributeError):
        changed.new_key = 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("shot=4", "unknown key 'shot': did you mean 'shots'?"),
        ("part.inner.y=4", "unknown key 'y': did you mean 'x'?"),
        ("shots.x=4", "unknown key 'x', nothing is below"),
        ("shots=four", "shots must be of type int, got 'four'"),
        ("shots=4.5", "shots must be of type int, got '4.5'"),
        ("part.on=1", "part.on must be of type bool, got '1'"),
        ("four", "expected key=value, got 'four'"),
    ],
)
def test_apply_refuses(argument, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        config_file.apply(config(), argument)


def test_fewshot_config(get_config):
    changed = get_config("fewshot", "shots=4,seed=2,methods=coop,cdc,cdc.prompts.templates=2")
    assert (changed.shots, changed.seed, changed.methods) == (4, 2, "coop,cdc")
    assert changed.is_locked
    chosen = methods.configure("cdc", "small", changed.cdc).config
    assert chosen.prompts.templates == 2
    assert chosen.prompts.layers == methods.ROWS["cdc"].small["prompts.layers"]
    assert methods.configure("cdc").config.prompts.layers == 9


def test_unknown_method():
    with pytest.raises(ValueError, match="unknown method 'cop': did you mean 'coop'"):
        methods.configure("cop")


def run(*arguments, cwd):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, RUN, *arguments],
        capture_output=True, text=True, cwd=cwd, env=environment, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=fewshoot.py"], "no configuration file 'fewshoot.py'"),
        (["--config=fewshot.py:shotz=4"], "unknown key 'shotz': did you mean 'shots'?"),
        (["--config=fewshot.py", "--config.shotz=4"], "shots"),
        (["--config.cdc.promts.templates=2"], "unknown key 'promts'"),
        (["fewshot.py"], "unexpected 'fewshot.py': settings are given as --config="),
        (["--config=fewshot.py", "--config.shots=many"], "many"),
        (["--config=fewshot.py:methods=cop"], "unknown method 'cop': did you mean 'coop'?"),
        (["--config=fewshot.py:dataset=wrld"], "unknown dataset 'wrld': did you mean 'world'?"),
        (["--config=fewshot.py:model=none/here"], "none/here"),
        (["--config=fewshot.py", "--workdir=/proc/x"], "can't be written to"),
    ],
)
def test_run_refuses_from_any_folder_before_any_work(arguments, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode != 0
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()
    assert message in "\n".join(last[-3:]), done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != ".lock"]
