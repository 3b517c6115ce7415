"""The frozen backbone: CLIP's two towers, with Hugging Face's weights, files and names.

`load` gives a model and its tokenizer; `model.vision` and `model.text` take prompts.
"""

from cdc_jax.clip.config import ClipConfig, Transformer
from cdc_jax.clip.model import Clip, normalize
from cdc_jax.clip.pretrained import load, read_config, save_pretrained, weights_hash
from cdc_jax.clip.tokenizer import Tokenizer

__all__ = [
    "Clip",
    "ClipConfig",
    "Tokenizer",
    "Transformer",
    "load",
    "normalize",
    "read_config",
    "save_pretrained",
    "weights_hash",
]
