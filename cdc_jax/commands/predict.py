"""Classifies photographs by an adapted model: `%s RUN photos...`.

RUN is a method's folder in a run, such as runs/pets/cdc; photos are files, patterns or folders.
"""

from collections.abc import Sequence

import rich.console
import rich.progress
from absl import flags

from cdc_jax import adapted_folder, feature_cache, image_prediction, writing
from cdc_jax.escaping import visible
from cdc_jax.tasks import photos
from cdc_jax.tasks.decode import UnreadableImage


def define() -> None:
    """Defines the flags."""
    flags.FLAGS.set_gnu_getopt(True)  # flags may follow the photographs
    flags.DEFINE_integer("top_k", 3, "How many of the most probable classes to tell.", 1)
    flags.DEFINE_string(
        "abstain", "", "probability:0.5 leaves photographs below that probability undecided; "
        "uncertainty:..., vacuity:... or conflict:... those above the value. risk:0.05 leaves "
        "doubtful photographs undecided, and at most 5 % of the others are wrong.",
    )  # fmt: skip
    flags.DEFINE_float(
        "sets", None, "0.9 lists classes, and the true one is in the list nine times in ten."
    )
    flags.DEFINE_float(
        "unknown",
        None,
        "0.05 marks unknown photographs, and at most 5 % of the classes' own with them.",
    )
    flags.DEFINE_list("classes", None, "Classes to tell apart; those of the run if left out.")
    flags.DEFINE_string("model", None, "Where the frozen CLIP is now, if it was moved.")
    flags.DEFINE_integer("batch_size", 32, "Photographs at a time.", 1)
    flags.DEFINE_enum(
        "on_error", "stop", ["stop", "skip"],
        "At a photograph that can't be read: stop, or tell the reason in its row.",
    )  # fmt: skip
    flags.DEFINE_string(
        "cache_folder", "",
        "Where image features are kept; the user's folder of caches if left out.",
    )  # fmt: skip
    flags.DEFINE_float(
        "cache_gigabytes", feature_cache.GIGABYTES, "The most that they take; 0 keeps none.", 0
    )
    flags.DEFINE_string(
        "share", "1/1", "2/4 predicts the second quarter of the photographs, and another process "
        "the others. What all of them encoded is then in the cache.",
    )  # fmt: skip
    flags.DEFINE_string("csv", None, "File for everything, a line a photograph.")
    flags.DEFINE_string("json", None, "File for everything, an object a photograph.")


def main(argv: Sequence[str]) -> None:
    """Predicts, writes, prints."""
    options = flags.FLAGS
    if len(argv) < 3:
        raise ValueError(f"RUN and photographs are needed: {argv[0]} runs/pets/cdc photos/")
    writers = {image_prediction.write_csv: options.csv, image_prediction.write_json: options.json}
    outputs = {write: writing.checked_path(path) for write, path in writers.items() if path}
    try:
        rows = _rows(argv[1], argv[2:])
    except UnreadableImage as error:
        raise ValueError(f"{error} (--on_error=skip goes on without it)") from error
    except image_prediction.OptionError as error:
        raise ValueError(f"--{error}") from error
    failed, told = [], []
    for write, path in outputs.items():  # before anything is printed: that may fail, too
        try:
            write(rows, path)
            told.append(f"Written: {path}")
        except OSError as error:
            failed.append(f"{path} could not be written ({error})")
    console = rich.console.Console()
    console.print(image_prediction.table(rows, console.width))
    asked = {"abstain": bool(options.abstain), "unknown": options.unknown is not None}
    for text in image_prediction.counts(rows, **asked) + told:
        print(visible(text))
    if failed:
        raise OSError("; ".join(failed))


def _rows(run: str, named: Sequence[str]) -> list[image_prediction.Row]:
    options = flags.FLAGS
    cache = feature_cache.FeatureCache(options.cache_folder, options.cache_gigabytes)
    chosen = photos.share(photos.gather(named, options.on_error), options.share)
    folder = adapted_folder.find(run)
    image_prediction.abstention(options.abstain)
    image_prediction.require_share("sets", options.sets)
    image_prediction.require_share("unknown", options.unknown)
    from cdc_jax import prediction, programs  # these import JAX, which takes seconds

    programs.keep()
    predictor = prediction.load(folder, options.model, options.classes)
    stream = predictor.stream(
        chosen,
        top_k=options.top_k,
        batch_size=options.batch_size,
        on_error=options.on_error,
        abstain=options.abstain,
        sets=options.sets,
        unknown=options.unknown,
        cache=cache,
    )
    return list(rich.progress.track(stream, "Predicting", len(chosen), transient=True))
