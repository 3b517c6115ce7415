"""Folders of runs as `train_and_evaluate` writes them, made up from a seed: small, and quick."""

import json
import zlib

import numpy as np
import PIL.Image

from cdc_jax import methods, metrics
from cdc_jax.methods import defaults
from cdc_jax.records import Results, SplitRecord
from cdc_jax.tasks.describe import describe
from cdc_jax.tasks.world.kinds import DOMAINS

SKILL = {"zero_shot": 0.3, "coop": 0.1, "coop_con": 0.35, "cdc": 0.5}
WORLD_SPLITS = tuple(f"{h}_{k}" for h in ("base", "new") for k in ("iid", "int", "rev", "style"))
# Split -> its group of classes and its condition. The others are targets.
SPLITS = {split: tuple(split.split("_")) for split in WORLD_SPLITS} | {
    "test": ("all", ""), "base_test": ("base", ""), "new_test": ("new", ""),
}  # fmt: skip


def write_cell(
    folder, method="cdc", *, dataset="world", kind="aligned", rho=0.9, shots=16, seed=1,
    splits=WORLD_SPLITS, model="world", changes=(), classes=("star", "disc", "key", "bell"),
    images=60, accuracy=None, optional=(), note="", skipped=0, results_format=2,
    by_class=True,
):  # fmt: skip
    """Writes a cell.

    Args:
      folder: of the cell; made.
      accuracy: split -> percent, instead of made-up predictions' (figures only, no scores).
      changes: settings of the method that differ from the row's, dots reaching into the parts.
      optional: which of "scores", "curve", "interpretation" and "gallery" there are.
      note: what sets the task apart.
      skipped: number of images that could not be used.
      by_class: whether there are figures by class and of guarantees; format 2 once had none.
      results_format: of results.json and config.json; 1 is what release 0.1.0 wrote.
    """
    folder.mkdir(parents=True)
    changed = "@" + ";".join(f"{key}={value}" for key, value in changes) if changes else ""
    protocol, heading = protocol_of(splits, dataset)
    small = model == "world"
    unfamiliar = small and dataset != "world" and protocol == "few_shot"
    choice = methods.configure(
        method + changed, "small" if small else "", unfamiliar_names=unfamiliar
    )
    settings = choice.config.to_dict()
    config = {
        "dataset": dataset, "shots": shots, "seed": seed, "model": model, "dtype": "float32",
        "log_every": 10, "world": {"kind": kind, "rho": rho}, "method": settings,
    }  # fmt: skip
    prompts = settings.get("prompts", {"templates": 1, "context": 0, "modality": "text"})
    templates, context = prompts["templates"], prompts["context"]
    where = f"{method}{dict(changes)}{dataset}{kind}{rho}{shots}"
    rng = np.random.default_rng([seed, zlib.crc32(where.encode())])
    skill = SKILL.get(method, 0.2) + 0.05 * np.log2(shots) + 0.02 * np.log2(templates)
    scored = {
        split: predictions(rng, skill - 0.15 * ("new" in split), images, len(classes), templates)
        for split in splits
    }
    figures = {split: figures_of(arrays) for split, arrays in scored.items()}
    if by_class:
        figures = {s: own | later_figures_of(scored[s], classes) for s, own in figures.items()}
    if accuracy is not None:
        figures = {split: own | {"accuracy": accuracy[split]} for split, own in figures.items()}
    summary = {split: figure["accuracy"] for split, figure in figures.items()}
    for new in [split for split in splits if split.startswith("new_")]:
        halves = [scored[half + new[4:]] for half in ("base_", "new_")]
        base, other = (half["uncertainty"] for half in halves)
        summary[f"novelty_{new[4:]}"] = 100 * metrics.novelty_auroc(base, other)
        if by_class:
            doubts = (1 - half["confidence"] for half in halves)
            summary[f"novelty_probability_{new[4:]}"] = 100 * metrics.novelty_auroc(*doubts)
            summary[f"novelty_fpr95_{new[4:]}"] = 100 * float(
                np.mean(base >= np.quantile(other, 0.05, method="inverted_cdf"))
            )
    epochs = choice.config.optimizer.epochs
    results = Results(
        row=choice.record(changes_images=prompts.get("modality") == "multimodal"),
        task=describe(config, protocol, heading, note),
        splits=split_records(splits),
        figures=figures,
        summary=summary,
        facts={"phrases": prompts["phrases"]} if "phrases" in prompts else {},
        steps=30 * epochs,
        trainable_parameters=2048,
        skipped=[{"file": f"{i}.jpg", "reason": "can't be decoded"} for i in range(skipped)],
        device="1 x cpu",
    )
    content = results.to_json()
    if results_format == 1:
        content, config = as_format_1(results), config | {"method": settings_of_format_1(choice)}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "results.json").write_text(json.dumps(content, indent=2))
    if "scores" in optional:
        arrays = {f"{s}/{key}": a for s, parts in scored.items() for key, a in parts.items()}
        np.savez_compressed(folder / "scores.npz", **arrays)
    if "curve" in optional and epochs:
        write_curve(folder, rng, figures)
    if "interpretation" in optional and context:
        write_interpretation(folder, rng, templates, context)
    if "gallery" in optional:
        write_gallery(folder, rng, scored, classes)
    return folder


def protocol_of(splits, dataset):
    """The protocol of a task with these test splits, and the heading of its tables."""
    targets = [split for split in splits if split not in SPLITS]
    if targets:
        of_imagenet = dataset == "ImageNet"
        domains = all(t in DOMAINS or of_imagenet and t.startswith("ImageNet") for t in targets)
        return "transfer", "Domain generalisation" if domains else ""
    if "test" in splits:
        return "few_shot", ""
    return "base_new", "The bundled world" if dataset == "world" else ""


def split_records(splits):
    """What each of a task's test splits is."""
    parts = {split: SPLITS.get(split, ("target", "")) for split in splits}
    transfer = any(group == "target" for group, _ in parts.values())
    under_do = any(condition == "int" for _, condition in parts.values())
    return {
        split: SplitRecord(
            group,
            condition,
            headline=group == "target" if transfer else condition == "int" or not under_do,
        )
        for split, (group, condition) in parts.items()
    }


def as_format_1(results):
    """The contents of results.json as release 0.1.0 wrote it."""
    skipped = {"count": len(results.skipped), "images": results.skipped}
    return {
        "splits": results.figures, "summary": results.summary, "note": results.task.note,
        "method": results.row.name, "skipped": skipped, "steps": results.steps,
        "trainable_parameters": results.trainable_parameters, "device": results.device,
    } | results.facts  # fmt: skip


def settings_of_format_1(choice):
    """A method's settings as release 0.1.0 had them: the probe was a modality of prompts."""
    settings = choice.config.to_dict()
    if choice.family_name != "linear_probe":
        return settings
    prompts = defaults.PROMPT_TUNING["prompts"] | {"modality": "probe"}
    return settings | defaults.PROMPT_TUNING | {"prompts": prompts}


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


def later_figures_of(arrays, classes):
    """Those that format 2 did not have at first; the guarantees are made up."""
    labels, predicted = arrays["labels"], arrays["predicted"]
    correct, numbers = labels == predicted, range(len(classes))
    own = [correct[labels == k] for k in numbers]
    matrix = [[int(((labels == i) & (predicted == j)).sum()) for j in numbers] for i in numbers]
    accuracies = [100 * float(one.mean()) if len(one) else None for one in own]
    decided = arrays["confidence"] > 0.7

    def auroc(uncertainty, correct):
        value = 100 * metrics.error_auroc(uncertainty, correct)
        return None if np.isnan(value) else value

    return {
        "auroc_probability": auroc(1 - arrays["confidence"], correct),
        "auroc_vacuity": auroc(arrays["uncertainty"], correct),
        "coverage": 100 * float((correct | (arrays["confidence"] < 0.6)).mean()),
        "set_size": 1 + float((arrays["confidence"] < 0.6).mean()),
        "risk": 100 * float((~correct[decided]).mean()) if decided.any() else None,
        "decided": 100 * float(decided.mean()),
        "classes": list(classes),
        "class_accuracy": accuracies,
        "macro_accuracy": float(np.mean([one for one in accuracies if one is not None])),
        "confusion": [[i, j, matrix[i][j]] for i in numbers for j in numbers if matrix[i][j]],
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
        wrong = order[(arrays["labels"] != arrays["predicted"])[order]]
        for end, chosen in {
            "most certain": order[:each], "least certain": order[::-1][:each],
            "confident mistakes": wrong[:each], "confused pairs": wrong[-2:],
        }.items():  # fmt: skip
            for rank, i in enumerate(chosen):
                name = f"gallery/{split}-{end.split()[0]}-{rank}.png"
                write_picture(folder / name, rng)
                predicted, p = classes[arrays["predicted"][i]], float(arrays["confidence"][i])
                others = [one for one in classes if one != predicted][:2]
                entry = {
                    "split": split, "end": end, "file": name,
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
