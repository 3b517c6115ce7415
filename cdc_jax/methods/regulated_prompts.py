"""Prompts that the frozen CLIP regulates: PromptSRC and CoPrompt.

Both are prompt tuning with terms of the loss that hold features near the frozen features of a
teacher. With several templates each template has these terms, and they are summed as L_con is. The
heads, L_de and L_con of prompt tuning work with both.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import losses
from cdc_jax.methods.family import Problem
from cdc_jax.methods.feature_adapters import adapt, bottleneck
from cdc_jax.methods.method import Batch, Term, Text, frozen_features
from cdc_jax.methods.prompt_tuning import PromptTuning, PromptTuningFamily
from cdc_jax.methods.prompts import Classes
from cdc_jax.methods.stage import Learned, Stage
from cdc_jax.methods.support import Support, text_features, unit
from cdc_jax.wording import Template, Wording, single


@dataclasses.dataclass(frozen=True, eq=False)
class PromptSRC(PromptTuning):
    """PromptSRC (Khattak et al. 2023), "Self-regulating prompts".

    loss = L + 25 mean |t − t0| + 10 mean |f − f0| + mean p0 (log p0 − log p)

    L is the head's loss. f and t are features of image and text, and p = softmax(cos(f, t) / tau).
    f0, t0 and p0 are the frozen CLIP's. f0 has the same view of the image. t0 has the texts
    `prompts.anchors`: raw features are averaged and then normalised. The last mean runs over images
    and classes, so that the term is a Kullback-Leibler divergence over the number of classes. After
    training the prompts are the average over the ends of all epochs, with Gaussian weights
    (`gaussian`).

    From the authors' code: all weights, the initial prompts, layers 1 to 9 of both towers, the
    average's mean 15 and deviation 1 in 20 epochs (base to new). Differences: the authors average
    60 of CLIP's 80 ImageNet templates, this row CLIP's seven; set `prompts.anchors` for others.
    Their average covers the frozen weights too, whose half precision it perturbs slightly. For few
    shots the authors take 50 epochs and the average's mean and deviation 30 and 30 (ImageNet,
    Caltech, Pets, Food, UCF, SUN) or 45 and 5 (Cars, Flowers, Aircraft, DTD, EuroSAT), chosen by
    hand: set `optimizer.epochs`, `average.mean`, `average.deviation`.
    """

    def anchors(
        self, backbone: Backbone, texts: Sequence[Template], names: Sequence[str]
    ) -> Float[Array, "anchors classes embed"]:
        """The teacher's text features t0, one set for each text, or their average."""
        raw = jnp.stack(
            [text_features(backbone, text, names, raw=True).means(len(names)) for text in texts]
        )
        return unit(raw.mean(0, keepdims=True) if self.config.prompts.ensemble else raw)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """See the class."""
        weights, forward = self.config.regulation, batch.forward
        teacher = forward.image  # a method that does not change images has the teacher's
        if self.changes_images and batch.views is not None:
            teacher = frozen_features(batch.backbone, batch.views)
        text = jnp.broadcast_to(batch.classes.anchors, forward.text.shape)
        logits = self.logits(batch.backbone, batch.learned, teacher, text)
        text_distance = losses.absolute_distance(forward.text, text)
        image_distance = losses.absolute_distance(forward.image, teacher)
        divergence = losses.divergence(forward.logits, logits)
        return super().terms(batch) | {
            "text_distance": Term(text_distance, weights.text_weight),
            "image_distance": Term(image_distance, weights.image_weight),
            "divergence": Term(divergence, weights.logit_weight),
        }

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        optimizer, average = self.config.optimizer, self.config.average
        weights = gaussian(optimizer.epochs, average.mean, average.deviation)
        return (Stage(self, optimizer, average=weights),)


def gaussian(epochs: int, mean: float, deviation: float) -> tuple[float, ...]:
    """Weights of epochs 1, 2, …: a Gaussian density over its sum; () for a deviation of 0.

    Raises:
      ValueError: the deviation is negative.
    """
    if deviation < 0:
        raise ValueError(f"average.deviation must not be negative, got {deviation}")
    if not epochs or not deviation:
        return ()
    log_density = -0.5 * ((np.arange(1, epochs + 1) - mean) / deviation) ** 2
    density = np.exp(log_density - log_density.max())
    return tuple((density / density.sum()).tolist())


@dataclasses.dataclass(frozen=True, eq=False)
class CoPrompt(PromptTuning):
    """CoPrompt (Roy and Etemad 2024), "Consistency-guided prompt learning".

    loss = L + W (mean_k (1 − cos(t, t0)) + mean_x (1 − cos(f, f0)))

    L is the head's loss. The prompts are MaPLe's. Behind each tower stands an adapter A with two
    ReLUs: f = normalise(r A(x) + (1 − r) x), with r = 0.1 for images and 0.2 for texts. The map is
    positively homogeneous, so that raw and normalised features x give the same f. f0 are the frozen
    CLIP's features of another view of the image. t0 are its features of a sentence about the class,
    which is drawn in each step. The number of the sentence is the same for all classes that have
    equally many.

    The authors' sentences are GPT-3's. Here they are the texts of a class: its `[descriptions]` in
    the task's wording, and the task's hand-crafted templates, or the texts `prompts.anchors`. With
    a single template t0 is the same in all steps.

    From the authors' code: both ratios, a bottleneck of a quarter of the width, 8 epochs, views
    that are squeezed to the input size and pass two operations of RandAugment, and for ImageNet
    `prompts.layers`, `prompts.context` and `regulation.weight` 12, 4 and 8. Differences: the
    authors choose these three for each dataset, on a split that they do not name: Caltech 12, 4, 4;
    Pets 12, 2, 0.1; Cars 12, 4, 4; Flowers 9, 4, 8; Food 9, 4, 0.5 (5 epochs); Aircraft 9, 4, 2;
    SUN 12, 4, 8; DTD 12, 2, 8; EuroSAT 12, 2, 0.1; UCF 12, 4, 2.
    """

    @property
    def changes_images(self) -> bool:
        """See `Method`. The adapter does."""
        return True

    @property
    def further_views(self) -> int:
        """See `Method`. The teacher sees a view of its own."""
        return 1

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`. Adapters start as PyTorch's linear layers do."""
        learned = super().initialize(key, backbone, support)
        width, reduction = backbone.sizes.embed_width, self.config.adapter.reduction
        keys = jax.random.split(jax.random.fold_in(key, 1))
        adapters = {
            part: bottleneck(part_key, width, reduction)
            for part, part_key in zip(("image_adapter", "text_adapter"), keys, strict=True)
        }
        return Learned(learned.trained | adapters, learned.fixed)

    def training_classes(self, backbone: Backbone) -> Classes:
        """See `Method`. Only training reads the sentences."""
        texts, names = self.hand_crafted, self.class_names
        one = texts[0] if len(texts) == 1 else Wording(single(texts[0]), tuple(map(single, texts)))
        sentences = text_features(backbone, one, names)
        return self.classes(backbone, names)._replace(sentences=sentences)

    def image_features(
        self,
        backbone: Backbone,
        learned: Learned,
        views: Float[Array, "views batch height width 3"],
    ) -> Float[Array, "templates_or_1 batch embed"]:
        """See `Method`."""
        features = super().image_features(backbone, learned, views)
        return adapt(learned.trained["image_adapter"], features, self.config.adapter.image_ratio)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        features = super().class_features(backbone, learned, classes, image)
        return adapt(learned.trained["text_adapter"], features, self.config.adapter.text_ratio)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """See the class."""
        weight, forward = self.config.regulation.weight, batch.forward
        key = jax.random.fold_in(jax.random.key(batch.seed, impl="threefry2x32"), batch.step)
        share = jax.random.uniform(key, (), jnp.float32)
        taught = batch.classes.sentences.drawn(len(self.class_names), share)[None]
        seen = jnp.asarray(batch.further)
        return super().terms(batch) | {
            "text_distance": Term(losses.cosine_consistency(forward.text, taught), weight),
            "image_distance": Term(losses.cosine_consistency(forward.image, seen), weight),
        }


class RegulatedFamily(PromptTuningFamily):
    """A family of regulated prompts."""

    def settle(self, config: ConfigDict, problem: Problem, support: Support) -> ConfigDict:
        """See `PromptTuningFamily`.

        Raises:
          ValueError: a template has no {}, or there are no learned prompts.
        """
        if not config.prompts.context:
            raise ValueError(
                f"{self.method.__name__} regulates learned prompts, and prompts.context is 0: set "
                "it to at least 1"
            )
        return super().settle(config, problem, support)


class CoPromptFamily(RegulatedFamily):
    """The family of CoPrompt."""

    def changes_images(self, config: ConfigDict) -> bool:
        """Always true: the adapter changes them."""
        del config
        return True


PROMPTSRC = RegulatedFamily(PromptSRC)
COPROMPT = CoPromptFamily(CoPrompt)
