"""The record of a prediction: when it abstains, how it is shown and written."""

import csv
import json
import re

import numpy as np
import pytest
import rich.console

from cdc_jax import image_prediction, writing
from cdc_jax.image_prediction import ImagePrediction, OptionError, abstention
from cdc_jax.methods.heads import Prediction
from cdc_jax.named_prediction import of_image
from cdc_jax.tasks.decode import UnreadableImage

ROW = ImagePrediction(
    image="photos/[red].jpg",
    predicted="cat",
    probability=(("cat", 0.75), ("dog, wet", 0.2)),
    uncertainty=-2.0,
    vacuity=0.135,
    conflict=0.25,
    templates=(("cat", 0.5, -1.0), ("dog, wet", 0.625, -1.5)),
    abstained=True,
)
BAD = UnreadableImage("photos/b.jpg", "it is empty")


PREDICTION = Prediction(
    predicted=np.array([1, 0]),
    probability=np.array([[0.25, 0.5, 0.25], [0.5, 0.125, 0.375]]),
    uncertainty=np.array([-1.0, -2.0]),
    conflict=np.array([0.5, 0.25]),
    template_predicted=np.array([[1, 2], [0, 2]]),
    template_confidence=np.array([[0.75, 0.5], [0.625, 0.375]]),
    template_uncertainty=np.array([[-3.0, -4.0], [-5.0, -6.0]]),
    log_vacuity=np.log([0.125, 0.0625]),
)
NAMES = ("ant", "bee", "cat")


def test_the_prediction_of_one_image_of_several_gets_its_names():
    row = of_image("b.jpg", PREDICTION, 1, NAMES, 2)
    assert row._replace(vacuity=None) == ImagePrediction(
        image="b.jpg",
        predicted="ant",
        probability=(("ant", 0.5), ("cat", 0.375)),
        uncertainty=-2.0,
        vacuity=None,
        conflict=0.25,
        templates=(("ant", 0.625, -5.0), ("cat", 0.375, -6.0)),
        abstained=False,
    )
    assert row.vacuity == pytest.approx(0.0625)


def test_the_class_that_is_predicted_comes_first_where_probabilities_are_equal():
    alike = PREDICTION._replace(probability=np.full((2, 3), 1 / 3, np.float32))
    row = of_image("a.jpg", alike, 0, NAMES, top_k=3)
    assert [name for name, _ in row.probability] == ["bee", "ant", "cat"]
    assert row.predicted == "bee"


def test_a_head_without_opinions_has_no_vacuity():
    without = PREDICTION._replace(log_vacuity=None)
    assert of_image("a.jpg", without, 0, NAMES, top_k=1).vacuity is None


def test_an_image_is_left_undecided_by_the_rule_that_is_given():
    rule = abstention("probability:0.6")
    assert of_image("a.jpg", PREDICTION, 0, NAMES, 1, rule).abstained
    rule = abstention("probability:0.4")
    assert not of_image("a.jpg", PREDICTION, 0, NAMES, 1, rule).abstained


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", False),
        ("probability:0.75", False),
        ("probability:0.76", True),
        ("vacuity:0.135", False),
        ("vacuity:0.13", True),
        ("uncertainty:-2", False),
        ("uncertainty:-2.1", True),
        ("conflict:0.2", True),
        ("conflict:1", False),
    ],
)
def test_abstention(rule, expected):
    assert abstention(rule)(ROW) is expected


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("0.5", "expected MEASURE:VALUE, .* probability, risk, uncertainty, vacuity, conflict"),
        ("doubt:0.5", "expected MEASURE:VALUE, .* probability, risk, uncertainty, vacuity"),
        ("probability", "probability needs a number from 0 to 1, got ''"),
        ("probability:high", "probability needs a number from 0 to 1, got 'high'"),
        ("probability:50", "probability needs a number from 0 to 1, got '50'"),
        ("vacuity:nan", "vacuity needs a number from 0 to 1, got 'nan'"),
        ("risk:0", "risk needs a number between 0 and 1, got '0'"),
        ("risk:1", "risk needs a number between 0 and 1, got '1'"),
        ("risk:", "risk needs a number between 0 and 1, got ''"),
        ("uncertainty:inf", "uncertainty needs a number that is finite, got 'inf'"),
    ],
)
def test_a_rule_that_is_none_is_refused(rule, reason):
    with pytest.raises(OptionError, match=f"^abstain={rule}: {reason}"):
        abstention(rule)


def test_a_softmax_head_has_no_vacuity_to_go_by():
    assert abstention("uncertainty:0.2", has_opinions=False)(ROW._replace(uncertainty=0.25))
    with pytest.raises(
        OptionError, match="abstain=vacuity:0.5: .* probability, risk, uncertainty$"
    ):
        abstention("vacuity:0.5", has_opinions=False)


def shown(rows, width=120):
    console = rich.console.Console(width=width)
    with console.capture() as capture:
        console.print(image_prediction.table(rows, width))
    return capture.get()


def test_the_table_shows_it_all():
    text = shown([ROW, BAD])
    for part in ("images in photos", "[red].jpg", "(abstains)", "0.750 cat", "0.200 dog, wet",
                 "vacuity", "0.14", "0.25", "0.625 dog, wet",
                 "unreadable: it is empty"):  # fmt: skip
        assert part in text


def test_the_table_of_a_softmax_head_with_one_template_is_short():
    text = shown([ROW._replace(vacuity=None, uncertainty=0.25, templates=ROW.templates[:1])])
    assert "uncertainty" in text
    assert "vacuity" not in text and "templates" not in text


@pytest.mark.parametrize("templates", [1, 2])
def test_long_names_are_folded_where_their_parts_end(templates):
    """At 80 columns. No line is wider, and no part of a name is cut."""
    names = ("animals/dogs/golden retriever", "plants/orchids/phalaenopsis amabilis")
    row = ROW._replace(
        image="photos/2026/IMG_20260712_101512_HDR.jpg",
        predicted=names[0],
        probability=((names[0], 0.75), (names[1], 0.2)),
        templates=((names[0], 0.5, -1.0), (names[1], 0.625, -1.5))[:templates],
        class_set=names,
        abstained=False,
    )
    lines = shown([row, row._replace(image="photos/b.jpg"), BAD], width=80).splitlines()
    assert max(map(len, lines)) <= 80
    parts = {part for name in (row.image, *names) for part in re.split(r"(?<=[/_])| ", name)}
    words = {word for line in lines for word in re.split(r"(?<=[/_])|[ ,]", line)}
    assert parts - {"photos/"} <= words
    first = next(line for line in lines if "0.750" in line)
    expected = "0.750 animals/dogs/" + "golden retriever" * (templates == 1)
    assert expected in first and "0.750 animals/dogs/" in first


def test_the_set_stands_below_the_classes():
    row = ROW._replace(class_set=("cat", "dog, wet"), abstained=False)
    cells = [line[: line.rindex("dog") + 8].split()[-4:] for line in shown([row]).splitlines()
             if "set:" in line]  # fmt: skip
    assert cells == [["set:", "cat,", "dog,", "wet"]]


def test_json_holds_the_fields(tmp_path):
    image_prediction.write_json([ROW, BAD], tmp_path / "out.json")
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert first["probability"] == [["cat", 0.75], ["dog, wet", 0.2]]
    assert first["templates"][1] == ["dog, wet", 0.625, -1.5]
    assert (first["image"], first["predicted"], first["abstained"]) == (ROW.image, "cat", True)
    assert second == {"image": "photos/b.jpg", "error": "it is empty"}


@pytest.mark.parametrize("rows", [[ROW, BAD], [BAD, ROW]])
def test_csv_holds_a_line_an_image(tmp_path, rows):
    image_prediction.write_csv(rows, tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        lines = {line["image"]: line for line in csv.DictReader(file)}
    good, bad = lines[ROW.image], lines[BAD.name]
    assert (good["predicted"], good["class_2"], good["template_2_class"]) == (
        "cat",
        *["dog, wet"] * 2,
    )
    assert (float(good["probability_1"]), float(good["vacuity"])) == (0.75, 0.135)
    assert float(good["template_1_uncertainty"]) == -1
    assert (good["abstained"], good["error"]) == ("True", "")
    assert bad["error"] == "it is empty"
    assert set(bad.values()) == {"", BAD.name, BAD.reason}


def test_a_place_that_can_not_be_written_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: name a file in it"):
        writing.checked_path(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere to write out.csv in"):
        image_prediction.write_csv([ROW], tmp_path / "nowhere/out.csv")


HOSTILE = (
    "=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "\n=1",
    "\uff1d1",
    "\uff0b1",
    "\uff0d1",
    "\uff20x",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_no_cell_of_a_csv_file_is_a_formula(tmp_path, name):
    row = ROW._replace(image=name, predicted=name, probability=((name, 0.75), ("ok", 0.2)))
    image_prediction.write_csv([row, UnreadableImage(name, name)], tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    for line in (first, second):
        for cell in line.values():
            assert cell[:1] not in set("=+@\t\r\n\uff1d\uff0b\uff0d\uff20")
            assert cell[:1] != "-" or float(cell) < 0  # figures are not texts
    assert float(first["uncertainty"]) == -2 and first["class_2"] == "ok"


@pytest.mark.parametrize(
    "name",
    ["caf\udce9", "\ud83d", "\x1b[31mred", "a\nb", "\u202egnp", "日本", "[/b]", "\0", "=x", "☃"],
)
def test_any_name_is_shown_and_written(tmp_path, name):
    row = ROW._replace(image=f"{name}/x.jpg", predicted=name, probability=((name, 1.0),))
    text = shown([row, UnreadableImage(name, name)])
    assert not set(text) & set("\x1b\0\r\u202e") and text.encode()
    image_prediction.write_json([row], tmp_path / "out.json")
    (read,) = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (read["image"], read["predicted"]) == (f"{name}/x.jpg", name)  # to the character
    image_prediction.write_csv([row], tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").count("\n") == 2


def test_markup_and_letters_of_all_scripts_stay():
    row = ROW._replace(predicted="[/b] 日本 café", probability=(("[/b] 日本 café", 1.0),))
    assert "[/b] 日本 café" in shown([row])
