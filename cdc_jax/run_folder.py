"""What a run leaves in a method's folder, and how it is written: complete or not at all.

config.json          the settings; a folder belongs to one configuration
metrics.jsonl        losses, one object every few steps
curve.jsonl          accuracies in the course of training, where the configuration asks for them
results.json         every figure; it is there when the run is complete
scores.npz           for every test image what the method said of it
interpretation.json  what the templates learned
adapted/             all that predictions need, see `adapted`
gallery.json         the most and least certain test images, with gallery/*.png
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cdc_jax.evaluate import Scores
from cdc_jax.tasks import Examples

_GALLERY = 6  # images at each end of a split


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes config.json, or checks that it says the same.

    Raises:
      ValueError: it says something else; the message lists the differences.
    """
    path = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_json(path, settings)
        return
    old, new = _flat(json.loads(path.read_text())), _flat(settings)
    changed = [
        f"{k}: {old.get(k)!r} there, {new.get(k)!r} now"
        for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(changed)}): choose another "
            "--workdir, or delete that folder"
        )


def write_json(path: Path, content: Any) -> None:
    """Writes a file that is either complete or not there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def append(path: Path, line: Mapping[str, Any]) -> None:
    """Adds an object to a file of one object a line."""
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")


def cut(path: Path, step: int) -> None:
    """Drops lines that an interrupted run logged after the checkpoint it goes on from."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))


def write_scores(folder: Path, scores: Mapping[str, Scores]) -> None:
    """Writes scores.npz: `<split>/labels`, `/predicted`, `/confidence`, and so on."""
    arrays = {
        f"{split}/{name}": array
        for split, one in scores.items()
        for name, array in {
            "labels": one.labels.astype(np.int32),
            "predicted": one.probability.argmax(-1).astype(np.int32),
            "confidence": one.probability.max(-1),
            "uncertainty": one.uncertainty,
            "log_vacuity": one.log_vacuity,
            "conflict": one.conflict,
            "template_predicted": one.template_predicted.astype(np.int32),
        }.items()
    }
    part = folder / "scores.part.npz"
    np.savez_compressed(part, **arrays)
    part.replace(folder / "scores.npz")


def write_gallery(folder: Path, scores: Mapping[str, Scores], test: Mapping[str, Examples]) -> None:
    """Writes the most and the least certain images of every split with their opinions."""
    (folder / "gallery").mkdir(exist_ok=True)
    entries = []
    for split, one in scores.items():
        names = test[split].class_names
        order = np.argsort(one.uncertainty, kind="stable")
        chosen = {
            "most certain": order[:_GALLERY],
            "least certain": order[_GALLERY:][::-1][:_GALLERY],
        }
        for end, indices in chosen.items():
            for rank, i in enumerate(indices):
                file = f"gallery/{split}-{end.split()[0]}-{rank}.png"
                Image.fromarray(test[split].images[i : i + 1][0]).save(folder / file)
                entries.append(
                    {"split": split, "end": end, "file": file, "label": names[one.labels[i]]}
                    | _opinion(one, i, names)
                )
    write_json(folder / "gallery.json", entries)


def _opinion(scores: Scores, i: int, names: tuple[str, ...]) -> dict[str, Any]:
    probability = scores.probability[i]
    best = np.argsort(-probability, kind="stable")[:3]
    return {
        "predicted": names[best[0]],
        "probability": [[names[k], float(probability[k])] for k in best],
        "uncertainty": float(scores.uncertainty[i]),
        "conflict": float(scores.conflict[i]),
        "templates": [
            [names[k], float(p), float(u)]
            for k, p, u in zip(
                scores.template_predicted[i],
                scores.template_confidence[i],
                scores.template_uncertainty[i],
                strict=True,
            )
        ],
    }


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
