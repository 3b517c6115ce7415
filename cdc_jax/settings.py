"""The settings of an experiment with their defaults, from which configuration files start."""

from typing import Any

from ml_collections import ConfigDict

from cdc_jax import config_file, feature_cache, methods

DTYPES = ("float32", "bfloat16", "float16")
"""The dtypes of the frozen CLIP."""
SEEDS = 2**32
"""Seeds are whole numbers below this bound. Random keys use the last 32 bits of a seed only."""


def experiment() -> ConfigDict:
    """The defaults: few-shot adaptation on the bundled world.

    The settings of each method are open placeholders under its name, for flags such as
    `--config.cdc.views=set1`. `cdc_jax.methods.defaults` lists them.
    """
    config = ConfigDict()
    # "world"; "folder", see tasks/class_folders.py; "hf", see tasks/hf_datasets.py; or one of
    # tasks/catalog.py.
    config.dataset = "world"
    config.classes = "all"  # or base_new: learn the first half of the classes, test both
    config.targets = ""  # other datasets to test on as well, each among its own classes
    config.data = ConfigDict(
        {
            "name": "",  # of "hf": an id on the hub, or a local folder in such a format
            "hf": {  # what that dataset does not say itself; "" is nothing
                "config": "",  # which of several datasets that it holds
                "revision": "",  # on the hub: branch, tag or commit
                "image": "",  # columns
                "label": "",
                "train": "",  # splits
                "val": "",
                "test": "",
                "class_names": "",  # file: a name a line by label, or a JSON object id -> name
            },
            "root": "",  # one's folder; or the folder of the datasets' folders, or TFDS's data_dir
            "split": "",  # a split file or list of images in place of the dataset's own
            "format": "coop",  # of the published datasets; or tfds
            "template": "",  # in place of all words of the dataset's own, with {} for the class
            "allow_fewer": False,  # of one's own: classes with fewer training images than shots
            "layout": "",  # of one's folders: classes, split/class or class/split; "": what fits
            "val_is_test": False,  # of one's own: test on val where there is no test, as ImageNet
            "follow_links": False,  # of one's own: links to folders, and to what is elsewhere
            "allow_copies": False,  # of one's own: the same image in train and test
            "check": False,  # decode every image before any work
            "on_error": "stop",  # or skip: leave out images that can't be decoded, and list them
            "side": 0,  # of the squares that training images are squeezed to; 0: 1.5 x the model's
            "workers": 0,  # threads that decode; 0: one a core
        }
    )
    config.world = ConfigDict({"kind": "aligned", "rho": 0.9, "test_images": 40})
    config.model = "world"  # or a Hugging Face id, or a folder in its format
    config.dtype = "float32"  # of the frozen CLIP; bfloat16 where the hardware has it
    config.shots = 16
    config.validation_shots = 0  # a class; 0: min(shots, 4), the field's protocol
    config.seed = 1
    config.methods = "zero_shot,linear_probe,coop,coop_con,cdc,cdc_plus"
    # Lists separated by commas: a cell for each combination; empty ones are the single value above.
    config.sweep = ConfigDict(
        {"datasets": "", "roots": "", "kinds": "", "rhos": "", "shots": "", "seeds": ""}
    )
    config.evaluation_batch_size = 240
    config.cache = ConfigDict(
        {
            "folder": "",  # of image features on disk, see feature_cache.py; "": the user's caches
            "gigabytes": feature_cache.GIGABYTES,  # the most that it takes; 0: none
        }
    )
    config.progress = True  # False for silence
    config.tensorboard = False  # True for event files beside metrics.jsonl; needs '.[tensorboard]'
    config.log_every = 10  # steps
    config.checkpoint_every = 60  # steps
    config.curve_every = 0  # epochs between evaluations in the course of training; 0 for none
    for name in methods.ROWS:
        config[name] = methods.overrides(name)
    return config


def transfer(config: ConfigDict) -> None:
    """Sets the papers' settings for prompts of ImageNet that are tested on other datasets."""
    for name, row in methods.ROWS.items():
        config[name].update_from_flattened_dict(row.transfer)


def check(config: ConfigDict) -> None:
    """Checks the values of settings beyond their types.

    Raises:
      ValueError: a seed, dtype, cache, method or setting of a method is invalid; the message names
        the value and the valid values.
    """
    check_seed(config.seed)
    if config.dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {config.dtype!r}")
    feature_cache.check(config.cache.folder, config.cache.gigabytes)
    for name in methods.names(config.methods):
        row, changes = methods.split(name)
        config_file.assign(methods.overrides(row), changes)


def check_seed(seed: Any) -> None:
    """Raises ValueError unless a seed is a whole number from 0 to 2^32 - 1."""
    if type(seed) is not int or not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be a whole number from 0 to {SEEDS - 1}, got {seed!r}")
