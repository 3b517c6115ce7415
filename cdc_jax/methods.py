"""Every method as a configuration of the same code: the rows of the paper's tables.

A row names what differs from `DEFAULTS`, dots reaching into the parts. Nothing else in the library
knows a method's name. `METHODS` holds the published settings, `SMALL` what the embedded CLIP, with
its few layers and classes, needs instead; those were chosen on validation splits of other seeds
than the reported ones.
"""

import difflib

from ml_collections import ConfigDict, config_dict

DEFAULTS = {
    # See prompts.Templates. Phrases separated by "|" go to the templates in turn; an empty phrase
    # is the task's own hand-crafted template. No context tokens: nothing is learned.
    "prompts": {
        "templates": 1, "phrases": "a photo of a", "context": 4, "layers": 1, "modality": "text",
        "noise": 0.02,
    },
    "views": "shared",  # a name of views.SETS, or a composition
    # See heads. The evidential shift is shift_multiple times the mean logit of the training images.
    "head": {
        "name": "softmax", "fusion": "mean_logit", "template_weight": 0.0, "fused_weight": 1.0,
        "evidence": "exp", "shift_multiple": 1.0, "kl_weight": 0.0,
    },
    "loss": {
        "decoupling": "pairwise", "decoupling_weight": 0.0, "margin": 0.0,
        "consistency": "cosine", "consistency_weight": 0.0,
    },
    # See train.optimizer.
    "optimizer": {
        "name": "sgd", "learning_rate": 0.002, "warmup_rate": 1e-5, "weight_decay": 5e-4,
        "batch_size": 32, "epochs": 50,
    },
}  # fmt: skip

_MULTIMODAL = {
    "prompts.modality": "multimodal", "prompts.layers": 9, "prompts.context": 2,
    "optimizer.learning_rate": 0.0035, "optimizer.batch_size": 4, "optimizer.epochs": 5,
}  # fmt: skip
_VSD = {"views": "set2", "loss.decoupling_weight": 0.1, "loss.consistency_weight": 8.0}
_DSTC = {
    "head.name": "evidential", "head.fusion": "dempster", "head.template_weight": 1.0,
    "head.kl_weight": 0.01,
}  # fmt: skip

METHODS: dict[str, dict] = {
    "zero_shot": {
        "prompts.phrases": "", "prompts.context": 0, "views": "clean", "optimizer.epochs": 0,
    },
    "coop": {"optimizer.epochs": 200},
    "coop_con": {"optimizer.epochs": 200, "loss.consistency_weight": 8.0},
    "cdc": {"prompts.templates": 4, **_MULTIMODAL, **_VSD, **_DSTC},
}  # fmt: skip
"""Method -> what it changes. `coop_con` is CoOp + L_con: KgCoOp's loss with CoOp's training."""

# At 32 pixels a crop leaves too little to see.
_SMALL = {
    "views": "flip", "optimizer.name": "adam", "optimizer.learning_rate": 0.03,
    "optimizer.epochs": 40, "optimizer.weight_decay": 0.0,
}  # fmt: skip
SMALL: dict[str, dict] = {
    "zero_shot": {},
    "coop": _SMALL,
    "coop_con": _SMALL,
    # Visual prompts drift on so small a tower: with them, new classes fell 2 to 11 points below
    # zero-shot in the training correlation (seeds 11 and 12, three settings).
    "cdc": {
        **_SMALL, "views": "set1", "prompts.modality": "text", "prompts.layers": 1,
        "prompts.context": 4, "optimizer.batch_size": 32,
    },
}  # fmt: skip
"""What the embedded CLIP's rows change on top."""

TITLES = {
    "zero_shot": "zero-shot CLIP",
    "coop": "CoOp",
    "coop_con": "CoOp + L_con",
    "cdc": "CDC",
}
"""How tables call the methods."""


def overrides() -> ConfigDict:
    """What a user may say about one method: `DEFAULTS` with every value left open."""
    config = ConfigDict(DEFAULTS)
    for key in config:
        open_part = config[key]
        if isinstance(open_part, ConfigDict):
            for name, value in open_part.items():
                open_part[name] = config_dict.placeholder(type(value))
        else:
            config[key] = config_dict.placeholder(type(open_part))
    return config


def configure(name: str, small: bool = False, chosen: ConfigDict | None = None) -> ConfigDict:
    """The configuration of a method.

    Args:
      name: a key of `METHODS`.
      small: for the embedded CLIP.
      chosen: of `overrides`; what it leaves open is the method's own.
    """
    config = ConfigDict(DEFAULTS)
    config.update_from_flattened_dict(METHODS[known(name)] | (SMALL[name] if small else {}))
    for key, value in (chosen or {}).items():
        if isinstance(value, ConfigDict):
            config[key].update({k: v for k, v in value.items() if v is not None})
        elif value is not None:
            config[key] = value
    return config.lock()


def known(name: str) -> str:
    """The name, if there is such a method.

    Raises:
      ValueError: there is none; the message names the nearest.
    """
    if name in METHODS:
        return name
    near = difflib.get_close_matches(name, METHODS, 1, 0)[0]
    raise ValueError(
        f"unknown method {name!r}: did you mean {near!r}? There are {', '.join(METHODS)}"
    )
