"""Few-shot adaptation by every method, on the embedded world unless told otherwise.

python experiments/run.py --config=fewshot.py
python experiments/run.py --config=fewshot.py:shots=4,seed=2
python experiments/run.py --config=fewshot.py --config.methods=coop,cdc --config.cdc.views=set1
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, methods


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, with `key=value,…` applied.

    A method's own settings are left open under its name, for `--config.cdc.views=set1` and the
    like; `cdc_jax.methods` says what there is.
    """
    config = ConfigDict()
    config.dataset = "world"
    config.world = ConfigDict({"kind": "aligned", "rho": 0.9, "test_images": 40})
    config.model = "world"  # or a Hugging Face id, or a folder in its format
    config.dtype = "float32"  # of the frozen CLIP; bfloat16 where the hardware has it
    config.shots = 16
    config.seed = 1
    config.methods = "zero_shot,coop,coop_con,cdc"
    config.evaluation_batch_size = 240
    config.log_every = 10  # steps
    config.checkpoint_every = 60  # steps
    config.curve_every = 0  # epochs between evaluations in the course of training; 0 for none
    for name in methods.METHODS:
        config[name] = methods.overrides()
    return config_file.apply(config, argument)
