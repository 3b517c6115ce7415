"""Base-to-new generalisation: learn half of the classes, test both halves.

python experiments/run.py --config=base_to_new.py
python experiments/run.py --config=base_to_new.py --config.methods=cdc,coop --config.shots=4
python experiments/run.py --config=base_to_new.py:curve_every=10  # base and new by epochs
python experiments/run.py \
  --config=base_to_new.py:sweep.datasets=DescribableTextures,EuroSAT,sweep.seeds=1,2,3 \
  --config.data.root=~/data --config.model=openai/clip-vit-base-patch16

On the bundled world, six methods and five seeds take 16 minutes on one core of a 2-core machine.
Under do(), no method is more than a point above zero-shot CLIP on `aligned`.
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, settings


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, with `key=value,…` applied."""
    config = settings.experiment()
    config.classes = "base_new"
    config.methods = "zero_shot,coop,kgcoop,maple,multi_template,cdc,cdc_plus"
    config.sweep.seeds = "1,2,3,4,5"
    return config_file.apply(config, argument)
