"""Rows as settings: the published settings, names with settings, refusals."""

import jax
import numpy as np
import pytest

from cdc_jax import backbone, config_file, methods
from cdc_jax.methods import defaults, rows
from cdc_jax.methods.families import FAMILIES
from cdc_jax.records import RowRecord

# method: templates, modality, layers, context, views, head, fusion, L_de, L_con
TABLE = {
    "coop": (1, "text", 1, 4, "shared", "softmax", "mean_logit", 0.0, 0.0),
    "kgcoop": (1, "text", 1, 4, "shared", "softmax", "mean_logit", 0.0, 8.0),
    "maple": (1, "multimodal", 9, 2, "shared", "softmax", "mean_logit", 0.0, 0.0),
    "multi_template": (4, "multimodal", 9, 2, "crop_flip", "softmax", "mean_logit", 0.0, 0.0),
    "vsd": (4, "multimodal", 9, 2, "set2", "softmax", "mean_logit", 0.1, 8.0),
    "dstc": (4, "multimodal", 9, 2, "crop_flip", "evidential", "dempster", 0.0, 0.0),
    "cdc": (4, "multimodal", 9, 2, "set2", "evidential", "dempster", 0.1, 8.0),
    "cdc_plus": (4, "text", 1, 4, "shared", "softmax", "mean_logit", 0.0, 8.0),  # ours
    "cdc_plus_calibrated": (4, "text", 1, 4, "shared", "softmax", "mean_logit", 0.0, 8.0),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_published_rows(name):
    config = methods.configure(name).config
    found = (
        config.prompts.templates, config.prompts.modality, config.prompts.layers,
        config.prompts.context, config.views, config.head.name, config.head.fusion,
        config.loss.decoupling_weight, config.loss.consistency_weight,
    )  # fmt: skip
    assert found == TABLE[name]


MULTIMODAL = {
    "maple", "multi_template", "vsd", "dstc", "cdc", "cdc_shared_views", "cdc_mean_softmax",
    "maple_con", "cdc_visual", "oracle_visual",
}  # fmt: skip
TEXT = {
    "coop", "coop_con", "kgcoop", "cdc_plus", "cdc_plus_calibrated", "coop_con_picked",
    "trusted_one", "oracle",
}  # fmt: skip
UNTRAINED = {"zero_shot", "zero_shot_ensemble", "zero_shot_trusted", "zero_shot_aspects"}
ROWS_OF = {
    "prompt_tuning": MULTIMODAL | TEXT | UNTRAINED | {"ivlp"},
    "promptsrc": {"promptsrc", "promptsrc_dstc"},
    "aligned_prompts": {"prograd"},
    "representation_tokens": {"mmrl", "mmrl_plus_plus"},
    "tip_adapter": {"tip_adapter", "tip_adapter_f"},
} | {
    name: {name}
    for name in (
        "linear_probe", "clip_adapter", "taskres", "lp_plus_plus", "cross_modal_probe", "cocoop",
        "tcp", "coprompt", "clip_lora", "clip_svd", "two_sfs",
    )
}  # fmt: skip
"""Family -> its rows."""

# What the papers change where prompts learned on ImageNet meet other datasets.
_MAPLE = {"prompts.layers": 3, "optimizer.epochs": 2, "optimizer.learning_rate": 0.0026}
_PROMPTSRC = {"prompts.layers": 3, "average.mean": 6.0, "average.deviation": 10.0}
_MMRL = {"optimizer.batch_size": 32, "optimizer.epochs": 1, "optimizer.warmup": 0}
TRANSFER = {
    **dict.fromkeys(MULTIMODAL, _MAPLE),
    **dict.fromkeys(TEXT | {"prograd"}, {"optimizer.epochs": 50}),
    "mmrl": _MMRL | {"loss.consistency_weight": 0.2},
    "mmrl_plus_plus": _MMRL | {"loss.consistency_weight": 0.1},
    "tcp": {"optimizer.epochs": 25},
    "ivlp": {"prompts.layers": 3},
    **dict.fromkeys(("promptsrc", "promptsrc_dstc"), _PROMPTSRC),
}


def test_what_is_changed_for_a_transfer():
    for name, row in methods.ROWS.items():
        assert row.transfer == TRANSFER.get(name, {}), name


def test_rows_of_prompt_tuning():
    for name in ROWS_OF["prompt_tuning"]:
        prompts = methods.configure(name).config.prompts
        assert (prompts.modality == "multimodal") == (name in MULTIMODAL)
        assert (prompts.modality == "independent") == (name == "ivlp")
        assert (prompts.context == 0) == (name in UNTRAINED)


def test_every_row_has_a_small_form_and_a_title():
    titles = [row.title for row in methods.ROWS.values()]
    assert all(titles) and len(set(titles)) == len(titles)
    for name, row in methods.ROWS.items():
        assert methods.title(name) == row.title
        for profile in rows.PROFILES:
            choice = methods.configure(name, profile)
            assert choice.config.is_locked
            assert (choice.name, choice.row, choice.title) == (name, name, row.title)


def test_every_row_has_a_role_and_a_family():
    assert rows.ROLES == ("", "zero-shot", "reference", "upper bound")
    roles = {name: row.role for name, row in methods.ROWS.items()}
    assert set(roles.values()) <= set(rows.ROLES)
    by_role = {role: [name for name in roles if roles[name] == role] for role in rows.ROLES}
    assert by_role["reference"] == ["cdc"]
    assert by_role["zero-shot"] == ["zero_shot"]
    assert by_role["upper bound"] == ["oracle", "oracle_visual"]
    families = {name: row.family for name, row in methods.ROWS.items()}
    assert set(families.values()) == FAMILIES.keys() == defaults.OF_FAMILIES.keys()
    assert families == {name: family for family, rows in ROWS_OF.items() for name in rows}
    for name, family in families.items():
        choice = methods.configure(name)
        assert choice.family_name == family


def test_small_clips_learn_other_settings_than_the_published_ones():
    # cdc in the two profiles: modality, layers, context, views, L_con, optimiser, rate, epochs
    found = []
    for profile in rows.PROFILES:
        config = methods.configure("cdc", profile).config
        prompts, optimizer = config.prompts, config.optimizer
        found.append(
            (prompts.modality, prompts.layers, prompts.context, config.views,
             config.loss.consistency_weight, optimizer.name, optimizer.learning_rate,
             optimizer.epochs)
        )  # fmt: skip
        assert (prompts.templates, config.head.name) == (4, "evidential")  # it stays CDC
    assert found == [
        ("multimodal", 9, 2, "set2", 8.0, "sgd", 0.0035, 5),
        ("text", 1, 4, "set1", 2.0, "adam", 0.03, 40),
    ]


def test_a_linear_probe_has_neither_prompts_nor_a_loss_of_templates():
    choice = methods.configure("linear_probe")
    assert set(choice.config) == {"views", "cached_views", "train_on", "head", "optimizer"}
    assert set(choice.defaults()) == set(choice.config) == set(methods.overrides("linear_probe"))
    with pytest.raises(ValueError, match="unknown key 'prompts'"):
        methods.configure("linear_probe@prompts.context=4")
    clip = backbone.load("world")
    support = methods.Support(clip.encode_texts(["star", "dot", "key"]), np.arange(3))
    probe = methods.build(choice, clip, ("star", "dot", "key"), "a {}.", support)
    learned = probe.initialize(jax.random.key(0), clip, support)
    assert learned.trained.keys() == {"classifier"} and learned.fixed == {}
    assert learned.trained["classifier"].shape == (1, 3, 128)
    assert not learned.trained["classifier"].any()


def test_a_name_may_change_settings():
    choice = methods.configure("cdc@prompts.templates=2;head.fusion=average", "small")
    assert (choice.config.prompts.templates, choice.config.head.fusion) == (2, "average")
    assert choice.row == "cdc"
    assert choice.name == "cdc@prompts.templates=2;head.fusion=average"
    assert choice.title == methods.title(choice.name) == "CDC, templates=2, fusion=average"


def test_what_a_user_chose_comes_before_the_row_and_after_the_name():
    chosen = methods.overrides("cdc")
    chosen.prompts.templates, chosen.views = 3, "clean"
    configure = lambda name: methods.configure(name, user_settings=chosen).config  # noqa: E731
    assert configure("cdc").prompts.templates == 3
    assert configure("cdc@prompts.templates=2").prompts.templates == 2
    assert configure("cdc").views == "clean"
    assert configure("cdc").prompts.layers == 9  # what it leaves open is the row's own


def test_overrides_take_values_of_the_settings_types_only():
    for name in methods.ROWS:
        chosen = methods.overrides(name)
        assert methods.configure(name, user_settings=chosen).changes == {}
        with pytest.raises(TypeError):
            chosen.optimizer.epochs = "many"


# ---- Class names that the backbone has never read


def test_class_specific_prompts_are_of_rows_that_learn_text():
    def is_specific(name, **others):
        choice = methods.configure(name, "small", unfamiliar_names=True, **others)
        return choice.config.prompts.class_specific

    names = ("zero_shot", "coop", "cdc", "maple")
    assert [name for name in names if is_specific(name)] == ["coop", "cdc"]
    assert "prompts" not in methods.configure("linear_probe", unfamiliar_names=True).config
    chosen = methods.overrides("cdc")
    chosen.prompts.class_specific = False
    assert not is_specific("cdc", user_settings=chosen)
    for changes in ("prompts.modality=multimodal", "prompts.class_specific=False"):
        assert not is_specific(f"coop@{changes}")
    assert is_specific("maple@prompts.modality=text")
    assert is_specific("promptsrc@prompts.modality=text") and not is_specific("coprompt")
    assert not methods.configure("coop", "small").config.prompts.class_specific


# ---- What differs from the row's own settings


@pytest.mark.parametrize("unfamiliar_names", [False, True])
@pytest.mark.parametrize("profile", rows.PROFILES)
def test_a_plain_row_changes_nothing(profile, unfamiliar_names):
    for name in methods.ROWS:
        choice = methods.configure(name, profile, unfamiliar_names=unfamiliar_names)
        assert choice.changes == {}, name


@pytest.mark.parametrize("unfamiliar_names", [False, True])
@pytest.mark.parametrize(
    ("name", "profile", "changes"),
    [
        ("cdc@views=flip", "", {"views": "flip"}),
        ("cdc@views=flip", "small", {"views": "flip"}),
        ("coop@views=flip", "small", {}),  # its own there
        ("coop@views=flip", "", {"views": "flip"}),
        (
            "cdc@prompts.templates=2;head.kl_weight=0;views=set1",
            "small",
            {"prompts.templates": 2, "head.kl_weight": 0.0},
        ),
        ("linear_probe@optimizer.epochs=7", "small", {"optimizer.epochs": 7}),
    ],
)
def test_changes_are_the_keys_that_a_name_changes(name, profile, changes, unfamiliar_names):
    choice = methods.configure(name, profile, unfamiliar_names=unfamiliar_names)
    assert choice.changes == changes


def test_changes_are_those_of_the_user_as_well():
    chosen = methods.overrides("cdc")
    chosen.prompts.templates, chosen.views, chosen.head.fusion = 3, "clean", "dempster"
    changes = {"prompts.templates": 3, "views": "clean"}  # Dempster's rule is the row's own
    assert methods.configure("cdc", "small", chosen).changes == changes
    both = methods.configure("cdc@views=set1;loss.margin=0.5", "small", chosen)
    assert both.changes == {"prompts.templates": 3, "loss.margin": 0.5}


def test_a_setting_that_keeps_prompts_shared_is_a_change_where_names_are_unfamiliar():
    changes = {"prompts.class_specific": False}
    chosen = methods.overrides("cdc")
    chosen.prompts.class_specific = False
    for name, given in (("cdc", chosen), ("cdc@prompts.class_specific=False", None)):
        choice = methods.configure(name, "small", given, unfamiliar_names=True)
        assert choice.changes == changes
        assert methods.configure(name, "small", given).changes == {}


def test_the_record_of_a_choice():
    found = methods.configure("oracle@views=clean", "small").record(changes_images=True)
    assert found == RowRecord(
        name="oracle@views=clean",
        row="oracle",
        title="oracle, views=clean",
        role="upper bound",
        changes={"views": "clean"},
        changes_images=True,
    )


def test_the_defaults_are_those_of_the_family_before_any_row():
    defaults = methods.configure("cdc@views=flip", "small").defaults()
    assert defaults == methods.configure("maple").defaults()
    assert (defaults["views"], defaults["prompts"]["templates"]) == ("shared", 1)
    assert (defaults["head"]["name"], defaults["optimizer"]["epochs"]) == ("softmax", 50)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cdd", "unknown method 'cdd': did you mean 'cdc'"),
        ("cdc@prompts.template=2", "unknown key 'template': did you mean 'templates'"),
        ("cdc@prompts.templates=two", "prompts.templates must be of type int, got 'two'"),
        ("cdc@views", "expected key=value, got 'views'"),
    ],
)
def test_refusals(name, message):
    with pytest.raises(ValueError, match=message):
        methods.configure(name)


def test_a_profile_that_this_release_does_not_know_is_refused():
    message = "unknown profile 'tiny' in the model's config.json: choose one of .*'small'"
    with pytest.raises(ValueError, match=message):
        methods.configure("cdc", "tiny")


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cdc", []),
        ("cdc@views=flip; jitter", [("views", "flip; jitter")]),
        (
            "cdc@views=flip;jitter(hue=0.1);loss.margin=1.0",
            [("views", "flip;jitter(hue=0.1)"), ("loss.margin", "1.0")],
        ),
        ("cdc@views=crop(scale=(0.4,1))|flip", [("views", "crop(scale=(0.4,1))|flip")]),
        ("coop@prompts.phrases=a @ b", [("prompts.phrases", "a @ b")]),
        ("coop@prompts.phrases=[/b] :)", [("prompts.phrases", "[/b] :)")]),
    ],
)
def test_a_value_is_as_it_was_given(name, changes):
    assert methods.split(name)[1] == changes
    if changes:
        flat = config_file.flat(methods.configure(name).config.to_dict())
        assert flat[changes[0][0]] == changes[0][1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cdc,", "methods='cdc,' has an empty name: separate methods by one comma"),
        (",", "has an empty name"),
        ("", "has an empty name"),
        ("cdc,,coop", "has an empty name"),
        ("cdc, ,coop", "has an empty name"),
        ("cdc,coop,cdc", "has cdc twice: name each once"),
        ("cdc,cop", "unknown method 'cop': did you mean 'coop'?"),
        ("coop@prompts.phrases=a, b", r"unknown method 'b'.* A comma ends a method"),
        ("cdc@flip", r"expected key=value, got 'flip' in 'cdc@flip'"),
        ("cdc@views=flip;", r"expected key=value, got ''"),
        ("cdc@;views=flip", r"expected key=value, got ''"),
        ("../cdc", "unknown method '../cdc'"),
    ],
)
def test_a_list_of_methods_that_can_not_be_read_is_refused(given, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        methods.names(given)


def test_all_rows_but_those_that_only_the_world_can_train():
    rows = [name for name in methods.ROWS if name not in ("oracle", "oracle_visual")]
    assert methods.names("all, oracle") == [*rows, "oracle"]
    with pytest.raises(ValueError, match="has cdc twice"):
        methods.names("all,cdc")


def test_spaces_around_names_are_none():
    assert methods.names(" cdc , coop@views=flip ") == ["cdc", "coop@views=flip"]
