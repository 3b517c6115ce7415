"""The embedded world: factors, pictures, captions, vocabulary and few-shot tasks."""

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from cdc_jax import tasks
from cdc_jax.tasks.world import captions, factors, fewshot, render, vocabulary


def scene(count=1, seed=0, **values):
    return factors.do(factors.sample(count, seed), style="clean", marks="none", **values)


def world_config(**changes):
    config = ConfigDict(
        {
            "dataset": "world",
            "world": {"kind": "aligned", "rho": 0.9, "test_images": 40},
            "shots": 16,
            "seed": 3,
        }
    )
    config.update_from_flattened_dict(changes)
    return config


def test_factors_are_pure_and_within_range():
    first, second = factors.sample(500, [1, 2]), factors.sample(500, [1, 2])
    for name, values in factors.VALUES.items():
        assert np.array_equal(first[name], second[name])
        assert set(first[name]) == set(range(len(values)))
    assert not np.array_equal(first["shape"], factors.sample(500, [1, 3])["shape"])


def test_factor_frequencies():
    drawn = factors.sample(20_000, 0)
    assert stats.chisquare(np.bincount(drawn["shape"])).pvalue > 1e-4
    clean = (drawn["style"] == 0).mean()
    assert abs(clean - 0.68) < 4 * np.sqrt(0.68 * 0.32 / 20_000)


def test_held_out_combinations():
    grid = np.array([(s, c, f) for s in range(28) for c in range(10) for f in range(6)]).T
    out = factors.held_out(dict(zip(("shape", "colour", "fill"), grid, strict=True)))
    pairs = {tuple(p) for p in grid[:2, out].T} - {tuple(p) for p in grid[:2, ~out].T}
    assert len(pairs) == 28  # one colour for every shape, whatever the fill
    assert len({s for s, _ in pairs}) == 28
    pairs = {tuple(p) for p in grid[[0, 2]][:, out].T} - {tuple(p) for p in grid[[0, 2]][:, ~out].T}
    assert len(pairs) == 12
    assert not factors.held_out(factors.sample(5000, 1, combinations="seen")).any()
    assert factors.held_out(factors.sample(5000, 1)).any()


def test_do_sets_a_value_an_array_or_a_distribution():
    drawn = factors.sample(4000, 0)
    before = {name: indices.copy() for name, indices in drawn.items()}
    changed = factors.do(
        drawn, 1, colour="blue", shape=np.arange(4000) % 28, marks={"none": 0.25, "black": 0.75}
    )
    assert (changed["colour"] == 5).all()
    assert (changed["shape"] == np.arange(4000) % 28).all()
    counts = np.bincount(changed["marks"], minlength=3)
    assert counts[1] == 0
    assert abs(counts[2] / 4000 - 0.75) < 0.03
    for name, indices in drawn.items():
        assert np.array_equal(indices, before[name])
        if name not in ("colour", "shape", "marks"):
            assert np.array_equal(changed[name], indices)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hue": 1}, "unknown factor 'hue': the world has shape, colour"),
        ({"colour": "mauve"}, "factor 'colour' has no value 'mauve': it has red, orange"),
        ({"shape": 28}, "factor 'shape' has no value 28"),
        ({"marks": {"none": 0.5, "white": 0.2}}, "probabilities of 'marks' must sum to 1"),
        ({"size": np.zeros(4, int)}, "'size' needs 2 indices, got shape"),
        ({"size": np.array([0, 3])}, "factor 'size' has no value 3"),
    ],
)
def test_do_refuses(values, message):
    with pytest.raises(ValueError, match=message):
        factors.do(factors.sample(2, 0), **values)


def test_rendering_is_pure():
    drawn = factors.sample(300, 5)
    images = render.render(drawn, 7)
    assert images.shape == (300, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, render.render(drawn, 7))
    assert not np.array_equal(images, render.render(drawn, 8))


def test_a_solid_object_shows_its_colour_and_its_background():
    red = np.array([220, 30, 30])
    navy = np.array([20, 30, 80])
    drawn = scene(
        200, shape="circle", colour="red", fill="solid", background="navy", pattern="plain",
        distractor="none",
    )  # fmt: skip
    images, masks = render.render_with_masks(drawn, 0)
    for i in range(200):
        assert abs(images[i][masks[i]].mean(0) - red).max() < 50
        assert abs(images[i][~masks[i]].mean(0) - navy).max() < 50


def test_position_moves_and_size_grows_the_object():
    column = np.arange(32)
    centres, areas = {}, {}
    for position in factors.VALUES["position"]:
        masks = render.render_with_masks(scene(300, shape="circle", position=position), 0)[1]
        rows, columns = masks.sum(2), masks.sum(1)
        centres[position] = [
            (columns @ column / masks.sum((1, 2))).mean(),
            (rows @ column / masks.sum((1, 2))).mean(),
        ]
    assert centres["left"][0] < centres["center"][0] - 3 < centres["right"][0] - 6
    assert centres["top"][1] < centres["center"][1] - 3 < centres["bottom"][1] - 6
    for size in factors.VALUES["size"]:
        areas[size] = render.render_with_masks(scene(300, size=size), 0)[1].mean()
    assert areas["small"] < 0.8 * areas["medium"] < 0.64 * areas["large"]


def test_an_intervention_changes_only_what_it_names():
    drawn = scene(100, seed=4, distractor="none")
    marked = factors.do(drawn, marks="white")
    plain, changed = render.render(drawn, 0), render.render(marked, 0)
    differs = (plain != changed).any((0, 3))
    assert differs[:4, :4].all()
    assert differs[-4:, -4:].all()
    assert differs.sum() == 32


def test_a_sketch_has_no_colour():
    images = render.render(factors.do(scene(50), style="sketch"), 0).astype(int)
    assert np.abs(images - images.mean(-1, keepdims=True)).max() <= 0.2 * 255
    assert np.abs(images - images.mean(-1, keepdims=True)).mean() < 5


def test_captions_tell_the_truth():
    drawn = factors.sample(3000, 2)
    texts = captions.captions(drawn, 3)
    assert texts == captions.captions(drawn, 3)
    words = set(captions.vocabulary())
    mentioned = {name: 0 for name in factors.VALUES}
    for i, text in enumerate(texts):
        said = set(text.removesuffix(" .").split())
        assert said <= words
        for name in ("shape", "fill", "size", "position", "rotation"):
            claims = said & set(factors.VALUES[name])
            assert claims <= {factors.VALUES[name][drawn[name][i]]}
            mentioned[name] += bool(claims)
        colours = {factors.VALUES[c][drawn[c][i]] for c in ("colour", "distractor_colour")}
        assert said & set(factors.VALUES["colour"]) <= colours
        if factors.VALUES["style"][drawn["style"][i]] == "sketch":
            assert not said & {*factors.VALUES["colour"], *factors.VALUES["background"][2:]}
    assert abs(mentioned["shape"] / 3000 - 0.88) < 0.03
    assert max(len(text.split()) for text in texts) <= 26


def test_every_caption_word_is_one_token(tmp_path):
    from cdc_jax.clip import Tokenizer

    size = vocabulary.write_tokenizer(captions.vocabulary(), 77, tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer.vocab_size == size
    for word in captions.vocabulary():
        assert len(tokenizer.words(word)) == 1, word
    assert len(tokenizer.words("Żółw ü 龜 🐢")) > 5
    assert sorted(set(tokenizer.vocabulary())) == sorted(tokenizer.vocabulary())


def test_merges_by_hand():
    assert vocabulary.merges(["aab", "ab"]) == [("a", "b</w>"), ("a", "ab</w>")]


@pytest.mark.parametrize("seed", range(5))
def test_aligned_classes_are_a_grid_that_pretraining_knew(seed):
    classes = fewshot.aligned_classes(seed)
    assert len({c.name for c in classes}) == 24
    fills, shapes = ({c.factors[f] for c in classes} for f in ("fill", "shape"))
    assert (len(fills), len(shapes)) == (4, 6)
    for c in classes:
        fill, shape = c.name.split()
        assert factors.VALUES["fill"][c.factors["fill"]] == fill
        assert factors.VALUES["shape"][c.factors["shape"]] == shape
        seen = {name: np.arange(10) for name in ("colour",)}
        seen |= {name: np.full(10, c.factors[name]) for name in ("fill", "shape")}
        assert not factors.held_out(seen).all()


def test_the_task_has_the_promised_splits():
    task = tasks.load(world_config())
    assert len(task.train) == 12 * 16
    assert (np.bincount(task.train.labels) == 16).all()
    assert (np.bincount(task.val.labels) == 4).all()
    halves = {"base": task.class_names, "new": task.test["new_iid"].class_names}
    assert not set(halves["base"]) & set(halves["new"])
    for half in halves:
        for split in fewshot.SPLITS:
            examples = task.test[f"{half}_{split}"]
            assert examples.class_names == halves[half]
            assert (np.bincount(examples.labels) == 40).all()
    images = [task.train.images, task.val.images, *(e.images for e in task.test.values())]
    assert len(np.unique(np.concatenate(images), axis=0)) == sum(map(len, images))


def test_spurious_correlation_has_the_asked_strength():
    classes = fewshot.aligned_classes(0)
    own = fewshot.correlated_values(24, 0)
    chosen = np.repeat(np.arange(24), 400)

    def agreement(**kind):
        scenes = fewshot._scenes(classes, chosen, own, [0, 9], **kind)
        for name in ("fill", "shape"):
            relevant = np.array([c.factors[name] for c in classes])
            assert np.array_equal(scenes[name], relevant[chosen])
        return {name: scenes[name] == own[name][chosen] for name in fewshot.IRRELEVANT}

    tied = agreement(rho=0.9)
    for name, values in {"background": 8, "colour": 10, "marks": 3, "style": 3}.items():
        assert abs(tied[name].mean() - (0.9 + 0.1 / values)) < 0.02
    # One draw decides for all factors of an image.
    assert abs(np.logical_and.reduce(list(tied.values())).mean() - 0.9) < 0.02
    cut = agreement(rho=0.0)
    assert abs(cut["background"].mean() - 1 / 8) < 0.02
    assert abs(cut["colour"].mean() - 1 / 10) < 0.02
    permuted = agreement(rho=0.9, permuted=True)
    assert permuted["background"].mean() < 0.35


def test_the_permutation_keeps_halves_and_has_no_fixed_point():
    giver = fewshot.permuted_classes(np.arange(24), 24)
    assert (giver != np.arange(24)).all()
    assert (giver // 12 == np.arange(24) // 12).all()
    assert sorted(giver) == list(range(24))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "wrld"}, "unknown dataset 'wrld': did you mean 'world'?"),
        ({"world.kind": "aligend"}, "unknown kind of world task 'aligend'"),
        ({"world.rho": 1.5}, "world.rho is a probability, got 1.5"),
        ({"shots": 0}, "must be at least 1"),
        ({"seed": -1}, "seed at least 0"),
    ],
)
def test_a_bad_task_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tasks.load(world_config(**changes))


def test_examples_check_their_labels():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"labels 0\.\.2 need as many class names, got 2"):
        tasks.Examples(images, np.array([0, 2]), ("a", "b"))
    with pytest.raises(ValueError, match="got 2 images and 1 labels"):
        tasks.Examples(images, np.array([0]), ("a", "b"))
