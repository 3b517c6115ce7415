"""The families of methods, and how each family builds a method."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import aligned_prompts, linear_probe, prompt_tuning, representation_tokens
from cdc_jax.methods.cache_adapters import TIP_ADAPTER
from cdc_jax.methods.conditional_prompts import COCOOP, TCP_FAMILY
from cdc_jax.methods.feature_adapters import CLIP_ADAPTER, TASKRES
from cdc_jax.methods.method import Method
from cdc_jax.methods.regulated_prompts import COPROMPT, PROMPTSRC
from cdc_jax.methods.strong_probes import CROSS_MODAL_PROBE, LP_PLUS_PLUS
from cdc_jax.methods.support import Support
from cdc_jax.methods.tower_adapters import CLIP_LORA, CLIP_SVD
from cdc_jax.methods.two_stages import TWO_SFS
from cdc_jax.wording import Template


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


FAMILIES: dict[str, Family] = {
    "prompt_tuning": prompt_tuning,
    "aligned_prompts": aligned_prompts,
    "cocoop": COCOOP,
    "tcp": TCP_FAMILY,
    "promptsrc": PROMPTSRC,
    "coprompt": COPROMPT,
    "linear_probe": linear_probe,
    "clip_adapter": CLIP_ADAPTER,
    "taskres": TASKRES,
    "tip_adapter": TIP_ADAPTER,
    "lp_plus_plus": LP_PLUS_PLUS,
    "cross_modal_probe": CROSS_MODAL_PROBE,
    "representation_tokens": representation_tokens,
    "clip_lora": CLIP_LORA,
    "clip_svd": CLIP_SVD,
    "two_sfs": TWO_SFS,
}
"""The families by name."""
