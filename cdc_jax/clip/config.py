"""Sizes and settings of a CLIP, read from Hugging Face's JSON files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

_ACTIVATIONS = ("quick_gelu", "gelu")

# transformers' own defaults: what a key that config.json leaves out means.
_TEXT_DEFAULTS: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
    "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5, "eos_token_id": 49407,
}  # fmt: skip
_VISION_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}  # fmt: skip
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's, of pixels in [0, 1]
_STD = (0.26862954, 0.26130258, 0.27577711)
_BICUBIC = 3  # Pillow's number
_OWN = "cdc_jax"  # section of config.json; transformers keeps what it does not know


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
    mean: tuple[float, float, float] = _MEAN  # images are normalised by these
    std: tuple[float, float, float] = _STD
    profile: str = ""  # training settings that suit its size, see `methods.rows.Row`

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image size {self.image_size} must be a multiple of patch size {self.patch_size}"
            )

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def from_hf(
        cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None
    ) -> "ClipConfig":
        """Reads the settings of a CLIP repository.

        Args:
          config: contents of `config.json`.
          preprocessor: contents of `preprocessor_config.json`; None means CLIP's own settings.

        Raises:
          ValueError: not a CLIP configuration, or one whose settings CLIP does not have.
        """
        if config.get("model_type") != "clip":
            raise ValueError(
                f"config.json is of model_type {config.get('model_type')!r}, not 'clip'"
            )
        text = _TEXT_DEFAULTS | _section(config, "text_config")
        vision = _VISION_DEFAULTS | _section(config, "vision_config")
        mean, std = _MEAN, _STD
        if preprocessor is not None:
            mean, std = _normalisation(preprocessor, vision["image_size"])
        return cls(
            vision=_transformer(vision),
            text=_transformer(text),
            embed_width=config.get("projection_dim", 512),
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            vocab_size=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            eot_id=text["eos_token_id"],
            mean=mean,
            std=std,
            profile=_profile(config.get(_OWN, {})),
        )

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
        own = {_OWN: {"profile": self.profile}} if self.profile else {}
        return own | {
            "architectures": ["CLIPModel"],
            "model_type": "clip",
            "projection_dim": self.embed_width,
            "text_config": text,
            "vision_config": vision,
        }

    def preprocessor_to_hf(self) -> dict[str, Any]:
        """The contents of a `preprocessor_config.json` for transformers' CLIPImageProcessor."""
        size = self.image_size
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
            "do_resize": True,
            "size": {"shortest_edge": size},
            "resample": _BICUBIC,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }


def _section(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    # Old releases wrote `<name>_dict` as well; where it stands, transformers lets it win.
    section = config.get(f"{name}_dict")
    if section is None:
        section = config.get(name) or {}
    return {key: value for key, value in section.items() if value is not None}


def _profile(own: Any) -> str:
    profile = own.get("profile", "") if isinstance(own, Mapping) else None
    if not isinstance(profile, str):
        raise ValueError(
            f"{_OWN} in config.json must be an object with the name of a profile, got {own!r}"
        )
    return profile


def _normalisation(settings: Mapping[str, Any], image_size: int) -> tuple[Any, Any]:
    """Mean and standard deviation, after a check that all else is CLIP's usual treatment."""
    size, crop = settings.get("size", 224), settings.get("crop_size", 224)
    found = {
        # Old releases wrote a number.
        "size": {"shortest_edge": size} if isinstance(size, int) else dict(size),
        "crop_size": {"height": crop, "width": crop} if isinstance(crop, int) else dict(crop),
        "resample": settings.get("resample", _BICUBIC),
        "rescale_factor": settings.get("rescale_factor", 1 / 255),
    }
    expected = {
        "size": {"shortest_edge": image_size},
        "crop_size": {"height": image_size, "width": image_size},
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
    }
    for step in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        found[step], expected[step] = settings.get(step, True), True
    if wrong := [key for key in expected if found[key] != expected[key]]:
        raise ValueError(
            "images are resized bicubically, cropped to the model's image_size and normalised, "
            "but the preprocessor's settings differ: "
            + ", ".join(f"{key} is {found[key]}, not {expected[key]}" for key in wrong)
        )
    mean, std = (
        tuple(float(x) for x in settings.get(key, default))
        for key, default in (("image_mean", _MEAN), ("image_std", _STD))
    )
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(f"image_mean {mean} and image_std {std} must be 3 numbers each, std > 0")
    return mean, std


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
