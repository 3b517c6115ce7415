"""Cross-dataset generalisation: learn on one dataset, test the same prompts on others.

python experiments/run.py --config=cross_dataset.py
python experiments/run.py --config=cross_dataset.py:sweep.kinds=task_misaligned,domain_gap
python experiments/run.py \
  --config=cross_dataset.py:dataset=ImageNet,data.root=~/data,model=openai/clip-vit-base-patch16

On the world, prompts learned on one kind of task, `aligned` if nothing else is said, are tested on
the classes of the others: five minutes a seed and kind on one core of a 2-core machine. Averages
over five seeds of zero-shot CLIP, CDC's and CDC+'s prompts, and CDC+'s phrases before anything is
learned: from `aligned` 30.8 %, 32.0, 40.5, 44.5; from `task_misaligned` 50.6, 45.8, 48.2, 47.2;
from `domain_gap` 68.7, 80.3, 83.1, 78.8.
With ImageNet they are tested on ten datasets of the field, with another of these on the other nine;
the settings are then MaPLe's for this: 3 prompted layers, 2 epochs, rate 0.0026.
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
