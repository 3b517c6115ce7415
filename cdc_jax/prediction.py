"""Predictions of an adapted model on new images: class, probability, uncertainty, opinions."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np

from cdc_jax import adapted_folder, adapted_model, devices, export, schema
from cdc_jax.backbone import Backbone
from cdc_jax.class_names import require_distinct, warn_of_wordless
from cdc_jax.escaping import reason
from cdc_jax.feature_cache import FeatureCache
from cdc_jax.image_prediction import ImagePrediction, abstention, asked, require_share
from cdc_jax.inference import FrozenFeatures, Inference, encoder
from cdc_jax.methods import Learned, Method
from cdc_jax.named_prediction import of_image
from cdc_jax.tasks.decode import UnreadableImage
from cdc_jax.tasks.photos import ImageLike, Photo, PhotoImages, gather

if TYPE_CHECKING:
    from cdc_jax.calibration import Calibration

_COMPUTATION = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What arrays of wrong shapes raise."""


def predict(
    run: str | Path,
    images: ImageLike | Sequence[ImageLike],
    *,
    top_k: int = 3,
    batch_size: int = 32,
    on_error: str = "stop",
    abstain: str = "",
    sets: float | None = None,
    unknown: float | None = None,
    cache: FeatureCache | None = None,
    model: str | Path | None = None,
    class_names: Sequence[str] | None = None,
) -> list[ImagePrediction | UnreadableImage]:
    """Classifies images by the adapted model of a run.

    Args:
      run: see `load`.
      images: see `Predictor.stream`, as the options that follow.
      top_k: how many classes a row holds.
      batch_size: images at a time.
      on_error: "stop" or "skip".
      abstain: the rule by which an image stays undecided.
      sets: probability with which a set of classes holds the true one.
      unknown: share of images of the training classes that may be called unknown.
      cache: the cache of image features.
      model: see `load`.
      class_names: see `load`.

    Returns:
      One row an image, in the order of `images`.

    Raises:
      FileNotFoundError, ValueError: see `load` and `Predictor.stream`.
    """
    photos = gather(images, on_error)
    predictor = load(run, model, class_names)
    return list(
        predictor.stream(
            photos,
            top_k=top_k,
            batch_size=batch_size,
            on_error=on_error,
            abstain=abstain,
            sets=sets,
            unknown=unknown,
            cache=cache,
        )
    )


def load(
    run: str | Path, model: str | Path | None = None, class_names: Sequence[str] | None = None
) -> "Predictor":
    """Rebuilds the adapted model of a run.

    Args:
      run: see `adapted_folder.find`.
      model: name or path of the base; None takes the name that the run used. The weights must be
        the same.
      class_names: classes to tell apart, at least two; None takes the training classes.

    Raises:
      FileNotFoundError: `run` holds no adapted model or several, or there is no base.
      ValueError: a file is damaged. The base has other weights. There are fewer than two class
        names, an empty name, or two names that the base can't tell apart. The names differ from
        the training classes of a method that learned something for each class.
    """
    folder = adapted_folder.find(run)
    adapted = export.read(folder)
    names = tuple(adapted.class_names) if class_names is None else _checked(class_names)
    restored = adapted_model.restore(folder, adapted, model)
    backbone, method = restored.backbone, restored.method
    if class_names is not None:
        require_distinct(names, backbone)
        warn_of_wordless(names, backbone)
    if not method.covers(names):
        raise ValueError(
            f"{folder} was learned class by class and tells apart exactly {adapted.class_names}, "
            f"not {list(names)}: name no classes, or adapt prompts that all classes share"
        )

    def calibrated() -> "Calibration":
        from cdc_jax import calibration  # imports SciPy, which takes half a second

        try:
            stored = calibration.from_arrays(adapted.validation)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}; adapt again") from None
        if stored is None or names != tuple(adapted.class_names):
            lacks = "other classes than these" if stored else "no validation images"
            raise ValueError(
                f"sets, a risk and unknown images need numbers of validation images, but {folder} "
                f"has {lacks}: name no classes, and adapt to data with a validation split"
            )
        return stored

    try:
        text = adapted.text if names == tuple(adapted.class_names) else None
        return Predictor(method, backbone, adapted.learned, names, calibrated, text)
    except _COMPUTATION as error:
        arrays = adapted.learned.trained, adapted.learned.fixed, adapted.text
        shapes = schema.shown(jax.tree.map(np.shape, arrays))
        raise ValueError(
            f"{folder} holds arrays of shapes {shapes}, which do not fit its settings: adapt again "
            f"({reason(error)})"
        ) from error


class Predictor:
    """An adapted model on its frozen backbone.

    Args:
      method: the method.
      backbone: the frozen model.
      learned: the method's arrays.
      class_names: the classes to tell apart.
      calibrated: the numbers of validation images, or the reason why there are none.
      text: features of the classes, see `export.Adapted`; None computes them.

    Attributes:
      class_names: the same.
      has_opinions: whether predictions have a vacuity.

    Raises:
      ArithmeticError, AttributeError, LookupError, TypeError, ValueError: the arrays do not fit the
        method.
    """

    def __init__(
        self,
        method: Method,
        backbone: Backbone,
        learned: Learned,
        class_names: Sequence[str],
        calibrated: "Callable[[], Calibration]",
        text: np.ndarray | None = None,
    ):
        self.class_names = tuple(class_names)
        self.has_opinions, self._calibrated = method.head.has_opinions, calibrated
        self._preprocessing, self._encoder = backbone.preprocessing, encoder(backbone)
        self._mesh = devices.make_mesh()
        self._backbone, self._learned = devices.replicate((backbone, learned), self._mesh)
        self._inference = Inference(method, FrozenFeatures(self._backbone, self._mesh, 1))
        self._class_list = self._inference.class_list(
            self._learned, self.class_names, text=devices.replicate(text, self._mesh)
        )
        self._inference.require_fitting(self._learned, self._class_list)

    def stream(
        self,
        images: ImageLike | Photo | Sequence[ImageLike | Photo],
        *,
        top_k: int = 3,
        batch_size: int = 32,
        on_error: str = "stop",
        abstain: str = "",
        sets: float | None = None,
        unknown: float | None = None,
        cache: FeatureCache | None = None,
    ) -> Iterator[ImagePrediction | UnreadableImage]:
        """Predicts images batch by batch. Each image is decoded with its batch.

        An image whose feature is in the cache is not decoded, and does not count in a batch. The
        cache is not used for a method that changes image features.

        Args:
          images: see `photos.gather`; they get the preprocessing of the base.
          top_k: number of classes in a row, the most probable first.
          batch_size: images at a time.
          on_error: at an unreadable image, "stop" raises the error, "skip" returns the error as
            the image's row.
          abstain: see `abstention`.
          sets: probability with which `class_set` holds the true class; None for no sets.
          unknown: share of images of the training classes that may be called unknown; None for no
            such statement.
          cache: the cache of image features; None for no cache.

        Returns:
          The rows, in the order of the images.

        Raises:
          FileNotFoundError, ValueError: see `photos.gather`, `abstention` and `Calibration`. The
            message about an option begins with the option and its value.
          UnreadableImage: see `opened`.
        """
        if top_k < 1 or batch_size < 1:
            raise ValueError(
                f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}"
            )
        require_share("sets", sets)
        require_share("unknown", unknown)
        with asked("abstain", abstain):
            abstains = abstention(
                abstain, self.has_opinions, lambda risk: self._calibrated().least_confidence(risk)
            )
        with asked("sets", sets):
            sets_of = None if sets is None else self._calibrated().sets(sets)
        with asked("unknown", unknown):
            novelty = None if unknown is None else self._calibrated().largest_novelty(unknown)
        photos = PhotoImages(gather(images, on_error), self._preprocessing, on_error == "skip")
        if on_error == "skip" and jax.process_count() > 1:
            raise ValueError(
                f'on_error="skip" needs one process, got {jax.process_count()}: predict in one, or '
                'use "stop"'
            )
        # All batches have one size, so that the program is compiled once.
        features = cache.of(*self._encoder) if cache else None
        size = min(batch_size, len(photos))
        inference = self._inference.over(FrozenFeatures(self._backbone, self._mesh, size, features))

        def rows() -> Iterator[ImagePrediction | UnreadableImage]:
            first = 0
            for part in inference.stream(self._learned, self._class_list, photos):
                in_sets = sets_of(part) if sets_of else None
                for i in range(len(part.predicted)):
                    if first + i in photos.unreadable:
                        yield photos.unreadable.pop(first + i)
                    else:
                        name = photos.name(first + i)
                        own = None if in_sets is None else in_sets[i]
                        options = (top_k, abstains, own, novelty)
                        yield of_image(name, part, i, self.class_names, *options)
                first += len(part.predicted)

        return rows()


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(names)
    if len(set(names)) < max(2, len(names)) or not all(name.strip() for name in names):
        raise ValueError(
            f"class names must be two or more different names that are not empty, got {names}"
        )
    return names
