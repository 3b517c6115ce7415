"""Reads files of release 0.1.0: results.json, config.json and adapted/ of format 1.

In that release every method, even the linear probe, was a configuration of prompts. Group and
condition of a split were part of its name only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cdc_jax import schema
from cdc_jax.escaping import reason
from cdc_jax.methods import choice, defaults, rows
from cdc_jax.records import FORMAT, INTERVENTION, SKIPPED, SplitRecord
from cdc_jax.schema import integer, number, optional, record, text
from cdc_jax.tasks.describe import describe
from cdc_jax.tasks.world.kinds import DOMAINS

_OBJECT = schema.table(schema.anything())
_RESULTS = {
    "method": text(),
    "splits": schema.table(_OBJECT),
    "steps": integer(0),
    "trainable_parameters": integer(0),
    "device": text(),
    "summary": optional(_OBJECT, {}),
    "phrases": optional(text()),
    "note": optional(text(), ""),
    "skipped": optional(record(images=optional(SKIPPED, [])), {"images": []}),
}
_CONFIG = {
    "dataset": text(),
    "shots": integer(0),
    "seed": integer(),
    "model": text(),
    "method": record(prompts=optional(_OBJECT)),
    "data": optional(record(root=text(), split=optional(text()))),
    "world": optional(record(kind=text())),
}

_PARTS = {"context": "prompts.context", "classifier": "classifier", "evidence": "head"}
"""First name of an array of format 1 -> its part in the current format."""


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method of format 1 in the current form: a probe has no prompts or loss."""
    if (settings.get("prompts") or {}).get("modality") != "probe":
        return dict(settings)
    return {key: value for key, value in settings.items() if key not in ("prompts", "loss")}


def upgrade_results(results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The object of results.json of format 1 in the current format.

    Args:
      results: contents of results.json.
      config: contents of config.json beside it.

    Raises:
      ValueError: a key of a whole run is missing.
    """
    for name, content, kind in (
        ("results.json", results, _RESULTS),
        ("config.json beside it", config, _CONFIG),
    ):
        keys = [key for key, field in kind.items() if field.default is schema.REQUIRED]
        needed = {"world": "world", "folder": "data"}  # by `describe`
        if content is config and (part := needed.get(str(config.get("dataset")))):
            keys.append(part)
        if missing := [key for key in keys if content.get(key) is None]:
            raise ValueError(f"{name} lacks {', '.join(missing)}, so it is not a whole run's")
    if results["splits"] in ({}, None):
        raise ValueError(f"splits must name at least one test split, got {results['splits']!r}")
    results = schema.record(**_RESULTS).read(results, "")
    schema.record(**_CONFIG).read(config, "")
    protocol, splits = _splits(results["splits"])
    heading = ""
    targets = [name for name, split in splits.items() if split.group == "target"]
    of_imagenet = config["dataset"] == "ImageNet"
    if targets and all(
        name in DOMAINS or of_imagenet and name.startswith("ImageNet") for name in targets
    ):
        heading = "Domain generalisation"
    elif not targets and config["dataset"] == "world":
        heading = "The bundled world"
    task = describe(config, protocol, heading, results["note"])
    return {
        "format": FORMAT,
        "row": _row(results["method"], config, protocol),
        "task": vars(task),
        "splits": {
            name: vars(split) | dict(results["splits"][name]) for name, split in splits.items()
        },
        "summary": results["summary"],
        "facts": {} if results["phrases"] is None else {"phrases": results["phrases"]},
        "steps": results["steps"],
        "trainable_parameters": results["trainable_parameters"],
        "skipped": results["skipped"]["images"],
        "device": results["device"],
    }


def _splits(names: Mapping[str, Any]) -> tuple[str, dict[str, SplitRecord]]:
    """The protocol, and the records of splits, from their names in format 1."""
    groups = {}
    for name in names:
        group, _, condition = name.partition("_")
        if name == "test":
            groups[name] = ("all", "")
        elif group in ("base", "new"):
            groups[name] = (group, "" if condition == "test" else condition)
        else:
            groups[name] = ("target", "")
    transfer = any(group == "target" for group, _ in groups.values())
    has_interventions = any(condition == INTERVENTION for _, condition in groups.values())
    splits = {}
    for name, (group, condition) in groups.items():
        if transfer:
            headline = group == "target"
        else:
            headline = not has_interventions or condition == INTERVENTION
        splits[name] = SplitRecord(group, condition, headline)
    halves = any(group == "base" for group, _ in groups.values())
    return "transfer" if transfer else "base_new" if halves else "few_shot", splits


_DEFAULTS = {"head.uncertainty": "vacuity"}
"""Defaults of format 1 that are others today."""


def _row(name: str, config: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    method = upgrade_settings(config["method"])
    prompts = method.get("prompts") or {}
    row = name.partition("@")[0]
    changes: dict[str, Any] = {}
    title, role = name, ""
    if row in rows.ROWS:
        small = config["model"] == "world"  # the only model that was called small
        unfamiliar = small and config["dataset"] != "world" and protocol == "few_shot"
        default = choice.configure(row, "small" if small else "", unfamiliar_names=unfamiliar)
        row_settings = flatten_dict(default.config.to_dict(), sep=".") | _DEFAULTS
        run_settings = row_settings | flatten_dict(method, sep=".")
        changes = {
            key: value for key, value in run_settings.items() if row_settings.get(key) != value
        }
        title, role = choice.title(name), rows.ROWS[row].role
    return {
        "name": name,
        "row": row,
        "title": title,
        "role": role,
        "changes": changes,
        "changes_images": prompts.get("modality") == "multimodal",
    }


_ADAPTED = record(
    vectors=text(),
    class_names=schema.list_of(text(empty=False), 1),
    template=text(),
    method=record(prompts=record(modality=text()), head=_OBJECT),
    mean_logit=number(),
    base=_OBJECT,
    preprocessing=_OBJECT,
)


def read_adapted(
    folder: Path,
    description: Mapping[str, Any],
    read_arrays: Callable[[Path, str], dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapted model of format 1: its arrays by current names, and a current description.

    Args:
      folder: of the model.
      description: contents of adapted.json.
      read_arrays: reads a file of arrays and checks its digest.

    Raises:
      FileNotFoundError, ValueError: as `export.read`.
    """
    where = str(folder / "adapted.json")
    schema.check(description, _ADAPTED, where, "adapt again")
    arrays = {}
    for name, array in read_arrays(folder / "prompts.safetensors", description["vectors"]).items():
        first, _, inner = name.partition(".")
        part = _PARTS.get(first, f"prompts.{first}")
        arrays[f"trained.{part}{'.' if inner else ''}{inner}"] = array
    method = description["method"]
    family = "linear_probe" if method["prompts"]["modality"] == "probe" else "prompt_tuning"
    settings = defaults.of_family(family)
    try:
        for part, values in upgrade_settings(method).items():
            settings[part].update(ConfigDict(values))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{where}: method holds settings of no method ({reason(error)}); adapt again"
        ) from None
    if settings.head.name == "evidential":
        settings.head.shift = settings.head.shift_multiple * description["mean_logit"]
    fields = {name: description[name] for name in ("class_names", "template", "base")}
    return arrays, fields | {
        "arrays": description["vectors"],
        "preprocessing": description["preprocessing"],
        "family": family,
        "settings": settings.to_dict(),
    }
