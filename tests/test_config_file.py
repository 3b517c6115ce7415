"""Configuration on the command line: found from anywhere, refused strictly."""

from pathlib import Path

import forked_runs
import pytest
from absl import flags
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from ml_collections import ConfigDict, config_flags

from cdc_jax import config_file, grammar, methods, settings


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
        ("part.inner.y=4", "There are x"),
        ("part.inner.shots=4", "The configuration itself has shots: write that alone"),
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


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b", ["a", "b"]),
        ("", [""]),
        ("a(1,2),b", ["a(1,2)", "b"]),
        ("a((1,2),(3,4)),b,", ["a((1,2),(3,4))", "b", ""]),
        ("smile :), b", ["smile :)", " b"]),  # parentheses that don't match are letters
        ("a (,b,c", ["a (", "b", "c"]),
        ('"a,b",c', ['"a,b"', "c"]),
        (r'"a\",b",c', [r'"a\",b"', "c"]),
        ('12" tall,b', ['12" tall', "b"]),
    ],
)
def test_a_list_splits_outside_of_parentheses(text, parts):
    assert grammar.split(text, ",") == parts


@pytest.mark.parametrize(
    "views", ["crop(scale=(0.4,1))|flip", "crop(scale=(0.4,1),ratio=(1,2)) | flip", "flip; jitter"]
)
def test_options_within_parentheses_are_no_settings(get_config, views):
    changed = get_config("fewshot", f"methods=coop,cdc@views={views},shots=4,cdc.views={views}")
    assert (changed.shots, changed.cdc.views) == (4, views)
    assert methods.names(changed.methods) == ["coop", f"cdc@views={views}"]
    assert methods.configure(f"cdc@views={views}").config.views == views


SETTINGS = {
    "views": st.sampled_from(("flip", "crop(scale=(0.4,1))|flip", "flip; jitter(hue=0.1)")),
    "prompts.phrases": st.text(),
    "prompts.anchors": st.text('ab ,;="\\()[]{}@|.', max_size=12),
    "prompts.templates": st.integers(-9, 9),
    "optimizer.learning_rate": st.floats(allow_nan=False, allow_infinity=False),
    "optimizer.name": st.text(st.characters(codec="ascii"), max_size=5),
    "head.centred": st.booleans(),
}
CHANGES = st.lists(st.sampled_from(sorted(SETTINGS)), unique=True, min_size=1).flatmap(
    lambda keys: st.fixed_dictionaries({key: SETTINGS[key] for key in keys})
)
ROWS = st.sampled_from(("coop", "cdc", "maple"))


def read(config, keys):
    flat = config_file.flat(config.to_dict())
    return {key: flat[key] for key in keys}


@budget(max_examples=25)
@given(ROWS, CHANGES)
def test_a_setting_is_the_same_in_every_form(row, changes):
    """After the colon, as a flag, and in a row's name: alone, after the colon and as a flag."""
    name = methods.with_changes(row, changes)
    assert read(methods.configure(name).config, changes) == changes
    colon = ",".join(f"{row}.{key}={grammar.quoted(value)}" for key, value in changes.items())
    applied = config_file.apply(settings.experiment(), f"methods=zero_shot,{name},{colon},shots=4")
    assert applied.shots == 4
    assert methods.names(applied.methods) == ["zero_shot", name]
    assert read(applied[row], changes) == changes

    texts = {"methods": f"zero_shot,{name}"} | {f"{row}.{k}": v for k, v in changes.items()}
    argv = [f"--config.{key}={grammar.quoted(value)}" for key, value in texts.items()]
    flagged = parsed(["run.py", *(config_file.resolved(argument, Path()) for argument in argv)])
    assert methods.names(flagged.methods) == ["zero_shot", name]
    assert read(flagged[row], changes) == changes


def parsed(argv):
    """The settings of an experiment after the flags of a command line."""
    values = flags.FlagValues()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", argv)  # where config_flags finds which keys are flags
        config_flags.DEFINE_config_dict("config", settings.experiment(), flag_values=values)
        values(argv)
    return values.config


@given(st.lists(st.text(min_size=1), min_size=1, unique=True))
def test_a_list_of_written_values_is_read_back(values):
    text = ",".join(map(grammar.quoted, values))
    assert [grammar.unquoted(part) for part in grammar.split(text, ",")] == values


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


REFUSALS = [
    (["--config=fewshoot.py"], "no configuration file 'fewshoot.py'"),
    (["--config=fewshot.py:shotz=4"], "unknown key 'shotz': did you mean 'shots'?"),
    (["--config=fewshot.py", "--config.shotz=4"], "shots"),
    (["--config.cdc.promts.templates=2"], "unknown key 'promts' in --config.cdc.promts.templates"),
    (
        ["--config.progress=False", "--config=ablation.py"],
        "write --config=FILE.py first, and --config.KEY=VALUE after it",
    ),
    (["--config=fewshot.py:shots=0"], "shots must be at least 1, got 0"),
    (["fewshot.py"], "unexpected 'fewshot.py': settings are given as --config="),
    (["--config=fewshot.py", "--config.shots=many"], "many"),
    (["--config=fewshot.py:methods=cop"], "unknown method 'cop': did you mean 'coop'?"),
    (["--config=fewshot.py:dataset=wrld"], "unknown dataset 'wrld': did you mean 'world'?"),
    (["--config=fewshot.py:model=none/here"], "none/here"),
    (["--config=fewshot.py", "--workdir=/proc/x"], "can't be written to"),
]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Exit code, printed text and folder of every run that has to be refused."""
    found = []
    for arguments, _ in REFUSALS:
        folder = tmp_path_factory.mktemp("refused")
        run = forked_runs.Script(forked_runs.EXPERIMENTS / "run.py", *arguments, folder=folder)
        _, errors = run.communicate()
        found.append((run.returncode, errors, folder))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(REFUSALS)), ids=lambda n: REFUSALS[n][1])
def test_run_refuses_from_any_folder_before_any_work(refused, number):
    code, printed, folder = refused[number]
    assert code != 0
    assert REFUSALS[number][1] in "\n".join(printed.strip().splitlines()[-3:]), printed
    assert not list(folder.iterdir())
