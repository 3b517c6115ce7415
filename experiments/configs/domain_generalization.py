"""Domain generalisation: learn on one dataset, test on other domains of the same classes.

python experiments/run.py --config=domain_generalization.py
python experiments/run.py --config=domain_generalization.py:sweep.kinds=task_misaligned,domain_gap
python experiments/run.py \
  --config=domain_generalization.py:dataset=ImageNet,data.root=~/data,model=openai/clip-vit-base-patch16

On the world, prompts learned on one kind of task, `aligned` if nothing else is said, are tested
under do() on its base classes, as no training image shows them: clean, behind bars, and, where the
labels are not about colour or background, as sketches and negatives. Four minutes a seed and kind
on one core of a 2-core machine. Averages of the domains and five seeds: zero-shot CLIP, linear
probe, CDC, CDC+, learned on `aligned` 80.9 %, 45.2, 80.4, 80.2; on `task_misaligned` 63.0, 31.9,
86.9, 91.8; on `domain_gap` 26.2, 58.9, 42.4, 57.7.
With ImageNet, on its four variants; settings as in cross_dataset.py.
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, settings


def get_config(argument: str = "") -> ConfigDict:
    """The configuration, with `key=value,…` applied."""
    config = settings.experiment()
    config.methods = "zero_shot,coop,kgcoop,maple,multi_template,cdc,cdc_plus"
    config.targets = "clean,sketch,inverted,barred"  # those that keep what the labels are about
    config.sweep.seeds = "1,2,3,4,5"
    said = config_file.apply(config.copy_and_resolve_references(), argument)
    sources = said.sweep.datasets or said.dataset
    if sources == "ImageNet":
        config.targets = "ImageNetV2,ImageNet-Sketch,ImageNet-A,ImageNet-R"
        settings.transfer(config)
    elif sources != "world":
        raise ValueError(f"only the world and ImageNet have other domains, got dataset {sources}")
    return config_file.apply(config, argument)
