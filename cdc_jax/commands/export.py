"""Writes an adapted model as a CLIP that other programs open: `%s RUN FOLDER`.

RUN is a method's folder in a run, such as runs/pets/clip_lora. FOLDER gets the files that
`transformers.CLIPModel.from_pretrained` reads. Only methods that change weights of CLIP can be
exported.
"""

from collections.abc import Sequence

from absl import flags

from cdc_jax.escaping import visible


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_string("model", None, "Where the frozen CLIP is now, if it was moved.")


def main(argv: Sequence[str]) -> None:
    """Writes, and prints where the CLIP lies."""
    if len(argv) != 3:
        raise ValueError(f"RUN and FOLDER are needed: {argv[0]} runs/pets/clip_lora adapted_clip")
    from cdc_jax import adapted_model  # imports JAX, which takes seconds

    _, run, folder = argv
    adapted_model.save_clip(run, folder, flags.FLAGS.model)
    print(visible(f"Written: {folder}"))
