"""config.json and preprocessor_config.json, against transformers' own reading of them."""

import dataclasses
import json

import pytest
import transformers
from flax import nnx
from huggingface_hub.errors import StrictDataclassError
from references import clip_reference as reference

from cdc_jax import clip
from cdc_jax.clip import ClipConfig, Transformer

CONFIG = reference.CONFIGS["patch16"]
OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# As published with openai/clip-vit-large-patch14-336 and laion/CLIP-ViT-H-14-laion2B-s32B-b79K,
# cut to what matters: partial sections, and sections that stand there twice.
LARGE_336 = {
    "model_type": "clip",
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "eos_token_id": 2, "vocab_size": 49408},
    "text_config_dict": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
    },
    "vision_config": {"hidden_size": 1024, "image_size": 224},
    "vision_config_dict": {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
HUGE = {
    "model_type": "clip",
    "projection_dim": 1024,
    "text_config_dict": None,
    "text_config": {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "eos_token_id": 2,
    },
    "vision_config_dict": None,
    "vision_config": {
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_hidden_layers": 32,
        "patch_size": 14,
    },
}


def as_transformers_reads(config):
    config = transformers.CLIPConfig(**config)

    def sizes(section):
        return Transformer(
            section.hidden_size,
            section.num_hidden_layers,
            section.num_attention_heads,
            section.intermediate_size,
            section.hidden_act,
            section.layer_norm_eps,
        )

    def one(value):
        """The number in a list of equal ones."""
        (number,) = set(value) if isinstance(value, list) else {value}
        return number

    text, vision = config.text_config, config.vision_config
    return ClipConfig(
        vision=sizes(vision),
        text=sizes(text),
        embed_width=config.projection_dim,
        image_size=one(vision.image_size),
        patch_size=one(vision.patch_size),
        vocab_size=text.vocab_size,
        context_length=text.max_position_embeddings,
        eot_id=one(text.eos_token_id),
        mean=OPENAI_MEAN,
        std=OPENAI_STD,
    )


@pytest.mark.parametrize(
    "config",
    [LARGE_336, HUGE, {"model_type": "clip"}, *reference.CONFIGS.values()],
    ids=["large_336", "huge", "defaults", *reference.CONFIGS],
)
def test_reads_as_transformers_does_and_writes_the_same(config):
    found = ClipConfig.from_hf(config)
    assert found == as_transformers_reads(config)
    assert ClipConfig.from_hf(found.to_hf(), found.preprocessor_to_hf()) == found
    assert as_transformers_reads(found.to_hf()) == found


def changed(section, **values):
    return CONFIG | {section: CONFIG[section] | values}


def without(*keys, **sections):
    """The configuration without keys of the whole, or of its sections."""
    found = {key: value for key, value in CONFIG.items() if key not in keys}
    for section, dropped in sections.items():
        found[section] = {k: v for k, v in CONFIG[section].items() if k not in dropped}
    return found


@pytest.mark.parametrize(
    "config",
    [
        changed("text_config", eos_token_id=[60]),
        changed("vision_config", image_size=[48, 48]),
        changed("vision_config", patch_size=[16, 16]),
        changed("vision_config", num_channels=3, attention_dropout=0.1, unknown={"a": [1]}),
        without(text_config=["projection_dim"], vision_config=["projection_dim"]),
        CONFIG | {"text_config_dict": {}},
        CONFIG | {"vision_config_dict": {"hidden_size": 96, "image_size": 64}},
        CONFIG | {"text_config_dict": None, "vision_config_dict": None},
        CONFIG | {"text_config_dict": CONFIG["text_config"], "text_config": None},
        CONFIG | {"logit_scale_init_value": 2.6592, "initializer_factor": 1.0, "dtype": "float16"},
    ],
)
def test_reads_what_transformers_reads_without_a_word(config):
    try:
        expected = as_transformers_reads(json.loads(json.dumps(config)))
    except StrictDataclassError:
        pytest.skip("this release of transformers refuses it")
    assert ClipConfig.from_hf(config) == expected


def test_one_projection_of_both_sections_is_that_of_the_whole():
    assert ClipConfig.from_hf(without("projection_dim")).embed_width == 24
    disagreeing = without("projection_dim") | {"text_config": {"projection_dim": 8}}
    with pytest.raises(ValueError, match="projection_dim is 8 in text_config and 24 in vision"):
        ClipConfig.from_hf(disagreeing)
    nowhere = without(
        "projection_dim", text_config=["projection_dim"], vision_config=["projection_dim"]
    )
    assert ClipConfig.from_hf(nowhere).embed_width == 512  # transformers' default


NUMBER = "a whole number from 1 to"


@pytest.mark.parametrize(
    "section, key, value, what",
    [
        *[("text_config", "hidden_size", value, NUMBER)
          for value in ("128", [128], -128, 128.0, True, 0, 2**40, {}, 10**30)],
        *[("vision_config", "num_attention_heads", value, NUMBER) for value in (0, -4, "4")],
        *[("vision_config", "num_hidden_layers", value, NUMBER) for value in (0, 3 * 10**7, 2.5)],
        *[("vision_config", "patch_size", value, NUMBER) for value in (-8, 0, "16")],
        ("vision_config", "patch_size", [16, 8], "or the same one twice"),
        ("vision_config", "image_size", [48, 32], "or the same one twice"),
        ("vision_config", "image_size", [48, 48, 48], "or a list of 2 items"),
        ("vision_config", "image_size", 10**9, NUMBER),
        *[("text_config", "layer_norm_eps", value, "a finite number from 0 to 1")
          for value in ("1e-5", float("nan"), float("inf"), -1e-5, [1e-5], 10**400)],
        *[("text_config", "eos_token_id", value, "a whole number from 0 to")
          for value in (-1, "2", 2.0)],
        ("text_config", "eos_token_id", [], "a list of 1 items"),
        ("text_config", "eos_token_id", [60, 61], "a list of 1 items"),
        ("text_config", "max_position_embeddings", 2, "a whole number from 3 to"),
        ("text_config", "vocab_size", 2**31, NUMBER),
        ("text_config", "hidden_act", ["gelu"], "a text among"),
        ("vision_config", "num_channels", 4, "a number among 3"),
    ],
)  # fmt: skip
def test_values_that_can_not_be_are_refused_by_key(section, key, value, what):
    with pytest.raises(ValueError) as caught:
        ClipConfig.from_hf(changed(section, **{key: value}), where="model/config.json")
    message = str(caught.value)
    assert message.startswith(f"model/config.json: {section}.{key}"), message
    assert what in message and "got " in message
    assert message.endswith("; correct the file, or copy it again from where the model came")
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("key", ["text_config", "vision_config", "text_config_dict"])
@pytest.mark.parametrize("value", ["x", [1], 3, True])
def test_sections_must_be_objects(key, value):
    with pytest.raises(ValueError, match=f"config.json: {key} must be an object, got "):
        ClipConfig.from_hf(CONFIG | {key: value})


def test_sizes_of_published_models():
    large = ClipConfig.from_hf(LARGE_336)
    assert large.vision == Transformer(1024, 24, 16, 4096, "quick_gelu")
    assert (large.image_size, large.patches, large.embed_width) == (336, 24**2, 768)
    huge = ClipConfig.from_hf(HUGE)
    assert huge.text == Transformer(1024, 24, 16, 4096, "gelu")
    assert (huge.eot_id, huge.vocab_size, huge.context_length) == (2, 49408, 77)


@pytest.mark.parametrize("size, crop", [
    (48, 48),  # as old releases wrote it
    ({"shortest_edge": 48}, {"height": 48, "width": 48}),
])  # fmt: skip
def test_reads_preprocessors(size, crop):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]
    settings = {"size": size, "crop_size": crop, "image_mean": mean, "image_std": std}
    found = ClipConfig.from_hf(CONFIG, settings | {"resample": 3, "do_convert_rgb": True})
    assert (found.mean, found.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert ClipConfig.from_hf(found.to_hf(), found.preprocessor_to_hf()) == found
    written = transformers.CLIPImageProcessorPil(**found.preprocessor_to_hf())
    assert dict(written.size) == {"shortest_edge": 48} and list(written.image_std) == std
    hash(found)  # it is a static attribute of the model


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            {"crop_size": 40},
            "crop_size must be height and width 48, the model's image_size, got 40",
        ),
        ({"crop_size": {"shortest_edge": 48}}, "crop_size must be height and width, each from 1"),
        ({"do_center_crop": False}, "size must be height and width 48, the model's image_size"),
        ({"do_resize": False}, "do_resize must be true, got False"),
        ({"do_pad": True}, "do_pad must be false, got True"),
        ({"size": {"shortest_edge": 48, "longest_edge": 64}}, "size must be height and width, "),
        ({"size": 0}, "size must be a whole number from 1 to 8192, got 0"),
        ({"size": "48"}, "size must be height and width, each from 1 to 8192, or a shortest_edge"),
        ({"size": [48]}, "size must be a list of 2 items, got [48]"),
        ({"resample": 99}, "resample must be a whole number from 0 to "),
        ({"resample": "bicubic"}, "resample must be a whole number from 0 to "),
        ({"rescale_factor": 0}, "rescale_factor must be a finite number from 1e-09 to"),
        ({"rescale_factor": float("nan")}, "rescale_factor must be a finite number"),
        ({"image_std": [0.5, 0.5]}, "or a list of 3 items, got [0.5, 0.5]"),
        ({"image_std": [0.5, 0.5, 0]}, "image_std[2] must be a finite number from 1e-09"),
        ({"image_mean": ["0.5"] * 3}, "image_mean[0] must be a finite number"),
        (
            {"image_processor_type": "ViTImageProcessor"},
            "image_processor_type must be a text among",
        ),
    ],
)
def test_refuses_other_preprocessors(settings, message):
    with pytest.raises(ValueError) as caught:
        ClipConfig.from_hf(CONFIG, {"size": 48, "crop_size": 48} | settings)
    assert str(caught.value).startswith("preprocessor_config.json: ")
    assert message in str(caught.value)
    assert str(caught.value).endswith(
        "; correct the file, or copy it again from where the model came"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "siglip"}, "model_type 'siglip', not 'clip'"),
        ({"text_config": {"hidden_act": "relu"}}, "hidden_act must be .* got 'relu'"),
        ({"text_config": {"hidden_size": 50}}, "width 50 must be a multiple of heads 8"),
        ({"vision_config": {"image_size": 50}}, "image size 50 must be a multiple of patch size"),
    ],
)
def test_refuses_what_is_not_a_clip(changes, message):
    with pytest.raises(ValueError, match=message):
        ClipConfig.from_hf(CONFIG | changes)


def test_configs_can_be_varied():
    config = ClipConfig.from_hf(CONFIG)
    assert dataclasses.replace(config, image_size=64).patches == 16


# ---- The profile, in a section of its own


def with_own(own):
    return ClipConfig.from_hf(CONFIG | {"cdc_jax": own})


def test_a_profile_is_read_and_written():
    found = with_own({"profile": "small"})
    assert found.profile == "small"
    assert found == dataclasses.replace(ClipConfig.from_hf(CONFIG), profile="small")
    assert found.to_hf()["cdc_jax"] == {"profile": "small"}
    assert ClipConfig.from_hf(found.to_hf(), found.preprocessor_to_hf()) == found


@pytest.mark.parametrize("own", [{}, {"profile": ""}, {"other": 3}])
def test_no_profile_is_that_of_the_published_sizes(own):
    assert with_own(own) == ClipConfig.from_hf(CONFIG)
    assert with_own(own).profile == ClipConfig.from_hf(CONFIG).profile == ""
    assert "cdc_jax" not in with_own(own).to_hf()


def test_transformers_keeps_the_profile(tmp_path):
    transformers.CLIPConfig(**with_own({"profile": "small"}).to_hf()).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["cdc_jax"] == {"profile": "small"}
    assert ClipConfig.from_hf(written) == with_own({"profile": "small"})


@pytest.mark.parametrize("own", ["small", ["small"], 3, {"profile": 3}, {"profile": ["small"]}])
def test_a_profile_that_is_no_string_in_an_object_is_refused(own):
    key, what = ("cdc_jax", "an object") if not isinstance(own, dict) else (
        "cdc_jax.profile", "a text"
    )  # fmt: skip
    value = own["profile"] if isinstance(own, dict) else own
    with pytest.raises(ValueError) as caught:
        with_own(own)
    assert str(caught.value).startswith(f"config.json: {key} must be {what}, got {value!r}; ")


@pytest.mark.slow
def test_a_saved_clip_keeps_its_profile(tmp_path):
    for profile in ("small", ""):
        config = clip.read_config("world")
        assert config.profile == "small"  # the bundled one's
        config = dataclasses.replace(
            config, vision=Transformer(8, 1, 2, 8), text=Transformer(8, 1, 2, 8), profile=profile
        )
        tokenizer = clip.Tokenizer.from_pretrained(clip.hub.find("world", weights=False), 77)
        folder = tmp_path / f"of {profile!r}"
        clip.save_pretrained(clip.Clip(config, nnx.Rngs(0)), tokenizer, folder)
        assert clip.read_config(folder) == clip.load(folder)[0].config == config
        own = {"cdc_jax": {"profile": "small"}} if profile else {}
        written = json.loads((folder / "config.json").read_text())
        assert {key: value for key, value in written.items() if key == "cdc_jax"} == own
