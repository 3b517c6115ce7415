"""Adapters of frozen features: CLIP-Adapter and TaskRes, and what all feature methods share.

Feature methods read frozen image and text features only. With cached views they train without an
encoder. The other feature methods are in `cache_adapters` and `strong_probes`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.family import Family, Problem
from cdc_jax.methods.method import Forward, Method, Text
from cdc_jax.methods.stage import Learned
from cdc_jax.methods.support import (
    Support,
    TextFeatures,
    hand_crafted_features,
    text_features,
    unit,
)
from cdc_jax.wording import Template, Wording, require_template


class Classes(NamedTuple):
    """Frozen text features of a class list.

    Attributes:
      anchors: the normalised mean of the normalised features of each class's texts.
      rows: the number of each class among the training classes.
      texts: raw features of all texts.
    """

    anchors: Float[Array, "classes embed"]
    rows: Int[Array | np.ndarray, "classes"]
    texts: TextFeatures

    def raw_means(self) -> Float[Array, "classes embed"]:
        """The mean of the raw features of each class's texts."""
        return self.texts.means(len(self.rows))


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureMethod(Method):
    """A method on frozen features whose arrays belong to the training classes.

    It covers the training classes and every selection of them, such as the classes of ImageNet-A
    and -R.

    Attributes:
      texts: the hand-crafted text of the setting `templates`; None takes the task's text.
    """

    texts: Template | None

    def covers(self, class_names: Sequence[str]) -> bool:
        """See `Method`."""
        return set(class_names) <= set(self.class_names)

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> Classes:
        """See `Method`. A name that occurs twice in training has the first row."""
        text = self.texts or template or self.template
        if tuple(names) == self.class_names:
            rows = np.arange(len(names))
        else:
            first = {name: row for row, name in reversed([*enumerate(self.class_names)])}
            rows = np.array([first.get(name, 0) for name in names])
        anchors = hand_crafted_features(backbone, [text], names)[0]
        return Classes(anchors, rows, text_features(backbone, text, names, raw=True))

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """The hand-crafted features."""
        del backbone, learned, image
        return classes.anchors[None]


@dataclasses.dataclass(frozen=True, eq=False)
class ClipAdapter(FeatureMethod):
    """CLIP-Adapter (Gao et al. 2021): a bottleneck on the image feature x.

    f = normalise(r relu(V relu(U x)) + (1 − r) x), without biases. The authors take raw features
    x. The map is positively homogeneous, so that normalised features give the same f, logits and
    gradients. It reads no class, and covers all names.

    From the authors' code: r = 0.2, a width of d/4, a ReLU at the output, no adapter of texts.
    Differences: the paper chooses r for each dataset in a way that is not published. The authors
    train with CoOp's settings, with 50 or 100 epochs for less than 8 shots: set `optimizer.epochs`.
    """

    def covers(self, class_names: Sequence[str]) -> bool:
        """See `Method`."""
        return True

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """PyTorch's start of linear layers."""
        del support
        maps = bottleneck(key, backbone.sizes.embed_width, self.config.adapter.reduction)
        return Learned({"adapter": maps} | self.head.initialize(), self.head.fixed())

    def forward(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes | None,
        image: Float[Array, "templates_or_1 batch embed"],
        text: Text | None = None,
    ) -> Forward:
        """See `Method`."""
        adapted = adapt(learned.trained["adapter"], image, self.config.adapter.ratio)
        return super().forward(backbone, learned, classes, adapted, text)


@dataclasses.dataclass(frozen=True, eq=False)
class TaskRes(FeatureMethod):
    """TaskRes (Yu et al. 2023): a residual of each class's raw text feature t.

    t' = normalise(t + a x), with x = 0 at the start. The norm of t matters: it is the scale of x.
    Adam's weight decay pulls x to 0. The rate of the first epoch is `warmup_rate`.

    Differences from the authors' code: class names lose their underscores here, as in all methods
    of this library. There is no "enhanced" start, whose training is not published. The authors take
    a = 1 for Flowers, 100 epochs for less than 8 shots, and for ImageNet eight templates and a rate
    of 2e-4: set `residual.scale`, `optimizer.epochs`, `templates`, `optimizer.learning_rate`.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del key, support
        shape = (len(self.class_names), backbone.sizes.embed_width)
        return Learned(
            {"residual": jnp.zeros(shape, jnp.float32)} | self.head.initialize(), self.head.fixed()
        )

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        del backbone, image
        residual = self.config.residual.scale * learned.trained["residual"][classes.rows]
        return unit(classes.raw_means() + residual)[None]


def linear(key: jax.Array, inputs: int, outputs: int) -> Float[Array, "inputs outputs"]:
    """Weights as PyTorch's linear layers start: uniform within ± inputs^(−1/2)."""
    bound = 1 / math.sqrt(inputs)
    return jax.random.uniform(key, (inputs, outputs), jnp.float32, -bound, bound)


def bottleneck(key: jax.Array, width: int, reduction: int) -> dict[str, Array]:
    """Initial maps of an adapter: from the width to width / reduction, and back."""
    down, up = jax.random.split(key)
    hidden = width // reduction
    return {"down": linear(down, width, hidden), "up": linear(up, hidden, width)}


def adapt(
    maps: Mapping[str, Array], features: Float[Array, "*b embed"], ratio: float
) -> Float[Array, "*b embed"]:
    """normalise(r relu(V relu(U x)) + (1 − r) x) of features x, with U and V of `bottleneck`."""
    added = jax.nn.relu(jax.nn.relu(features @ maps["down"]) @ maps["up"])
    return unit(ratio * added + (1 - ratio) * features)


class FeatureFamily(Family):
    """A family of feature methods."""

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The text of the setting `templates`, or the task's text."""
        return (texts_of(config.templates) or template,)

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The texts, if they are not the task's."""
        del problem
        return {"texts": texts_of(config.templates)}


def texts_of(templates: str) -> Template | None:
    """The hand-crafted text of the setting `templates`, texts with {} separated by "|".

    Returns:
      The text; None, the task's text, for an empty setting.

    Raises:
      ValueError: a template has no {}.
    """
    if not templates:
        return None
    texts = tuple(text.strip() for text in templates.split("|"))
    for text in texts:
        require_template(text, "templates")
    return texts[0] if len(texts) == 1 else Wording(texts[0], texts)


CLIP_ADAPTER = FeatureFamily(ClipAdapter)
TASKRES = FeatureFamily(TaskRes)
