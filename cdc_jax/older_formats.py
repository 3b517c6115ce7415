"""Reads what release 0.1.0 wrote: results.json, config.json and adapted/ of format 1.

There a method was a configuration of prompts, the linear probe among them, and what a split is
stood in its name only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from cdc_jax.methods import choice, families, rows
from cdc_jax.records import FORMAT, INTERVENTION, SplitRecord
from cdc_jax.tasks.describe import describe
from cdc_jax.tasks.world.kinds import DOMAINS

_PARTS = {"context": "prompts.context", "classifier": "classifier", "evidence": "head"}
"""First name of an array of format 1 -> the part that it belongs to now."""


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method of format 1 in today's form: a probe has no prompts and no L_de."""
    if settings.get("prompts", {}).get("modality") != "probe":
        return dict(settings)
    return {key: value for key, value in settings.items() if key not in ("prompts", "loss")}


def upgrade_results(results: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The object that results.json of format 1 would be in today's.

    Args:
      results: contents of results.json.
      config: contents of config.json beside it.

    Raises:
      ValueError: something is missing that a whole run has.
    """
    for name, content, keys in (
        ("results.json", results, ("method", "splits", "steps", "trainable_parameters", "device")),
        ("config.json beside it", config, ("dataset", "shots", "seed", "model", "method")),
    ):
        if missing := [key for key in keys if key not in content]:
            raise ValueError(f"{name} lacks {', '.join(missing)}, so it is not a whole run's")
    if not isinstance(results["splits"], Mapping) or not results["splits"]:
        raise ValueError(f"splits must name at least one test split, got {results['splits']!r}")
    for name, figures in results["splits"].items():
        if not isinstance(figures, Mapping):
            raise ValueError(f"splits.{name} must be an object, got {figures!r:.80}")
    protocol, splits = _splits(results["splits"])
    heading = ""
    targets = [name for name, split in splits.items() if split.group == "target"]
    of_imagenet = config["dataset"] == "ImageNet"
    if targets and all(
        name in DOMAINS or of_imagenet and name.startswith("ImageNet") for name in targets
    ):
        heading = "Domain generalisation"
    elif not targets and config["dataset"] == "world":
        heading = "The embedded world"
    task = describe(config, protocol, heading, results.get("note") or "")
    return {
        "format": FORMAT,
        "row": _row(results["method"], config, protocol),
        "task": vars(task),
        "splits": {
            name: vars(split) | dict(results["splits"][name]) for name, split in splits.items()
        },
        "summary": results.get("summary", {}),
        "facts": {"phrases": results["phrases"]} if "phrases" in results else {},
        "steps": results["steps"],
        "trainable_parameters": results["trainable_parameters"],
        "skipped": results.get("skipped", {}).get("images", []),
        "device": results["device"],
    }


def _splits(names: Mapping[str, Any]) -> tuple[str, dict[str, SplitRecord]]:
    """The protocol, and what each split is, by the names that format 1 gave them."""
    found = {}
    for name in names:
        group, _, condition = name.partition("_")
        if name == "test":
            found[name] = ("all", "")
        elif group in ("base", "new"):
            found[name] = (group, "" if condition == "test" else condition)
        else:
            found[name] = ("target", "")
    transfer = any(group == "target" for group, _ in found.values())
    cut = any(condition == INTERVENTION for _, condition in found.values())
    splits = {}
    for name, (group, condition) in found.items():
        if transfer:
            headline = group == "target"
        else:
            headline = not cut or condition == INTERVENTION
        splits[name] = SplitRecord(group, condition, headline)
    halves = any(group == "base" for group, _ in found.values())
    return "transfer" if transfer else "base_new" if halves else "few_shot", splits


def _row(name: str, config: Mapping[str, Any], protocol: str) -> dict[str, Any]:
    method = upgrade_settings(config["method"])
    prompts = method.get("prompts", {})
    known = name.partition("@")[0]
    changes: dict[str, Any] = {}
    title, role = name, ""
    if known in rows.ROWS:
        small = config["model"] == "world"  # the only model that was called small
        unfamiliar = small and config["dataset"] != "world" and protocol == "few_shot"
        default = choice.configure(known, "small" if small else "", unfamiliar_names=unfamiliar)
        own = flatten_dict(default.config.to_dict(), sep=".")
        given = own | flatten_dict(method, sep=".")
        changes = {key: value for key, value in given.items() if own.get(key) != value}
        title, role = choice.title(name), rows.ROWS[known].role
    return {
        "name": name,
        "row": known,
        "title": title,
        "role": role,
        "changes": changes,
        "changes_images": prompts.get("modality") == "multimodal",
    }


def read_adapted(
    folder: Path,
    description: Mapping[str, Any],
    read_arrays: Callable[[Path, str], dict[str, np.ndarray]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """An adapted model of format 1: its arrays by today's names, and today's description.

    Args:
      folder: of the model.
      description: contents of adapted.json.
      read_arrays: reads a file of arrays and checks its digest.

    Raises:
      FileNotFoundError, ValueError: as `export.read`.
    """
    names = ("vectors", "class_names", "template", "method", "mean_logit", "base", "preprocessing")
    if missing := [name for name in names if name not in description]:
        raise ValueError(f"{folder / 'adapted.json'} lacks {', '.join(missing)}: adapt again")
    arrays = {}
    for name, array in read_arrays(folder / "prompts.safetensors", description["vectors"]).items():
        first, _, rest = name.partition(".")
        part = _PARTS.get(first, f"prompts.{first}")
        arrays[f"trained.{part}{'.' if rest else ''}{rest}"] = array
    method = description["method"]
    family = "linear_probe" if method["prompts"]["modality"] == "probe" else "prompt_tuning"
    settings = families.family_settings(family)
    for part, values in upgrade_settings(method).items():
        settings[part].update(ConfigDict(values))
    if settings.head.name == "evidential":
        settings.head.shift = settings.head.shift_multiple * description["mean_logit"]
    kept = {name: description[name] for name in ("class_names", "template", "base")}
    return arrays, kept | {
        "preprocessing": description["preprocessing"],
        "family": family,
        "settings": settings.to_dict(),
    }
