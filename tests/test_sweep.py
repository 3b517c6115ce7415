"""Sweeps: their cells, what is run again, and what a failing cell does to the others."""

import json
import os
import signal

import pytest

from cdc_jax import interruption, sweep, train


@pytest.fixture
def quick(get_config, monkeypatch):
    """A sweep of four cells; training is replaced by a note of the cell, and may fail."""
    config = get_config("fewshot", "methods=zero_shot,sweep.shots=1,2,sweep.seeds=5,6")
    calls, failing = [], set()

    def train_and_evaluate(cell, folder):
        calls.append(folder.name)
        if folder.name in failing:
            raise FloatingPointError("the loss is nan")
        return {"zero_shot": {"shots": cell.shots, "seed": cell.seed}}

    monkeypatch.setattr(train, "train_and_evaluate", train_and_evaluate)
    return config, calls, failing


def test_cells_are_all_combinations(get_config):
    config = get_config("ablation", "sweep.kinds=aligned,domain_gap,sweep.rhos=0,0.5,seed=9")
    cells = sweep.cells(config)
    assert len(cells) == 2 * 2 * 5
    cell = cells["world-domain_gap-rho0.5-16shot-seed4"]
    assert (cell.world.kind, cell.world.rho, cell.seed, cell.shots) == ("domain_gap", 0.5, 4, 16)
    assert cell.is_locked
    assert "sweep" not in cell


def test_without_lists_there_is_one_cell(get_config):
    assert list(sweep.cells(get_config("fewshot", "shots=4"))) == [
        "world-aligned-rho0.9-4shot-seed1"
    ]


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ("dataset=folder,data.root=photos/pets", ["folder-pets-4shot-seed1"]),
        ("dataset=folder,data.root=my pets/", ["folder-my-pets-4shot-seed1"]),
        ("dataset=folder,data.root=pets,classes=base_new", ["folder-pets-4shot-seed1-base_new"]),
        (
            "dataset=folder,sweep.roots=photos/pets,photos/cars,sweep.seeds=1,2",
            [f"folder-{name}-4shot-seed{seed}" for name in ("pets", "cars") for seed in (1, 2)],
        ),
        ("dataset=hf,data.name=user/pets", ["hf-user--pets-4shot-seed1"]),
        (
            "sweep.datasets=world,OxfordPets,sweep.kinds=aligned,domain_gap",
            [
                "world-aligned-rho0.9-4shot-seed1",
                "world-domain_gap-rho0.9-4shot-seed1",
                "OxfordPets-4shot-seed1",
            ],
        ),
    ],
)
def test_cells_are_called_by_their_dataset(get_config, argument, names):
    assert list(sweep.cells(get_config("fewshot", f"shots=4,{argument}"))) == names


def test_every_cell_of_a_sweep_over_folders_has_its_own_root(get_config):
    config = get_config("fewshot", "dataset=folder,sweep.roots=a/pets,a/cars")
    assert [cell.data.root for cell in sweep.cells(config).values()] == ["a/pets", "a/cars"]


@pytest.mark.parametrize("root", ["photos/pets", "photos/cars"])
def test_a_run_goes_on_under_the_name_that_an_older_release_gave_it(get_config, tmp_path, root):
    """Only that of the same folder of photographs; another one gets a name of its own."""
    older = tmp_path / "folder-4shot-seed1"
    (older / "coop").mkdir(parents=True)
    settings = {"dataset": "folder", "data": {"root": "photos/pets"}}
    (older / "coop" / "config.json").write_text(json.dumps(settings))
    for name in ("pets", "cars"):
        os.makedirs(tmp_path / "photos" / name)
    config = get_config("fewshot", f"dataset=folder,shots=4,data.root={tmp_path / root}")
    expected = older.name if root.endswith("pets") else "folder-cars-4shot-seed1"
    assert list(sweep.check(config, tmp_path)) == [expected]
    (tmp_path / "folder-pets-4shot-seed1").mkdir()  # begun under its new name as well
    assert older.name not in sweep.check(config, tmp_path)


@pytest.mark.parametrize("alone", [False, True])
def test_a_failing_cell_is_reported_and_tried_again(quick, tmp_path, alone):
    config, calls, failing = quick
    bad = "world-aligned-rho0.9-1shot-seed6"
    failing.add(bad)
    with pytest.raises(sweep.SweepError, match=f"1 of 4 cells failed.*{bad}: FloatingPointError"):
        sweep.run(config, tmp_path)
    assert len(calls) == 4
    assert "the loss is nan" in (tmp_path / bad / "error.txt").read_text()
    failing.clear()
    if alone:
        config.sweep.shots, config.sweep.seeds = "1", "6"
    results = sweep.run(config, tmp_path)
    assert results[bad] == {"zero_shot": {"shots": 1, "seed": 6}}
    assert not (tmp_path / bad / "error.txt").exists()


def test_a_signal_at_the_end_of_a_cell_ends_the_sweep(quick, tmp_path, monkeypatch):
    config, calls, _ = quick

    def complete(cell, folder):
        with interruption.Notice():
            signal.raise_signal(signal.SIGTERM)  # when it no longer asks
        return calls.append(folder.name)

    monkeypatch.setattr(train, "train_and_evaluate", complete)
    with pytest.raises(interruption.Interrupted, match="stopped before .*-1shot-seed6"):
        sweep.run(config, tmp_path)
    assert calls == ["world-aligned-rho0.9-1shot-seed5"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("sweep.seeds=1,1", "has the cell world-aligned-rho0.9-16shot-seed1 twice"),
        (
            "dataset=folder,sweep.roots=a/pets,b/pets",
            "folder-pets-16shot-seed1 twice: .* --workdir",
        ),
        ("dataset=OxfordPets,sweep.seeds=1,1", "has the cell OxfordPets-16shot-seed1 twice"),
        ("sweep.roots=a", "sweep.roots=a names folders of photographs, but the dataset is world"),
        (
            "sweep.datasets=photos/pets",
            "dataset must be a name, but 'photos/pets' is a path: .* "
            "dataset=folder,data.root=photos/pets, .* dataset=folder,sweep.roots=PATH,PATH",
        ),
        ("shots=0", "shots must be at least 1, got 0"),
        ("dataset=OxfordPets,shots=-1", "shots must be at least 1, got -1"),
        ("world.test_images=0", "world.test_images must be at least 1, got 0"),
        ("sweep.rhos=0.5,2", "world.rho is a probability, got 2"),
        ("sweep.shots=1,few", "shots must be of type int, got 'few'"),
        (
            "sweep.seeds=1,4294967296",
            "seed must be a whole number from 0 to 4294967295, got 4294967296",
        ),
        ("sweep.seeds=0,-1", "seed must be a whole number from 0 to 4294967295, got -1"),
        ("sweep.seeds=1,1.5", "seed must be of type int"),
        ("seed=1099511627776", "seed must be a whole number .*, got 1099511627776"),
        ("dtype=fp16", "dtype must be one of float32, bfloat16, float16, got 'fp16'"),
    ],
)
def test_refusals(get_config, argument, message):
    with pytest.raises(ValueError, match=message):
        sweep.cells(get_config("fewshot", argument))


@pytest.mark.parametrize(
    "study", ["components", "templates", "views", "cached_views", "fusion", "evidence", "cdc_plus"]
)
def test_the_studies_of_the_ablation_are_methods(get_config, study):
    from cdc_jax import methods

    config = get_config("ablation", f"study={study}")
    names = config.methods.split(",")
    assert len(set(names)) == len(names) >= 6
    for name in names:
        methods.configure(name, "small")


def test_an_unknown_study_is_refused(get_config):
    with pytest.raises(ValueError, match="unknown study 'view': there are components"):
        get_config("ablation", "study=view")
