"""Words of a task's own for its classes: what they become, where they apply, what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cdc_jax import backbone, export, methods, prediction, tasks, train, wording
from cdc_jax.methods.support import hand_crafted_features
from cdc_jax.tasks import class_folders
from cdc_jax.wording import Wording, sentences

NAMES = ("red_square", "blue star", "green circle")
OWN = Wording(
    "a photo of a {}.",
    ("a {}.", "the {} there.", "a photo of a {}."),
    {"blue star": ("a star that is blue.", "the {} has points."), "grey dot": ("a dot.",)},
)


@pytest.fixture(scope="module")
def world():
    return backbone.load("world")


@pytest.fixture(scope="module")
def support(world):
    return methods.Support(world.encode_texts(["red", "blue", "green"]), np.arange(3))


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("a {}.", "hot_dog", ["a hot dog."]),
        ("{}", "{x}", ["{x}"]),
        (Wording("a {}."), "hot_dog", ["a hot dog."]),
        (Wording("a {}.", ("the {}.", "{}!")), "hot_dog", ["the hot dog.", "hot dog!"]),
        (Wording("a {}.", (), {"cat": ("It purrs.",)}), "cat", ["It purrs."]),
        (Wording("a {}.", (), {"cat": ("It purrs.",)}), "dog", ["a dog."]),
        (Wording("a {}.", ("the {}.",), {"a_b": ("{} and {}.",)}), "a_b", ["the a b.",
                                                                            "a b and a b."]),
    ],
)  # fmt: skip
def test_sentences(template, name, expected):
    assert sentences(template, name) == expected
    assert wording.from_json(json.loads(json.dumps(wording.to_json(template)))) == template


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_features_are_normalised_averaged_and_normalised_again(world, monkeypatch):
    expected = []
    for name in NAMES:
        each = np.asarray(world.encode_texts(sentences(OWN, name)), np.float64)
        expected.append(unit(np.mean([unit(vector) for vector in each], 0)))
    assert len(sentences(OWN, NAMES[1])) == 5
    found = hand_crafted_features(world, [OWN], NAMES)
    assert found.shape == (1, 3, world.sizes.embed_width)
    np.testing.assert_allclose(found[0], expected, atol=2e-6)
    monkeypatch.setattr("cdc_jax.methods.support._TEXTS", 6)  # in chunks
    np.testing.assert_allclose(hand_crafted_features(world, [OWN], NAMES)[0], expected, atol=2e-6)


def test_one_text_a_class_is_that_text_to_the_bit(world):
    texts = [f"a {name.replace('_', ' ')}." for name in NAMES]
    plain = world.encode_texts(texts)
    described = Wording("the {}.", (), {n: (t,) for n, t in zip(NAMES, texts, strict=True)})
    for template in ("a {}.", Wording("a {}."), Wording("x {}", ("a {}.",)), described):
        found = hand_crafted_features(world, [template, "the {}."], NAMES)
        np.testing.assert_array_equal(found[0], plain)


def create(world, support, row, template):
    choice = methods.configure(row, "small")
    return choice, methods.build(choice, world, NAMES, template, support)


@pytest.mark.parametrize("row", ["zero_shot", "coop_con", "cdc", "linear_probe"])
def test_own_words_apply_where_the_template_did(world, support, row):
    own = hand_crafted_features(world, [OWN], NAMES)
    _, method = create(world, support, row, OWN)
    logits = float(world.logit_scale * (support.features @ own[0].T).mean())
    if row == "cdc":  # its evidence is shifted by the mean logit under the hand-crafted text
        assert method.head.shift == pytest.approx(logits * method.config.head.shift_multiple)
    if row != "linear_probe":
        np.testing.assert_allclose(method.classes(world, NAMES).anchors, own, atol=1e-6)
        there = method.classes(world, ("grey dot", "dot"), "the {} there.").anchors
        expected = world.encode_texts(["the grey dot there.", "the dot there."])
        np.testing.assert_array_equal(there[0], expected)
        alone = method.classes(world, ("grey dot", "dot")).anchors
        np.testing.assert_allclose(
            alone, hand_crafted_features(world, [OWN], ("grey dot", "dot")), atol=1e-6
        )


@pytest.mark.parametrize("row", ["zero_shot_aspects", "coop_con@prompts.anchors=the {}."])
def test_anchors_that_are_set_come_before_own_words(world, support, row):
    plain = create(world, support, row, "a {}.")[1].classes(world, NAMES).anchors
    own = create(world, support, row, OWN)[1].classes(world, NAMES).anchors
    np.testing.assert_array_equal(plain, own)


def test_prompts_without_a_phrase_start_as_the_single_template(world, support):
    row = "coop@prompts.phrases=;prompts.context=2"
    for template in (OWN, OWN.template):
        phrases = create(world, support, row, template)[1].prompts.templates.phrases
        assert phrases == ("a photo of a",)


@pytest.mark.parametrize("row", ["zero_shot", "cdc"])
def test_an_exported_model_keeps_its_words(world, support, row, tmp_path):
    choice, method = create(world, support, row, OWN)
    learned = method.initialize(jax.random.key(0), world, support)
    export.write(
        tmp_path, export.describe(method, choice.family_name, learned, "world", world, "0")
    )
    read = export.read(tmp_path)
    assert read.template == OWN
    again = methods.rebuild(read.family, read.settings, world, read.class_names, read.template)
    found, expected = (m.classes(world, NAMES).anchors for m in (again, method))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "value",
    [
        None, 3, [], {}, {"template": "a {}."},
        {"template": 1, "templates": [], "descriptions": {}},
        {"template": "a {}.", "templates": [1], "descriptions": {}},
        {"template": "a {}.", "templates": "a {}.", "descriptions": {}},
        {"template": "a {}.", "templates": [], "descriptions": {"cat": "It purrs."}},
        {"template": "a {}.", "templates": [], "descriptions": []},
        {"template": "a", "templates": [], "descriptions": {}},
        {"template": "a {}.", "templates": [], "descriptions": {"cat": ["{0}"]}},
    ],
)  # fmt: skip
def test_damaged_words_of_an_exported_model(world, support, tmp_path, value):
    choice, method = create(world, support, "zero_shot", "a {}.")
    learned = methods.Learned({}, {})
    export.write(
        tmp_path, export.describe(method, choice.family_name, learned, "world", world, "0")
    )
    file = tmp_path / export.DESCRIPTION
    description = json.loads(file.read_text()) | {"template": value}
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"adapted.json: template .*; adapt again") as error:
        export.read(tmp_path)
    assert "\n" not in str(error.value)


# ---- from task.toml to predictions


BAD_TEMPLATES = [
    "a photo", "a {c}.", "a {} {}", "a {0}", "a {} {c}", "{{}}", "a {} }", "{ {}", "", "{}{}",
    "a {!r}", "a {:>9}",
]  # fmt: skip


@pytest.mark.parametrize("template", BAD_TEMPLATES)
def test_templates_that_are_refused_wherever_they_enter(template, photos, world, support):
    wrong = "needs one {} for the class name, got "
    with pytest.raises(ValueError, match=wrong):
        wording.require_template(template)
    with pytest.raises(ValueError, match=wrong):
        Wording("a {}.", (template,))
    with pytest.raises(ValueError, match=wrong):
        create(world, support, "zero_shot", template)
    if template:  # empty: the default
        with pytest.raises(ValueError, match=f"prompts.anchors {wrong}"):
            create(world, support, f"coop@prompts.anchors=a {{}}.|{template}", "a {}.")
    for key, value in (("template", template), ("templates", ["a {}.", template])):
        (photos / "task.toml").write_text(f"{key} = {json.dumps(value)}")
        with pytest.raises(ValueError, match=f"(template in .*task.toml {wrong}|must be a text)"):
            class_folders.read(photos)


@pytest.mark.parametrize("dataset", ["folder", "OxfordPets"])
@pytest.mark.parametrize("template", [t for t in BAD_TEMPLATES if t])
def test_data_template_is_refused_before_anything_is_read(get_config, dataset, template):
    config = get_config("fewshot", f"shots=1,dataset={dataset}")
    config.data.template, config.data.root = template, "/nowhere"
    with pytest.raises(ValueError, match="data.template needs one {} for the class name, got"):
        tasks.load(config, 16)


def test_phrases_have_no_place_for_the_name(world, support):
    with pytest.raises(ValueError, match="prompts.phrases are the words before the class name"):
        create(world, support, "coop@prompts.phrases=a photo of a {}.", "a {}.")


@pytest.fixture
def photos(tmp_path):
    """Four images each of two classes."""
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(4):
            pixels = np.random.default_rng(8 * k + i).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_own_words_in_task_toml(photos):
    def template(text):
        (photos / "task.toml").write_bytes(text.encode())
        return class_folders.read(photos).template

    assert template("") == template('template = "a photo of a {}."') == "a photo of a {}."
    assert template("[descriptions]") == "a photo of a {}."
    assert template('templates = ["a {}.", "the {}."]') == Wording("a {}.", ("a {}.", "the {}."))
    assert template(
        '\ufefftemplate = "a {}."\n[class_names]\ncat = "a cat"\n[descriptions]\n'
        'cat = ["It purrs.", "{} purrs."]\ndog = "It barks."'
    ) == Wording("a {}.", (), {"a cat": ("It purrs.", "{} purrs."), "dog": ("It barks.",)})
    assert class_folders.read(photos).remarks == ()
    by_new_name = '[class_names]\ncat = "tom"\n[descriptions]\ntom = "It purrs."'
    assert template(by_new_name).descriptions == {"tom": ("It purrs.",)}
    assert class_folders.read(photos).remarks == (
        "1 of the 2 classes have no description, such as 'dog': they get 'a photo of a {}.'",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('templates = "a {}."', "templates must be a list, got 'a {}.'"),
        ("templates = [1]", r"templates\[0\] must be a text that is not empty, got 1"),
        ('templates = ["a {}.", " "]', r"templates\[1\] must be a text that is not empty"),
        ('template = "a {}."\ntemplates = ["a {}."]', "gives both template and templates: put"),
        ('descriptions = "x"', "descriptions must be an object, got"),
        (
            "[descriptions]\ncat = 3",
            "descriptions.cat must be a text .* or a list of at least 1 items, got 3",
        ),
        ("[descriptions]\ncat = []", r"descriptions.cat must be a text .* or a list .*, got \[\]"),
        ('[descriptions]\ncat = ["a", ""]', r"descriptions.cat\[1\] must be a text"),
        ('[descriptions]\ncat = ["a", 1]', r"descriptions.cat\[1\] must be a text"),
        ("[descriptions.cat]\na = 1", "descriptions.cat must be a text .*, got {'a': 1}"),
        ('[descriptions]\ncta = "x"', "descriptions in task.toml: no class 'cta', but 'cat'"),
        ('[descriptions]\ncat = "a {c}"', "description of class 'cat' must be a sentence, in whic"),
        ('[class_names]\ncat = "tom"\n[descriptions]\ncat = "a"\ntom = "b"', "'tom' is described"),
        ("a = " + "[" * 100_000, "nested too deeply|is not TOML"),
        ("template = 'a {}.'\ntemplate = 'a {}.'", "is not TOML"),
        ("\ufeffval = true", "val must be a finite number from 0 to 1, got True"),
        (b"template = 'caf\xe9 {}.'", "line 1, is not UTF-8"),
        (b"\xff\xfev\0", "is in UTF-16: save it as UTF-8"),
    ],
)
def test_words_in_task_toml_that_are_refused(photos, text, message):
    (photos / "task.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as error:
        class_folders.read(photos)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.slow
def test_predictions_are_the_evaluation_with_own_words(
    photos, get_config, tmp_path_factory, monkeypatch
):
    (photos / "task.toml").write_text(
        'val = 0\ntest = 0.5\ntemplates = ["a {}.", "the {} there."]\n'
        '[descriptions]\ncat = ["a red circle.", "a {} on a line."]'
    )
    workdir = tmp_path_factory.mktemp("runs")
    config = get_config("fewshot", f"shots=2,dataset=folder,data.root={photos}")
    rows = ("zero_shot", "coop_con@optimizer.epochs=1;prompts.class_specific=False")
    config.methods, config.progress = ",".join(rows), False
    scored, evaluate = [], train.evaluate

    def keeping(*arguments, **more):
        scored.append(evaluate(*arguments, **more))
        return scored[-1]

    monkeypatch.setattr(train, "evaluate", keeping)
    train.train_and_evaluate(config, workdir)
    scores = {r: one["test"].prediction.probability for r, one in zip(rows, scored, strict=True)}
    images = [f"{photos}/{f}" for f in tasks.load(config, 32).test["test"].files]
    plain = {}
    for row in rows:
        predictor = prediction.load(workdir / row)
        found = list(predictor.stream(images, top_k=2))
        assert len(found) == 4
        for i, one in enumerate(found):
            told = [dict(one.probability)[name] for name in ("cat", "dog")]
            np.testing.assert_allclose(told, scores[row][i], atol=1e-5)
        plain[row] = [dict(one.probability)["cat"] for one in found]
    # The words matter: without them zero-shot answers differently.
    description = json.loads((workdir / "zero_shot/adapted/adapted.json").read_text())
    assert description["template"]["templates"] == ["a {}.", "the {} there."]
    description["template"] = "a {}."
    (workdir / "zero_shot/adapted/adapted.json").write_text(json.dumps(description))
    other = [
        dict(p.probability)["cat"] for p in prediction.load(workdir / "zero_shot").stream(images)
    ]
    assert np.abs(jnp.array(other) - jnp.array(plain["zero_shot"])).max() > 1e-3
