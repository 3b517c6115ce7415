"""Cross-dataset generalisation: learn on one dataset, test the same prompts on others.

python experiments/run.py --config=cross_dataset.py
python experiments/run.py \
  --config=cross_dataset.py:dataset=ImageNet,data.root=~/data,model=openai/clip-vit-base-patch16

On the world, prompts learned on `aligned` are tested on the classes of the other kinds of task:
five minutes a seed on one core of a 2-core machine; over five seeds zero-shot CLIP averaged 30.8 %,
CDC 32.0, CDC+ 40.5, and its four phrases 44.5 before anything is learned.
With ImageNet they are tested on the ten other datasets of the field; the settings are then MaPLe's
for this: 3 prompted layers, 2 epochs, rate 0.0026.
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
    named = [
        part.removeprefix("dataset=") for part in argument.split(",") if part[:8] == "dataset="
    ]
    if named and named != ["world"]:
        config.targets = ",".join(name for name in _TEN if name not in named)
        settings.transfer(config)
    return config_file.apply(config, argument)
