"""Makes fewshot.json, published few-shot sets as integers: sizes of classes, and which were drawn.

python tests/references/make_fewshot.py FOLDER

FOLDER holds CoOp's split files, split_zhou_<dataset>.json, and fewshot_reference.json: sets that
others published, "<dataset>/shots=<s>/seed=1" -> {"train" | "val": [path, …]}. Nothing of this
project is used here, so that the sampler can be tested against it.
"""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """Writes the file beside this script."""
    published = json.loads((folder / "fewshot_reference.json").read_text())
    datasets = {}
    for name in sorted({key.split("/")[0] for key in published}):
        split = json.loads((folder / f"split_zhou_{name}.json").read_text())
        groups = {part: grouped(split[part]) for part in split}
        classes = len(groups["test"])
        datasets[name] = {
            # By label; and the labels in the order in which they first appear.
            "sizes": {
                part: [len(by_label[label]) for label in range(classes)]
                for part, by_label in groups.items()
            },
            "order": {part: list(groups[part]) for part in ("train", "val")},
            # Shots -> part -> for each class in that order, places among the class's images.
            "drawn": {
                key.split("/")[1].removeprefix("shots="): {
                    part: places(groups[part], paths) for part, paths in drawn.items()
                }
                for key, drawn in published.items()
                if key.startswith(f"{name}/")
            },
        }
    text = json.dumps(datasets, separators=(",", ":")).replace('},"', '},\n"')
    (Path(__file__).parent / "fewshot.json").write_text(text + "\n")


def grouped(entries: list) -> dict[int, list[str]]:
    """Label -> paths, both in the order of the file."""
    groups: dict[int, list[str]] = {}
    for path, label, _ in entries:
        groups.setdefault(label, []).append(path)
    return groups


def places(groups: dict[int, list[str]], drawn: list[str]) -> list[list[int]]:
    """Places of the drawn images in their classes, class by class."""
    position = {path: (k, i) for k, g in enumerate(groups.values()) for i, path in enumerate(g)}
    made: list[list[int]] = [[] for _ in groups]
    for path in drawn:
        group, place = position[path]
        made[group].append(place)
    if [position[path][0] for path in drawn] != sorted(position[path][0] for path in drawn):
        raise ValueError("the published set does not list its images class by class")
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
