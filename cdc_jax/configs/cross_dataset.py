"""Cross-dataset generalisation: learn on one dataset, test the same prompts on others.

python experiments/run.py --config=cross_dataset.py
python experiments/run.py --config=cross_dataset.py:sweep.kinds=task_misaligned,domain_gap
python experiments/run.py \
  --config=cross_dataset.py:dataset=ImageNet,data.root=~/data,model=openai/clip-vit-base-patch16

On the bundled world, the test is on the classes of the other kinds of task. It takes five minutes a
seed and kind on one core of a 2-core machine. Prompts that were learned on `domain_gap` transfer,
those of the other kinds do not. With ImageNet the test is on ten datasets of the field, with
another dataset on the other nine. Settings are then MaPLe's for this: 3 prompted layers, 2 epochs,
rate 0.0026.
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, settings

_TEN = (
    "Caltech101", "OxfordPets", "StanfordCars", "OxfordFlowers", "Food101", "FGVCAircraft",
    "SUN397", "DescribableTextures", "EuroSAT", "UCF101",
)  # fmt: skip


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, with `key=value,…` applied."""
    config = settings.experiment()
    config.methods = "zero_shot,coop,kgcoop,maple,multi_template,cdc,cdc_plus"
    config.targets = "aligned,task_misaligned,domain_gap"  # but for the source itself
    config.sweep.seeds = "1,2,3,4,5"
    said = config_file.apply(config.copy_and_resolve_references(), argument)
    if (said.sweep.datasets or said.dataset) != "world":
        config.targets = ",".join(_TEN)
        settings.transfer(config)
    return config_file.apply(config, argument)
