"""Linear probes that start from text: LP++ and the cross-modal linear probe."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.family import Problem
from cdc_jax.methods.feature_adapters import Classes, FeatureFamily, FeatureMethod, linear
from cdc_jax.methods.heads import SoftmaxHead
from cdc_jax.methods.method import Batch, Logits, Term, Text
from cdc_jax.methods.stage import Best, Learned, Stage
from cdc_jax.methods.support import Support, hand_crafted_features, unit

_PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, eq=False)
class LPPlusPlus(FeatureMethod):
    """LP++ (Huang et al. 2024): a linear probe blended with text by learned class weights alpha.

    z_k = f · (w_k + alpha_k t_k) + b_k, without CLIP's scale. All steps are on the whole set, on
    features of one augmented view of each shot. W moves by gradients with momentum 0.9, alpha
    every tenth step. The rates follow from the shots: 4 N / (largest eigenvalue of F'F) for W and
    b, and N / (4 max over k of sum over i of (f_i · t_k)^2) for alpha.

    Quirks of the authors' code that are kept: alpha's gradient is never set to zero, so that alpha
    moves by the sum of all gradients so far. w_k starts as the sum of the class's features, not as
    their mean. b starts as in PyTorch's linear layers and is trained. Alpha starts at 250 times the
    mean over the classes of the mean of f · t_k over the class's shots.

    The step that is most accurate on validation images is kept, the later of two equal steps. The
    authors' validation set has as many images of a class as the shots, on ImageNet with the
    augmentation of training. They take float16, and Select-7 for ImageNet: set `templates`.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        text = self.classes(backbone, self.class_names).anchors
        features, count = self._features(support), len(self.class_names)
        sums = jax.ops.segment_sum(features, support.labels, count)
        shots = np.bincount(support.labels, minlength=count)
        similarities = jnp.einsum("kd,kd->k", sums, text, precision=_PRECISION)
        alpha = self.config.probe.alpha * (similarities / shots).mean()
        trained = {
            "classifier": {
                "weights": sums,
                "bias": linear(key, backbone.sizes.embed_width, count)[0],
            },
            "blend": {"alpha": jnp.full(count, alpha)},
        }
        return Learned(trained, self.head.fixed())

    def training_features(self, support: Support) -> np.ndarray:
        """The view from which W starts."""
        return np.asarray(self._features(support))[:, None, None]

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        probe = self.config.probe
        rules = {
            "classifier": optax.sgd(probe.classifier_rate, momentum=0.9),
            "blend": summed_gradients(probe.alpha_rate, probe.alpha_every),
        }
        update = optax.partition(rules, {name: name for name in rules})
        best = Best(later_wins=True)
        return (Stage(self, self.config.optimizer, update=update, best=best),)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """w_k + alpha_k t_k, which is not normalised, and b_k in the last column."""
        del backbone, image
        probe, alpha = learned.trained["classifier"], learned.trained["blend"]["alpha"]
        rows = classes.rows
        features = probe["weights"][rows] + alpha[rows, None] * classes.anchors
        return jnp.concatenate([features, probe["bias"][rows, None]], -1)[None]

    def logits(
        self,
        backbone: Backbone,
        learned: Learned,
        image: Float[Array, "templates_or_1 batch embed"],
        text: Text,
    ) -> Logits:
        """f · (w_k + alpha_k t_k) + b_k."""
        del backbone, learned
        products = jnp.einsum("mbd,mkd->bmk", image, text[..., :-1], precision=_PRECISION)
        return products + text[..., -1]

    def _features(self, support: Support) -> Float[Array, "images embed"]:
        return unit(jnp.asarray(support.raw_views(self.config.views, 1)[:, 0]))


class LPPlusPlusFamily(FeatureFamily):
    """The family of LP++, whose rates follow from the shots."""

    def settle(self, config: ConfigDict, problem: Problem, support: Support) -> ConfigDict:
        """Fills in the rates that are 0.

        Raises:
          ValueError: a template has no {}; or the head is not a plain softmax.
        """
        config = super().settle(config, problem, support)
        method = self.build(config, problem)
        if method.head != SoftmaxHead():
            raise ValueError(
                "lp_plus_plus computes its rates for the softmax cross-entropy, got other settings "
                f"of head ({dict(config.head)}): choose another method for this head"
            )
        features = np.asarray(method.training_features(support))[:, 0, 0].astype(np.float64)
        backbone, names, template = problem
        texts = self.texts(config, template)
        anchors = np.asarray(hand_crafted_features(backbone, texts, names)[0], np.float64)
        largest = np.linalg.eigvalsh(features.T @ features)[-1]
        steepest = np.square(features @ anchors.T).sum(0).max()
        probe = config.probe
        with config.unlocked():
            probe.classifier_rate = probe.classifier_rate or float(4 * len(features) / largest)
            probe.alpha_rate = probe.alpha_rate or float(len(features) / (4 * steepest))
        return config


class _Sum(NamedTuple):
    gradients: Any
    steps: Int[Array, ""]


def summed_gradients(rate: float, every: int) -> optax.GradientTransformation:
    """Every few steps, an update by the sum of all gradients since the start."""

    def init(parameters: Any) -> _Sum:
        return _Sum(jax.tree.map(jnp.zeros_like, parameters), jnp.zeros((), jnp.int32))

    def update(gradients: Any, state: _Sum, parameters: Any = None) -> tuple[Any, _Sum]:
        del parameters
        state = _Sum(jax.tree.map(jnp.add, state.gradients, gradients), state.steps + 1)
        moves = state.steps % every == 0
        return jax.tree.map(lambda g: jnp.where(moves, -rate * g, 0.0), state.gradients), state

    return optax.GradientTransformation(init, update)


@dataclasses.dataclass(frozen=True, eq=False)
class CrossModalProbe(FeatureMethod):
    """The cross-modal linear probe (Lin et al. 2023): texts are training samples as images are.

    z_k = s w_k · x for a normalised image or text feature x, with CLIP's scale s. w_k is not
    normalised after its start, the normalised mean of the raw features of the class's texts. Half
    of a batch are images, the central crop and its mirror image in turn, half are texts. The loss
    is the mean over both. The step that is most accurate on validation images is kept, of the
    steps 1, 101, 201 …, the first of two equal steps.

    Differences from the authors' code: it shuffles both views of all images into one set. Here an
    epoch has each image once, and the epochs take the two views in turn. The authors train a sweep
    of rates {1e-3, 1e-4}, decays {0, 0.01, 1e-4} and batches {8, 32}, and keep the best cell by
    validation images; the row is one cell. Their optional average with the start, and their
    variants that train an adapter or the last layer, are not here.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del key, support
        weights = unit(self.classes(backbone, self.class_names).raw_means())
        return Learned({"classifier": weights} | self.head.initialize(), self.head.fixed())

    def training_features(self, support: Support) -> np.ndarray:
        """The central crop and its mirror image."""
        raw = [support.raw_views(view, 1)[:, 0] for view in ("clean", "flip(p=1.0)")]
        return np.asarray(unit(jnp.asarray(np.stack(raw, 1))))[:, :, None]

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        images = self.config.optimizer.copy_and_resolve_references().unlock()
        images.batch_size -= self._texts_in_batch
        return (Stage(self, images.lock(), best=Best(every=100, first=1)),)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """The weights, which are not normalised."""
        del backbone, image
        return learned.trained["classifier"][classes.rows][None]

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The head's loss of images and of texts, by their shares of the batch."""
        features, owners = batch.classes.texts
        drawn = shuffled(batch.seed, batch.step, len(owners), self._texts_in_batch)
        texts = unit(features[drawn])[None]
        forward = self.forward(batch.backbone, batch.learned, batch.classes, texts)
        of_texts = batch._replace(forward=forward, labels=jnp.asarray(owners)[drawn])
        images = len(batch.forward.logits)
        share = images / (images + len(drawn))
        return {
            "classification": Term(self.head_loss(batch), share),
            "texts": Term(self.head_loss(of_texts), 1 - share),
        }

    @property
    def _texts_in_batch(self) -> int:
        return self.config.optimizer.batch_size // 2


def shuffled(
    seed: UInt[Array | np.uint32, ""] | int, step: Int[Array, ""] | int, total: int, batch: int
) -> Int[Array, "drawn"]:
    """The rows of batch number `step` of a set that is shuffled anew in each of its epochs.

    An incomplete last batch is dropped. A set that is smaller than a batch is one batch.
    """
    batch = min(batch, total)
    epoch, within = jnp.divmod(step, total // batch)
    order = jax.random.permutation(jax.random.fold_in(jax.random.key(seed), epoch), total)
    return jax.lax.dynamic_slice_in_dim(order, within * batch, batch)


LP_PLUS_PLUS = LPPlusPlusFamily(LPPlusPlus)
CROSS_MODAL_PROBE = FeatureFamily(CrossModalProbe)
