"""The adapted model of a run, rebuilt on its base, and its export as a CLIP for other programs."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cdc_jax import adapted_folder, export, methods
from cdc_jax import backbone as backbone_lib
from cdc_jax.backbone import Backbone
from cdc_jax.escaping import reason
from cdc_jax.methods import Method


class Restored(NamedTuple):
    """A method on its base.

    Attributes:
      backbone: the base, frozen.
      method: the method.
    """

    backbone: Backbone
    method: Method


def restore(folder: Path, adapted: export.Adapted, model: str | Path | None = None) -> Restored:
    """Rebuilds an adapted model.

    Args:
      folder: of the adapted model, for messages.
      adapted: its contents.
      model: name or path of the base; None takes the name that the run used. The weights must be
        the same.

    Raises:
      FileNotFoundError: there is no base.
      ValueError: the base has other weights or another preprocessing. The settings are of no
        method.
    """
    base = adapted.base
    try:
        backbone = backbone_lib.load(model or base["model"], dtype=jnp.dtype(base["dtype"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. The base of {folder} was {base['model']!r}: give its path by model= or "
            "--model"
        ) from error
    if (weights_hash := backbone.weights_hash()) != base["hash"]:
        raise ValueError(
            f"{folder} was adapted on {base['model']!r} of weights {base['hash'][:12]}…, but "
            f"{str(model or base['model'])!r} has weights {weights_hash[:12]}…: give the "
            "path of the first by model= or --model"
        )
    images = adapted.images
    if images.size != backbone.sizes.image_size:
        raise ValueError(
            f"{folder} asks for images of {images.size} pixels, its base takes "
            f"{backbone.sizes.image_size}"
        )
    if images != backbone.preprocessing:
        raise ValueError(
            f"{folder} was adapted with the preprocessing {images}, but its base now has "
            f"{backbone.preprocessing}: restore the base's preprocessor_config.json"
        )
    return Restored(backbone, _rebuilt(folder, adapted, backbone))


def save_clip(run: str | Path, folder: str | Path, model: str | Path | None = None) -> None:
    """Writes the adapted model of a run as a CLIP that other programs open, such as transformers.

    Args:
      run: see `adapted_folder.find`.
      folder: where to write, see `Backbone.save`.
      model: see `restore`.

    Raises:
      FileExistsError: the folder holds other files than a CLIP.
      FileNotFoundError: `run` holds no adapted model or several, or there is no base.
      ValueError: a file is damaged. The base has other weights. The method is more than a CLIP with
        changed weights.
    """
    source = adapted_folder.find(run)
    adapted = export.read(source)
    backbone, method = restore(source, adapted, model)
    if not method.is_clip:
        raise ValueError(
            f"{source} can't be exported as a CLIP: methods of family {adapted.family!r} learn "
            "more than weights of the towers. Predict by it, or adapt by a method that learns "
            "weights only"
        )
    learned = jax.tree.map(jnp.asarray, adapted.learned)
    method.adapt(backbone, learned).save(folder)


def _rebuilt(folder: Path, adapted: export.Adapted, backbone: Backbone) -> Method:
    """The method of an adapted model; raises ValueError for settings of no method."""
    try:
        return methods.rebuild(
            adapted.family, adapted.settings, backbone, adapted.class_names, adapted.template
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError) as error:
        raise ValueError(
            f"{folder} holds settings of no method: adapt again ({reason(error)})"
        ) from error
