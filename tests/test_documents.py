"""README, guides and results pages: links resolve, figures are those of the results, code runs."""

import re
from pathlib import Path

import pytest

from cdc_jax import config_file, grammar, methods, settings
from cdc_jax.methods import rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "experiments" / "causal_reading.md"]
    + [*ROOT.glob("experiments/guides/*.md"), RESULTS / "README.md"]
)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
FIGURE = re.compile(r"(?<![\w./=])\d+\.\d+(?![\w./])")


def by_path(path):
    return str(path.relative_to(ROOT))


def blocks(document, language):
    """The fenced blocks of a language; "" are commands and output."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_path)
def test_links_resolve(document):
    for target in LINK.findall(document.read_text()):
        assert "://" in target or (document.parent / target).exists(), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_every_results_page_is_in_the_index():
    linked = set(LINK.findall((RESULTS / "README.md").read_text()))
    pages = {str(path.relative_to(RESULTS)) for path in RESULTS.rglob("*") if path.is_file()}
    assert pages - linked == {"README.md", "world.png"}


def test_the_readme_names_every_method():
    table = (ROOT / "README.md").read_text().partition("## Methods")[2].partition("\n## ")[0]
    named = re.findall(
        r"`(\w+)`",
        "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `")),
    )
    assert sorted(named) == sorted(methods.ROWS)


def test_the_first_result_is_what_the_command_printed():
    table = next(block for block in blocks(ROOT / "README.md", "") if "zero-shot CLIP" in block)
    assert table.strip("\n") == (RESULTS / "first_result.txt").read_text().strip("\n")


def sections():
    """Paragraphs with figures, and the results pages that they cite."""
    for document in DOCUMENTS:
        text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)
        # A list belongs to the paragraph that introduces it.
        for paragraph in re.split(r"\n\n(?!\* |\| |- |  )", text):
            pages = [
                document.parent / link for link in LINK.findall(paragraph) if "://" not in link
            ]
            pages = [page for page in pages if RESULTS in page.resolve().parents]
            if pages and FIGURE.search(paragraph):
                yield pytest.param(paragraph, pages, id=f"{by_path(document)}: {paragraph[:30]}")


@pytest.mark.parametrize("paragraph, pages", list(sections()))
def test_figures_stand_on_the_pages_that_are_cited(paragraph, pages):
    known = set(re.findall(r"\d+\.\d+", "\n".join(page.read_text() for page in pages)))
    rounded = {f"{float(figure):.1f}" for figure in known}
    missing = [figure for figure in FIGURE.findall(paragraph) if figure not in known | rounded]
    assert not missing


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=by_path)
def test_python_blocks_run(document, monkeypatch):
    monkeypatch.setattr(rows, "ROWS", dict(rows.ROWS))  # to which a guide adds
    for block in blocks(document, "python"):
        exec(compile(block, by_path(document), "exec"), {})


def commands():
    """Every `--config=FILE.py:…` with the settings that follow it."""
    for document in DOCUMENTS:
        for block in [*blocks(document, ""), *re.findall(r"`([^`\n]+)`", document.read_text())]:
            for line in block.replace("\\\n", " ").splitlines():
                if found := re.search(r"--config=(\w+)\.py(?::(\S+))?(.*)", line):
                    changes = re.findall(r"--config\.(\S+)", found[3])
                    if "…" not in line:
                        yield pytest.param(found[1], found[2] or "", changes, id=line.strip()[:80])


@pytest.mark.parametrize("name, argument, changes", list(commands()))
def test_settings_of_commands_are_accepted(name, argument, changes, get_config):
    config = get_config(name, *([argument] if argument else []))
    if name != "pretrain":
        config_file.assign(config.unlock(), map(grammar.setting, changes))
        settings.check(config)
