"""The default settings of each family of methods.

They are data. Scripts read them before JAX is imported.
"""

import copy
from typing import Any

from cdc_jax.config_type import ConfigDict

SETTINGS: dict[str, Any] = {
    "views": "shared",  # a name of views.SETS, or a composition
    # Number of views of each image that are encoded before training. Epoch e trains on the features
    # of view e mod cached_views. View v is the fresh view of epoch v: as many views as epochs equal
    # fresh views to rounding. 0 makes and encodes a fresh view in every step. Only methods that do
    # not change image features can cache views. They always cache a view without random draws
    # ("clean").
    "cached_views": 0,
    "train_on": "train",  # the shots, or another name that `Task.training_set` knows
    # See heads. The evidential shift is shift_multiple times the mean logit of the training images.
    # `calibrated` fits a scale of the predictions on validation images, see `Method.conclude`.
    "head": {
        "name": "softmax", "fusion": "mean_logit", "template_weight": 0.0, "fused_weight": 1.0,
        "evidence": "exp", "shift_multiple": 1.0, "centred": False, "learned": False,
        "kl_weight": 0.0, "uncertainty": "confidence", "calibrated": False,
    },
    # See optimizer.make.
    "optimizer": {
        "name": "sgd", "learning_rate": 0.002, "warmup_rate": 1e-5, "final_rate": 0.0,
        "weight_decay": 5e-4, "batch_size": 32, "epochs": 50, "steps": 0, "unit": "epoch",
        "warmup": 1, "epsilon": 1e-8,
    },
}  # fmt: skip
"""Settings of all families."""

PROMPT_TUNING: dict[str, Any] = {
    # See prompts.Templates. "|" separates phrases, and the templates take the phrases in turn. With
    # `pick`, all templates take the phrase that is most accurate on the training images. An empty
    # phrase is the task's hand-crafted template. With context 0 nothing is learned. Anchors are the
    # hand-crafted texts of L_con: "" is the task's template, "own" is each template's phrase, and
    # texts with {} are separated by "|". `ensemble` averages the anchors' features.
    "prompts": {
        "templates": 1, "phrases": "a photo of a", "pick": False, "context": 4, "layers": 1,
        "modality": "text", "class_specific": False, "noise": 0.02, "anchors": "",
        "ensemble": False,
    },
    "loss": {
        "decoupling": "pairwise", "decoupling_weight": 0.0, "margin": 0.0,
        "consistency": "cosine", "consistency_weight": 0.0,
    },
}  # fmt: skip
"""Settings of prompt tuning beside `SETTINGS`."""

# Texts with {} separated by "|", whose features are averaged; "" is the task's text.
_TEXTS: dict[str, Any] = {"templates": ""}

# Texts with {} separated by "|", templates with logits of their own; "" is the task's text. With
# `steps_per_shot`, `optimizer.steps` is this number times the most images of a class.
_TOWERS: dict[str, Any] = {"templates": "", "steps_per_shot": 0}

OF_FAMILIES: dict[str, dict[str, Any]] = {
    "prompt_tuning": PROMPT_TUNING,
    # The share of a conflict with zero-shot CLIP that is removed, and the teacher's temperature.
    "aligned_prompts": PROMPT_TUNING | {"alignment": {"share": 1.0, "temperature": 1.0}},
    # The feature's width over the width of the network's hidden layer.
    "cocoop": {
        "prompts": {"templates": 1, "phrases": "a photo of a", "context": 4, "noise": 0.02},
        "network": {"reduction": 16},
    },
    # The text from the class name on, "" of the task's text; the block before which the vectors of
    # a class enter, 0 for two thirds of the depth.
    "tcp": _TEXTS | {
        "prompts": {"templates": 1, "context": 4, "noise": 0.02, "rest": "", "block": 0},
        "network": {"reduction": 4},
        "loss": {"consistency_weight": 8.0},
    },
    # Weights of the distances from the frozen CLIP. The average weighs the ends of epochs 1, 2, …
    # by a Gaussian of the epoch; a deviation of 0 takes the last epoch.
    "promptsrc": PROMPT_TUNING | {
        "regulation": {"text_weight": 25.0, "image_weight": 10.0, "logit_weight": 1.0},
        "average": {"mean": 15.0, "deviation": 1.0},
    },
    # The adapters' shares of the features, the features' width over the bottleneck's, and the
    # weight of both distances from the frozen CLIP.
    "coprompt": PROMPT_TUNING | {
        "adapter": {"image_ratio": 0.1, "text_ratio": 0.2, "reduction": 4},
        "regulation": {"weight": 8.0},
    },
    "linear_probe": {},
    # The bottleneck's share of the feature, and the feature's width over the bottleneck's.
    "clip_adapter": _TEXTS | {"adapter": {"ratio": 0.2, "reduction": 4}},
    "taskres": _TEXTS | {"residual": {"scale": 0.5}},
    # Number of views whose mean is a key, initial alpha and beta, and the grid of the choice.
    "tip_adapter": _TEXTS | {
        "cache": {
            "views": 10, "trained": False, "alpha": 1.17, "beta": 1.0, "alpha_most": 3.0,
            "alpha_steps": 20, "beta_most": 7.0, "beta_steps": 200,
        },
    },
    # Alpha starts at `alpha` times a mean similarity. Rates of 0 follow from the shots.
    "lp_plus_plus": _TEXTS | {
        "probe": {"alpha": 250.0, "alpha_every": 10, "classifier_rate": 0.0, "alpha_rate": 0.0},
    },
    "cross_modal_probe": _TEXTS,
    # Tokens, and width of their space. `first_layer` counts from 1; 0 is the middle of each tower.
    # `own_share` is beta. A rank of 0 has no low-rank residual. `fused_share` is the tokens' share
    # of the logits and of the loss.
    "representation_tokens": {
        "tokens": {
            "count": 5, "width": 512, "first_layer": 0, "own_share": 1.0, "rank": 0,
            "projection_rank": 0, "fused_share": 0.3,
        },
        "loss": {"consistency_weight": 0.5},
    },
    # The updates are scaled by alpha / sqrt(rank).
    "clip_lora": _TOWERS | {"lora": {"rank": 2, "alpha": 1.0, "dropout": 0.25}},
    "clip_svd": _TOWERS,
    # Stage 1's share of steps or epochs; whether the norms outside the blocks are trained as well.
    "two_sfs": _TOWERS | {"first_share": 0.6, "norms": {"outer": False}},
}  # fmt: skip
"""Family, a key of `families.FAMILIES` -> its settings beside `SETTINGS`."""


def of_family(family: str) -> ConfigDict:
    """The settings of a family before any row changes them."""
    import ml_collections  # only where settings are made, see `config_type`

    return ml_collections.ConfigDict(copy.deepcopy(OF_FAMILIES[family] | SETTINGS))
