"""Prompts whose gradient may not conflict with what CLIP knows: ProGrad."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.family import Problem
from cdc_jax.methods.method import Batch, Term, frozen_features
from cdc_jax.methods.prompt_tuning import PromptTuning, PromptTuningFamily
from cdc_jax.methods.stage import Stage

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class ProGrad(PromptTuning):
    """ProGrad (Zhu et al. 2023): prompt tuning with a projected gradient.

    Zero-shot CLIP is the teacher: L_kl = −T² sum_k softmax(z⁰ / T)_k log softmax(z / T)_k, the mean
    over the images of a batch. z⁰ are the logits of the hand-crafted texts on the same views. L_kl
    adds no gradient: see `without_conflict`. Weight decay and momentum come after the projection.

    From the authors' code: 16 vectors, of which the last start as the words before the class name
    and the others start at 0; T = 1; the whole conflict is removed. Differences: a gradient of L_kl
    that is 0 leaves the gradient of the loss as it is, where the authors divide by 0. The authors'
    hand-crafted texts name the kind of the classes first, as in "a type of pet, a photo of a {}.":
    set `prompts.phrases` and `prompts.anchors` for them. Their prompts for texts with a comma keep
    the last word before the class name fixed. The authors take 50 epochs for 1 shot and for
    ImageNet and 100 for 2 and 4 shots: set `optimizer.epochs`. They remove 0.8 of the conflict for
    Flowers, DTD and EuroSAT with 8 and 16 shots: set `alignment.share`. How they chose these three
    datasets is not published. Several templates each have a teacher, and L_kl is their sum.
    """

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        combine = functools.partial(without_conflict, share=self.config.alignment.share)
        return (Stage(self, self.config.optimizer, combine=combine),)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The terms of prompt tuning, and L_kl in the group "guide"."""
        image = batch.forward.image
        if self.changes_images and batch.views is not None:
            image = frozen_features(batch.backbone, batch.views)
        anchors, count = batch.classes.anchors, self.templates
        image, anchors = (jnp.broadcast_to(a, (count, *a.shape[1:])) for a in (image, anchors))
        precision = jax.lax.Precision.HIGHEST  # see `Method.logits`
        cosine = jnp.einsum("mbd,mkd->bmk", image, anchors, precision=precision)
        teacher = batch.backbone.logit_scale * cosine + batch.backbone.logit_bias
        value = distillation(batch.forward.logits, teacher, self.config.alignment.temperature)
        return super().terms(batch) | {"distillation": Term(value, 1.0, "guide")}


def distillation(
    logits: Float[Array, "batch templates classes"],
    teacher: Float[Array, "batch templates classes"],
    temperature: float,
) -> Float[Array, ""]:
    """L_kl, summed over the templates. Its gradient is that of T² KL(teacher || student)."""
    target = jax.nn.softmax(jax.lax.stop_gradient(teacher) / temperature, -1)
    likelihood = jax.nn.log_softmax(logits / temperature, -1)
    return -(temperature**2) * (target * likelihood).sum(-1).mean(0).sum()


def without_conflict(gradients: dict[str, PyTree], share: float = 1.0) -> PyTree:
    """The gradient g of the loss without its part against the gradient h of the guide.

    g − share · min(0, g·u) u with u = h / |h|, for each array.

    Args:
      gradients: of the groups "loss" and "guide".
      share: of the conflicting part that is removed.
    """

    def project(g: Array, h: Array) -> Array:
        norm = jnp.sqrt(jnp.square(h).sum())
        unit = h / jnp.where(norm > 0, norm, 1)
        return g - share * jnp.minimum((g * unit).sum(), 0) * unit

    return jax.tree.map(project, gradients["loss"], gradients["guide"])


class AlignedFamily(PromptTuningFamily):
    """The family of ProGrad."""

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """See `PromptTuningFamily`.

        Raises:
          ValueError: as there; or the share or the temperature has no meaning.
        """
        alignment = config.alignment
        if not 0 <= alignment.share <= 1:
            raise ValueError(f"alignment.share must be between 0 and 1, got {alignment.share}")
        if not alignment.temperature > 0:
            raise ValueError(f"alignment.temperature must be above 0, got {alignment.temperature}")
        return super().fields(config, problem)


ALIGNED_PROMPTS = AlignedFamily(ProGrad, padded=True)
