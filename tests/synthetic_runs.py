"""Folders of runs as `train_and_evaluate` writes them, made up from a seed: small, and quick."""

import json
import zlib

import numpy as np
import PIL.Image

from cdc_jax import methods, metrics

SKILL = {"zero_shot": 0.3, "coop": 0.1, "coop_con": 0.35, "cdc": 0.5}
WORLD_SPLITS = tuple(f"{h}_{k}" for h in ("base", "new") for k in ("iid", "int", "rev", "style"))


def write_cell(
    folder, method="cdc", *, dataset="world", kind="aligned", rho=0.9, shots=16, seed=1,
    splits=WORLD_SPLITS, model="world", changes=(), classes=("star", "disc", "key", "bell"),
    images=60, accuracy=None, optional=(), note="", skipped=0,
):  # fmt: skip
    """Writes a cell.

    Args:
      folder: of the cell; made.
      accuracy: split -> percent, instead of made-up predictions' (figures only, no scores).
      changes: method's settings that aren't its own, dots reaching into the parts.
      optional: which of "scores", "curve", "interpretation" and "gallery" there are.
      note: what sets the task apart.
      skipped: images that could not be used.
    """
    folder.mkdir(parents=True)
    choices = methods.configure(method, model == "world").unlock()
    choices.update_from_flattened_dict(dict(changes))
    config = {
        "dataset": dataset, "shots": shots, "seed": seed, "model": model, "dtype": "float32",
        "log_every": 10, "world": {"kind": kind, "rho": rho}, "method": choices.to_dict(),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    where = f"{method}{dict(changes)}{dataset}{kind}{rho}{shots}"
    rng = np.random.default_rng([seed, zlib.crc32(where.encode())])
    templates = choices.prompts.templates
    skill = SKILL.get(method, 0.2) + 0.05 * np.log2(shots) + 0.02 * np.log2(templates)
    scored = {
        split: predictions(rng, skill - 0.15 * ("new" in split), images, len(classes), templates)
        for split in splits
    }
    figures = {split: figures_of(arrays) for split, arrays in scored.items()}
    if accuracy is not None:
        figures = {
            split: figures_of(scored[split]) | {"accuracy": accuracy[split]} for split in splits
        }
    summary = {split: figure["accuracy"] for split, figure in figures.items()}
    for new in [split for split in splits if split.startswith("new_")]:
        halves = [scored[half + new[4:]]["uncertainty"] for half in ("base_", "new_")]
        summary[f"novelty_{new[4:]}"] = 100 * metrics.novelty_auroc(*halves)
    changed = "@" + ";".join(f"{key}={value}" for key, value in changes) if changes else ""
    results = {
        "splits": figures, "summary": summary, "note": note, "method": method + changed,
        "skipped": {"count": skipped, "images": []}, "steps": 30 * choices.optimizer.epochs,
        "trainable_parameters": 2048, "device": "1 x cpu",
    }  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    if "scores" in optional:
        arrays = {f"{s}/{key}": a for s, parts in scored.items() for key, a in parts.items()}
        np.savez_compressed(folder / "scores.npz", **arrays)
    if "curve" in optional and choices.optimizer.epochs:
        write_curve(folder, rng, figures)
    if "interpretation" in optional and choices.prompts.context:
        write_interpretation(folder, rng, templates, choices.prompts.context)
    if "gallery" in optional:
        write_gallery(folder, rng, scored, classes)
    return folder


def predictions(rng, skill, images, classes, templates):
    """Arrays of one split in the layout of `scores.npz`."""
    labels = np.arange(images) % classes
    own = rng.normal(0, 0.4, (images, templates, classes)) + rng.normal(0, 1, (images, 1, classes))
    own[np.arange(images), :, labels] += 1.5 * (1 + skill)
    fused = np.exp(2 * own.mean(1))
    fused /= fused.sum(1, keepdims=True)
    confidence = fused.max(1)
    return {
        "labels": labels,
        "predicted": fused.argmax(1),
        "confidence": confidence.astype(np.float32),
        "uncertainty": ((1 - confidence) ** 0.8 + 0.02 * rng.random(images)).astype(np.float32),
        "conflict": rng.random(images).astype(np.float32) * 0.3,
        "template_predicted": own.argmax(2),
    }


def figures_of(arrays):
    """Those that `evaluate.summarize` reports of a split."""
    correct = arrays["labels"] == arrays["predicted"]
    own = (arrays["template_predicted"] == arrays["labels"][:, None]).mean(0)
    confidence = arrays["confidence"]
    return {
        "images": len(correct),
        "accuracy": 100 * float(correct.mean()),
        "template_accuracy": [100 * float(a) for a in own],
        "ece": 100 * metrics.expected_calibration_error(confidence, correct),
        "nll": float(-np.log(np.where(correct, confidence, (1 - confidence) / 3)).mean()),
        "brier": float(np.where(correct, (1 - confidence) ** 2, confidence**2 + 0.1).mean()),
        "auroc": 100 * metrics.error_auroc(arrays["uncertainty"], correct),
        "aurc": 100 * metrics.area_under_risk_coverage(arrays["uncertainty"], correct),
    }


def write_curve(folder, rng, figures, epochs=8):
    lines = []
    for epoch in range(1, epochs + 1):
        line = {"epoch": epoch, "step": 30 * epoch}
        for split, figure in figures.items():
            rise = -6 if split.startswith("base") else 4
            left = (1 - epoch / epochs) * rise + rng.normal(0, 0.4) * (epoch < epochs)
            line[split] = figure["accuracy"] + left
        lines.append(json.dumps(line) + "\n")
    (folder / "curve.jsonl").write_text("".join(lines))


def write_interpretation(folder, rng, templates, context):
    words = ["photo", "a", "of", "thing", "shape", "bright", "shot", "at", "the", "tiny"]

    def square(low, high, diagonal):
        half = np.triu(rng.uniform(low, high, (templates, templates)), 1)
        return (half + half.T + diagonal * np.eye(templates)).round(4).tolist()

    def near():
        chosen = rng.choice(words, 3, replace=False)
        return [{"word": w, "distance": 0.6 + 0.1 * i} for i, w in enumerate(chosen.tolist())]

    content = {
        "words": [[near() for _ in range(context)] for _ in range(templates)],
        "template_cosine": square(0.7, 0.97, 1),
        "disagreement": square(0.02, 0.12, 0),
    }
    (folder / "interpretation.json").write_text(json.dumps(content))


def write_gallery(folder, rng, scored, classes, each=3):
    (folder / "gallery").mkdir()
    entries = []
    for split, arrays in scored.items():
        order = np.argsort(arrays["uncertainty"], kind="stable")
        for end, chosen in (("most", order[:each]), ("least", order[::-1][:each])):
            for rank, i in enumerate(chosen):
                name = f"gallery/{split}-{end}-{rank}.png"
                write_picture(folder / name, rng)
                predicted, p = classes[arrays["predicted"][i]], float(arrays["confidence"][i])
                others = [one for one in classes if one != predicted][:2]
                entry = {
                    "split": split, "end": f"{end} certain", "file": name,
                    "label": classes[arrays["labels"][i]], "predicted": predicted,
                    "probability": [[predicted, p], *([o, (1 - p) / 2] for o in others)],
                    "uncertainty": float(arrays["uncertainty"][i]),
                    "conflict": float(arrays["conflict"][i]),
                    "templates": [
                        [classes[k], 0.9 * p, 0.1 + 0.05 * m]
                        for m, k in enumerate(arrays["template_predicted"][i])
                    ],
                }  # fmt: skip
                entries.append(entry)
    (folder / "gallery.json").write_text(json.dumps(entries, indent=2))


def write_picture(path, rng):
    picture = np.full((32, 32, 3), rng.integers(40, 200, 3), np.uint8)
    low, high = np.sort(rng.choice(np.arange(2, 30), (2, 2)), axis=0)
    picture[low[0] : high[0] + 2, low[1] : high[1] + 2] = rng.integers(0, 255, 3)
    PIL.Image.fromarray(picture).save(path)
