"""Classifies photographs by an adapted model: `python experiments/predict.py RUN photos...`.

RUN is a method's folder in a run, such as runs/pets/cdc; photos are files, patterns or folders.
"""

import rich.console
import rich.progress
from absl import flags

from cdc_jax import adapted_folder, config_file, feature_cache, image_prediction, writing
from cdc_jax.escaping import visible
from cdc_jax.tasks import photos
from cdc_jax.tasks.decode import UnreadableImage

flags.FLAGS.set_gnu_getopt(True)  # flags may follow the photographs
_TOP_K = flags.DEFINE_integer("top_k", 3, "How many of the most probable classes to tell.", 1)
_ABSTAIN = flags.DEFINE_string(
    "abstain", "", "probability:0.5 leaves photographs below that probability undecided; "
    "uncertainty:..., vacuity:... or conflict:... those above the value.",
)  # fmt: skip
_CLASSES = flags.DEFINE_list(
    "classes", None, "Classes to tell apart; those of the run if left out."
)
_MODEL = flags.DEFINE_string("model", None, "Where the frozen CLIP is now, if it was moved.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 32, "Photographs at a time.", 1)
_ON_ERROR = flags.DEFINE_enum(
    "on_error", "stop", ["stop", "skip"],
    "At a photograph that can't be read: stop, or tell the reason in its row.",
)  # fmt: skip
_CACHE_FOLDER = flags.DEFINE_string(
    "cache_folder", "", "Where image features are kept; the user's folder of caches if left out."
)
_CACHE_GIGABYTES = flags.DEFINE_float(
    "cache_gigabytes", feature_cache.GIGABYTES, "The most that they take; 0 keeps none.", 0
)
_SHARE = flags.DEFINE_string(
    "share", "1/1", "2/4 predicts the second quarter of the photographs, and another process the "
    "others. What all of them encoded is then in the cache.",
)  # fmt: skip
_CSV = flags.DEFINE_string("csv", None, "File for everything, a line a photograph.")
_JSON = flags.DEFINE_string("json", None, "File for everything, an object a photograph.")


def main(argv):
    """Predicts, writes, prints."""
    if len(argv) < 3:
        raise ValueError("RUN and photographs are needed: predict.py runs/pets/cdc photos/")
    writers = {image_prediction.write_csv: _CSV.value, image_prediction.write_json: _JSON.value}
    outputs = {write: writing.checked_path(path) for write, path in writers.items() if path}
    try:
        rows = _rows(argv[1], argv[2:])
    except UnreadableImage as error:
        raise ValueError(f"{error} (--on_error=skip goes on without it)") from error
    failed, told = [], []
    for write, path in outputs.items():  # before anything is printed: that may fail, too
        try:
            write(rows, path)
            told.append(f"Written: {path}")
        except OSError as error:
            failed.append(f"{path} could not be written ({error})")
    rich.console.Console().print(image_prediction.table(rows))
    for text in told:
        print(visible(text))
    if failed:
        raise OSError("; ".join(failed))


def _rows(run, named):
    cache = feature_cache.FeatureCache(_CACHE_FOLDER.value, _CACHE_GIGABYTES.value)
    chosen = photos.share(photos.gather(named, _ON_ERROR.value), _SHARE.value)
    folder = adapted_folder.find(run)
    image_prediction.abstention(_ABSTAIN.value)
    from cdc_jax import prediction, programs  # these import JAX, which takes seconds

    programs.keep()
    predictor = prediction.load(folder, _MODEL.value, _CLASSES.value)
    stream = predictor.stream(
        chosen,
        top_k=_TOP_K.value,
        batch_size=_BATCH_SIZE.value,
        on_error=_ON_ERROR.value,
        abstain=_ABSTAIN.value,
        cache=cache,
    )
    return list(rich.progress.track(stream, "Predicting", len(chosen), transient=True))


if __name__ == "__main__":
    config_file.run(main, __file__)
