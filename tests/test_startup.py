"""What scripts import before they have checked their arguments: nothing that takes seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
HEAVY = (
    "jax", "flax", "optax", "orbax", "tensorstore", "grain", "transformers",
    "tensorflow_datasets", "matplotlib", "sklearn", "scipy.stats", "pandas", "jinja2",
)  # fmt: skip
CASES = {  # arguments -> exit code, words in what is printed
    ("run.py", "--help"): (1, "run.py --config=fewshot.py`"),  # absl's
    ("run.py", "--config=fewshot.py:methods=cdcc"): (1, "did you mean 'cdc'"),
    ("run.py", "--config=fewshot.py:methods=cdc@heat.name=no"): (1, "did you mean 'head'"),
    ("run.py", "--config=fewshot.py:dataset=word"): (1, "did you mean 'world'"),
    ("run.py", "--config=fewshot.py:dataset=folder,data.root=missing"): (1, "is not there"),
    ("run.py", "--config=fewshot.py:dataset=folder"): (
        1,
        "dataset=folder needs the folder of its images",
    ),
    ("run.py", "--config=fewshot.py:shots=0"): (1, "shots must be at least 1, got 0"),
    ("report.py", "missing"): (1, "no folder missing: give folders that runs were written to"),
    ("report.py", "--formats=pdf", "."): (1, "unknown formats ['pdf']: choose some of html,"),
    ("report.py", "--help"): (1, "runs/sweep --reference=coop_con"),
    ("run.py", "--config.shoots=3"): (1, 'Did you mean "shots"'),
    ("run.py", "--workdirs=here"): (1, "Did you mean: workdir"),
    ("predict.py", "missing", "nowhere"): (1, "nowhere can't be read as an image"),
    ("predict.py", "missing", "nowhere/"): (1, "folder nowhere/ is not there: name photographs,"),
    ("predict.py", "missing", "--top_k=0", __file__): (1, "--top_k"),
    ("predict.py", "missing", "--abstain=luck:2", __file__): (1, "missing is no folder"),
    ("predict.py", "missing", __file__): (1, "missing is no folder"),
    ("-m", "run", "--help"): (1, "`python -m cdc_jax run --config=fewshot.py`"),
    ("-m", "run", "--config.shoots=3"): (1, 'python -m cdc_jax run: Did you mean "shots"'),
    ("-m", "predict", "missing"): (1, "needed: python -m cdc_jax predict runs/pets/cdc photos/"),
    ("-m", "pretrain", "--help"): (1, "`python -m cdc_jax pretrain --config=pretrain.py`"),
    ("-m", "--help"): (0, "pretrains a small CLIP"),
    ("-m", "pretian"): (2, "unknown command 'pretian': did you mean 'pretrain'? There are run,"),
    ("-m",): (2, "pretrains a small CLIP"),
}
# Each case in a fork of one process, which has imported only what they all import.
PROGRAM = """
import importlib, json, os, runpy, sys, traceback
heavy, cases = map(json.loads, sys.argv[1:])
def imported():
    return [name for name in heavy if name in sys.modules]
import cdc_jax
imported_by_the_package = imported()
from cdc_jax import adapted_folder, image_prediction, sweep
sys.stdout.flush()
for number, (script, *arguments) in enumerate(cases):
    if os.fork():
        _, status = os.wait()
        print(json.dumps([os.waitstatus_to_exitcode(status), imported_by_the_package]))
        sys.stdout.flush()
        continue
    output = os.open(f"{number}.txt", os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1), os.dup2(output, 2)
    sys.argv, code = [script, *arguments], 0
    try:
        if script == "-m":
            runpy.run_module("cdc_jax", run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        print(end)
    except BaseException:
        traceback.print_exc()
        code = 2
    print(json.dumps(imported()), flush=True)
    os._exit(code)
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Arguments -> exit code, what was printed, and which heavy modules were imported."""
    folder = tmp_path_factory.mktemp("startup")
    cases = [
        (script if script == "-m" else str(EXPERIMENTS / script), *arguments)
        for script, *arguments in CASES
    ]
    command = [sys.executable, "-c", PROGRAM, json.dumps(HEAVY), json.dumps(cases)]
    paths = [str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    results = {}
    lines = done.stdout.splitlines()
    for number, (case, line) in enumerate(zip(CASES, lines, strict=True)):
        code, of_the_package = json.loads(line)
        printed = (folder / f"{number}.txt").read_text()
        results[case] = code, printed, of_the_package + json.loads(printed.splitlines()[-1])
    assert {path.suffix for path in folder.iterdir()} == {".txt"}, "a refusal left a trace"
    return results


@pytest.mark.parametrize("arguments", CASES, ids=" ".join)
def test_what_is_wrong_with_arguments_shows_before_heavy_imports(ended, arguments):
    code, words = CASES[arguments]
    found, printed, imported = ended[arguments]
    assert (found, imported) == (code, []) and words in printed, printed
