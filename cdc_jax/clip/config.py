"""Sizes and settings of a CLIP, read from Hugging Face's JSON files."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from PIL import Image

from cdc_jax import schema
from cdc_jax.preprocessing import MEAN, STD, Preprocessing
from cdc_jax.schema import integer, list_of, number, one_of, optional, record, table, text

_ACTIVATIONS = ("quick_gelu", "gelu")
_OWN = "cdc_jax"  # section of config.json; transformers keeps unknown sections
_REMEDY = "correct the file, or copy it again from where the model came"
_RESCALE = 1 / 255


def _pair_of_equals(most: int) -> schema.Kind:
    """A side: a number, or the same number twice."""
    what = f"a whole number from 1 to {most}, or the same one twice"
    pair = schema.either(integer(1, most), list_of(integer(1, most), 2, 2))

    def read(value: Any, key: str) -> int:
        sides = pair.read(value, key)
        if isinstance(sides, int):
            return sides
        if sides[0] != sides[1]:
            raise schema.misfit(value, key, what)
        return sides[0]

    return schema.Kind(what, read)


# What a key that is left out means are transformers' own defaults. The bounds are far beyond every
# CLIP's sizes: they keep a damaged number from taking all memory.
_TOWER = {
    "num_hidden_layers": optional(integer(1, 1024), 12),
    "hidden_act": optional(one_of(*_ACTIVATIONS), "quick_gelu"),
    "layer_norm_eps": optional(number(0, 1), 1e-5),
    "projection_dim": optional(integer(1, 2**16)),
}
_TEXT = record(
    **_TOWER,
    hidden_size=optional(integer(1, 2**16), 512),
    intermediate_size=optional(integer(1, 2**18), 2048),
    num_attention_heads=optional(integer(1, 2**12), 8),
    vocab_size=optional(integer(1, 2**24), 49408),
    max_position_embeddings=optional(integer(3, 2**16), 77),
    eos_token_id=optional(
        schema.either(integer(0, 2**24), list_of(integer(0, 2**24), 1, 1)), 49407
    ),
)
_VISION = record(
    **_TOWER,
    hidden_size=optional(integer(1, 2**16), 768),
    intermediate_size=optional(integer(1, 2**18), 3072),
    num_attention_heads=optional(integer(1, 2**12), 12),
    image_size=optional(_pair_of_equals(2**13), 224),
    patch_size=optional(_pair_of_equals(2**13), 32),
    num_channels=optional(one_of(3), 3),
)
_SECTION = optional(table(schema.anything()))
_CONFIG = record(
    projection_dim=optional(integer(1, 2**16)),
    text_config=_SECTION,
    text_config_dict=_SECTION,
    vision_config=_SECTION,
    vision_config_dict=_SECTION,
    **{_OWN: optional(record(profile=optional(text(), "")), {"profile": ""})},
)

# In an image processor, null switches a step off and is no default.
_NULLS = {
    "do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False,
}  # fmt: skip


def _size(short_side: bool) -> schema.Kind:
    """A side of the image processor: (height, width), or where it may be so the short side."""
    side = integer(1, 2**13)
    pair = list_of(side, 2, 2)
    what = "height and width, each from 1 to 8192"
    what += ", or a shortest_edge" if short_side else ""

    def read(value: Any, key: str) -> int | tuple[int, int]:
        if isinstance(value, Mapping):
            value = {name: length for name, length in value.items() if length is not None}
            if set(value) == {"height", "width"}:
                return side.read(value["height"], key), side.read(value["width"], key)
            if set(value) == {"shortest_edge"} and short_side:
                return side.read(value["shortest_edge"], key)
        elif isinstance(value, list):  # as old releases wrote it, as a number
            height, width = pair.read(value, key)
            return height, width
        elif type(value) is int:
            edge = side.read(value, key)
            return edge if short_side else (edge, edge)
        raise schema.misfit(value, key, what)

    return schema.Kind(what, read)


def _channels(kind: schema.Kind, default: tuple[float, float, float]) -> schema.Kind:
    """A number a channel, or one for all."""
    numbers = schema.either(kind, list_of(kind, 3, 3))

    def read(value: Any, key: str) -> tuple[float, ...]:
        channels = numbers.read(value, key)
        return tuple(channels) if isinstance(channels, list) else (channels,) * 3

    return optional(schema.Kind(numbers.what, read), default)


_NAMES = [f"CLIP{name}" for name in ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil")]
# The defaults are those of transformers' CLIPImageProcessor.
_PREPROCESSOR = record(
    image_processor_type=optional(one_of(*_NAMES, "CLIPFeatureExtractor")),
    do_resize=optional(one_of(True), True),
    size=optional(_size(short_side=True), 224),
    resample=optional(integer(0, len(Image.Resampling) - 1), int(Image.Resampling.BICUBIC)),
    do_center_crop=optional(schema.boolean(), True),
    crop_size=optional(_size(short_side=False), (224, 224)),
    do_rescale=optional(schema.boolean(), True),
    rescale_factor=optional(number(1e-9, 1e9), _RESCALE),
    do_normalize=optional(schema.boolean(), True),
    image_mean=_channels(number(-1e6, 1e6), MEAN),
    image_std=_channels(number(1e-9, 1e9), STD),
    do_pad=optional(one_of(False), False),
    use_square_size=optional(one_of(False), False),
)


@dataclasses.dataclass(frozen=True)
class Transformer:
    """Sizes of a stack of pre-norm blocks."""

    width: int
    depth: int
    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    epsilon: float = 1e-5

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(
                f"unknown activation {self.activation!r}: CLIP uses {' or '.join(_ACTIVATIONS)}"
            )


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Everything that fixes the shapes and the arithmetic of a CLIP."""

    vision: Transformer
    text: Transformer
    embed_width: int  # D, the width of the joint embedding
    image_size: int  # side in pixels
    patch_size: int
    vocab_size: int
    context_length: int
    eot_id: int  # 2 is the legacy value that means: the largest id of the sequence
    mean: tuple[float, float, float] = MEAN  # images are normalised by these
    std: tuple[float, float, float] = STD
    profile: str = ""  # training settings that suit its size, see `methods.rows.Row`
    resize: int | tuple[int, int] | None = None  # this and the next: see `Preprocessing`
    resample: int = int(Image.Resampling.BICUBIC)

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image size {self.image_size} must be a multiple of patch size {self.patch_size}"
            )

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become the input of the image tower."""
        return Preprocessing(self.image_size, self.resize, self.resample, self.mean, self.std)

    @classmethod
    def from_hf(
        cls,
        config: Mapping[str, Any],
        preprocessor: Mapping[str, Any] | None = None,
        where: str = "config.json",
        preprocessor_where: str = "preprocessor_config.json",
    ) -> "ClipConfig":
        """Reads the settings of a CLIP repository.

        A key that is missing or null has transformers' default. Without a `projection_dim` of its
        own, the whole model has that of its sections.

        Args:
          config: contents of `config.json`.
          preprocessor: contents of `preprocessor_config.json`; None means CLIP's own settings.
          where: what messages call the former.
          preprocessor_where: what they call the latter.

        Raises:
          ValueError: not a CLIP configuration, or one whose settings CLIP does not have; the
            message names the file, the key and the value.
        """
        if config.get("model_type") != "clip":
            raise ValueError(
                f"{where} is of model_type {schema.shown(config.get('model_type'))}, not 'clip': "
                "choose a CLIP in transformers' format"
            )
        settings = schema.check(config, _CONFIG, where, _REMEDY)
        text = _section(settings, "text_config", _TEXT, where)
        vision = _section(settings, "vision_config", _VISION, where)
        images = Preprocessing(vision["image_size"])
        if preprocessor is not None:
            images = _preprocessing(preprocessor, vision["image_size"], preprocessor_where)
        eot = text["eos_token_id"]
        try:
            return cls(
                vision=_transformer(vision),
                text=_transformer(text),
                embed_width=_embed_width(settings, text, vision, where),
                image_size=vision["image_size"],
                patch_size=vision["patch_size"],
                vocab_size=text["vocab_size"],
                context_length=text["max_position_embeddings"],
                eot_id=eot[0] if isinstance(eot, list) else eot,
                mean=images.mean,
                std=images.std,
                profile=settings[_OWN]["profile"],
                resize=images.resize,
                resample=images.resample,
            )
        except ValueError as error:
            raise ValueError(f"{where}: {error}; {_REMEDY}") from None

    def to_hf(self) -> dict[str, Any]:
        """The contents of a `config.json` that transformers' CLIPModel reads."""
        text = _hf_section(self.text) | {
            "model_type": "clip_text_model",
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_length,
            "projection_dim": self.embed_width,
            "bos_token_id": 0 if self.eot_id == 2 else self.vocab_size - 2,
            "eos_token_id": self.eot_id,
            "pad_token_id": 1 if self.eot_id == 2 else self.eot_id,
        }
        vision = _hf_section(self.vision) | {
            "model_type": "clip_vision_model",
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "projection_dim": self.embed_width,
        }
        section = {_OWN: {"profile": self.profile}} if self.profile else {}
        return section | {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.embed_width,
            "text_config": text,
            "vision_config": vision,
        }

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The contents of a `preprocessor_config.json` for transformers' CLIPImageProcessor."""
        size, resize = self.image_size, self.resize or self.image_size
        if isinstance(resize, tuple):
            scaled = {"height": resize[0], "width": resize[1]}
        else:
            scaled = {"shortest_edge": resize}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": scaled,
            "resample": self.resample,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": _RESCALE,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _section(config: Mapping[str, Any], name: str, kind: schema.Kind, where: str) -> dict[str, Any]:
    # Old releases wrote `<name>_dict` as well. Where it stands, even empty, transformers takes
    # every value from it.
    key = name if config[f"{name}_dict"] is None else f"{name}_dict"
    return schema.check({key: config[key] or {}}, record(**{key: kind}), where, _REMEDY)[key]


def _embed_width(
    config: Mapping[str, Any], text: Mapping[str, Any], vision: Mapping[str, Any], where: str
) -> int:
    if config["projection_dim"] is not None:
        return config["projection_dim"]
    widths = {section["projection_dim"] for section in (text, vision)} - {None}
    if len(widths) > 1:
        raise ValueError(
            f"projection_dim is {text['projection_dim']} in text_config and "
            f"{vision['projection_dim']} in vision_config: features of both must have one width"
        )
    return widths.pop() if widths else 512


def _preprocessing(settings: Mapping[str, Any], image_size: int, where: str) -> Preprocessing:
    """What an image processor does, in the terms of `Preprocessing`."""
    nulls = {key: value for key, value in _NULLS.items() if settings.get(key, "") is None}
    processor = schema.check({**settings, **nulls}, _PREPROCESSOR, where, _REMEDY)
    size, square = processor["size"], (image_size, image_size)
    key = "crop_size" if processor["do_center_crop"] else "size"
    if processor[key] != square:
        without = "" if processor["do_center_crop"] else " where do_center_crop is false"
        raise ValueError(
            f"{where}: {key} must be height and width {image_size}, the model's image_size,"
            f"{without} got {schema.shown(settings.get(key, processor[key]))}; {_REMEDY}"
        )
    mean = processor["image_mean"] if processor["do_normalize"] else (0.0,) * 3
    std = processor["image_std"] if processor["do_normalize"] else (1.0,) * 3
    # Pixels are divided by 255 here: (factor x - mean) / std is (x / 255 - mean / c) / (std / c).
    # Files that state the factor in ten digits mean 1/255 as well.
    factor = processor["rescale_factor"] if processor["do_rescale"] else 1.0
    c = 1.0 if math.isclose(factor, _RESCALE, rel_tol=1e-6) else 255 * factor
    return Preprocessing(
        image_size,
        None if size == image_size else size,
        processor["resample"],
        (mean[0] / c, mean[1] / c, mean[2] / c),
        (std[0] / c, std[1] / c, std[2] / c),
    )


def _transformer(section: Mapping[str, Any]) -> Transformer:
    return Transformer(
        width=section["hidden_size"],
        depth=section["num_hidden_layers"],
        heads=section["num_attention_heads"],
        mlp_width=section["intermediate_size"],
        activation=section["hidden_act"],
        epsilon=section["layer_norm_eps"],
    )


def _hf_section(sizes: Transformer) -> dict[str, Any]:
    return {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.depth,
        "num_attention_heads": sizes.heads,
        "intermediate_size": sizes.mlp_width,
        "hidden_act": sizes.activation,
        "layer_norm_eps": sizes.epsilon,
    }
