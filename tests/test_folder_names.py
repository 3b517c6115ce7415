"""Names of folders: safe, short, different for different things, where possible as ever."""

from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from cdc_jax import methods, sweep
from cdc_jax.folder_names import LONGEST, folder_name


@pytest.mark.parametrize("name", methods.ROWS)
def test_a_row_without_changes_is_called_as_ever(name):
    assert folder_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "cdc@prompts.templates=2;head.fusion=average",
        "cdc@views=crop | flip; jitter(hue=0.5)",
        "zero_shot@prompts.anchors=a photo of a {}.|art of the {}.",
        "coop@prompts.phrases=ein schönes Foto von [rot]",
    ],
)
def test_so_is_a_simple_change(name):
    assert folder_name(name) == name


def test_so_are_the_rows_of_all_studies(get_config):
    for study in (
        "components",
        "templates",
        "views",
        "cached_views",
        "fusion",
        "evidence",
        "cdc_plus",
    ):
        for name in methods.names(get_config("ablation", f"study={study}").methods):
            assert folder_name(name) == name


ODD = [
    "zero_shot@prompts.anchors=x/../../../../ESCAPED {}.",
    "zero_shot@prompts.anchors=black and/or white {}.",
    f"zero_shot@prompts.anchors={'a very long photo ' * 20}{{}}.",
    f"zero_shot@prompts.anchors={'長い' * 60}{{}}.",
    "..",
    ".",
    "",
    "/etc/passwd",
    "~root",
    "-rf",
    ".hidden",
    "a\0b",
    "a\nb",
    "a\\b",
    "\x1b[31m",
    "caf\udce9",
    "cafe\u0301",
    "ends with a space ",
    "\u202ecdc",
    "cdc~0123456789ab",  # looks like one that was made
]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_name_becomes_one_plain_folder(tmp_path, name):
    made = folder_name(name)
    (tmp_path / made).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [made]
    assert made.isascii() and made.isprintable() and len(made) <= LONGEST
    assert folder_name(name + "x") != made


def test_the_folder_says_what_it_began_with():
    made = folder_name("zero_shot@prompts.anchors=x/../../ESCAPED {}.")
    assert made.startswith("zero_shot@prompts.anchors=x_")


@hypothesis.given(st.lists(st.text(st.characters(), max_size=300), unique=True, max_size=8))
def test_any_names_are_as_many_folders_below_the_workdir(names):
    root = Path("/workdir")
    folders = [root / folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.parent == root and folder.resolve().parent == root
        assert len(folder.name.encode()) <= LONGEST and folder.name.isprintable()


@hypothesis.given(st.text(st.characters(), max_size=400))
def test_any_change_of_a_row_is_one_folder(text):
    name = f"zero_shot@prompts.anchors={text}"
    assert (Path("/w") / folder_name(name)).resolve().parent == Path("/w")


@pytest.mark.parametrize("dataset", ["../../x", "a/b", "a\0b", "y" * 300])
def test_a_cell_of_a_sweep_is_one_folder(get_config, dataset):
    config = get_config("fewshot")
    config.dataset = dataset
    name = sweep._name(config)
    assert "/" not in name and len(name) <= LONGEST
