"""The hand-crafted text of a task: one template, or several texts for each class.

A template is a text with one {} for the class name. Several templates are averaged as CLIP's
prompt ensembles are (Radford et al. 2021, section 3.1.4). Sentences of single classes are averaged
the same way (CuPL, Pratt et al. 2023; WaffleCLIP, Roth et al. 2023).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias


@dataclasses.dataclass(frozen=True)
class Wording:
    """Several texts for each class of a task, whose features are averaged.

    The texts of a class are all `templates` and its sentences in `descriptions`. A class without
    such texts has the text of `template`.

    Attributes:
      template: text with one {} for the class name. Prompts without a phrase start as this text.
      templates: texts with one {}; may be empty.
      descriptions: class name -> sentences. A {} in a sentence stands for the class name.

    Raises:
      ValueError: a template does not have one {}. A sentence is empty or has a brace outside {}.
    """

    template: str
    templates: tuple[str, ...] = ()
    descriptions: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for text in (self.template, *self.templates):
            require_template(text)
        for name, sentences in self.descriptions.items():
            for sentence in sentences:
                if not sentence.strip() or _has_brace(sentence.replace("{}", "")):
                    raise ValueError(
                        f"a description of class {name!r} must be a sentence, in which only {{}} "
                        f"may stand for the class name; got {sentence!r}"
                    )

    def to_json(self) -> dict[str, Any]:
        """The fields, for a JSON file."""
        return dataclasses.asdict(self)


Template: TypeAlias = str | Wording
"""The hand-crafted text of a task: a single template, or a `Wording`."""


def sentences(template: Template, name: str) -> list[str]:
    """All texts of a class. Their features are averaged.

    >>> sentences("a photo of a {}.", "hot_dog")
    ['a photo of a hot dog.']
    >>> sentences(Wording("a {}.", ("the {}.",), {"cat": ("A {} purrs.",)}), "cat")
    ['the cat.', 'A cat purrs.']
    """
    class_name = name.replace("_", " ")
    if isinstance(template, str):
        return [template.format(class_name)]
    texts = [*template.templates, *template.descriptions.get(name, ())]
    return [text.replace("{}", class_name) for text in texts or [template.template]]


def single(template: Template) -> str:
    """The single template of a hand-crafted text: the start of prompts without a phrase."""
    return template if isinstance(template, str) else template.template


def to_json(template: Template) -> str | dict[str, Any]:
    """A hand-crafted text for a JSON file; `from_json` reads it."""
    return template if isinstance(template, str) else template.to_json()


def from_json(value: Any) -> Template:
    """A hand-crafted text from a JSON file.

    Raises:
      ValueError: a value that `to_json` does not return.
    """
    match value:
        case str():
            return value
        case {
            "template": str(template),
            "templates": list(templates),
            "descriptions": dict(descriptions),
        }:
            if _are_texts(templates) and all(map(_are_texts, descriptions.values())):
                described = {name: tuple(texts) for name, texts in descriptions.items()}
                return Wording(template, tuple(templates), described)
    raise ValueError(
        "must be a text, or an object of template (a text), templates (texts) and descriptions "
        f"(class name -> texts), got {value!r:.80}"
    )


def require_template(text: str, what: str = "a template") -> None:
    """Raises ValueError unless a text has one {} for the class name and no other brace.

    Args:
      text: to be checked.
      what: the setting that it comes from, for the message.
    """
    if text.count("{}") != 1 or _has_brace(text.replace("{}", "")):
        raise ValueError(f"{what} needs one {{}} for the class name, got {text!r}")


def _has_brace(text: str) -> bool:
    return "{" in text or "}" in text


def _are_texts(values: Sequence[Any]) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
