"""What each part of CDC contributes, beside every control that a part has to be compared with.

python experiments/run.py --config=ablation.py
python experiments/run.py --config=ablation.py:study=templates
python experiments/run.py --config=ablation.py:study=components,sweep.kinds=domain_gap
python experiments/run.py \
  --config=ablation.py:dataset=OxfordPets,classes=base_new,data.root=~/data \
  --config.model=openai/clip-vit-base-patch16

Studies: `components` (the rows of the paper's table, and the controls), `templates` (M = 1..8),
`views` (the sets of augmentations), `fusion` (how the templates' opinions are fused), `evidence`
(from logits to evidence). Five seeds each; `experiments/report.py` makes the tables.

`components` takes about 14 minutes a seed on one core of a 2-core machine. Its tables stand in the
README: little separates the rows on `aligned`; where there is room, the phrase that a template
starts from and the loss matter more than views and fusion.

`fusion` takes about 4 minutes a seed. Over three seeds of `task_misaligned`, H_int: Dempster 83.9,
average 90.1, cautious 85.5, cumulate 81.4, pool 88.4, most certain 80.5; mean softmax 91.2, mean
logit 80.8: nothing is separated, the intervals of the differences are 40 to 90 points wide. ECE:
10.2, 25.2, 11.2, 7.5, 16.6, 8.4; 21.1, 7.0. `templates`, `views` and `evidence` were not run whole.
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, settings

STUDIES = {
    "components": (
        "zero_shot,zero_shot_ensemble,zero_shot_trusted,zero_shot_aspects,linear_probe,coop,"
        "coop_con,coop_con_picked,kgcoop,multi_template,vsd,dstc,cdc,cdc_plus,"
        "cdc_shared_views,cdc_mean_softmax,trusted_one,maple,maple_con,cdc_visual,oracle,oracle_visual"
    ),
    "templates": ",".join(f"cdc@prompts.templates={m}" for m in range(1, 9)),
    "views": ",".join(
        f"cdc@views={views}" for views in ("clean", "flip", "set1", "set2", "shared", "composed")
    ),
    "fusion": ",".join(
        f"cdc@head.fusion={fusion}"
        for fusion in ("dempster", "average", "cumulate", "cautious", "pool", "most_certain")
    )
    + ",cdc_mean_softmax,vsd",
    "evidence": (
        "cdc,cdc@head.evidence=softplus,cdc@head.evidence=relu,cdc@head.shift_multiple=2.0,"
        "cdc@head.centred=True,cdc@head.learned=True,cdc@head.kl_weight=0.0,"
        "cdc@head.kl_weight=1.0"
    ),
}
"""Study -> its methods; `row@key=value` is a row with one setting changed."""


def get_config(argument: str = "") -> ConfigDict:
    """The configuration of a study, with `key=value,…` applied."""
    config = settings.experiment()
    config.sweep.seeds = "1,2,3,4,5"
    parts, study = argument.split(","), "components"
    for part in [part for part in parts if part.startswith("study=")]:
        parts.remove(part)
        study = part.removeprefix("study=")
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}: there are {', '.join(STUDIES)}")
    config.methods = STUDIES[study]
    if any(part.startswith(("dataset=", "sweep.datasets=")) for part in parts):
        config.methods = config.methods.replace(",oracle,oracle_visual", "")  # of the world only
    return config_file.apply(config, ",".join(parts))
