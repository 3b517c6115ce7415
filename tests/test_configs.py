"""The configuration files: what each protocol asks for, of the world and of published data."""

import pytest

from cdc_jax import sweep, train


@pytest.mark.parametrize("name", ["cross_dataset", "domain_generalization"])
def test_imagenet_prompts_are_trained_as_published(get_config, name):
    config = get_config(name, "dataset=ImageNet,data.root=images,model=some/clip")
    targets = config.targets.split(",")
    assert len(targets) == {"cross_dataset": 10, "domain_generalization": 4}[name]
    for method in ("maple", "multi_template", "cdc"):
        assert config[method].prompts.layers == 3
        assert config[method].optimizer.epochs == 2
        assert config[method].optimizer.learning_rate == 0.0026
    assert config.coop.optimizer.epochs == 50
    assert config.zero_shot.optimizer.epochs is None
    assert get_config(name).maple.prompts.layers is None


def test_prompts_of_another_dataset_are_tested_on_all_but_it(get_config):
    config = get_config("cross_dataset", "sweep.datasets=EuroSAT,ImageNet,sweep.seeds=1")
    names = list(sweep.cells(config))
    assert [name.count("-") for name in names] == [2 + 1 + 9, 2 + 1 + 10]  # no name has a dash
    assert names[0].startswith("EuroSAT-16shot-seed1-to-") and names[0].count("EuroSAT") == 1
    assert get_config("cross_dataset", "dataset=world").targets.startswith("aligned,")


def test_a_dataset_without_other_domains_is_refused(get_config):
    for argument in ("dataset=OxfordPets", "dataset=ImageNet,sweep.datasets=OxfordPets"):
        with pytest.raises(ValueError, match="only the world and ImageNet .* got dataset OxfordP"):
            get_config("domain_generalization", argument)
    config = get_config("domain_generalization", "sweep.datasets=ImageNet")
    assert config.targets.startswith("ImageNetV2,")


@pytest.mark.parametrize(
    "argument", ["targets=sketch,world.kind=domain_gap", "dataset=EuroSAT,targets=EuroSAT"]
)
def test_targets_of_which_none_is_left_are_refused(get_config, argument):
    with pytest.raises(ValueError, match="target"):
        sweep.cells(get_config("fewshot", argument))


def test_a_sweep_over_sources_has_the_targets_of_each(get_config):
    sources = "sweep.kinds=aligned,domain_gap,sweep.seeds=1"
    assert list(sweep.cells(get_config("cross_dataset", sources))) == [
        "world-aligned-rho0.9-16shot-seed1-to-task_misaligned-domain_gap",
        "world-domain_gap-rho0.9-16shot-seed1-to-aligned-task_misaligned",
    ]
    assert list(sweep.cells(get_config("domain_generalization", sources))) == [
        "world-aligned-rho0.9-16shot-seed1-to-clean-sketch-inverted-barred",
        "world-domain_gap-rho0.9-16shot-seed1-to-clean-barred",
    ]


def test_only_the_world_has_an_oracle(get_config):
    assert "oracle" in get_config("ablation").methods
    methods = get_config("ablation", "dataset=EuroSAT,data.root=images").methods
    assert "oracle" not in methods and methods.endswith("cdc_visual")


def test_base_to_new_learns_half_of_the_classes(get_config):
    cells = sweep.cells(get_config("base_to_new", "sweep.datasets=EuroSAT,OxfordPets,shots=4"))
    assert len(cells) == 2 * 5
    assert cells["EuroSAT-4shot-seed5-base_new"].classes == "base_new"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cross_dataset", "domain_generalization"])
def test_targets_are_test_splits_of_their_own_classes(get_config, name, tmp_path):
    argument = "methods=zero_shot,shots=1,world.test_images=4,progress=False"
    (cell,) = sweep.cells(get_config(name, f"{argument},sweep.seeds=3")).values()
    results = train.train_and_evaluate(cell, tmp_path)["zero_shot"]
    images = {split: figures["images"] for split, figures in results["splits"].items()}
    targets = set(cell.targets.split(",")) - {cell.world.kind}
    assert targets and cell.world.kind not in images
    for target in targets:
        assert images[target] == 4 * (12 if name == "domain_generalization" else 24)
        assert results["summary"][target] == results["splits"][target]["accuracy"]
