"""Rows as configurations: what stands in METHOD's table, names with settings, refusals."""

import pytest

from cdc_jax import methods

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
}


@pytest.mark.parametrize("name", TABLE)
def test_the_published_rows(name):
    config = methods.configure(name)
    found = (
        config.prompts.templates, config.prompts.modality, config.prompts.layers,
        config.prompts.context, config.views, config.head.name, config.head.fusion,
        config.loss.decoupling_weight, config.loss.consistency_weight,
    )  # fmt: skip
    assert found == TABLE[name]


def test_every_row_has_a_small_form_and_a_title():
    assert methods.METHODS.keys() == methods.SMALL.keys() == methods.TITLES.keys()
    assert len(set(methods.TITLES.values())) == len(methods.TITLES)
    for name in methods.METHODS:
        for small in (False, True):
            assert methods.configure(name, small).is_locked


def test_a_name_may_change_settings():
    config = methods.configure("cdc@prompts.templates=2;head.fusion=average", small=True)
    assert (config.prompts.templates, config.head.fusion) == (2, "average")
    assert methods.title("cdc@prompts.templates=2;head.fusion=average") == (
        "CDC, templates=2, fusion=average"
    )


def test_what_a_user_chose_comes_before_the_row_and_after_the_name():
    chosen = methods.overrides()
    chosen.prompts.templates, chosen.views = 3, "clean"
    assert methods.configure("cdc", chosen=chosen).prompts.templates == 3
    assert methods.configure("cdc@prompts.templates=2", chosen=chosen).prompts.templates == 2
    assert methods.configure("cdc", chosen=chosen).views == "clean"


def test_class_specific_prompts_are_of_rows_that_learn_text():
    specific = {
        name: methods.configure(name, small=True, class_specific=True).prompts.class_specific
        for name in ("zero_shot", "linear_probe", "coop", "cdc", "maple")
    }
    assert [name for name, is_specific in specific.items() if is_specific] == ["coop", "cdc"]
    chosen = methods.overrides()
    chosen.prompts.class_specific = False
    shared = methods.configure("cdc", small=True, chosen=chosen, class_specific=True)
    assert not shared.prompts.class_specific
    for changes in ("prompts.modality=multimodal", "prompts.class_specific=False"):
        changed = methods.configure(f"coop@{changes}", small=True, class_specific=True)
        assert not changed.prompts.class_specific


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
