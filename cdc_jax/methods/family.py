"""A family makes methods of one class that differ by settings. `defaults` has the settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import heads
from cdc_jax.methods.method import Method
from cdc_jax.methods.support import Support, support_logits
from cdc_jax.wording import Template, require_template, single


class Problem(NamedTuple):
    """What a method is built for.

    Attributes:
      backbone: the frozen model.
      class_names: the training classes.
      template: the task's hand-crafted text t^0.
    """

    backbone: Backbone
    class_names: tuple[str, ...]
    template: Template


@dataclasses.dataclass(frozen=True)
class Family:
    """A family whose methods change no image features and settle by the task's text.

    Subclasses say what else holds.

    Attributes:
      method: the class of the methods.
    """

    method: type[Method]

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The hand-crafted texts by whose zero-shot logits heads settle: the task's text."""
        del config
        return (template,)

    def settle(self, config: ConfigDict, problem: Problem, support: Support) -> ConfigDict:
        """Fills in the settings that depend on the shots: those of `heads.settle`.

        Raises:
          ValueError: a template has no {}.
        """
        config = config.copy_and_resolve_references().unlock()
        texts = self.texts(config, problem.template)
        for text in texts:
            require_template(single(text))
        backbone, names, _ = problem
        heads.settle(config.head, support_logits(backbone, texts, names, support))
        return config.lock()

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The attributes that `method` has beside those of `Method`.

        Raises:
          ValueError: a setting has a value that does not fit the backbone or has no meaning.
        """
        del config, problem
        return {}

    def build(self, config: ConfigDict, problem: Problem) -> Method:
        """Builds a method from the result of `settle`.

        Raises:
          ValueError: see `fields`; or the head is unknown, or one of its settings is.
        """
        return self.method(
            config=config,
            class_names=problem.class_names,
            template=problem.template,
            head=heads.build(config.head),
            **self.fields(config, problem),
        )

    def changes_images(self, config: ConfigDict) -> bool:
        """`Method.changes_images` of a method with these settings, before it is built."""
        del config
        return False

    def suit_unfamiliar_names(self, config: ConfigDict) -> None:
        """Changes settings for class names that the backbone has never read."""
        del config
