"""task.toml, a small file beside a user's images that describes them.

Every key is optional:

  template = "a photo of a {}."    # the hand-crafted template
  templates = ["a {}.", "the {}."] # several in its place, averaged
  items = "labels.csv"             # a list in place of class folders, see `lists`
  names = "names.txt"              # of classes that the list numbers: a file of one name a line,
                                   # of `number name` lines, or JSON; or a list ["cat", "dog"]
  val = 0.2                        # shares of the images, where nothing says which is for what
  test = 0.3
  seed = 0                         # of that split, not of the shots
  [columns]
  path = "file"                    # the list's column for path, label or split; "" is none
  [class_names]
  tshirt = "T-shirt"               # folder, or label in the list = the name that CLIP reads
  [descriptions]
  tshirt = ["A T-shirt has short sleeves."]  # sentences of a class, averaged

The texts of a class with descriptions are its descriptions and `templates`, but not `template`.
"""

import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cdc_jax import schema, spelling
from cdc_jax.escaping import reason
from cdc_jax.tasks import text_file
from cdc_jax.tasks.splits import Split
from cdc_jax.wording import Template, Wording, require_template

# The shares are those by which CoOp split the datasets that had no split.
DEFAULTS: dict[str, Any] = {
    "template": "a photo of a {}.", "templates": [], "items": "", "names": [], "val": 0.2,
    "test": 0.3, "seed": 0, "columns": {}, "class_names": {}, "descriptions": {},
}  # fmt: skip
"""The keys of task.toml and their defaults."""

COLUMNS = ("path", "label", "split")
"""Columns of a list that `columns` may name."""

_TEXT, _TEXTS = schema.text(empty=False), schema.list_of(schema.text(empty=False))
_KINDS = {
    "template": schema.text(), "templates": _TEXTS, "items": schema.text(),
    "names": schema.either(schema.text(), _TEXTS), "val": schema.number(0, 1),
    "test": schema.number(0, 1), "seed": schema.integer(0, 2**32 - 1),
    "columns": schema.table(schema.text()), "class_names": schema.table(_TEXT),
    "descriptions": schema.table(schema.either(_TEXT, schema.list_of(_TEXT, 1))),
}  # fmt: skip
_SETTINGS = schema.record(
    **{key: schema.optional(kind, DEFAULTS[key]) for key, kind in _KINDS.items()}
)


def read(file: Path) -> dict[str, Any]:
    """Contents of task.toml over the defaults.

    Raises:
      ValueError: the file is not TOML, has an unknown key, or a value that can't be used.
      OSError: the file can't be read.
    """
    if not file.exists():
        return DEFAULTS
    try:
        values = tomllib.loads(text_file.read(file))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not TOML: {reason(error)}") from None
    except RecursionError:
        raise ValueError(f"{file} is not task.toml: its values are nested too deeply") from None
    for key in values:
        if key not in DEFAULTS:
            near = spelling.nearest(key, DEFAULTS)
            raise ValueError(f"unknown key {key!r} in {file}: did you mean {near!r}?")
    settings = schema.check(values, _SETTINGS, str(file), "mend it")
    if "template" in values and "templates" in values:
        raise ValueError(f"{file} gives both template and templates: put all into templates")
    for text in (settings["template"], *settings["templates"]):
        require_template(text, f"template in {file}")
    if unknown := set(settings["columns"]) - set(COLUMNS):
        raise ValueError(
            f"columns in {file} may name the columns of {', '.join(COLUMNS)}, got {min(unknown)!r}"
        )
    return settings


def renamed(split: Split, changes: Mapping[str, Any]) -> Split:
    """The split with the class names of `class_names` in task.toml.

    Raises:
      ValueError: a class does not exist, or two classes get one name.
    """
    classes = set(split.class_names)
    for name in changes:
        if name not in classes:
            near = spelling.nearest(name, classes)
            raise ValueError(f"class_names in task.toml: no class {name!r}, but {near!r}")
    names = tuple(changes.get(name, name) for name in split.class_names)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise ValueError(f"two classes are called {twice[0]!r}: CLIP could not tell them")
    return Split(split.train, split.val, split.test, names)


def template(settings: Mapping[str, Any], class_names: Sequence[str]) -> Template:
    """The hand-crafted text of task.toml.

    Args:
      settings: of `read`.
      class_names: of the task. The keys of descriptions are these names, or the keys of
        `class_names` in task.toml.

    Raises:
      ValueError: a description belongs to no class, or is no sentence.
    """
    several, descriptions = tuple(settings["templates"]), {}
    if not several and not settings["descriptions"]:
        return settings["template"]
    classes = set(class_names)
    for key, sentences in settings["descriptions"].items():
        name = settings["class_names"].get(key, key)
        if name not in classes:
            near = spelling.nearest(key, classes)
            raise ValueError(f"descriptions in task.toml: no class {key!r}, but {near!r}")
        if name in descriptions:
            raise ValueError(f"descriptions in task.toml: class {name!r} is described twice")
        descriptions[name] = (sentences,) if isinstance(sentences, str) else tuple(sentences)
    return Wording(several[0] if several else settings["template"], several, descriptions)


def remarks(template: Template, class_names: Sequence[str]) -> tuple[str, ...]:
    """A remark about classes without a description, if other classes have one."""
    if not isinstance(template, Wording) or not template.descriptions:
        return ()
    without = [name for name in class_names if name not in template.descriptions]
    if not without:
        return ()
    instead = ", ".join(map(repr, template.templates or [template.template]))
    return (
        f"{len(without)} of the {len(class_names)} classes have no description, such as "
        f"{without[0]!r}: they get {instead:.300}",
    )
