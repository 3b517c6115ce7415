"""Views as compositions of augmentations, written as text, and the function that makes them.

A view is a chain, `"crop | jitter(hue=0.05) | grayscale(p=0.2)"`. `;` separates the views of a set.
One string therefore fits a locked config, a command line and a results file.
"""

import ast
import difflib
import itertools
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from jax.typing import ArrayLike
from jaxtyping import Array, Float, UInt8

from cdc_jax.views import pixels
from cdc_jax.views.augmentations import AUGMENTATIONS, PRNGKey, draw_nothing

Images = UInt8[Array | np.ndarray, "batch height width 3"]
ViewFunction = Callable[..., Float[Array, "views batch size size 3"]]
"""(seed, step, indices, images[, aspect_ratios]) -> views, see `build`."""
Step = tuple[str, dict[str, Any]]  # the augmentation's name and all its options
View = tuple[Step, ...]  # () is the clean view

SETS = {
    "clean": "clean",
    "shared": "crop | flip",
    "crop_flip": "crop | flip; crop | flip",
    "set1": "flip; jitter; grayscale | blur; affine",
    "set2": "crop | flip; crop | jitter; crop | grayscale | blur; crop | affine",
    # Properties that the label does not depend on change freely (every hue). The milder crop keeps
    # the object in view. Affine comes last, so that the colour of its empty corners stays.
    "composed": "crop(scale=(0.4, 1)) | flip"
    " | jitter(hue=0.5) | grayscale(p=0.2) | blur(p=0.5) | affine(p=0.5)",
}
"""The named sets, this project's reading of the paper's sets. All templates share one draw of a set
with one view. The templates take the views of a longer set in turn, each with its own draw."""

PROPERTIES = frozenset({"category", "shape"}).union(*(a.changes for a in AUGMENTATIONS.values()))
"""The image properties that a label can depend on."""

_LIMITS = {  # of the options' values
    "p": (0, 1),
    "scale": (0, 1),
    "ratio": (0.01, 100),
    "degrees": (0, 180),
    "translate": (0, 1),
    "zoom": (0.1, 10),
    "brightness": (0, 1),
    "contrast": (0, 1),
    "saturation": (0, 1),
    "hue": (0, 0.5),
    "sigma": (0.01, 20),
    "m": (0, 30),
}
_FIRST = {name for name, a in AUGMENTATIONS.items() if "size" in a.needs}


def build(
    spec: str,
    *,
    templates: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    label_properties: Collection[str] = (),
    further: int = 0,
) -> ViewFunction:
    """Makes the jitted function that turns a batch into views.

    Args:
        spec: a name of `SETS`, or a text of that form.
        templates: number M of semantic templates.
        size: side of the views, the encoder's input size.
        mean: the encoder's mean colour, for values in [0, 1]; the colour of empty places.
        std: the encoder's standard deviation.
        label_properties: some of `PROPERTIES`, on which the label depends. "composed" needs them,
            and leaves out the augmentations that change them.
        further: number of further views of each image, after the views of the templates. They go
            on in the spec's turn, each with its own draw.

    Returns:
        `make(seed, step, indices, images, aspect_ratios=None)`. The images are uint8 (batch,
        height, width, 3), and `indices` (batch,) are their numbers. The result is float32 (M,
        batch, size, size, 3). If all templates share one view, the first axis is 1: broadcast it
        after the image encoder, not before. A view without a crop starts from the largest centred
        square. Photographs of any form fit in one batch if each whole photograph is squeezed into
        the same height and width. `aspect_ratios` (batch,), the width/height of the photographs,
        undo the squeezing: crops then have their scale and ratio in the photograph, and centred
        squares are squares there. Pixels depend on the seed, the step, the image, its index, its
        aspect ratio and the view's number. They do not depend on other images of the batch, on
        devices or on JAX's default generator. Seed and step may be traced.

    Raises:
        ValueError: the spec can't be read, a name is unknown, a value is out of range, a crop is
            not first, or there are more views than templates. From `make`: the batch has a wrong
            form.

    >>> make = build("crop | flip", templates=4, size=2, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> make(0, 7, jnp.arange(5), jnp.full((5, 8, 8, 3), 255, jnp.uint8)).shape
    (1, 5, 2, 2, 3)
    """
    views = compositions(
        spec, templates=templates, label_properties=label_properties, further=further
    )
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    fill, scale = _normaliser(mean, std)

    @jax.jit
    def make(
        seed: ArrayLike,
        step: ArrayLike,
        indices: Array | np.ndarray,
        images: Array | np.ndarray,
        aspect_ratios: Array | np.ndarray | None = None,
    ):
        _check_images(images)
        for what, array in (("indices", indices), ("aspect_ratios", aspect_ratios)):
            if array is not None and array.shape != images.shape[:1]:
                raise ValueError(f"got {what} of shape {array.shape} for {len(images)} images")
        # With some other generators the bits drawn under vmap depend on the whole batch.
        key = random.fold_in(random.key(seed, impl="threefry2x32"), step)
        keys = jax.vmap(partial(random.fold_in, key))(indices)

        def make_one(number, view):
            def one(key, image, aspect_ratio):
                key = random.fold_in(key, number)
                return _apply(view, key, image, aspect_ratio, size=size, fill=fill)

            return jax.vmap(one)(keys, images, aspect_ratios)

        view_batch = jnp.stack([make_one(number, view) for number, view in enumerate(views)])
        return ((view_batch - fill) / scale).astype(jnp.float32)

    return make


def clean_view(
    images: Images, mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "batch height width 3"]:
    """Normalises images that the host has resized and cropped: the view of a test image."""
    _check_images(images)
    offset, scale = _normaliser(mean, std)
    return (jnp.asarray(images, jnp.float32) / 255 - offset) / scale


def compositions(
    spec: str, *, templates: int, label_properties: Collection[str] = (), further: int = 0
) -> tuple[View, ...]:
    """Lists the views that `build` makes with the same arguments: one shared view, or M views.

    Further views follow.

    >>> compositions("blur(p=0.5) | grayscale", templates=4)
    ((('blur', {'sigma': (0.1, 2.0), 'p': 0.5}), ('grayscale', {'p': 1.0})),)
    """
    if templates < 1:
        raise ValueError(f"templates must be at least 1, got {templates}")
    for name in label_properties:
        if name not in PROPERTIES:
            raise ValueError(_unknown("property of a label", name, PROPERTIES))
    views = [_parse(text) for text in SETS.get(spec, spec).split(";")]
    if spec == "composed":
        if not label_properties:
            raise ValueError(
                f"'composed' needs the properties that the label depends on: {sorted(PROPERTIES)}"
            )
        harmless = {
            name for name, a in AUGMENTATIONS.items() if a.changes.isdisjoint(label_properties)
        }
        views = [tuple(step for step in view if step[0] in harmless) for view in views]
    if spec not in SETS and len(views) > templates + further:
        others = f" and {further} further views" if further else ""
        raise ValueError(f"got {len(views)} views for {templates} templates{others}: {spec!r}")
    shared = 1 if len(views) == 1 else templates
    return tuple(views[m % len(views)] for m in range(shared + further))


def are_random(
    spec: str, *, templates: int, label_properties: Collection[str] = (), further: int = 0
) -> bool:
    """Whether the views that `build` makes of an image differ from step to step.

    Args:
        spec: see `build`.
        templates: see `build`.
        label_properties: see `build`.
        further: see `build`.

    >>> are_random("clean; grayscale", templates=2), are_random("grayscale(p=0.2)", templates=2)
    (False, True)
    """
    steps = itertools.chain.from_iterable(
        compositions(spec, templates=templates, label_properties=label_properties, further=further)
    )
    return any(
        AUGMENTATIONS[name].draw is not draw_nothing or 0 < options.get("p", 1) < 1
        for name, options in steps
    )


def _apply(
    view: View,
    key: PRNGKey,
    image: UInt8[Array, "height width 3"],
    aspect_ratio: pixels.Scalar | None,
    *,
    size: int,
    fill: pixels.Colour,
) -> Float[Array, "{size} {size} 3"]:
    result = image.astype(jnp.float32) / 255
    if not view or view[0][0] not in _FIRST:
        result = pixels.centre_crop(result, size, aspect_ratio)
    for number, (name, options) in enumerate(view):
        augmentation = AUGMENTATIONS[name]
        draw_key, chance_key = random.split(random.fold_in(key, number))
        draw_options = {option: value for option, value in options.items() if option != "p"}
        if name == "crop":  # its boxes have their form in the photograph
            draw_options["aspect_ratio"] = aspect_ratio
        parameters = augmentation.draw(draw_key, *result.shape[:2], **draw_options)
        inputs = {"size": size, "fill": fill}
        needed = {need: inputs[need] for need in augmentation.needs}
        changed = augmentation.apply(result, *parameters, **needed)
        if "p" in options:
            applies = random.bernoulli(chance_key, jnp.float32(options["p"]))
            changed = jnp.where(applies, changed, result)
        result = changed
    return result


def _parse(text: str) -> View:
    """Reads one view: a Python expression of names and calls with keywords, joined by `|`."""
    text = text.strip()
    try:
        node, terms = ast.parse(text, mode="eval").body, []
        while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            terms.append(node.right)
            node = node.left
        steps = [_parse_step(term) for term in reversed([*terms, node])]
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f"can't read the view {text!r}; write it like 'crop | jitter(hue=0.05) | flip'"
        ) from error
    if steps == [("clean", {})]:
        return ()
    for number, (name, _) in enumerate(steps):
        if name in SETS:
            raise ValueError(f"the set {name!r} can't be part of a chain: {text!r}")
        if name not in AUGMENTATIONS:
            raise ValueError(_unknown("view or augmentation", name, {*SETS, *AUGMENTATIONS}))
        if name in _FIRST and number:
            raise ValueError(f"{name} sets the view's size, so it must come first: {text!r}")
    return tuple((name, _complete(name, options)) for name, options in steps)


def _parse_step(node: ast.expr) -> Step:
    if isinstance(node, ast.Name):
        return node.id, {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        return node.func.id, {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    raise ValueError("neither a name nor a call with keywords")


def _complete(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Adds the defaults; checks that values have their form, number or rising pair, and range."""
    options: dict[str, Any] = dict(AUGMENTATIONS[name].options)
    for option, value in arguments.items():
        if option not in options:
            raise ValueError(_unknown(f"option of {name}", option, options))
        low, high = _LIMITS[option]
        pair = isinstance(options[option], tuple)
        values = value if pair and isinstance(value, tuple) else (value,)
        valid = all(type(v) in (int, float) and low <= v <= high for v in values)
        if len(values) != 1 + pair or not valid or values[0] > values[-1]:
            form = "a rising pair" if pair else "a number"
            raise ValueError(f"{name}({option}={value!r}): must be {form} from {low} to {high}")
        options[option] = tuple(map(float, values)) if pair else float(value)
    return options


def _check_images(images: Array | np.ndarray) -> None:
    if images.dtype != jnp.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"expected uint8 images (batch, height, width, 3), got {images.dtype} {images.shape}"
        )


def _normaliser(mean: Sequence[float], std: Sequence[float]) -> tuple[pixels.Colour, pixels.Colour]:
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"expected 3 means and 3 positive deviations, got mean={mean}, std={std}")
    return jnp.array(mean, jnp.float32), jnp.array(std, jnp.float32)


def _unknown(what: str, name: str, names: Collection[str]) -> str:
    nearest = difflib.get_close_matches(name, sorted(names), n=1, cutoff=0)[0]
    return f"unknown {what} {name!r}, did you mean {nearest!r}? known: {', '.join(sorted(names))}"
