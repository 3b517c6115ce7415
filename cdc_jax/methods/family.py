"""The interface of a family, and what most families share."""

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import heads
from cdc_jax.methods.method import Method
from cdc_jax.methods.support import Support, support_logits
from cdc_jax.wording import Template, require_template, single


@runtime_checkable
class Family(Protocol):
    """A module or object: methods that differ by settings only. `defaults` has the settings."""

    def settle(
        self,
        config: ConfigDict,
        backbone: Backbone,
        class_names: Sequence[str],
        template: Template,
        support: Support,
    ) -> ConfigDict:
        """Fills in the settings that depend on the shots."""
        ...

    def build(
        self, config: ConfigDict, backbone: Backbone, class_names: Sequence[str], template: Template
    ) -> Method:
        """Builds a method from the result of `settle`."""
        ...

    def changes_images(self, config: ConfigDict) -> bool:
        """`Method.changes_images` of a method with these settings, before it is built."""
        ...

    def suit_unfamiliar_names(self, config: ConfigDict) -> None:
        """Changes settings for class names that the backbone has never read."""
        ...


class BaseFamily(abc.ABC):
    """A family whose heads settle by zero-shot logits of hand-crafted texts, see `Family`.

    Its methods change no image features, and all classes share what they learn of texts, unless a
    subclass says something else.
    """

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The hand-crafted texts: the task's text."""
        del config
        return (template,)

    def settle(
        self,
        config: ConfigDict,
        backbone: Backbone,
        class_names: Sequence[str],
        template: Template,
        support: Support,
    ) -> ConfigDict:
        """The settings with the additions of `heads.settle`.

        Raises:
          ValueError: a template has no {}.
        """
        config = config.copy_and_resolve_references().unlock()
        texts = self.texts(config, template)
        for text in texts:
            require_template(single(text))
        heads.settle(config.head, support_logits(backbone, texts, class_names, support))
        return config.lock()

    @abc.abstractmethod
    def build(
        self, config: ConfigDict, backbone: Backbone, class_names: Sequence[str], template: Template
    ) -> Method:
        """Builds a method; see `prompt_tuning.build`."""

    def changes_images(self, config: ConfigDict) -> bool:
        """See `Family`."""
        del config
        return False

    def suit_unfamiliar_names(self, config: ConfigDict) -> None:
        """Changes nothing."""
        del config
