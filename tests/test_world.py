"""The bundled world: factors, pictures, captions, vocabulary and few-shot tasks."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from cdc_jax import clip as clip_lib
from cdc_jax import tasks
from cdc_jax.clip import hub
from cdc_jax.tasks.world import captions, factors, fewshot, kinds, render, vocabulary
from cdc_jax.views import clean_view
from cdc_jax.views.compose import PROPERTIES


def scene(count=1, seed=0, **values):
    return factors.do(factors.sample(count, seed), style="clean", marks="none", **values)


def world_config(**changes):
    config = ConfigDict(
        {
            "dataset": "world",
            "targets": "",
            "world": {"kind": "aligned", "rho": 0.9, "test_images": 40},
            "shots": 16,
            "validation_shots": 0,
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


def test_the_bundled_tokenizer_has_the_merges_of_the_captions():
    tokenizer = json.loads((hub.find("world") / "tokenizer.json").read_text())
    pairs = vocabulary.merges(captions.vocabulary())
    assert tokenizer["model"]["merges"] == [list(pair) for pair in pairs]


every_kind = pytest.mark.parametrize("kind", kinds.KINDS)


def world_scenes(kind, seed, each, **change):
    """Many scenes of every class, with the labels and the classes' own G_i."""
    kind = kinds.KINDS[kind]
    classes, own = kinds.draw_classes(kind, seed), fewshot.correlated_values(kind, seed)
    labels = np.repeat(np.arange(24), each)
    return fewshot._scenes(kind, classes, labels, own, [seed, 9], **change), labels, own


@every_kind
@pytest.mark.parametrize("seed", range(5))
def test_classes_are_a_grid_that_pretraining_knew(kind, seed):
    classes = kinds.draw_classes(kinds.KINDS[kind], seed)
    assert len({c.name for c in classes}) == 24
    relevant = kinds.KINDS[kind].relevant
    assert [len({c.factors[f] for c in classes}) for f in relevant] == list(relevant.values())
    words = set(captions.vocabulary())
    for c in classes:
        assert c.name == " ".join(factors.VALUES[f][c.factors[f]] for f in relevant)
        assert set(c.name.split()) <= words
        # Whatever its other factors are, not every one of its scenes is held out.
        scenes = factors.sample(2000, seed)
        scenes |= {f: np.full(2000, v) for f, v in c.factors.items()}
        assert factors.held_out(scenes).mean() < 0.5


def test_a_held_out_pair_needs_both_its_factors():
    shape = np.arange(28)
    assert not factors.held_out({"shape": shape}).any()
    assert not factors.held_out({"background": np.arange(8), "rotation": np.zeros(8, int)}).any()
    assert factors.held_out({"shape": shape, "colour": np.zeros(28, int)}).sum() == 3  # 0, 10, 20
    assert factors.held_out({"shape": shape, "fill": np.zeros(28, int)}).sum() == 2  # 0, 14


@every_kind
def test_a_kind_is_consistent(kind):
    kind = kinds.KINDS[kind]
    assert not set(kind.relevant) & set(kind.irrelevant)
    assert not set(kind.styles) & set(kind.unseen_styles)
    assert set(kind.styles + kind.unseen_styles) <= set(factors.VALUES["style"])
    # A sketch shows neither colours nor backgrounds.
    assert {"fill", "shape"} == set(kind.relevant) or "sketch" not in kind.unseen_styles
    assert set(kind.relevant) <= PROPERTIES


@pytest.mark.slow
@every_kind
def test_the_task_has_the_promised_splits(kind, get_config):
    config = get_config("fewshot", f"world.kind={kind},seed=3")
    task = tasks.load(config)
    assert task.label_properties == tuple(kinds.KINDS[kind].relevant)
    assert len(task.train) == 12 * 16
    assert (np.bincount(task.train.labels) == 16).all()
    assert (np.bincount(task.val.labels) == 4).all()
    halves = {"base": task.class_names, "new": task.test["new_iid"].class_names}
    assert not set(halves["base"]) & set(halves["new"])
    for half in halves:
        for split in fewshot.SPLITS:
            examples = task.test[f"{half}_{split}"]
            assert examples.class_names == halves[half]
            assert (np.bincount(examples.labels, minlength=12) >= 40).all()
    oracle = task.training_set("oracle")
    assert oracle.class_names == task.class_names
    assert (np.bincount(oracle.labels) == 200).all()
    images = [e.images for e in (task.train, task.val, *task.test.values(), oracle)]
    assert len(np.unique(np.concatenate(images), axis=0)) == sum(map(len, images))


def splits(task):
    """All that a task offers, by name."""
    return {name: task.training_set(name) for name in ("train", *task.others)} | {
        "val": task.val, **task.test,
    }  # fmt: skip


SMALL = {"world.test_images": 3, "shots": 2}


@every_kind
def test_a_task_is_a_pure_function_of_its_configuration(kind, monkeypatch):
    monkeypatch.setattr(fewshot, "PLENTY", 5)
    first, again = (splits(tasks.load(world_config(**SMALL, **{"world.kind": kind}))) for _ in "ab")
    other = splits(tasks.load(world_config(**SMALL, **{"world.kind": kind, "seed": 4})))
    for name, examples in first.items():
        assert np.array_equal(examples.images, again[name].images)
        assert np.array_equal(examples.labels, again[name].labels)
        assert examples.class_names == again[name].class_names
        assert not np.array_equal(examples.images, other[name].images)


def test_the_aligned_task_is_what_it_was():
    # Mean grey levels of its first version: a digest would differ wherever a sine's last bit does.
    task = tasks.load(world_config(**SMALL))
    assert task.class_names[:3] == ("striped bolt", "solid flag", "striped flag")
    assert task.training_set("train").images.mean() == pytest.approx(139.196, abs=0.02)
    assert task.val.images.mean() == pytest.approx(128.013, abs=0.02)
    means = {
        "base_iid": 136.307, "base_int": 137.884, "base_rev": 131.787, "base_style": 175.424,
        "new_iid": 137.707, "new_int": 133.683, "new_rev": 129.807, "new_style": 156.681,
    }  # fmt: skip
    found = {name: examples.images.mean() for name, examples in task.test.items()}
    assert found == pytest.approx(means, abs=0.02)


@every_kind
def test_spurious_correlation_has_the_asked_strength(kind):
    irrelevant, relevant = kinds.KINDS[kind].irrelevant, kinds.KINDS[kind].relevant
    sizes = {name: len(factors.VALUES[name]) for name in irrelevant}
    sizes["style"] = len(kinds.KINDS[kind].styles)
    classes = kinds.draw_classes(kinds.KINDS[kind], 0)

    def agreement(**change):
        scenes, labels, own = world_scenes(kind, 0, 400, **change)
        for name in relevant:
            assert np.array_equal(
                scenes[name], np.array([classes[k].factors[name] for k in labels])
            )
        return {name: scenes[name] == own[name][labels] for name in irrelevant}

    for rho in (0.9, 0.5, 0.0):
        tied = agreement(rho=rho)
        for name, values in sizes.items():
            assert abs(tied[name].mean() - (rho + (1 - rho) / values)) < 0.02
    # One draw decides for all factors of an image.
    tied = agreement(rho=0.9)
    assert abs(np.logical_and.reduce(list(tied.values())).mean() - 0.9) < 0.02
    assert agreement(rho=0.9, permuted=True)[irrelevant[0]].mean() < 0.35


@every_kind
def test_an_intervention_makes_irrelevant_factors_uniform_and_independent_of_the_class(kind):
    unseen = kinds.KINDS[kind].unseen_styles
    scenes, labels, _ = world_scenes(kind, 1, 200, rho=0.0, styles=unseen)
    assert {factors.VALUES["style"][v] for v in scenes["style"]} == set(unseen)
    scenes, labels, _ = world_scenes(kind, 1, 200, rho=0.0)
    for name in kinds.KINDS[kind].irrelevant:
        table = stats.contingency.crosstab(labels, scenes[name]).count
        assert stats.chisquare(table.sum(0)).pvalue > 1e-4
        assert stats.chi2_contingency(table).pvalue > 1e-4


@every_kind
@pytest.mark.parametrize("seed", range(3))
def test_the_reversed_split_deranges_pi(kind, seed):
    scenes, labels, own = world_scenes(kind, seed, 1, rho=1.0, permuted=True)
    giver = fewshot.permuted_classes(np.arange(24), 24)
    assert (giver != np.arange(24)).all()
    assert (giver // 12 == np.arange(24) // 12).all()
    assert sorted(giver) == list(range(24))
    shown, values = (
        np.stack([part[n] for n in kinds.KINDS[kind].irrelevant], 1) for part in (scenes, own)
    )
    assert np.array_equal(shown, values[giver][labels])
    # No class meets all of its own values again.
    assert (shown != values[labels]).any(1).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["task_misaligned", "domain_gap"])
def test_the_embedded_clip_has_room(kind, monkeypatch):
    """Its image features know at least 15 points more than the hand-crafted template asks for."""
    monkeypatch.setattr(fewshot, "PLENTY", 60)
    clip, tokenizer = clip_lib.load("world")
    task = tasks.load(world_config(**{"world.kind": kind, "world.test_images": 20, "seed": 11}))
    encode = jax.jit(clip.encode_image)

    def features(examples):
        view = clean_view(examples.images, clip.config.mean, clip.config.std)
        return np.asarray(encode(view), np.float64)

    test, oracle = task.test["base_int"], task.training_set("oracle")
    texts = tokenizer([task.template.format(name) for name in task.class_names])
    known = features(test)
    zero_shot = (known @ np.asarray(clip.encode_text(texts)).T).argmax(1) == test.labels
    # Ridge regression to one-hot labels, in closed form.
    x = features(oracle)
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ np.eye(12)[oracle.labels])
    linear = (known @ weights).argmax(1) == test.labels
    assert linear.mean() > zero_shot.mean() + 0.15


def class_share(examples):
    """The share of the variance of pixels' colours that the class explains (eta squared)."""
    pixels = examples.images.reshape(len(examples), -1).astype(float)
    means = np.stack([pixels[examples.labels == k].mean(0) for k in range(12)])
    return means[examples.labels].var(0).sum() / pixels.var(0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["aligned", "domain_gap"])
def test_pixels_show_the_correlation_where_it_is(kind):
    task = tasks.load(world_config(**{"world.kind": kind}))
    shares = {name: class_share(examples) for name, examples in splits(task).items()}
    for name in ("train", "base_iid", "base_rev", "new_iid"):
        assert shares[name] > 0.4
    for name in ("oracle", "redrawn", "base_int", "new_int", "new_style"):
        assert shares[name] < 0.2


def test_redrawn_scenes_keep_what_the_label_is_about(monkeypatch):
    drawn = []
    monkeypatch.setattr(
        render, "render",
        lambda scenes, seed: drawn.append(scenes) or np.zeros((len(scenes["shape"]), 1, 1, 3)),
    )  # fmt: skip
    task = tasks.load(world_config(**SMALL))
    train = next(scenes for scenes in drawn if len(scenes["shape"]) == len(task.train))
    labels = task.training_set("redrawn").labels
    assert np.array_equal(labels, np.tile(task.train.labels, fewshot.REDRAWN))
    for name, values in drawn[-1].items():
        same = values.reshape(fewshot.REDRAWN, len(task.train)) == train[name]
        if name in kinds.KINDS["aligned"].irrelevant:
            assert same.mean() < 0.6
        else:
            assert same.all()


def test_training_sets_are_drawn_when_asked_for(monkeypatch):
    drawn = []
    original = render.render

    def count(scenes, seed):
        drawn.append(len(scenes["shape"]))
        return original(scenes, seed)

    monkeypatch.setattr(render, "render", count)
    task = tasks.load(world_config(**SMALL))
    assert sum(drawn) == 12 * (2 + 2 + 8 * 3)
    assert task.training_set("train") is task.train
    assert sum(drawn) == 12 * (2 + 2 + 8 * 3)
    assert len(task.training_set("oracle")) == drawn[-1] == 12 * fewshot.PLENTY
    assert len(task.training_set("redrawn")) == drawn[-1] == 12 * 2 * fewshot.REDRAWN
    with pytest.raises(ValueError, match="no training set 'orakel': it has train, oracle, redrawn"):
        task.training_set("orakel")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "wrld"}, "unknown dataset 'wrld': did you mean 'world'?"),
        (
            {"world.kind": "aligend"},
            "unknown kind of world task 'aligend': did you mean 'aligned'\\? There are aligned, ",
        ),
        ({"world.rho": 1.5}, "world.rho is a probability, got 1.5"),
        ({"shots": 0}, "must be at least 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
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


def test_targets_are_other_kinds_and_other_domains(get_config):
    argument = "shots=1,world.test_images=3,targets=domain_gap,aligned,sketch,inverted"
    task = tasks.load(get_config("fewshot", argument))
    assert len(task.test["domain_gap"]) == 24 * 3
    other = tasks.load(get_config("fewshot", "shots=1,world.test_images=3,world.kind=domain_gap"))
    names = (*other.test["base_int"].class_names, *other.test["new_int"].class_names)
    assert task.test["domain_gap"].class_names == names
    for domain in ("sketch", "inverted"):
        assert task.test[domain].class_names == task.class_names
        assert len(task.test[domain]) == 12 * 3
    # A sketch is drawn in two colours: of most pixels, all channels are alike.
    sketch = task.test["sketch"].images.astype(int)
    assert (
        (np.ptp(sketch, axis=-1) < 30).mean()
        > 0.9
        > (np.ptp(task.test["inverted"].images.astype(int), axis=-1) < 30).mean()
    )
    for name, message in (
        ("aligned", "none of the targets aligned can be used where aligned is learned"),
        ("photo", "unknown kind"),
    ):
        with pytest.raises(ValueError, match=message):
            tasks.load(get_config("fewshot", f"shots=1,world.test_images=1,targets={name}"))


@pytest.mark.parametrize(
    ("source", "kept"),
    [
        ("aligned", ["clean", "sketch", "inverted", "barred", "domain_gap"]),
        ("task_misaligned", ["clean", "barred", "aligned", "domain_gap"]),
        ("domain_gap", ["clean", "barred", "aligned"]),
    ],
)
def test_domains_keep_what_the_classes_are_about(source, kept):
    names = "clean,sketch,inverted,barred,aligned,domain_gap"
    assert list(kinds.targets(names, source)) == kept


def test_a_domain_comes_on_top_of_what_a_kind_does_to_its_images():
    kind = kinds.KINDS["domain_gap"]
    scenes = factors.sample(5, 1)
    own = kind.render(scenes, 2).astype(int)
    behind = kinds.DOMAINS["barred"].of(kind).render(scenes, 2).astype(int)
    bars = np.arange(32) % 4 == 2
    assert (behind[:, :, bars] == 128).all()
    assert (behind[:, :, ~bars] == own[:, :, ~bars]).all()
    again = kinds.DOMAINS["inverted"].of(kind).render(scenes, 2).astype(int)
    assert (again == 255 - own).all()
