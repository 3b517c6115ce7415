"""The bundled CLIP keeps what its card says, and the recipe that makes it works."""

import json

import numpy as np
import pytest

from cdc_jax import backbone, clip, pretrain

pytestmark = pytest.mark.slow  # pretrains, and draws many scenes


def test_the_shipped_clip_keeps_its_cards_figures():
    # A seed that neither training nor the card used; three standard errors of 600 scenes.
    measured = pretrain.zero_shot(*clip.load("world"), seed=77, scenes=600)
    for name, wanted in {
        "shape": 95.3, "colour": 99.8, "fill": 97.3, "background": 99.9, "position": 41.4,
        "fill_shape": 93.6, "colour_shape": 95.2, "task": 97.2,
    }.items():  # fmt: skip
        error = 3 * np.sqrt(wanted * (100 - wanted) / 600)
        assert measured[name] > wanted - error - 1, name


@pytest.fixture(scope="module")
def config(get_config):
    config = get_config("pretrain", "short")
    config.model.vision.update(dict(width=32, depth=2, heads=2))
    config.model.text.update(dict(width=32, depth=1, heads=2))
    config.model.embed_width = 16
    config.update(dict(steps=12, batch_size=16, warmup_steps=2))
    config.evaluate_every, config.checkpoint_every = 6, 4
    config.evaluation_scenes = 200
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pretrain")
    return workdir, pretrain.pretrain(config, workdir)


def test_pretraining_learns_and_saves_a_clip(config, finished):
    workdir, last = finished
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12]
    assert lines[-1] == last
    assert lines[1]["mask"] < lines[0]["mask"]
    saved = pretrain.zero_shot(*clip.load(workdir / "clip"), seed=config.seed, scenes=200)
    for name in ("background", "colour", "task"):
        assert abs(saved[name] - last[name]) <= 2  # half precision


def test_the_clip_that_pretraining_saves_is_small_as_the_shipped_one_is(finished):
    workdir, _ = finished
    written = json.loads((workdir / "clip/config.json").read_text())
    assert written["cdc_jax"] == {"profile": "small"}
    assert clip.read_config(workdir / "clip").profile == "small"
    assert clip.read_config("world").profile == "small"
    settings = backbone.read_settings(workdir / "clip")
    assert settings == backbone.read_settings("world")
    assert (settings.preprocessing.size, settings.profile) == (32, "small")


def test_an_interrupted_pretraining_ends_with_the_same_numbers(
    config, finished, tmp_path, monkeypatch
):
    _, whole = finished
    make = pretrain._batch

    def dying(config, step, tokenizer):
        if step == 10:
            raise KeyboardInterrupt
        return make(config, step, tokenizer)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(config, tmp_path)
    resumed = pretrain.pretrain(config, tmp_path)
    for name in ("shape", "background", "task"):
        assert resumed[name] == whole[name]
