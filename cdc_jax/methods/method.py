"""The interface of a method: what it learns and changes, how it predicts, what trains it.

Training, evaluation, export and prediction use this interface only. They never look into the
learned arrays. A family of methods is a subclass in a file of its own. `rows` holds the published
settings.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.heads import Head, Prediction, Scale
from cdc_jax.methods.stage import Learned, Stage
from cdc_jax.methods.support import Support, support_logits
from cdc_jax.wording import Template

PyTree = Any
Logits = Float[Array, "batch templates classes"]
Text = Float[Array, "templates *image classes width"]
"""Class features. The axis over images exists if the method's text depends on the image. A method
with `logits` of its own may have columns beside the embedding."""

SCALE_DEVIATION = 0.5
"""Standard deviation of the prior on the log of a scale. ECE changes little from 0.35 to 1
(validation seeds 11 to 13 of the three kinds of the bundled world)."""


class Forward(NamedTuple):
    """Features and logits of a batch.

    Attributes:
      image: normalised image features, of each template or one that all templates share.
      text: features of every class under every template.
      logits: z^m_k of every image.
    """

    image: Float[Array, "templates_or_1 batch embed"]
    text: Text
    logits: Logits


class Term(NamedTuple):
    """A term of the objective.

    Attributes:
      value: is logged.
      weight: in the sum of the term's group.
      group: a stage with `combine` gets the gradient of each group. Another stage follows the
        gradient of the group "loss", and allows no other group.
    """

    value: Float[Array, ""]
    weight: float
    group: str = "loss"


class Batch(NamedTuple):
    """The arguments of the terms of a loss.

    Attributes:
      backbone: of `Method.adapt_in_step`.
      learned: the method's arrays.
      classes: of `Method.training_classes`.
      forward: of `Method.forward`.
      labels: indices into the classes.
      progress: share of the stage's training that is done, in [0, 1].
      step: number of the stage's steps that are done.
      seed: of the run, for terms with random draws.
      views: the views of the images; None with cached features, which `forward.image` holds then.
      further: features by the frozen backbone of `Method.further_views` views; None without.
    """

    backbone: Backbone
    learned: Learned
    classes: PyTree
    forward: Forward
    labels: Int[Array | np.ndarray, "batch"]
    progress: Float[Array, ""] | float
    step: Int[Array, ""] | int = 0
    seed: UInt[Array | np.uint32, ""] | int = 0
    views: Float[Array, "views batch height width 3"] | None = None
    further: Float[Array, "further batch embed"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Method(abc.ABC):
    """A way of adapting a backbone to a task.

    All functions are pure. The backbone is an argument of each, so that jitted callers pass its
    weights as data.

    Attributes:
      config: the settings of the method, after `settle`.
      class_names: the training classes.
      template: the task's hand-crafted text.
      head: fuses the templates' logits into a prediction.
    """

    config: ConfigDict
    class_names: tuple[str, ...]
    template: Template
    head: Head

    def __init_subclass__(cls, **keywords: Any):
        """Requires a family that computes its own image features to declare what it changes.

        Evaluation would take frozen features otherwise.
        """
        super().__init_subclass__(**keywords)
        computes = any(
            getattr(cls, name) is not getattr(Method, name)
            for name in ("image_features", "adapt", "adapt_in_step")
        )
        if computes and cls.changes_images is Method.changes_images:
            raise TypeError(
                f"{cls.__name__} overrides image_features or adapt, but does not declare "
                "changes_images: define that property"
            )

    @property
    def templates(self) -> int:
        """Number of views that an image can be given, one for each template."""
        return 1

    @property
    def further_views(self) -> int:
        """Number of further views of each training image, for terms of the loss.

        The templates do not see them. The setting `views` makes them, each with its own draw.
        """
        return 0

    @property
    def changes_images(self) -> bool:
        """Whether image features depend on the learned arrays.

        If they do not, frozen features are computed once and shared. Evaluation and training on
        cached views then never call `image_features`.
        """
        return False

    @property
    def reads_images(self) -> bool:
        """Whether class features depend on the image."""
        return False

    @property
    def is_clip(self) -> bool:
        """Whether the adapted backbone and plain texts are the whole method.

        Such a method can be exported as a CLIP for other programs.
        """
        return False

    def covers(self, class_names: Sequence[str]) -> bool:
        """Whether the method can classify among these names."""
        return True

    @property
    def selects(self) -> bool:
        """Whether the method chooses something on validation images."""
        return type(self).conclude is not Method.conclude or any(s.best for s in self.stages())

    @abc.abstractmethod
    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """The arrays that training starts from."""

    def training_features(
        self, support: Support
    ) -> Float[np.ndarray, "images views templates_or_1 embed"] | None:
        """Frozen features on which all stages train, epoch e on view e mod views.

        None, the default, trains on the views of the setting `views`. The method must not change
        image features.
        """
        del support
        return None

    def stages(self) -> tuple[Stage, ...]:
        """The stages of training, in order."""
        return (Stage(self, self.config.optimizer),)

    @abc.abstractmethod
    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> PyTree:
        """Token ids and frozen features of a class list, computed once.

        Args:
          backbone: the frozen model.
          names: of the classes.
          template: the hand-crafted text of another task, in place of this task's text.
        """

    def training_classes(self, backbone: Backbone) -> PyTree:
        """`classes` of the training classes, with what only the terms of the loss read."""
        return self.classes(backbone, self.class_names)

    def adapt(self, backbone: Backbone, learned: Learned) -> Backbone:
        """The backbone with its towers' weights changed; most methods change none."""
        del learned
        return backbone

    def adapt_in_step(
        self,
        backbone: Backbone,
        learned: Learned,
        seed: UInt[Array | np.uint32, ""] | int,
        step: Int[Array, ""] | int,
    ) -> Backbone:
        """`adapt` for a training step, which may draw at random from the seed and the step."""
        del seed, step
        return self.adapt(backbone, learned)

    def image_features(
        self,
        backbone: Backbone,
        learned: Learned,
        views: Float[Array, "views batch height width 3"],
    ) -> Float[Array, "templates_or_1 batch embed"]:
        """Normalised image features of one view a template, or of one view for all templates."""
        del learned
        return frozen_features(backbone, views)

    @abc.abstractmethod
    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: PyTree,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """Features of every class under every template.

        Args:
          backbone: the model, adapted.
          learned: the method's arrays.
          classes: of `classes`.
          image: image features if `reads_images`; else None.
        """

    def logits(
        self,
        backbone: Backbone,
        learned: Learned,
        image: Float[Array, "templates_or_1 batch embed"],
        text: Text,
    ) -> Logits:
        """z^m_k = cos(f^m(x^m), g(t^m_k)) / tau, plus the backbone's bias."""
        del learned
        image = jnp.broadcast_to(image, (len(text), *image.shape[1:]))
        pattern = "mbd,mbkd->bmk" if self.reads_images else "mbd,mkd->bmk"
        # The scale is 100: an accelerator's default precision would cost half a logit.
        cosine = jnp.einsum(pattern, image, text, precision=jax.lax.Precision.HIGHEST)
        return backbone.logit_scale * cosine + backbone.logit_bias

    def forward(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: PyTree,
        image: Float[Array, "templates_or_1 batch embed"],
        text: Text | None = None,
    ) -> Forward:
        """Image features to logits. Training and every prediction call it.

        Args:
          backbone: the model, adapted.
          learned: the method's arrays.
          classes: of `classes`.
          image: of `image_features`, or frozen features of a method that changes no images.
          text: class features; None computes them from `classes`.

        Raises:
          AssertionError: the features or logits of a family have wrong axes.
        """
        if text is None:
            text_image = image if self.reads_images else None
            text = self.class_features(backbone, learned, classes, text_image)
        chex.assert_rank(text, 4 if self.reads_images else 3)
        logits = self.logits(backbone, learned, image, text)
        chex.assert_shape(logits, (image.shape[1], len(text), text.shape[-2]))
        return Forward(image, text, logits)

    def predict(self, learned: Learned, logits: Logits, scale: Scale | None = None) -> Prediction:
        """The head's prediction; the scale is that of `scale`."""
        return self.head.predict(learned.part("head"), logits, scale)

    @property
    def needs_validation(self) -> bool:
        """Whether `conclude` needs validation images."""
        return self.config.head.calibrated

    def conclude(
        self,
        backbone: Backbone,
        learned: Learned,
        validation: Support,
        logits: Float[np.ndarray, "images templates classes"],
    ) -> Learned:
        """Fixes what validation images decide, after training: the scales of a calibrated head.

        A method that `selects` gets half of the validation images, see `selection`.

        Shots are few, and a model that predicts all validation images would get infinite
        confidence. The scales therefore have a prior, log T ~ N(0, `SCALE_DEVIATION`²). Tuned
        templates are more accurate on the training classes than on others. The power for other
        classes is therefore the geometric mean of the fitted power and of 1 / T of zero-shot CLIP,
        which no class was trained on, and log_factor is halved. This is this project's choice.

        Args:
          backbone: the frozen model.
          learned: the trained arrays.
          validation: the validation images, with frozen features.
          logits: of the validation images.

        Returns:
          The arrays, with the fixed part `calibration`.
        """
        if not self.config.head.calibrated:
            return learned
        from cdc_jax import trust  # imports SciPy, which takes half a second

        head, labels = learned.part("head"), validation.labels
        own = self.head.calibrate(head, jnp.asarray(logits), labels, SCALE_DEVIATION)
        (plain,) = support_logits(backbone, [self.template], self.class_names, validation)
        temperature = trust.fit_temperature(plain, labels, deviation=SCALE_DEVIATION)
        others = Scale(own.log_factor / 2, (own.power / temperature) ** 0.5)
        scales = jax.tree.map(lambda *x: np.array(x, np.float32), own, others)
        return Learned(learned.trained, learned.fixed | {"calibration": scales._asdict()})

    def scale(self, learned: Learned, class_names: Sequence[str]) -> Scale | None:
        """The scale of predictions among these classes; None without calibration."""
        scales = learned.fixed.get("calibration")
        if scales is None:
            return None
        place = int(tuple(class_names) != self.class_names)
        return Scale(scales["log_factor"][place], scales["power"][place])

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The terms of the loss; by default the head's own."""
        return {"classification": Term(self.head_loss(batch), 1.0)}

    def head_loss(self, batch: Batch) -> Float[Array, ""]:
        """Mean of the head's loss over the images."""
        head = batch.learned.part("head")
        return self.head.loss(head, batch.forward.logits, batch.labels, batch.progress).mean()

    def word_vectors(self, learned: Learned) -> Float[Array, "templates d width"] | None:
        """Learned vectors that can be compared with word embeddings; None for a method without."""
        del learned
        return None

    def facts(self, learned: Learned) -> Mapping[str, Any]:
        """Facts about the method for results.json, beside its figures."""
        del learned
        return {}


def objective(
    *arguments: Any, **draws: Any
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The training loss: the sum of the group "loss". For arguments and values see `objectives`."""
    sums, values = objectives(*arguments, **draws)
    return sums["loss"], values


def objectives(
    method: Method,
    backbone: Backbone,
    learned: Learned,
    classes: PyTree,
    views: Float[Array, "views batch height width 3"] | None,
    labels: Int[Array | np.ndarray, "batch"],
    progress: Float[Array, ""] | float,
    image: Float[Array, "templates_or_1 batch embed"] | None = None,
    step: Int[Array, ""] | int = 0,
    seed: UInt[Array | np.uint32, ""] | int = 0,
) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, ""]]]:
    """The sums of the terms by group, each term by its weight.

    Args:
      method: the method, as the stage has it.
      backbone: the frozen model.
      learned: the method's arrays.
      classes: of `Method.training_classes`.
      views: one view for each template, or one view for all, and then `Method.further_views`
        others; None with `image`.
      labels: indices into the classes.
      progress: share of the stage's training that is done.
      image: frozen features of the views, for a method that changes no images; None with `views`.
      step: see `Batch`.
      seed: see `Batch`.

    Returns:
      The sums; and the terms by name, the sum `loss` of the group "loss", and the accuracy on the
      batch.

    Raises:
      ValueError: `views` and `image` are both None, or no term has the group "loss".
    """
    frozen, backbone = backbone, method.adapt_in_step(backbone, learned, seed, step)
    further = None
    if views is not None:
        if method.further_views:
            views, further_views = _split(views, method.further_views)
            further = frozen_features(frozen, further_views)
        image = method.image_features(backbone, learned, views)
    elif image is None:
        raise ValueError("the objective needs views or their features, and got neither")
    elif method.further_views:
        image, further = _split(image, method.further_views)
    forward = method.forward(backbone, learned, classes, image)
    batch = Batch(backbone, learned, classes, forward, labels, progress, step, seed, views, further)
    terms = method.terms(batch)
    sums: dict[str, Float[Array, ""]] = {}
    for term in terms.values():
        value = term.weight * term.value
        sums[term.group] = sums[term.group] + value if term.group in sums else value
    if "loss" not in sums:
        raise ValueError(f"no term has the group 'loss': the groups are {sorted(sums)}")
    predicted = method.predict(learned, forward.logits).predicted
    values = {name: term.value for name, term in terms.items()}
    return sums, values | {"loss": sums["loss"], "accuracy": (predicted == labels).mean()}


def _split(views: Array, further: int) -> tuple[Array, Array]:
    """The views of the templates, and the further views."""
    return views[:-further], views[-further:]


def frozen_features(
    backbone: Backbone, views: Float[Array, "views batch height width 3"]
) -> Float[Array, "views batch embed"]:
    """Normalised image features of the frozen backbone."""
    return jax.vmap(backbone.encode_images)(views)


def require_choice(value: str, choices: Mapping[str, Any], key: str) -> None:
    """Raises ValueError unless a setting's value is one of the choices."""
    if value not in choices:
        raise ValueError(f"unknown {key} {value!r}: choose one of {', '.join(choices)}")
