"""Reports: tables against hand computation, files that parse, a page that needs nothing else."""

import csv
import dataclasses
import functools
import html.parser
import io
import json
import re
import shutil
import xml.etree.ElementTree as ET

import forked_runs
import markdown_it
import numpy as np
import pytest
from synthetic_runs import WORLD_SPLITS, protocol_of, split_records, write_cell

from cdc_jax import methods, report
from cdc_jax.records import Results, TaskRecord
from cdc_jax.report import console
from cdc_jax.report import table as table_module
from cdc_jax.report.families import PROTOCOLS
from cdc_jax.report.table import Value

EVERYTHING = ("scores", "curve", "interpretation", "gallery")
HOSTILE = "<script>alert('&amp;')</script>|$\\%_#\"{^~}"
VIT_B_16 = "openai/clip-vit-base-patch16"
BENCHMARK = (
    "ImageNet", "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101",
    "FGVCAircraft", "SUN397", "DescribableTextures", "EuroSAT", "UCF101",
)  # fmt: skip


def base_new(folder, dataset, seed, base, new, method="cdc", **more):
    """A cell of the base-to-new protocol with given accuracies."""
    return write_cell(
        folder / f"{dataset}-seed{seed}" / method, method, dataset=dataset, seed=seed,
        splits=("base_test", "new_test"), accuracy={"base_test": base, "new_test": new},
        model=VIT_B_16, images=8, **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two_datasets(tmp_path_factory):
    """Two methods on two datasets with three seeds, with known accuracies."""
    folder = tmp_path_factory.mktemp("base_new")
    for dataset, bases, news in (
        ("OxfordPets", (80, 82, 84), (70, 72, 74)),
        ("EuroSAT", (60, 62, 64), (50, 40, 60)),
    ):
        for seed, (base, new) in enumerate(zip(bases, news, strict=True), 1):
            base_new(folder, dataset, seed, base, new)
            base_new(folder, dataset, seed, base - seed, new + 1, "coop")
    return folder


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """World cells with all optional files and hostile class names, and what comes of them."""
    folder = tmp_path_factory.mktemp("world")
    for seed in (1, 2):
        for method in ("zero_shot", "coop", "cdc"):
            write_cell(
                folder / f"world-seed{seed}" / method, method, seed=seed, images=40,
                classes=("star", HOSTILE, "key", "bell"), optional=EVERYTHING,
            )  # fmt: skip
    return folder, report.make([folder])


def table(made, name, shots=16):
    return next(t for t in made.tables if t.name == name and t.shots == shots)


def value(made, name, group, row, column, shots=16):
    """A cell of a table, by titles."""
    found = table(made, name, shots)
    index = [c.title for c in found.columns].index(column)
    (cell,) = [
        r.cells[index] for title, rows in found.groups for r in rows
        if title == group and r.title == row
    ]  # fmt: skip
    return cell


def numbers(cell):
    return (cell.mean, cell.sd, cell.low, cell.high, cell.n)


# ---- tables


def test_mean_deviation_and_interval_over_seeds(two_datasets):
    made = report.make([two_datasets], formats=["csv"])
    # 80, 82, 84: s = 2, and t = 4.302653 at 2 degrees of freedom: 4.302653 * 2 / sqrt(3) = 4.968276
    found = value(made, "accuracy", "OxfordPets", "CDC", "base")
    assert numbers(found) == pytest.approx((82, 2, 77.031724, 86.968276, 3), abs=1e-5)
    # 2 * 80 * 70 / 150, 2 * 82 * 72 / 154, 2 * 84 * 74 / 158
    found = value(made, "accuracy", "OxfordPets", "CDC", "H")
    assert found.mean == pytest.approx((74.666667 + 76.675325 + 78.683544) / 3, abs=1e-5)


def test_h_of_the_average_row_comes_from_the_averaged_base_and_new(two_datasets):
    made = report.make([two_datasets], formats=["csv"])
    average = "Average of 2 datasets"
    assert numbers(value(made, "accuracy", average, "CDC", "base")) == pytest.approx(
        (72, 2, 67.031724, 76.968276, 3), abs=1e-5
    )
    # new by seed: 60, 56, 67
    assert value(made, "accuracy", average, "CDC", "new").mean == pytest.approx(61)
    found = value(made, "accuracy", average, "CDC", "H")
    assert found.mean == pytest.approx(2 * 72 * 61 / (72 + 61))
    by_seed = [2 * 70 * 60 / 130, 2 * 72 * 56 / 128, 2 * 74 * 67 / 141]
    assert found.sd == pytest.approx(np.std(by_seed, ddof=1))
    assert found.mean != pytest.approx(np.mean(by_seed), abs=0.01)
    assert value(made, "datasets", "", "CDC", "average") == found


def test_differences_are_paired_by_cell(two_datasets):
    made = report.make([two_datasets], formats=["csv"])
    # Of each dataset's seeds 1, 2, 3 the reference leads by 1, 2, 3 on base and trails by 1 on new.
    found = value(made, "differences", "All cells of 2 datasets", "− CoOp", "base")
    # s of 1, 2, 3, 1, 2, 3 is sqrt(0.8); t = 2.570582 at 5 degrees of freedom
    half = 2.570582 * 0.8**0.5 / 6**0.5
    assert numbers(found) == pytest.approx((2, 0.8**0.5, 2 - half, 2 + half, 6), abs=1e-5)
    found = value(made, "differences", "EuroSAT", "− CoOp", "new")
    assert numbers(found) == pytest.approx((-1, 0, -1, -1, 3))
    other = report.make([two_datasets], reference="coop", formats=["csv"])
    assert value(other, "differences", "EuroSAT", "− CDC", "new").mean == pytest.approx(1)


def test_the_overview_has_means_and_the_paired_difference_of_h(two_datasets):
    made = report.make([two_datasets], formats=["markdown"]).files["overview.md"]
    row = next(
        line for line in made.partition("## EuroSAT")[2].splitlines() if line.startswith("| CoOp")
    )
    bases, news = np.array([[60, 62, 64], [50, 40, 60.0]])
    theirs = bases - [1, 2, 3], news + 1
    gains = 2 * bases * news / (bases + news) - 2 * theirs[0] * theirs[1] / sum(theirs)
    half = 4.302653 * gains.std(ddof=1) / 3**0.5  # t at 2 degrees of freedom
    low, high = (f"{gains.mean() + sign * half:+.2f}".replace("-", "−") for sign in (-1, 1))
    # H of a row is the mean of its seeds' where one dataset is shown
    harmonic = (2 * theirs[0] * theirs[1] / sum(theirs)).mean()
    assert row == (
        f"| CoOp | 60.00 | **51.00** | {harmonic:.2f} | 3 | {gains.mean():+.2f} [{low}, {high}] |"
    )


def test_the_long_table_has_a_line_for_every_figure_of_every_split(everything):
    from cdc_jax.report import cells, figures

    folder = everything[0] / "world-seed1"
    rows = {cell.row.title: [cell] for cell in cells.find([folder])[0]}
    found = figures.long_table(rows).set_index(["row", "dataset", "seed", "split", "figure"]).value
    expected = {}
    for path in folder.rglob("results.json"):
        results = json.loads(path.read_text())
        run = (results["row"]["title"], results["task"]["dataset"], results["task"]["seed"])
        for split, record in results["splits"].items():
            numbers = {k: v for k, v in record.items() if type(v) in (int, float)}
            for key in ("novelty", "novelty_probability", "novelty_fpr95"):
                if record["group"] == "new":
                    numbers[key] = results["summary"][f"{key}_{record['condition']}"]
            expected |= {(*run, split, key): value for key, value in numbers.items()}
    assert found.to_dict() == expected


def test_a_method_that_lacks_a_dataset_has_no_average(two_datasets, tmp_path):
    shutil.copytree(two_datasets, tmp_path / "runs")
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / f"runs/EuroSAT-seed{seed}/coop")
    made = report.make([tmp_path / "runs"], formats=["csv"])
    assert value(made, "datasets", "", "CoOp", "average") is None
    # H of (79, 71), (80, 73), (81, 75)
    found = value(made, "datasets", "", "CoOp", "OxfordPets")
    assert found.mean == pytest.approx((74.786667 + 76.339869 + 77.884615) / 3, abs=1e-5)
    rows = dict(table(made, "accuracy").groups)["Average of 2 datasets"]
    assert [row.title for row in rows] == ["CDC"]
    note = "CoOp is not in 'Average of 2 datasets': it has no run on EuroSAT"
    assert table(made, "accuracy").notes == (note,)
    assert table(made, "differences").notes == ()  # whose first group has all cells
    # One seed gone, the average is over the seeds that all datasets have.
    shutil.rmtree(tmp_path / "runs/EuroSAT-seed3/cdc")
    made = report.make([tmp_path / "runs"], formats=["csv"])
    found = value(made, "accuracy", "Average of 2 datasets", "CDC", "base")
    assert (found.mean, found.n) == (71, 2)
    # And no average where the datasets share no seed.
    for seed in (1, 2):
        shutil.rmtree(tmp_path / f"runs/OxfordPets-seed{seed}/cdc")
    made = report.make([tmp_path / "runs"], formats=["csv"])
    note = "CDC is not in 'Average of 2 datasets': it has no seed on all of them"
    assert note in table(made, "accuracy").notes


def test_one_seed_has_no_interval(tmp_path):
    base_new(tmp_path, "EuroSAT", 1, 60, 40)
    made = report.make([tmp_path], formats=["markdown"])
    assert "| CDC | 60.00 | 40.00 | 48.00 | 1 |" in made.files["tables.md"]


def test_published_rows_stand_beside_the_same_setting_only(tmp_path):
    for dataset in BENCHMARK:
        base_new(tmp_path / "runs", dataset, 1, 80, 70)
    made = report.make([tmp_path / "runs"], formats=["markdown", "latex"])
    average = dict(table(made, "accuracy").groups)["Average of 11 datasets"]
    published = {row.title: row for row in average if row.mark == "published"}
    assert published["MaPLe, published"].source == "MaPLe's README"
    assert [c.mean for c in published["MaPLe, published"].cells] == [82.28, 75.14, 78.55]
    assert "MaPLe, published (MaPLe's README) | 82.28 | 75.14 | 78.55" in made.files["tables.md"]
    sun = dict(table(made, "accuracy").groups)["SUN397"][-1]
    assert (sun.title, sun.cells[0], sun.cells[2].mean) == ("CDC, published", None, 81.18)
    # Other splits are another setting, and so are fewer datasets.
    shutil.rmtree(tmp_path / "runs/EuroSAT-seed1")
    assert "MaPLe" not in report.make([tmp_path / "runs"], formats=["markdown"]).files["tables.md"]
    base_new(tmp_path / "runs", "EuroSAT", 1, 80, 70, note="not CoOp's splits")
    text = report.make([tmp_path / "runs"], formats=["markdown"]).files["tables.md"]
    assert "MaPLe" not in text
    assert text.count("Note: EuroSAT: not CoOp's splits") == text.count("\n## ")


def test_few_shot_and_transfer_tables(tmp_path):
    for shots in (1, 4):
        for dataset, accuracy in (("EuroSAT", 50 + shots), ("UCF101", 70 + shots)):
            write_cell(
                tmp_path / f"few/{dataset}-{shots}/coop", "coop", dataset=dataset, shots=shots,
                splits=("test",), accuracy={"test": accuracy}, model=VIT_B_16,
            )  # fmt: skip
    known = {"test": 70, "ImageNetV2": 60, "ImageNet-R": 40}
    write_cell(
        tmp_path / "transfer/coop", "coop", dataset="ImageNet", splits=tuple(known),
        accuracy=known, model=VIT_B_16,
    )  # fmt: skip
    made = report.make([tmp_path], formats=["markdown", "html"])
    assert value(made, "shots", "Average of 2 datasets", "CoOp", "4 shots", None).mean == 64
    found = next(t for t in made.tables if t.name == "accuracy" and "ImageNet" in t.where)
    titles = [column.title for column in found.columns]
    assert titles == ["ImageNet (source)", "ImageNetV2", "ImageNet-R", "average"]
    assert [c.mean for c in found.groups[0][1][0].cells] == [70, 60, 40, 50]
    assert "Domain generalisation" in made.files["index.html"]
    assert "By shots: Average of 2 datasets" in made.files["index.html"]


def test_variants_of_a_method_make_an_ablation(tmp_path):
    for templates in (1, 2, 4):
        for seed in (1, 2):
            write_cell(
                tmp_path / f"M{templates}-{seed}/cdc", seed=seed, images=20,
                changes=[("prompts.templates", templates)] if templates != 4 else [],
            )  # fmt: skip
    made = report.make([tmp_path], formats=["markdown", "svg"])
    (rows,) = [rows for _, rows in table(made, "ablation-cdc").groups]
    assert [row.title for row in rows] == ["1", "2", "4"]
    assert [row.mark for row in rows] == ["", "", "reference"]
    (paired,) = [rows for _, rows in table(made, "ablation-cdc-differences").groups]
    assert [row.title for row in paired] == ["− CDC (templates 1)", "− CDC (templates 2)"]
    means = [row.cells[0].mean for row in rows]  # of the same seeds
    assert [row.cells[0].mean for row in paired] == pytest.approx(
        [means[2] - means[0], means[2] - means[1]]
    )
    # Tables of trust show all variants, and other tables the published one, by its name.
    assert [row.title for row in table(made, "accuracy").groups[0][1]] == ["CDC"]
    variants = ["CDC (templates 1)", "CDC (templates 2)", "CDC"]
    assert [row.title for row in table(made, "calibration").groups[0][1]] == variants
    assert "plots/base-new-0-by-cdc.svg" in made.files


def test_a_variant_may_have_shots_that_the_published_one_lacks(tmp_path):
    changes = [("prompts.templates", 2)]
    for shots, own in ((1, ()), (4, ()), (4, changes), (16, changes)):
        folder = tmp_path / f"{shots}-{len(own)}"
        write_cell(folder / "cdc", shots=shots, images=20, changes=own)
    made = report.make([tmp_path], formats=["csv", "svg"])
    shown = table(made, "shots", None)
    assert [column.title for column in shown.columns] == ["1 shot", "4 shots"]
    drawn = ET.fromstring(made.files["plots/base-new-shots0.svg"])
    texts = ["".join(node.itertext()) for node in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert {"1", "4", "16", "CDC"} <= set(texts)


def test_the_published_variant_is_known_by_the_settings_that_vary(tmp_path):
    shorter = [("optimizer.epochs", 10)]
    for templates in (1, 2, 4):
        changes = shorter + [("prompts.templates", templates)] * (templates != 4)
        write_cell(tmp_path / f"M{templates}/cdc", changes=changes, images=20)
    write_cell(tmp_path / "coop", "coop", changes=shorter, images=20)
    made = report.make([tmp_path], formats=["csv"])
    (rows,) = [rows for _, rows in table(made, "ablation-cdc").groups]
    assert [row.mark for row in rows] == ["", "", "reference"]
    assert [row.title for row in table(made, "accuracy").groups[0][1]] == ["CoOp", "CDC"]
    assert [row.title for row in table(made, "differences").groups[0][1]] == ["− CoOp"]


def test_a_method_that_knows_no_new_classes_has_only_its_own_figures(tmp_path):
    base = [split for split in WORLD_SPLITS if split.startswith("base")]
    write_cell(tmp_path / "coop", "coop", splits=base, images=20, optional=("scores",))
    write_cell(tmp_path / "cdc", images=20, optional=("scores",))
    made = report.make([tmp_path])
    assert value(made, "accuracy", "", "CoOp", "base int") is not None
    assert value(made, "accuracy", "", "CoOp", "H_int") is None
    assert value(made, "accuracy", "", "CDC", "H_int") is not None


def test_a_method_without_the_primary_measure_has_no_row_of_dashes(tmp_path):
    for dataset in ("EuroSAT", "UCF101"):
        base_new(tmp_path, dataset, 1, 60, 40)
        write_cell(
            tmp_path / f"{dataset}-seed1/linear_probe", "linear_probe", dataset=dataset,
            splits=("base_test",), model=VIT_B_16, images=8,
        )  # fmt: skip
    made = report.make([tmp_path], formats=["csv"])
    rows = {one.name: {row.title for row in one.groups[0][1]} for one in made.tables}
    assert rows["accuracy"] == {"CDC", "linear probe"}
    assert rows["datasets"] == {"CDC"}  # by H


def test_a_probe_stands_beside_the_others_in_other_domains(tmp_path):
    splits = (*WORLD_SPLITS, "sketch")
    base = tuple(split for split in splits if not split.startswith("new_"))
    write_cell(tmp_path / "cdc", splits=splits, images=20, optional=())
    write_cell(tmp_path / "linear_probe", "linear_probe", splits=base, images=20, optional=())
    (rows,) = [rows for _, rows in table(report.make([tmp_path]), "accuracy").groups]
    assert {row.title for row in rows} == {"CDC", "linear probe"}


def test_images_that_were_left_out_are_noted(tmp_path):
    base_new(tmp_path, "EuroSAT", 1, 60, 40, note="own splits", skipped=3)
    text = report.make([tmp_path], formats=["markdown"]).files["tables.md"]
    assert "Note: EuroSAT: own splits; 3 images can't be used" in text


def test_variants_without_the_published_one_make_an_ambiguous_reference(tmp_path):
    for templates in (1, 2):
        changes = [("prompts.templates", templates)]
        write_cell(tmp_path / f"M{templates}/cdc", changes=changes, images=20)
    with pytest.raises(ValueError, match=r"CDC \(templates 1\); CDC \(templates 2\)"):
        report.make([tmp_path], reference="cdc")
    made = report.make([tmp_path], formats=["csv"])  # nobody asked for a comparison with it
    assert "differences" not in {one.name for one in made.tables}
    made = report.make([tmp_path], reference="CDC (templates 2)", formats=["csv"])
    assert table(made, "differences").groups[0][1][0].title == "− CDC (templates 1)"
    assert "ablation-cdc-differences" not in {one.name for one in made.tables}


def test_the_world_table_and_the_novelty_of_new_classes(everything):
    _, made = everything
    titles = [column.title for column in table(made, "accuracy").columns]
    accuracies = [split.replace("_", " ") for split in WORLD_SPLITS]
    assert titles == ["H_int", "H", *accuracies, "ECE", "AUROC", "AUROC new"]
    folder = everything[0]
    novelty = []
    for seed in (1, 2):
        with np.load(folder / f"world-seed{seed}/cdc/scores.npz") as scores:
            base, new = (scores[f"{half}_int/uncertainty"] for half in ("base", "new"))
        novelty.append(100 * np.mean(new[:, None] > base) + 50 * np.mean(new[:, None] == base))
    assert value(made, "accuracy", "", "CDC", "AUROC new").mean == pytest.approx(np.mean(novelty))


def test_the_share_of_the_oracles_gain(tmp_path):
    for method, accuracy in (("zero_shot", 50), ("coop", 60), ("cdc", 70)):
        known = dict.fromkeys(WORLD_SPLITS, accuracy) | {"base_int": 50}  # without room
        write_cell(tmp_path / method, method, accuracy=known, images=20)
    oracle = dataclasses.asdict(methods.configure("oracle", "small").record(changes_images=False))
    spoil(tmp_path / "cdc", "results.json", {"row": oracle})
    made = report.make([tmp_path], formats=["csv"])
    assert value(made, "room", "", "room, in points", "new int").mean == pytest.approx(20)
    assert value(made, "room", "", "CoOp", "new int").mean == pytest.approx(50)
    assert value(made, "room", "", "CoOp", "base int") is None


def test_visual_prompts_are_measured_by_an_oracle_that_has_them(tmp_path):
    for method, accuracy in {
        "zero_shot": 50, "coop": 60, "maple": 60, "oracle": 70, "oracle_visual": 90
    }.items():  # fmt: skip
        known = dict.fromkeys(WORLD_SPLITS, accuracy)
        write_cell(tmp_path / method, method, accuracy=known, images=20)
    made = report.make([tmp_path], formats=["csv"])
    assert value(made, "room", "", "room, in points", "new int").mean == pytest.approx(20)
    assert value(made, "room", "", "CoOp", "new int").mean == pytest.approx(50)
    assert value(made, "room-visual", "", "room, in points", "new int").mean == pytest.approx(40)
    assert value(made, "room-visual", "", "MaPLe", "new int").mean == pytest.approx(25)
    rows = dict(table(made, "room").groups)[""]
    assert [row.title for row in rows] == ["room, in points", "CoOp"]


def test_several_oracles_of_a_kind_make_one_table_of_shares(tmp_path):
    for method in ("zero_shot", "coop"):
        write_cell(tmp_path / method, method, images=20)
    for epochs in (5, 7):
        changes = [("optimizer.epochs", epochs)]
        write_cell(tmp_path / f"oracle{epochs}", "oracle", changes=changes, images=20)
    made = report.make([tmp_path], formats=["csv"])
    assert [one.name for one in made.tables].count("room") == 1


def test_domains_of_several_sources_are_a_table_for_each(tmp_path):
    splits = ("base_iid", "new_iid", "clean", "barred")
    for i, kind in enumerate(("task_misaligned", "domain_gap")):
        known = dict.fromkeys(splits, 50 + i)
        write_cell(tmp_path / kind, "coop", kind=kind, splits=splits, accuracy=known)
    tables = report.make([tmp_path], formats=["csv"]).tables
    titles = [t.columns[0].title for t in tables if t.name == "accuracy"]
    assert titles == ["world domain_gap (source)", "world task_misaligned (source)"]
    assert all(table.where.startswith("Domain generalisation") for table in tables)


def test_shares_of_the_gain_are_of_the_seeds_that_all_have(tmp_path):
    for seed, start in ((1, 30), (2, 60), (3, 60)):
        for method, gain in (("zero_shot", 0), ("coop", 10)):
            known = dict.fromkeys(WORLD_SPLITS, start + gain)
            write_cell(tmp_path / f"{method}{seed}", method, seed=seed, accuracy=known, images=20)
    known = dict.fromkeys(WORLD_SPLITS, 60)
    write_cell(tmp_path / "oracle", "oracle", accuracy=known, images=20)
    made = report.make([tmp_path], formats=["csv"])
    share = value(made, "room", "", "CoOp", "new int")
    assert share.mean == pytest.approx(100 / 3) and share.n == 1
    # The best of a column is one of those over the most seeds.
    accuracy = next(one for one in made.tables if one.name == "accuracy")
    rows = [row.title for row in accuracy.groups[0][1]]
    ((_, shown),) = table_module.shown(accuracy)
    assert rows == [row.title for row, _ in shown]
    assert [row.title for row, cells in shown if cells[0].best] == ["CoOp"]


def test_intervals_end_where_percentages_end(tmp_path):
    for seed, (base, new) in enumerate(((99, 1), (95, 60), (98, 99)), 1):
        base_new(tmp_path, "EuroSAT", seed, base, new)
        base_new(tmp_path, "EuroSAT", seed, new, base, "coop")
    made = report.make([tmp_path], formats=["csv"])
    # s of 99, 95, 98 is sqrt(13 / 3); t = 4.302653 at 2 degrees of freedom
    low = 292 / 3 - 4.302653 * (13 / 9) ** 0.5
    ends = value(made, "accuracy", "", "CDC", "base")
    assert (ends.low, ends.high) == (pytest.approx(low, abs=1e-5), 100)
    ends = value(made, "accuracy", "", "CDC", "new")
    assert (ends.low, ends.high) == (0, 100)
    # s of 98, 35, -1 is sqrt(2511): 44 ± 124.480
    ends = value(made, "differences", "", "− CoOp", "base")
    assert (ends.mean, ends.low, ends.high) == (44, pytest.approx(-80.480, abs=1e-3), 100)
    ends = value(made, "differences", "", "− CoOp", "new")
    assert (ends.low, ends.high) == (-100, pytest.approx(80.480, abs=1e-3))
    nll = value(made, "calibration", "", "CDC", "NLL")
    assert nll.low == 0 or nll.low == pytest.approx(2 * nll.mean - nll.high)


def set_figures(cell, split, **figures):
    """Changes a split's figures in results.json, or those of the summary."""
    results = json.loads((cell / "results.json").read_text())
    (results["splits"][split] if split else results["summary"]).update(figures)
    (cell / "results.json").write_text(json.dumps(results))


def test_the_guarantees_of_every_split(tmp_path):
    for seed, (coverage, risk) in enumerate(((91, 8.0), (89, None), (96, 12.0)), 1):
        cell = write_cell(tmp_path / f"{seed}/cdc", seed=seed, images=40)
        figures = {"coverage": coverage, "set_size": 1.5, "risk": risk, "auroc_vacuity": None}
        set_figures(cell, "base_rev", **figures)
        set_figures(cell, "", novelty_fpr95_rev=60 + seed)
    made = report.make([tmp_path], formats=["csv", "markdown"])
    of = functools.partial(value, made, "guarantees")
    titles = [title for title, _ in table(made, "guarantees").groups]
    assert titles == [split.replace("_", " ") for split in WORLD_SPLITS]
    assert numbers(of("base rev", "CDC", "coverage"))[::4] == (92, 3)
    assert numbers(of("base rev", "CDC", "set size")) == (1.5, 0, 1.5, 1.5, 3)
    # A run without such a rule has no risk. Two runs, and t = 12.706205 at 1 degree of freedom.
    assert numbers(of("base rev", "CDC", "risk")) == (10, 8**0.5, 0, pytest.approx(35.41241), 2)
    assert of("base rev", "CDC", "AUROC u") is None
    assert of("base rev", "CDC", "FPR95") is None
    assert of("new rev", "CDC", "FPR95").mean == 62
    text = made.files["tables.md"]
    assert "Sets of classes at level 90 %" in text and "risk of at most 10 % (with" in text
    assert re.search(r"\n\| base rev \| CDC \| [^|]+ \| 92\.0 ± 3\.6 ", text)  # after macro


def test_results_without_later_figures_give_the_other_tables(tmp_path):
    for name, by_class in (("old", False), ("new", True)):
        write_cell(tmp_path / name / "cdc", images=40, by_class=by_class, optional=EVERYTHING)
    old, new = (report.make([tmp_path / name]) for name in ("old", "new"))
    later = {name for name in new.files if re.search("guarantee|class|confus", name)}
    assert len(later) >= 4 and set(new.files) - later == set(old.files)
    tables = [name for name in old.files if name.startswith("tables/")]
    assert tables and all(old.files[name] == new.files[name] for name in tables)


def test_accuracies_and_confusions_by_class(tmp_path):
    figures = {
        1: (["key", "=disc"], [50.0, None], [[0, 0, 1], [0, 1, 1]]),
        2: (["=disc", "key"], [25.0, 100.0], [[0, 0, 1], [0, 1, 3], [1, 1, 2]]),
    }
    for seed, own in figures.items():
        folder = tmp_path / f"{seed}/coop"
        cell = write_cell(folder, "coop", dataset="EuroSAT", seed=seed, splits=("test",))
        keys = ("classes", "class_accuracy", "confusion")
        set_figures(cell, "test", **dict(zip(keys, own, strict=True)))
    files = report.make([tmp_path], formats=["csv"]).files

    def lines(name):
        return list(csv.DictReader(io.StringIO(files[f"tables/few-shot-{name}.csv"])))

    place = {"dataset": "EuroSAT", "shots": "16", "method": "CoOp", "split": "test"}
    assert all(
        line.items() >= place.items() for name in ("classes", "confusion") for line in lines(name)
    )
    # 50 and 100: 75 ± 12.7 · 25, of 0..100; the disc has images in one seed only
    found = [[line[k] for k in ("class", "mean", "low", "high", "n")] for line in lines("classes")]
    assert found == [
        ["key", "75.000000", "0.000000", "100.000000", "2"],
        ["'=disc", "25.000000", "", "", "1"],
    ]
    found = [[line[k] for k in ("class", "predicted", "images")] for line in lines("confusion")]
    assert found == [
        ["'=disc", "key", "3"],
        ["key", "key", "3"],
        ["'=disc", "'=disc", "1"],
        ["key", "'=disc", "1"],
    ]


# ---- files


def write_all_kinds(folder, results_format):
    """Cells of all protocols, some of a probe, an oracle, visual prompts and changed settings."""

    def write(name, *args, **more):
        more |= {"results_format": results_format, "by_class": False}
        write_cell(folder / name, *args, images=20, **more)

    base = tuple(split for split in WORLD_SPLITS if split.startswith("base"))
    for kind in ("aligned", "domain_gap"):
        for method in ("zero_shot", "coop", "maple", "cdc", "oracle", "oracle_visual"):
            write(f"world-{kind}-{method}", method, kind=kind)
        write(f"world-{kind}-probe", "linear_probe", kind=kind, splits=base)
    write("world-two", "cdc", changes=[("prompts.templates", 2)])
    write("domain", "cdc", splits=(*WORLD_SPLITS, "clean"))
    write("domain-probe", "linear_probe", splits=(*base, "clean"))
    write("kinds", "cdc", splits=(*WORLD_SPLITS, "clean", "domain_gap"))
    for dataset in ("EuroSAT", "UCF101"):
        halves = {"dataset": dataset, "splits": ("base_test", "new_test"), "note": "other splits"}
        write(f"{dataset}-base-new", "cdc", **halves, skipped=2)
        write(f"{dataset}-base-new-coop", "coop", **halves, model=VIT_B_16)
        few = {"dataset": dataset, "splits": ("test",), "shots": 4}
        # The bundled CLIP's prompts are class-specific there, and nothing says so.
        for method in ("coop", "maple", "linear_probe"):
            write(f"{dataset}-few-{method}", method, **few)
        shared = [("prompts.class_specific", False)]
        write(f"{dataset}-few-shared", "coop", **few, changes=shared)
        write(f"{dataset}-few-published", "linear_probe", **few, model=VIT_B_16)
    for dataset in ("ImageNet", "Caltech101"):
        splits = ("test", "ImageNetV2", "ImageNet-R")
        write(f"{dataset}-transfer", "coop", dataset=dataset, splits=splits, model=VIT_B_16)


@pytest.mark.slow
def test_results_of_format_1_give_the_same_tables(tmp_path):
    for results_format in (1, 2):
        write_all_kinds(tmp_path / str(results_format), results_format)
    found = [json.loads(path.read_text()) for path in (tmp_path / "1").rglob("results.json")]
    assert found and not any("format" in results for results in found)
    old, new = (report.make([tmp_path / n], formats=["markdown", "csv"]) for n in ("1", "2"))
    assert old.files == new.files
    headings = {one.where.partition(",")[0] for one in new.tables}
    assert headings == {"The bundled world", "Domain generalisation", *PROTOCOLS.values()}
    assert {"room", "room-visual", "ablation-cdc"} <= {one.name for one in new.tables}


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes(everything, tmp_path):
    folder, made = everything
    shutil.copytree(folder, tmp_path / "elsewhere")
    again = report.make([tmp_path / "elsewhere"])
    assert again.files == made.files
    report.write(made, tmp_path / "out")
    report.write(again, tmp_path / "out")
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert written == set(made.files)
    assert (tmp_path / "out/index.html").read_text(encoding="utf-8") == made.files["index.html"]


def test_the_order_and_repetition_of_folders_do_not_matter(two_datasets):
    first, *rest = sorted(two_datasets.iterdir())
    made = report.make([first, *rest, first], formats=["markdown"])
    assert made.files == report.make([*rest, first], formats=["markdown"]).files
    assert made.files == report.make([two_datasets], formats=["markdown"]).files


def test_csv_holds_every_value(two_datasets):
    made = report.make([two_datasets], formats=["csv"])
    for name, found in (
        ("accuracy", table(made, "accuracy")),
        ("datasets", table(made, "datasets")),
    ):
        lines = list(csv.DictReader(io.StringIO(made.files[f"tables/base-new-{name}-16shot.csv"])))
        cells = [
            (group, row.title, column.title, cell)
            for group, rows in found.groups for row in rows
            for column, cell in zip(found.columns, row.cells, strict=True)
            if cell is not None
        ]  # fmt: skip
        assert len(lines) == len(cells)
        for line, (group, row, column, cell) in zip(lines, cells, strict=True):
            assert (line["dataset"], line["method"], line["column"]) == (group, row, column)
            read = [float(line[key]) for key in ("mean", "sd", "low", "high", "n")]
            assert read == pytest.approx(numbers(cell), abs=1e-6)


def hostile_dataset(folder):
    for seed, base in ((1, 60), (2, 62)):
        path = base_new(folder, "x", seed, base, 40, note=HOSTILE)
        task = json.loads((path / "results.json").read_text())["task"]
        spoil(path, "results.json", {"task": task | {"dataset": HOSTILE}})
        base_new(folder, "EuroSAT", seed, 50, 40)
    return report.make([folder])


def test_markdown_tables_parse_whatever_things_are_called(tmp_path):
    text = hostile_dataset(tmp_path).files["tables.md"]
    rendered = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    tree = ET.fromstring(f"<all>{rendered}</all>")
    assert not list(tree.iter("script"))
    first = tree.find("table")
    assert [cell.text for cell in first.iter("th")] == [
        "dataset",
        "method",
        "base",
        "new",
        "H",
        "n",
    ]
    rows = [["".join(cell.itertext()) for cell in row] for row in first.iter("tr")][1:]
    assert {row[0] for row in rows} == {"Average of 2 datasets", "EuroSAT", HOSTILE}
    assert all(len(row) == 6 for row in rows)
    (hostile,) = [row for row in rows if row[0] == HOSTILE]
    # 12.706205 * sqrt(2) / sqrt(2) around 61
    assert hostile[2] == "61.00 ± 1.41 [48.29, 73.71]"


def test_latex_tables_are_well_formed_whatever_things_are_called(tmp_path):
    text = hostile_dataset(tmp_path).files["tables/base-new-accuracy-16shot.tex"]
    bare = re.sub(r"\\[{}&%$#_]", "", text.replace(r"\\", "<br>"))
    depth = np.cumsum([(c == "{") - (c == "}") for c in bare])
    assert depth.min() == 0 and depth[-1] == 0
    assert bare.count("$") % 2 == 0 and "#" not in bare and "%" not in bare
    assert re.findall(r"\\begin{(\w+)}", bare) == re.findall(r"\\end{(\w+)}", bare)[::-1]
    columns = len(re.search(r"\\begin{tabular}{(\w+)}", bare)[1])
    body = bare.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    rows = [line for line in body.splitlines() if line.endswith(" <br>")]
    assert len(rows) == 1 + 2 * 1 + 2 * 1 + 2
    for row in rows:
        assert row.count("&") == columns - 1 or rf"\multicolumn{{{columns}}}" in row
    assert r"\shortstack[r]{\textbf{61.00} $\pm$ 1.41\\{\scriptsize [48.29, 73.71]}}" in text or (
        r"\shortstack[r]{61.00 $\pm$ 1.41\\{\scriptsize [48.29, 73.71]}}" in text
    )


def test_a_latex_table_that_no_page_holds_is_several(tmp_path):
    for dataset in BENCHMARK:
        for i, method in enumerate(("zero_shot", "coop", "cdc")):
            base_new(tmp_path, dataset, 1, 60 + i, 50, method=method)
    made = report.make([tmp_path], formats=["latex"])
    text = made.files["tables/base-new-accuracy-16shot.tex"]
    parts = text.split(r"\begin{table}")[1:]
    assert [part.count(r"\midrule") for part in parts] == [8, 4]
    assert [text.count(rf"\textit{{{name}}}") for name in BENCHMARK] == [1] * len(BENCHMARK)


class Page(html.parser.HTMLParser):
    """Checks nesting, and keeps what the tests ask for."""

    VOID = {"meta", "img", "br", "link", "input", "hr"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.ids = [], [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def test_the_page_is_whole_and_needs_nothing_else(everything):
    _, made = everything
    text = made.files["index.html"]
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]", re.sub(r"base64,[\w+/=]*", "", text))
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    linked = [value for _, key, value in page.attributes if key in ("src", "href")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in linked)
    anchors = re.findall(r"url\(#([^)]+)\)", text)
    anchors += [value[1:] for value in linked if value[0] == "#"]
    assert len(page.ids) == len(set(page.ids)) and set(anchors) <= set(page.ids)
    # Every colour of a drawing is one that the page defines for light and for dark.
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    dark = re.findall(r"@media \(prefers-color-scheme: ?dark\) ?{\s*:root ?{([^}]*)}", text)
    light = [block for block in re.findall(r":root ?{([^}]*)}", text) if block not in dark]
    for blocks in (light, dark):
        assert used <= set(re.findall(r"--([\w-]+):", "".join(blocks)))
    assert "#f0f0" not in text


def test_names_are_text_and_never_markup(everything):
    page = Page(everything[1].files["index.html"])
    assert HOSTILE in page.text
    assert any(key == "alt" and value == HOSTILE for _, key, value in page.attributes)


SECTIONS = {
    "scores.npz": (
        "Risk and coverage", "Reliability", "Uncertainty", "Risk of the decided images",
    ),
    "curve.jsonl": ("Base and new by epochs, iid", "Base and new by epochs, int"),
    "interpretation.json": ("Likeness of templates: CDC", "Words nearest to"),
    "gallery.json": (
        "Most certain: CDC", "Least certain: CDC", "Confident mistakes: CDC", "Confused pairs: CDC",
    ),
}  # fmt: skip


@pytest.mark.parametrize("gone", SECTIONS)
def test_sections_are_there_with_their_files_and_absent_without(everything, tmp_path, gone):
    complete = headings(everything[1])
    shutil.copytree(everything[0] / "world-seed1/cdc", tmp_path / "cdc")
    (tmp_path / "cdc" / gone).unlink()
    found = headings(report.make([tmp_path], formats=["html"]))
    for file, titles in SECTIONS.items():
        for title in titles:
            assert any(heading.startswith(title) for heading in complete)
            assert any(heading.startswith(title) for heading in found) == (file != gone), title
    assert {"Accuracy", "Calibration and uncertainty", "Templates alone and fused"} <= found
    assert any(heading.startswith("Confusions of CDC: base_int") for heading in found)


def headings(made):
    return set(re.findall(r"<h3>(.*?)</h3>", made.files["index.html"]))


def test_drawings_are_files_of_their_own(everything):
    _, made = everything
    drawings = {name: text for name, text in made.files.items() if name.endswith(".svg")}
    assert any("reliability" in name for name in drawings)
    for text in drawings.values():
        root = ET.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.attrib["aria-label"]
        assert "prefers-color-scheme:dark" in text


def test_names_of_lines_that_end_together_stay_apart():
    from cdc_jax.report import drawing

    names = [f"method {i}" for i in range(8)]
    with drawing.plot([], "risk", "lines") as figure:
        axes = figure.subplots()
        for name in names:
            axes.plot([0, 1], [50, 90], label=name)
        axes.set_ylim(0, 100)
        drawing.label_ends(axes)
        places = sorted(text.xyann[1] for text in axes.texts)
        pixels = np.diff(axes.transData.transform([(0, y) for y in places])[:, 1])
    assert (pixels / figure.dpi * 72 >= 10).all()
    assert places[-1] <= 110


# ---- what can be wrong


def test_unfinished_cells_are_named_and_in_no_table(two_datasets, tmp_path):
    shutil.copytree(two_datasets, tmp_path / "runs")
    (tmp_path / "runs/EuroSAT-seed2/coop/results.json").unlink()
    (tmp_path / "runs/EuroSAT-seed3/error.txt").write_text("the loss is nan")  # of another method
    made = report.make([tmp_path / "runs"], formats=["html"])
    assert made.missing == [
        "Not finished, and in no table: EuroSAT-seed2/coop.",
        "Failed, see error.txt there: EuroSAT-seed3.",
    ]
    assert value(made, "accuracy", "EuroSAT", "CoOp", "base").n == 2
    assert "in no table: EuroSAT-seed2/coop" in made.files["index.html"]


def spoil(cell, file, change):
    """Writes a changed file of a cell: an object's keys, or whole contents."""
    path = cell / file
    if isinstance(change, dict):
        change = json.dumps(json.loads(path.read_text()) | change)
    path.write_text(change)


TEST = {"group": "all", "condition": "", "headline": True, "images": 3}

FIGURES = ("accuracy", "ece", "nll", "brier", "auroc", "aurc")
WHOLE = dict.fromkeys(FIGURES, 1.0) | {"template_accuracy": [1.0], "class_accuracy": [1.0]}


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("results.json", '{"splits": {"te', "half-written"),
        ("results.json", "[1, 2]", "expected a JSON object, got list"),
        ("results.json", '{"accuracy": 0.9}', "lacks method, splits"),
        ("results.json", {"splits": {}}, "at least one test split"),
        (
            "results.json",
            {"splits": {"test": TEST}},
            r"splits\.test lacks template_accuracy, accuracy",
        ),
        (
            "results.json",
            {"splits": {"test": TEST | WHOLE | {"risk": "low"}}},
            r"splits\.test\.risk must be a finite number",
        ),
        (
            "results.json",
            {"splits": {"test": TEST | WHOLE | {"confusion": [[0, 1]]}}},
            r"confusion\[0\] must be a list of 3 items, got \[0, 1\]",
        ),
        (
            "results.json",
            {"splits": {"test": TEST | WHOLE | {"confusion": [[0, 1, 2]], "classes": ["a"]}}},
            "an accuracy for each of its 1 classes, and no other class in its confusion",
        ),
        ("config.json", "{", "half-written"),
        ("config.json", '{"model_type": "clip"}', "lacks method"),
        ("curve.jsonl", '{"epoch": 1}\n{"epo', "half-written"),
        ("curve.jsonl", '{"step": 1}\n', "curve.jsonl lacks epoch"),
        ("scores.npz", "no archive", "can't be read"),
        ("interpretation.json", {"template_cosine": [[1, 2], [3]]}, "must be square"),
        ("interpretation.json", "{}", "lacks words"),
        (
            "interpretation.json",
            {"words": [[["a"]]]},
            r"words\[0\]\[0\]\[0\] must be an object, got 'a'",
        ),
        ("gallery.json", "{}", "must be a list, got {}"),
        ("gallery.json", '[{"split": "test"}]', r"\[0\] lacks end, file"),
    ],
)
def test_a_broken_file_is_named(tmp_path, file, change, message):
    cell = write_cell(tmp_path / "runs/cdc", images=12, optional=EVERYTHING)
    spoil(cell, file, change)
    with pytest.raises(ValueError, match=message) as error:
        report.make([tmp_path / "runs"])
    assert str(cell / file) in str(error.value)


@pytest.mark.parametrize(
    ("results_format", "file", "change", "message"),
    [
        (2, "results.json", {"format": 3}, "is of format 3, this release reads 1 and 2"),
        (2, "results.json", '{"format": 2, "splits": {}}', "lacks row, task, summary"),
        (2, "results.json", {"row": "cdc"}, "row must be an object, got 'cdc'"),
        (2, "results.json", {"task": {"dataset": "world aligned"}}, "task lacks protocol, heading"),
        (2, "results.json", {"splits": ["test"]}, r"splits must be an object, got \['test'\]"),
        (2, "results.json", {"splits": {"test": 3}}, "test must be an object, got 3"),
        (2, "results.json", {"splits": {"test": {"images": 3}}}, "test lacks group, condition"),
        (2, "results.json", {"splits": {"test": TEST | {"group": 1}}}, "test.group must be a text"),
        (2, "results.json", {"summary": 3}, "summary must be an object, got 3"),
        (2, "results.json", {"skipped": 3}, "skipped must be a list, got 3"),
        (2, "results.json", {"steps": "30"}, "steps must be a whole number .*, got '30'"),
        (1, "results.json", {"format": 3}, "is of format 3, this release reads 1 and 2"),
        (1, "results.json", {"splits": {}}, "at least one test split"),
        (1, "results.json", {"splits": {"test": 3}}, r"splits\.test must be an object, got 3"),
        (1, "results.json", {"splits": {"test": TEST}}, r"splits\.test lacks .*, accuracy, ece"),
        (1, "config.json", '{"method": {}}', r"config\.json beside it lacks dataset, shots"),
    ],
)
def test_results_of_another_form_are_refused(tmp_path, results_format, file, change, message):
    cell = write_cell(tmp_path / "cdc", images=12, results_format=results_format)
    spoil(cell, file, change)
    with pytest.raises(ValueError, match=message) as error:
        report.make([tmp_path])
    assert str(cell / "results.json") in str(error.value)
    assert "delete its folder and run it again" in str(error.value)


def test_a_gallery_with_opinions_of_another_form_is_refused(tmp_path):
    cell = write_cell(tmp_path / "cdc", images=12, optional=EVERYTHING)
    entries = json.loads((cell / "gallery.json").read_text())
    entries[1]["templates"][0] = ["star", 0.9]
    (cell / "gallery.json").write_text(json.dumps(entries))
    with pytest.raises(
        ValueError, match=r"\[1\]\.templates\[0\] must be .* of 3 .*\['star', 0.9\]"
    ):
        report.make([tmp_path])


def test_scores_of_other_images_are_refused(tmp_path):
    cell = write_cell(tmp_path / "cdc", images=12, optional=EVERYTHING)
    with np.load(cell / "scores.npz") as file:
        arrays = dict(file)
    np.savez(cell / "scores.npz", **arrays | {"base_int/labels": np.zeros(11, int)})
    with pytest.raises(ValueError, match=r"scores.npz: expected base_int/labels of 12 images"):
        report.make([tmp_path])


@pytest.mark.parametrize("name", ["../../secret.png", "gallery/none.png", "results.json"])
def test_a_gallery_shows_images_of_its_own_cell_only(tmp_path, name):
    cell = write_cell(tmp_path / "runs/cdc", images=12, optional=EVERYTHING)
    shutil.copy(next((cell / "gallery").iterdir()), tmp_path / "secret.png")
    entries = json.loads((cell / "gallery.json").read_text())
    next(entry for entry in entries if entry["split"] == "base_int")["file"] = name
    (cell / "gallery.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match="no image|not an image"):
        report.make([tmp_path / "runs"])


def test_results_without_a_configuration_are_foreign(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results.json: no config.json beside it"):
        report.make([tmp_path])


def test_the_same_run_twice_counts_once_and_two_different_ones_are_refused(tmp_path):
    cell = write_cell(tmp_path / "a/cdc", images=12)
    shutil.copytree(cell, tmp_path / "b/cdc")
    made = report.make([tmp_path], formats=["csv"])
    assert value(made, "accuracy", "", "CDC", "H_int").n == 1
    results = json.loads((cell / "results.json").read_text())
    results["splits"]["base_int"]["accuracy"] += 1
    (cell / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"a/cdc and .*b/cdc hold the same settings and seed"):
        report.make([tmp_path])


def test_other_errors_say_what_there_is(two_datasets, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        report.make([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="no finished run below"):
        report.make([tmp_path])
    with pytest.raises(ValueError, match="no run of the reference 'maple': there are cdc, coop"):
        report.make([two_datasets], reference="maple")
    with pytest.raises(ValueError, match=r"unknown formats \['pdf'\]: choose some of html"):
        report.make([two_datasets], formats=["pdf"])


# ---- in a terminal


@pytest.mark.parametrize("targets", [(), ("task_misaligned", "domain_gap", "FGVCAircraft")])
def test_the_table_of_one_run_shows_every_column_of_every_method(capsys, targets):
    keys = [*(key for key in report.COLUMNS if "test" not in key), *targets]
    summary = {key: 10.0 + i for i, key in enumerate(keys)}
    splits = split_records((*WORLD_SPLITS, *targets))
    changed = "maple@optimizer.learning_rate=0.01;prompts.layers=4;views=flip"  # folds
    results = {
        name: Results(
            row=methods.configure(name).record(changes_images=False),
            task=TaskRecord("world aligned", *protocol_of(splits, "world"), 16, 1, {}),
            splits=splits,
            figures={split: {} for split in splits},
            summary=summary,
            facts={},
            steps=30,
            trainable_parameters=2048,
            skipped=[],
            device="1 x cpu",
        ).to_json()
        for name in ("coop", "cdc", changed)
    }
    report.print_table(results)
    lines = capsys.readouterr().out.splitlines()
    for title in ("CoOp", "CDC", "MaPLe"):
        row = next(line.strip() for line in lines if line.strip().startswith(title))
        assert row.split()[-len(summary) :] == [f"{value:.1f}" for value in summary.values()]


@pytest.mark.slow
def test_the_command_says_where_things_lie_and_prints_the_main_table(two_datasets, tmp_path):
    script = forked_runs.EXPERIMENTS / "report.py"
    run = forked_runs.Script(script, two_datasets, f"--out={tmp_path}", "--formats=markdown")
    output, errors = run.communicate()
    assert run.returncode == 0, errors
    assert f"{tmp_path}/tables.md" in output
    row = next(line for line in output.splitlines() if line.strip().startswith("CDC"))
    assert row.split()[1:4] == ["72.00", "±", "2.00"]
    assert (tmp_path / "tables.md").read_text().startswith("# Results")
    failed = forked_runs.Script(script)
    _, errors = failed.communicate()
    assert failed.returncode == 1 and errors.startswith("ValueError: give folders of runs")


def test_values_print_their_number_where_it_is_not_the_rows(two_datasets):
    found = report.make([two_datasets], formats=["csv"]).tables[0]
    ((group, (row, *_)), *_) = found.groups
    row = dataclasses.replace(row, cells=(Value(1.0, 1.0, 0.0, 2.0, 2), *row.cells[1:]))
    ((_, ((_, cells),)),) = table_module.shown(
        dataclasses.replace(found, groups=((group, (row,)),))
    )
    assert cells[0].count == "(n = 2)"
    assert {cell.count for cell in cells[1:]} == {""}


def test_many_methods_stand_in_groups_in_every_format(tmp_path, capsys):
    """Headings between the rows of long tables, and a panel each in the curves."""
    names = [
        name for name, row in methods.ROWS.items() if row.role in ("", "zero-shot", "reference")
    ]
    for name in names:
        for shots in (1, 4):
            write_cell(
                tmp_path / f"{shots}/{name}", name, dataset="EuroSAT", shots=shots,
                splits=("test",), accuracy={"test": 50 + shots}, model=VIT_B_16,
            )  # fmt: skip
    made = report.make([tmp_path])
    expected = list(dict.fromkeys(methods.ROWS[name].group for name in names))
    assert len(expected) == 7 and all(expected)
    found = table(made, "shots", None)
    ((_, lines),) = table_module.shown(found)
    grouped = table_module.by_methods(lines)
    assert [title for title, _ in grouped] == expected
    assert [row.title for _, own in grouped for row, _ in own] == [
        methods.ROWS[name].title for name in names
    ]
    (markdown,) = re.findall(
        r"## H by shots.*?(?=\n## )|## Accuracy by shots.*?(?=\n## )", made.files["tables.md"], re.S
    )
    assert re.findall(r"^\| \*(.*?)\* \|", markdown, re.M) == expected
    for title in expected:
        assert f"\\small {title}}}" in made.files["tables/few-shot-shots.tex"]
    console.print_main(found)
    printed = capsys.readouterr().out
    assert all(f"\n  {title}" in printed or f" {title} " in printed for title in expected)
    others = len(names) - 1
    assert f"with {others} methods (0.0 to 0.0 points)." in made.files["index.html"]
    (drawing,) = [text for name, text in made.files.items() if name.endswith("-shots0.svg")]
    labels = [node.text for node in ET.fromstring(drawing).iter() if node.text]
    assert set(expected) <= set(labels)
    assert labels.count("CDC") == len(expected) + 1  # in every panel, and the heading of its group


def test_few_methods_need_no_headings(two_datasets):
    made = report.make([two_datasets], formats=["markdown"])
    rows = [
        [group for group, _ in table_module.by_methods(lines)]
        for found in made.tables
        for _, lines in table_module.shown(found)
    ]
    assert rows and all(group == [""] for group in rows)
