"""The families of methods by name."""

from cdc_jax.methods.aligned_prompts import ALIGNED_PROMPTS
from cdc_jax.methods.cache_adapters import TIP_ADAPTER
from cdc_jax.methods.conditional_prompts import COCOOP, TCP_FAMILY
from cdc_jax.methods.family import Family
from cdc_jax.methods.feature_adapters import CLIP_ADAPTER, TASKRES
from cdc_jax.methods.linear_probe import LINEAR_PROBE
from cdc_jax.methods.prompt_tuning import PROMPT_TUNING
from cdc_jax.methods.regulated_prompts import COPROMPT, PROMPTSRC
from cdc_jax.methods.representation_tokens import REPRESENTATION_TOKENS
from cdc_jax.methods.strong_probes import CROSS_MODAL_PROBE, LP_PLUS_PLUS
from cdc_jax.methods.tower_adapters import CLIP_LORA, CLIP_SVD
from cdc_jax.methods.two_stages import TWO_SFS

FAMILIES: dict[str, Family] = {
    "prompt_tuning": PROMPT_TUNING,
    "aligned_prompts": ALIGNED_PROMPTS,
    "cocoop": COCOOP,
    "tcp": TCP_FAMILY,
    "promptsrc": PROMPTSRC,
    "coprompt": COPROMPT,
    "linear_probe": LINEAR_PROBE,
    "clip_adapter": CLIP_ADAPTER,
    "taskres": TASKRES,
    "tip_adapter": TIP_ADAPTER,
    "lp_plus_plus": LP_PLUS_PLUS,
    "cross_modal_probe": CROSS_MODAL_PROBE,
    "representation_tokens": REPRESENTATION_TOKENS,
    "clip_lora": CLIP_LORA,
    "clip_svd": CLIP_SVD,
    "two_sfs": TWO_SFS,
}
"""The families by name."""
