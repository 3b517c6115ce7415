"""Tip-Adapter and Tip-Adapter-F (Zhang et al. 2022): a cache of the shots' features."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cdc_jax.backbone import Backbone
from cdc_jax.methods.feature_adapters import Classes, FeatureFamily, FeatureMethod
from cdc_jax.methods.method import Logits, Text
from cdc_jax.methods.stage import Best, Learned, Stage
from cdc_jax.methods.support import Support, unit


@dataclasses.dataclass(frozen=True, eq=False)
class TipAdapter(FeatureMethod):
    """Zero-shot logits plus the votes of the shots.

    z_k = 100 f · t_k + alpha sum over the shots i of class k of exp(−beta (1 − f · key_i)). A key
    is the normalised mean of the raw features of `cache.views` augmented views. Tip-Adapter learns
    nothing. Tip-Adapter-F (`cache.trained`) trains the keys, which it does not normalise again.

    Alpha and beta are chosen on validation images, after the training, on the authors' grid: the
    first of the most accurate pairs, in the order of beta, then alpha. Training uses the initial
    values, and Tip-Adapter-F keeps the first of the epochs that are most accurate on validation
    images. A task without validation images keeps the initial values and the last epoch.

    Differences from the authors' code. It leaks the test set: Tip-Adapter-F's epoch is the best on
    test images, its result is the better of two test accuracies, and on ImageNet alpha and beta
    come from test images. It chooses alpha and beta on the whole validation split, here on the
    few-shot split. Its initial values and ranges differ by dataset and were tuned; the defaults
    here are the values for Pets. It keeps an incomplete last batch, which is dropped here. It takes
    100 epochs for EuroSAT, and float16.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del key
        cache = self.config.cache
        views = jnp.asarray(support.raw_views(self.config.views, cache.views))
        keys = {"keys": unit(views.mean(1))}
        fixed = {
            "values": {"labels": jnp.asarray(support.labels, jnp.int32)},
            "strength": {name: jnp.float32(cache[name]) for name in ("alpha", "beta")},
        } | self.head.fixed()
        parts = ({"cache": keys}, fixed) if cache.trained else ({}, {"cache": keys} | fixed)
        return Learned(parts[0] | self.head.initialize(), parts[1])

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        best = Best() if self.config.cache.trained else None
        return (Stage(self, self.config.optimizer, best=best),)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """The hand-crafted features, and a 1 in the column of the training class."""
        anchors = super().class_features(backbone, learned, classes, image)
        columns = jax.nn.one_hot(classes.rows, len(self.class_names))[None]
        return jnp.concatenate([anchors, columns], -1)

    def logits(
        self,
        backbone: Backbone,
        learned: Learned,
        image: Float[Array, "templates_or_1 batch embed"],
        text: Text,
    ) -> Logits:
        """See `Method`."""
        strength = learned.fixed["strength"]
        anchors, columns = jnp.split(text, [image.shape[-1]], -1)
        votes = self._votes(learned, columns, self._affinity(learned, image), strength["beta"])
        return super().logits(backbone, learned, image, anchors) + strength["alpha"] * votes

    def conclude(
        self,
        backbone: Backbone,
        learned: Learned,
        validation: Support,
        logits: Float[np.ndarray, "images templates classes"],
    ) -> Learned:
        """The most accurate alpha and beta of the grid, and what other methods conclude."""
        cache = self.config.cache
        betas = grid(cache.beta_most, cache.beta_steps)
        alphas = grid(cache.alpha_most, cache.alpha_steps)
        classes, image = self.classes(backbone, self.class_names), validation.features[None]

        @jax.jit
        def correct(backbone, learned, classes, image, labels):
            text = self.class_features(backbone, learned, classes)
            anchors, columns = jnp.split(text, [image.shape[-1]], -1)
            zero_shot = super(TipAdapter, self).logits(backbone, learned, image, anchors)
            affinity = self._affinity(learned, image)

            def of_beta(beta):
                votes = self._votes(learned, columns, affinity, beta)

                def of_alpha(alpha):
                    predicted = self.predict(learned, zero_shot + alpha * votes).predicted
                    return (predicted == labels).sum()

                return jax.lax.map(of_alpha, alphas)

            return jax.lax.map(of_beta, betas)

        image = jnp.asarray(image)
        counts = np.asarray(correct(backbone, learned, classes, image, validation.labels))
        beta, alpha = np.unravel_index(counts.argmax(), counts.shape)  # the first of the best
        strength = {"alpha": jnp.float32(alphas[alpha]), "beta": jnp.float32(betas[beta])}
        chosen = Learned(learned.trained, learned.fixed | {"strength": strength})
        logits = np.asarray(self.forward(backbone, chosen, classes, image).logits)
        return super().conclude(backbone, chosen, validation, logits)

    def facts(self, learned: Learned) -> Mapping[str, Any]:
        """The alpha and beta in use."""
        return {name: float(value) for name, value in learned.fixed["strength"].items()}

    def _affinity(self, learned: Learned, image: Array) -> Float[Array, "batch shots"]:
        cache = learned.part("cache")
        keys = (cache.trained or cache.fixed)["keys"]
        return jnp.matmul(image[0], keys.T, precision=jax.lax.Precision.HIGHEST)

    def _votes(
        self, learned: Learned, columns: Array, affinity: Array, beta: Array
    ) -> Float[Array, "batch 1 classes"]:
        labels = learned.fixed["values"]["labels"]
        near = jnp.exp(-beta * (1 - affinity))
        votes = jax.ops.segment_sum(near.T, labels, len(self.class_names))
        return jnp.einsum("cb,mkc->bmk", votes, columns, precision=jax.lax.Precision.HIGHEST)


def grid(most: float, steps: int) -> Float[np.ndarray, "steps"]:
    """The authors' values of alpha or beta, from 0.1 up to `most`, which is left out."""
    return (0.1 + np.arange(steps) * (most - 0.1) / steps).astype(np.float32)


TIP_ADAPTER = FeatureFamily(TipAdapter)
