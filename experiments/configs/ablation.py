"""What each part of CDC contributes, beside every control that a part has to be compared with.

python experiments/run.py --config=ablation.py
python experiments/run.py --config=ablation.py:study=templates
python experiments/run.py --config=ablation.py:study=components,sweep.kinds=domain_gap
python experiments/run.py \
  --config=ablation.py:dataset=OxfordPets,classes=base_new,data.root=~/data \
  --config.model=openai/clip-vit-base-patch16

Studies: `components` (the rows of the paper's table, and the controls), `templates` (M = 1..8),
`views` (the sets of augmentations), `cached_views` (views encoded before training in place of fresh
ones), `fusion` (how the templates' opinions are fused), `evidence`
(from logits to evidence), `cdc_plus` (its parts, and controls with its epochs). Five seeds each;
`experiments/report.py` makes the tables.

`components` takes about 14 minutes a seed on one core of a 2-core machine. Its tables stand in the
README: little separates the rows on `aligned`; where there is room, the phrase that a template
starts from and the loss matter, and on `domain_gap` that views leave colours alone.

The others take 3 to 8 minutes a seed, the other core busy; on `task_misaligned`, five seeds, H_int:
  templates, M = 1..8: 73.5, 89.7, 84.6, 83.9, 88.1, 87.3, 84.6, 87.2
  views: clean 84.5, flip 87.4, set1 83.9, set2 73.6, shared 76.4, composed 87.8
  fusion: dempster 83.9, average 89.1, pool 87.4, cautious 82.4, cumulate 80.7, most_certain 80.2,
    mean softmax 90.3, mean logit 77.7
  evidence: exp 83.9 (shift_multiple 2: 89.0, centred 85.2, learned 87.0; kl_weight 0: 87.2, 1:
    69.6), softplus 76.9, relu 77.0
CDC minus them leaves zero out for set2 (10.2 [2.8, 17.6]: crops leave too little of 32 pixels) and,
in ECE, for softplus (−24.8 [−37.6, −12.0]), relu (−22.2 [−35.8, −8.6]), the average opinion (−14.4
[−26.2, −2.7]) and the mean softmax (−12.0 [−22.1, −1.9]).
Dempster's vacuity ranks errors better than that of every other rule here (AUROC by 8 to 15), and
worse than one minus the mean softmax does (−22.2 [−31.6, −12.8]).

`cdc_plus` takes ten minutes a seed; on `task_misaligned` and `domain_gap`: CDC+ 92.4 and 52.6, with
40 epochs 92.6 and 42.9, with one phrase 88.1 and 47.6; with 120 epochs the picked phrase 90.1 and
41.2, four templates with the trusted loss 90.0 and 61.4.
"""

from ml_collections import ConfigDict

from cdc_jax import config_file, methods, settings

STUDIES = {
    "components": (
        "zero_shot,zero_shot_ensemble,zero_shot_trusted,zero_shot_aspects,linear_probe,coop,"
        "coop_con,coop_con_picked,kgcoop,multi_template,vsd,dstc,cdc,cdc_plus,"
        "cdc_shared_views,cdc_mean_softmax,trusted_one,maple,maple_con,cdc_visual"
    ),
    "templates": ",".join(f"cdc@prompts.templates={m}" for m in range(1, 9)),
    "views": ",".join(
        f"cdc@views={views}" for views in ("clean", "flip", "set1", "set2", "shared", "composed")
    ),
    "cached_views": ",".join(
        f"{row}{cached}"
        for row in ("coop", "kgcoop", "cdc")
        for cached in ("", "@cached_views=1", "@cached_views=10")
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
    "cdc_plus": (
        "cdc_plus,cdc_plus@optimizer.epochs=40,cdc_plus@prompts.phrases=a photo of a,"
        "cdc_plus@views=set1,cdc_plus@loss.consistency_weight=0.0,"
        "cdc_plus@head.fusion=mean_probability,"
        "cdc_plus@head.template_weight=0.0;head.fused_weight=1.0,"
        "cdc_plus@head.name=evidential;head.fusion=dempster;head.kl_weight=0.01;"
        "head.fused_weight=1.0,"
        "coop_con@optimizer.epochs=120,coop_con_picked@optimizer.epochs=120,"
        "multi_template@optimizer.epochs=120,dstc@optimizer.epochs=120"
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
    applied = config_file.apply(config.copy_and_resolve_references(), ",".join(parts))
    if study == "components" and applied.dataset == "world" and not applied.sweep.datasets:
        # Only the world can draw the images that upper bounds learn from.
        bounds = [name for name, row in methods.ROWS.items() if row.role == "upper bound"]
        config.methods = ",".join([config.methods, *bounds])
    return config_file.apply(config, ",".join(parts))
