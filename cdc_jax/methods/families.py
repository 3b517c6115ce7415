"""The families of methods, and the settings that a method of each has before a row changes them."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import linear_probe, prompt_tuning
from cdc_jax.methods.method import Method, Support
from cdc_jax.wording import Template

SETTINGS: dict[str, Any] = {
    "views": "shared",  # a name of views.SETS, or a composition
    # How many views of each image are encoded before training; epoch e trains on the features of
    # view e mod cached_views. View v is the fresh view of epoch v, so that as many views as epochs
    # equal fresh views to rounding. 0 makes and encodes a fresh view in every step. Only for
    # methods that do not change image features. These cache a view without random draws ("clean")
    # in any case.
    "cached_views": 0,
    "train_on": "train",  # the shots, or another name that `Task.training_set` knows
    # See heads. The evidential shift is shift_multiple times the mean logit of the training images.
    "head": {
        "name": "softmax", "fusion": "mean_logit", "template_weight": 0.0, "fused_weight": 1.0,
        "evidence": "exp", "shift_multiple": 1.0, "centred": False, "learned": False,
        "kl_weight": 0.0, "uncertainty": "vacuity",
    },
    # See optimizer.make.
    "optimizer": {
        "name": "sgd", "learning_rate": 0.002, "warmup_rate": 1e-5, "weight_decay": 5e-4,
        "batch_size": 32, "epochs": 50,
    },
}  # fmt: skip
"""Settings that methods of all families have."""


@runtime_checkable
class Family(Protocol):
    """A module of methods that differ by settings only.

    Attributes:
      SETTINGS: the settings of the family beside `SETTINGS` above, with their defaults.
    """

    SETTINGS: dict[str, Any]

    def settle(
        self,
        config: ConfigDict,
        backbone: Backbone,
        class_names: Sequence[str],
        template: Template,
        support: Support,
    ) -> ConfigDict:
        """Makes the choices that the settings leave to the shots."""
        ...

    def build(
        self, config: ConfigDict, backbone: Backbone, class_names: Sequence[str], template: Template
    ) -> Method:
        """Puts a method together, of settled settings."""
        ...

    def changes_images(self, config: ConfigDict) -> bool:
        """`Method.changes_images` of a method with these settings, known before it is built."""
        ...

    def suit_unfamiliar_names(self, config: ConfigDict) -> None:
        """Changes settings where the backbone has never read the class names."""
        ...


FAMILIES: dict[str, Family] = {"prompt_tuning": prompt_tuning, "linear_probe": linear_probe}
"""The families by name."""


def family_settings(family: str) -> ConfigDict:
    """The settings of a family before any row changes them."""
    import ml_collections  # only where settings are made, see `config_type`

    return ml_collections.ConfigDict(copy.deepcopy(FAMILIES[family].SETTINGS | SETTINGS))
