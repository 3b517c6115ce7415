"""The small CLIP of `references/methods.npz`, and its stored answers."""

from pathlib import Path

import numpy as np
import tokenizers
import transformers
from references import clip_reference

from cdc_jax import clip as clip_lib
from cdc_jax.clip.backbone import ClipBackbone

REFERENCES = Path(__file__).parent / "references"


def stored(name):
    """The arrays of a file of `references`."""
    with np.load(REFERENCES / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def load(vocabulary, folder):
    """The references' CLIP, and a tokenizer of its whole words."""
    config = clip_reference.METHODS
    clip_reference.write_folder(folder, config)
    clip_reference.write_weights(folder, clip_reference.weights(config))
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({str(word): i for i, word in enumerate(vocabulary)}, "<pad>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    hf = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<start>", eos_token="<end>"
    )
    return ClipBackbone(clip_lib.load(folder)[0], clip_lib.Tokenizer(hf, context_length=24))
