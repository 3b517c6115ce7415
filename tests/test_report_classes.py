"""Plots of guarantees and confusions: what they draw, from figures that are known."""

import contextlib
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from synthetic_runs import write_cell

from cdc_jax.report import cells, drawing, families, maps, trust

HOSTILE = "<script>alert('$x_1$')</script>\x1b[31m"


def family_of(folder):
    (family,) = families.arrange(cells.find([folder])[0])
    return family, drawing.styles(list(family.rows), None, None)


def texts(plot):
    return ["".join(node.itertext()) for node in plot.drawing.iter("text")]


def change(cell, **figures):
    results = json.loads((cell / "results.json").read_text())
    results["splits"]["test"] |= figures
    (cell / "results.json").write_text(json.dumps(results))


def confused(folder, names, entries, dataset="EuroSAT", **more):
    cell = write_cell(folder, dataset=dataset, splits=("test",), images=20, **more)
    accuracy = [50.0] * len(names)
    change(cell, classes=names, class_accuracy=accuracy, confusion=entries)
    return cell


def test_a_confusion_map_names_the_pairs_and_shows_shares(tmp_path):
    names = ["key", HOSTILE, "disc"]
    confused(tmp_path / "1", names, [[0, 0, 6], [0, 1, 2], [1, 1, 3], [1, 0, 1], [2, 2, 4]], seed=1)
    confused(tmp_path / "2", names, [[0, 1, 4], [1, 1, 8]], seed=2)
    plots = []
    maps.confusion_maps(plots, *family_of(tmp_path), "x")
    (plot,) = plots
    shown = HOSTILE.replace("\x1b", "\\x1b")
    assert f"key as {shown} (6 of 12 images); {shown} as key (1 of 12 images)." in plot.caption
    assert "the 2 classes that are confused most, of 3" in plot.caption
    drawn = texts(plot)
    assert sorted(text for text in drawn if text.isdigit()) == ["50", "50", "8", "92"]
    assert "key" in drawn and not any("disc" in text for text in drawn)
    cut = next(text for text in drawn if text.startswith("<script>"))
    assert len(cut) == 22 and cut.endswith("…")
    assert ET.fromstring(drawing.standalone(plot.drawing)) is not None


def test_a_confusion_map_shows_the_most_confused_classes_of_many(tmp_path):
    count = 1000
    names = [f"class {k:03}" for k in range(count)]
    entries = [[k, k, 5] for k in range(count)]
    entries += [[k, k + 1, 1 + (k in range(500, 509))] for k in range(count - 1)]
    confused(tmp_path / "1", names, entries)
    plots = []
    maps.confusion_maps(plots, *family_of(tmp_path), "x")
    shown = sorted({text for text in texts(plots[0]) if text.startswith("class ")})
    assert set(shown) >= {f"class {k}" for k in range(500, 510)} and len(shown) == 16
    assert "the 16 classes that are confused most, of 1000" in plots[0].caption


def test_there_is_no_map_without_mistakes_or_in_old_results(tmp_path):
    confused(tmp_path / "whole", ["a", "b"], [[0, 0, 3], [1, 1, 3]])
    write_cell(tmp_path / "old", dataset="UCF101", splits=("test",), images=20, by_class=False)
    plots = []
    maps.confusion_maps(plots, *family_of(tmp_path), "x")
    assert plots == []


def test_the_guaranteed_points_lie_where_the_figures_say(tmp_path, monkeypatch):
    for seed, (decided, risk) in enumerate(((60.0, 4.0), (80.0, 8.0), (0.0, None)), 1):
        cell = write_cell(tmp_path / f"{seed}", dataset="EuroSAT", splits=("test",), images=20,
                          seed=seed, optional=("scores",))  # fmt: skip
        change(cell, decided=decided, risk=risk)
        arrays = {"labels": np.arange(20) % 4, "predicted": np.arange(20) % 4}
        arrays["predicted"][:2] += 1  # the least probable tenth is wrong
        arrays["confidence"] = np.linspace(0.5, 0.9, 20)
        arrays["uncertainty"] = np.zeros(20)
        np.savez(cell / "scores.npz", **{f"test/{key}": a for key, a in arrays.items()})
    family, looks = family_of(tmp_path)
    lines = []

    original = trust.panels

    @contextlib.contextmanager
    def panels(*arguments, **more):
        with original(*arguments, **more) as each:
            yield each
            lines.extend(line for axes in each.values() for line in axes.lines)

    monkeypatch.setattr(trust, "panels", panels)
    plots = []
    trust.guaranteed_risk(plots, family, looks, "x")
    level, curve, point, *_ = (line.get_xydata() for line in lines)  # then the legend's
    assert level[:, 1].tolist() == [10, 10]
    assert point.tolist() == [[70, 6]]
    # of the most probable 18 none is wrong, then one and two
    risk = dict(zip(curve[:, 0].round(6).tolist(), curve[:, 1], strict=True))
    assert [risk[90.0], risk[95.0], risk[100.0]] == pytest.approx([0, 100 / 19, 10])
    assert "risk at most 10 % (dashed) with probability 95 %" in plots[0].caption


def test_there_are_no_points_in_old_results(tmp_path):
    write_cell(tmp_path / "old", images=20, by_class=False, optional=("scores",))
    plots = []
    trust.guaranteed_risk(plots, *family_of(tmp_path), "x")
    assert plots == []
