"""What each part of CDC contributes, beside every control that a part has to be compared with.

python experiments/run.py --config=ablation.py
python experiments/run.py --config=ablation.py:study=templates
python experiments/run.py --config=ablation.py:study=components,sweep.kinds=domain_gap
python experiments/run.py \
  --config=ablation.py:dataset=OxfordPets,classes=base_new,data.root=~/data \
  --config.model=openai/clip-vit-base-patch16

Studies: `components` (the rows of the paper's table, and the controls), `templates` (M = 1..8),
`views` (the sets of augmentations), `cached_views` (views encoded before training in place of fresh
ones), `fusion` (how the templates' opinions are fused), `evidence` (from logits to evidence),
`cdc_plus` (its parts, and controls with its epochs). Five seeds each;
`experiments/report.py` makes the tables.

`components` takes about 14 minutes a seed on one core of a 2-core machine, `cdc_plus` ten, the
others 3 to 8. Results are in experiments/results/: little separates the rows on `aligned`. On the
other kinds the phrase, the loss and views that leave colours alone matter most.
"""

from typing import Any

from ml_collections import ConfigDict

from cdc_jax import config_file, grammar, methods, settings

STUDIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "components": [
        (row, {})
        for row in (
            "zero_shot", "zero_shot_ensemble", "zero_shot_trusted", "zero_shot_aspects",
            "linear_probe", "coop", "coop_con", "coop_con_picked", "kgcoop", "multi_template",
            "vsd", "dstc", "cdc", "cdc_plus", "cdc_shared_views", "cdc_mean_softmax",
            "trusted_one", "maple", "maple_con", "cdc_visual",
        )
    ],
    "templates": [("cdc", {"prompts.templates": m}) for m in range(1, 9)],
    "views": [
        ("cdc", {"views": views})
        for views in ("clean", "flip", "set1", "set2", "shared", "composed")
    ],
    "cached_views": [
        (row, changes)
        for row in ("coop", "kgcoop", "cdc")
        for changes in ({}, {"cached_views": 1}, {"cached_views": 10})
    ],
    "fusion": [
        ("cdc", {"head.fusion": fusion})
        for fusion in ("dempster", "average", "cumulate", "cautious", "pool", "most_certain")
    ]
    + [("cdc_mean_softmax", {}), ("vsd", {})],
    "evidence": [
        ("cdc", {}),
        ("cdc", {"head.evidence": "softplus"}),
        ("cdc", {"head.evidence": "relu"}),
        ("cdc", {"head.shift_multiple": 2.0}),
        ("cdc", {"head.centred": True}),
        ("cdc", {"head.learned": True}),
        ("cdc", {"head.kl_weight": 0.0}),
        ("cdc", {"head.kl_weight": 1.0}),
    ],
    "cdc_plus": [
        ("cdc_plus", {}),
        ("cdc_plus", {"optimizer.epochs": 40}),
        ("cdc_plus", {"prompts.phrases": "a photo of a"}),
        ("cdc_plus", {"views": "set1"}),
        ("cdc_plus", {"loss.consistency_weight": 0.0}),
        ("cdc_plus", {"head.fusion": "mean_probability"}),
        ("cdc_plus", {"head.template_weight": 0.0, "head.fused_weight": 1.0}),
        (
            "cdc_plus",
            {
                "head.name": "evidential", "head.fusion": "dempster", "head.kl_weight": 0.01,
                "head.fused_weight": 1.0,
            },
        ),
        ("coop_con", {"optimizer.epochs": 120}),
        ("coop_con_picked", {"optimizer.epochs": 120}),
        ("multi_template", {"optimizer.epochs": 120}),
        ("dstc", {"optimizer.epochs": 120}),
    ],
}  # fmt: skip
"""Study -> its rows, each with the settings that it changes."""


def get_config(argument: str = "") -> ConfigDict:
    """The configuration of a study, with `key=value,…` applied."""
    config = settings.experiment()
    config.sweep.seeds = "1,2,3,4,5"
    parts = grammar.split(argument, ",")
    study = next((part[6:] for part in reversed(parts) if part.startswith("study=")), "components")
    if study not in STUDIES:
        raise ValueError(f"unknown study {study!r}: there are {', '.join(STUDIES)}")
    argument = ",".join(part for part in parts if not part.startswith("study="))
    rows = list(STUDIES[study])
    applied = config_file.apply(config.copy_and_resolve_references(), argument)
    if study == "components" and applied.dataset == "world" and not applied.sweep.datasets:
        # Only the world can draw the images that upper bounds learn from.
        rows += [(name, {}) for name, row in methods.ROWS.items() if row.role == "upper bound"]
    config.methods = ",".join(methods.with_changes(row, changes) for row, changes in rows)
    return config_file.apply(config, argument)
