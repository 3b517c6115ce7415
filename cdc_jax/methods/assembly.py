"""Builds a method object from its settings."""

from collections.abc import Sequence

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.choice import Choice
from cdc_jax.methods.families import FAMILIES
from cdc_jax.methods.family import Problem
from cdc_jax.methods.method import Method
from cdc_jax.methods.support import Support
from cdc_jax.wording import Template


def build(
    choice: Choice,
    backbone: Backbone,
    class_names: Sequence[str],
    template: Template,
    support: Support,
) -> Method:
    """Builds a row's method for a task.

    Args:
      choice: the row and its settings, of `configure`.
      backbone: the frozen model.
      class_names: the training classes.
      template: the task's hand-crafted text.
      support: the shots, on which some settings depend.

    Raises:
      ValueError: a setting has an unknown value, or settings do not fit each other or the backbone.
    """
    family = FAMILIES[choice.family_name]
    problem = Problem(backbone, tuple(class_names), template)
    return family.build(family.settle(choice.config, problem, support), problem)


def rebuild(
    family: str,
    settings: ConfigDict,
    backbone: Backbone,
    class_names: Sequence[str],
    template: Template,
) -> Method:
    """Rebuilds an exported method.

    Args:
      family: of `families.FAMILIES`.
      settings: `Method.config` of the exported method.
      backbone: the frozen model.
      class_names: the training classes.
      template: the task's hand-crafted text.

    Raises:
      ValueError: see `build`; or this release does not have the family.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"this release has no methods of family {family!r}: it has {', '.join(FAMILIES)}"
        )
    return FAMILIES[family].build(settings, Problem(backbone, tuple(class_names), template))
