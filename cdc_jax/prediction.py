"""Predictions of an adapted model on new images: class, probability, uncertainty, opinions."""

import concurrent.futures
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cdc_jax import adapted as adapted_lib
from cdc_jax import adapter as adapter_lib
from cdc_jax import clip as clip_lib
from cdc_jax import devices, heads, methods, metrics, views
from cdc_jax.image_prediction import ImagePrediction, abstention
from cdc_jax.tasks.decode import UnreadableImage, clean_image, decode
from cdc_jax.tasks.photos import ImageLike, Photo, gather


def predict(
    run: str | Path,
    images: ImageLike | Sequence[ImageLike],
    *,
    top_k: int = 3,
    batch_size: int = 32,
    on_error: str = "stop",
    abstain: str = "",
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
      abstain: when to leave an image undecided.
      model: see `load`.
      class_names: see `load`.

    Returns:
      One row an image, in the order given.

    Raises:
      FileNotFoundError, ValueError: see `load` and `Predictor.stream`.
    """
    photos = gather(images, on_error)
    predictor = load(run, model, class_names)
    return list(
        predictor.stream(
            photos, top_k=top_k, batch_size=batch_size, on_error=on_error, abstain=abstain
        )
    )


def load(
    run: str | Path, model: str | Path | None = None, class_names: Sequence[str] | None = None
) -> "Predictor":
    """Rebuilds the adapted model of a run.

    Args:
      run: see `adapted.find`.
      model: where the base is now; None is where the run found it. Its weights must be the same.
      class_names: classes to tell apart, at least two; None takes those that were trained on.

    Raises:
      FileNotFoundError: no adapted model there, or more than one, or no base.
      ValueError: files that are damaged, a base of other weights, or fewer than two class names,
        an empty one or one given twice; names that differ from the run's, where that learned
        something for each class.
    """
    folder = adapted_lib.find(run)
    adapted = adapted_lib.read(folder)
    names = tuple(adapted.class_names) if class_names is None else _checked(class_names)
    base = adapted.base
    try:
        clip, tokenizer = clip_lib.load(model or base["model"], dtype=jnp.dtype(base["dtype"]))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. The base of {folder} was {base['model']!r}: say where it is now by model= "
            "or --model"
        ) from error
    if (found := clip_lib.weights_hash(clip)) != base["hash"]:
        raise ValueError(
            f"{folder} was adapted on {base['model']!r} of weights {base['hash'][:12]}…, but "
            f"{str(model or base['model'])!r} has weights {found[:12]}…: say where the former "
            "is by model= or --model"
        )
    if (size := adapted.preprocessing["size"]) != clip.config.image_size:
        raise ValueError(
            f"{folder} asks for images of {size} pixels, its base takes {clip.config.image_size}"
        )
    config = ConfigDict(methods.DEFAULTS)
    for part, settings in adapted.method.items():
        config[part].update(settings)
    adapter = adapter_lib.create(
        config, clip, tokenizer, adapted.template, adapted.class_names, adapted.mean_logit
    )
    made = jax.eval_shape(lambda: adapter.initialize(jax.random.key(0), clip))
    shapes, expected = (jax.tree.map(np.shape, tree) for tree in (adapted.parameters, made))
    if shapes != expected:
        raise ValueError(f"{folder} holds vectors of shapes {shapes}, its settings need {expected}")
    if not adapter.covers(names):
        raise ValueError(
            f"{folder} was learned class by class and tells apart exactly {adapted.class_names}, "
            f"not {list(names)}: name no classes, or adapt prompts that all share"
        )
    return Predictor(adapter, clip, adapted, names)


class Predictor:
    """An adapted model on its frozen CLIP; the classes' text features are computed once.

    Args:
      adapter: the method.
      clip: the frozen model.
      adapted: learned vectors and preprocessing.
      class_names: the classes to tell apart.

    Attributes:
      class_names: the same.
      evidential: whether predictions have a vacuity.
    """

    def __init__(
        self,
        adapter: adapter_lib.Adapter,
        clip: clip_lib.Clip,
        adapted: adapted_lib.Adapted,
        class_names: Sequence[str],
    ):
        self.class_names = tuple(class_names)
        self.evidential = isinstance(adapter.head, heads.EvidentialHead)
        self._size = adapted.preprocessing["size"]
        self._mesh = devices.make_mesh()
        clip, parameters = devices.replicate((clip, adapted.parameters), self._mesh)
        text = adapter.text_features(clip, parameters, adapter.classes(clip, self.class_names))

        @jax.jit
        def predictions(clip, parameters, text, images):
            mean, std = adapted.preprocessing["mean"], adapted.preprocessing["std"]
            clean = views.clean_view(images, mean, std)
            return adapter.head.predict(adapter.logits(clip, parameters, text, clean[None]))

        self._predictions = partial(predictions, clip, parameters, text)

    def stream(
        self,
        images: ImageLike | Photo | Sequence[ImageLike | Photo],
        *,
        top_k: int = 3,
        batch_size: int = 32,
        on_error: str = "stop",
        abstain: str = "",
    ) -> Iterator[ImagePrediction | UnreadableImage]:
        """Predicts images batch by batch, decoding each when its turn comes.

        Args:
          images: see `photos.gather`; they are scaled and cropped as for CLIP.
          top_k: how many of the most probable classes a row holds.
          batch_size: images at a time.
          on_error: at an image that can't be read, "stop" raises its error, "skip" makes the error
            its row.
          abstain: see `abstention`.

        Returns:
          The rows, in the order of the images.

        Raises:
          FileNotFoundError, ValueError: see `photos.gather` and `abstention`.
          UnreadableImage: see `decode`.
        """
        if top_k < 1 or batch_size < 1:
            raise ValueError(
                f"top_k and batch_size must be at least 1, got {top_k} and {batch_size}"
            )
        abstains = abstention(abstain, self.evidential)
        photos = gather(images, on_error)
        # One size for all batches, so that the program is compiled once.
        size = -(-min(batch_size, len(photos)) // self._mesh.size) * self._mesh.size
        batches = (photos[first : first + size] for first in range(0, len(photos), size))
        return (
            row
            for batch in batches
            for row in self._rows(batch, size, top_k, abstains, on_error == "skip")
        )

    def _rows(
        self,
        photos: Sequence[Photo],
        size: int,
        top_k: int,
        abstains: Callable[[ImagePrediction], bool],
        skip: bool,
    ) -> Iterator[ImagePrediction | UnreadableImage]:
        with concurrent.futures.ThreadPoolExecutor() as pool:  # Pillow releases the GIL
            read = list(pool.map(partial(self._read, skip=skip), photos))
        blank = np.zeros((self._size, self._size, 3), np.uint8)
        images = np.stack([blank if isinstance(x, UnreadableImage) else x for x in read])
        batch = devices.shard(devices.pad(images, size), self._mesh)
        said = jax.device_get(self._predictions(batch))
        for i, (photo, image) in enumerate(zip(photos, read, strict=True)):
            if isinstance(image, UnreadableImage):
                yield image
            else:
                row = self._row(photo.name, jax.tree.map(operator.itemgetter(i), said), top_k)
                yield row._replace(abstained=abstains(row))

    def _read(self, photo: Photo, skip: bool) -> np.ndarray | UnreadableImage:
        if isinstance(photo.image, np.ndarray):
            return clean_image(Image.fromarray(photo.image), self._size)
        try:
            return clean_image(decode(photo.image, photo.name), self._size)
        except UnreadableImage as error:
            if not skip:
                raise
            return error

    def _row(self, name: str, said: heads.Prediction, top_k: int) -> ImagePrediction:
        best = metrics.ranked(said.probability, int(said.predicted))[:top_k]
        return ImagePrediction(
            image=name,
            predicted=self.class_names[best[0]],
            probability=tuple((self.class_names[k], float(said.probability[k])) for k in best),
            uncertainty=float(said.uncertainty),
            vacuity=math.exp(said.log_vacuity) if self.evidential else None,
            conflict=float(said.conflict),
            templates=tuple(
                (self.class_names[k], float(p.max()), float(u))
                for k, p, u in zip(
                    said.template_predicted,
                    said.template_probability,
                    said.template_uncertainty,
                    strict=True,
                )
            ),
            abstained=False,
        )


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(names)
    if len(set(names)) < max(2, len(names)) or not all(name.strip() for name in names):
        raise ValueError(
            f"class names must be at least two, none of them empty or given twice, got {names}"
        )
    return names
