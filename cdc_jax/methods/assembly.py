"""From settings to a method object."""

from collections.abc import Sequence

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.choice import Choice
from cdc_jax.methods.families import FAMILIES
from cdc_jax.methods.method import Method, Support
from cdc_jax.wording import Template


def build(
    choice: Choice,
    backbone: Backbone,
    class_names: Sequence[str],
    template: Template,
    support: Support,
) -> Method:
    """Puts a row's method together for a task.

    Args:
      choice: the row and its settings, of `configure`.
      backbone: the frozen model.
      class_names: the classes to train on.
      template: the task's hand-crafted text.
      support: the shots, for choices that the settings leave to them.

    Raises:
      ValueError: settings that no part knows, or that do not fit one another or the backbone.
    """
    family = FAMILIES[choice.family_name]
    settled = family.settle(choice.config, backbone, class_names, template, support)
    return family.build(settled, backbone, class_names, template)


def rebuild(
    family: str,
    settings: ConfigDict,
    backbone: Backbone,
    class_names: Sequence[str],
    template: Template,
) -> Method:
    """Puts an exported method together again.

    Args:
      family: of `families.FAMILIES`.
      settings: `Method.config` of the exported one.
      backbone: the frozen model.
      class_names: the classes that were trained on.
      template: the task's hand-crafted text.

    Raises:
      ValueError: as `build`; or a family that this release does not have.
    """
    if family not in FAMILIES:
        raise ValueError(
            f"this release has no methods of family {family!r}: it has {', '.join(FAMILIES)}"
        )
    return FAMILIES[family].build(settings, backbone, class_names, template)
