"""What things are called steers no terminal, no page, no spreadsheet; and ends no command."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ET

import pytest
import rich.console
from absl import flags
from synthetic_runs import write_cell

from cdc_jax import methods, progress, report
from cdc_jax.commands import predict as command
from cdc_jax.folder_names import folder_name
from cdc_jax.image_prediction import ImagePrediction
from cdc_jax.records import Results, SplitRecord, TaskRecord

NAMES = [
    "\x1b[31mred", "a\nb\r\tc", "\0", "\x9b2J", "\u202egnp", "caf\udce9", "[/b][red]x[/]", "[/b",
    "a\\", "=1+1", "@SUM(A1)", "\uffff", "<script>x</script>",
]  # fmt: skip
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\uffff]")


@pytest.mark.parametrize("name", ["".join(NAMES), "=1+1"])
def test_a_report_shows_it_as_text(tmp_path, name):
    cell = write_cell(tmp_path / "cdc", images=13, optional=("gallery",), classes=(name, *NAMES))
    content = json.loads((cell / "results.json").read_text())
    content["task"] |= {"dataset": name, "note": name, "protocol": "base_new"}
    (cell / "results.json").write_text(json.dumps(content))
    made = report.make([tmp_path], formats=["html", "markdown", "csv", "latex"])
    for path, text in made.files.items():
        assert not STEERS.search(text), path
        if path.endswith(".csv"):
            for line in list(csv.reader(io.StringIO(text)))[1:]:
                assert not any(cell.startswith(("=", "+", "@", "\t")) for cell in line)
    assert "<script>x" not in made.files["index.html"]
    report.write(made, tmp_path / "out")


@pytest.mark.slow
def test_names_in_plots_are_text(tmp_path):
    for seed in (1, 2):
        for method in ("coop", "cdc"):
            cell = write_cell(
                tmp_path / f"{seed}/{method}", method, seed=seed, images=12, optional=("scores",)
            )
            content = json.loads((cell / "results.json").read_text())
            content["task"]["dataset"] = "\x1b\udce9\uffff\u202e"
            (cell / "results.json").write_text(json.dumps(content))
    files = report.make([tmp_path], formats=["svg"]).files
    assert files
    for text in files.values():
        ET.fromstring(text)
        assert not STEERS.search(text)


def results_of(name, **task):
    record = methods.configure(name).record(changes_images=False)
    described = TaskRecord(**{"dataset": "d", "protocol": "few_shot", "heading": "", "shots": 1,
                              "seed": 1, "settings": {}} | task)  # fmt: skip
    return Results(
        record,
        described,
        {"test": SplitRecord()},
        {"test": {}},
        {"test": 50.0},
        {},
        1,
        1,
        [],
        "cpu",
    ).to_json()


@pytest.mark.parametrize("phrase", [name for name in NAMES if "\n" not in name])
def test_the_table_of_a_run_shows_it_as_text_and_says_where_its_folder_is(capsys, phrase):
    name = f"coop@prompts.phrases=x/{phrase}"
    report.print_table({name: results_of(name, note=phrase)})
    printed = capsys.readouterr().out
    assert not STEERS.search(printed)
    assert f"in the folder {folder_name(name)}" in printed.replace("\n", "")
    if phrase.startswith("["):
        assert f"x/{phrase}" in printed.replace("\n", "")


def test_the_table_is_silent_on_folders_that_are_called_as_the_method(capsys):
    report.print_table({"coop@views=flip": results_of("coop@views=flip")})
    assert "folder" not in capsys.readouterr().out


@pytest.mark.parametrize("name", NAMES)
def test_a_progress_bar_shows_it_as_text(monkeypatch, name):
    written = io.StringIO()
    console = rich.console.Console(file=written, force_terminal=True, width=200, color_system=None)
    monkeypatch.setattr(progress.rich.console, "Console", lambda: console)
    with progress.Progress(name, 3) as bar:
        bar.advance()
    text = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", written.getvalue()).replace("\r", "")
    assert not STEERS.search(text)
    if name.startswith("["):
        assert name in text


ROW = ImagePrediction(
    "a.jpg", "caf\udce9 日本", (("caf\udce9 日本", 1.0),), 0.1, None, 0.0, (), False
)


@pytest.fixture
def predict(monkeypatch):
    """The command's main function, its predictions replaced by one row."""
    known = set(flags.FLAGS)
    command.define()
    monkeypatch.setattr(command, "_rows", lambda run, named: [ROW])

    def call(*arguments):
        rest = flags.FLAGS(["predict.py", "run", "photos", *arguments])
        command.main(rest)

    yield call
    for name in set(flags.FLAGS) - known:
        delattr(flags.FLAGS, name)


def test_files_are_written_before_anything_is_printed(predict, tmp_path, monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise UnicodeEncodeError("ascii", text, 0, 1, "no such letter")

    monkeypatch.setattr("sys.stdout", Broken())
    with pytest.raises(UnicodeEncodeError):
        predict(f"--csv={tmp_path}/out.csv", f"--json={tmp_path}/out.json")
    assert json.loads((tmp_path / "out.json").read_text())[0]["predicted"] == ROW.predicted
    assert r"caf\udce9 日本" in (tmp_path / "out.csv").read_text()


def test_one_file_that_can_not_be_written_does_not_cost_the_others(predict, tmp_path, capsys):
    with pytest.raises(OSError, match=r"/dev/full could not be written \(.*No space left"):
        predict("--csv=/dev/full", f"--json={tmp_path}/out.json")
    assert (tmp_path / "out.json").exists()
    printed = capsys.readouterr().out
    assert "a.jpg" in printed and f"Written: {tmp_path}/out.json" in printed


def test_a_file_that_can_not_be_written_is_refused_before_work(predict, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        predict(f"--csv={tmp_path}/none/out.csv")
    assert capsys.readouterr().out == ""
