"""What each method costs: parameters, and time, memory and operations of a training step.

    python experiments/benchmark.py --only=cost > experiments/results/benchmarks/cost.txt

ViT-B/16 sizes with random weights, K = 100 classes, and batches of 4 images, which all methods can
take. The other settings are the published ones. A method with several stages has a line for each.
A method that trains on frozen features of fresh views encodes a batch in each step. A method with
`training_features` takes a batch of those. Each method runs in a process of its own. One process
compiles for every two cores, and then they take turns. For a GPU, set
XLA_PYTHON_CLIENT_PREALLOCATE=false, so that they share its memory.
"""

import contextlib
import dataclasses
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from benchmarks import measuring

from cdc_jax import clip as clip_lib
from cdc_jax import methods, optimizer, views
from cdc_jax.clip.backbone import ClipBackbone
from cdc_jax.step import Phase, initial_state, make_step
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.tasks.world.factors import VALUES

_CLASSES = tuple(itertools.product(VALUES["fill"], VALUES["shape"]))  # words of the tokenizer
CLASSES, BATCH, SHOTS, ROUNDS = 100, 4, 16, 3
TEMPLATE = "a photo of a {}."
HEADER = (
    f"{'method':<24} {'parameters':>12} {'compile':>9} {'step, median [min .. max]':>32} "
    f"{'GFLOP':>8} {'program':>9} {'peak':>9}"
)


def main() -> None:
    """Prints one table."""
    print(
        f"K = {CLASSES}, {BATCH} images a step, {ROUNDS} rounds. Compile: seconds in XLA. GFLOP: "
        "matrix products of the\nstep. Program: its arguments, results and temporaries. Peak: the "
        f"most memory that the accelerator,\nor else the process, has held.\n\n{HEADER}"
    )
    at_once = max(os.cpu_count() // 2, 1)
    all_rows = trained_rows()
    for rows in (all_rows[n : n + at_once] for n in range(0, len(all_rows), at_once)):
        with contextlib.ExitStack() as stack, ThreadPoolExecutor(at_once) as pool:
            built = pool.map(functools.partial(measuring.Case, build), rows)
            cases = dict(zip(rows, built, strict=True))
            for case in cases.values():
                stack.enter_context(contextlib.closing(case))
            for (row, stage), times in measuring.take_turns(cases, ROUNDS).items():
                print(line(row, stage, cases[row], times), flush=True)


def line(row: str, stage: str, case: measuring.Case, times: measuring.Times) -> str:
    """A line under `HEADER`."""
    program = case.programs[stage]
    title = methods.ROWS[row].title + (f", {stage}" if len(case.programs) > 1 else "")
    return (
        f"{title:<24} {Setup.of(row).parameters()[stage]:>12,} {program.seconds:>7.1f} s "
        f"{times!s:>32} {program.flops / 1e9:>8.4g} {program.memory / 1e9:>6.2f} GB "
        f"{case.peak() / 1e9:>6.2f} GB"
    )


def trained_rows() -> list[str]:
    """The rows that train, without controls and upper bounds."""
    return [
        name
        for name, row in methods.ROWS.items()
        if row.group not in ("controls", "upper bounds")
        and methods.configure(name).config.optimizer.epochs
    ]


def build(
    row: str, sizes: clip_lib.ClipConfig = measuring.VIT_B16, classes: int = CLASSES
) -> dict[str, tuple[Callable, tuple]]:
    """The training step of each stage of a method, as a case."""
    return Setup.of(row, sizes, classes).steps()


@dataclasses.dataclass(frozen=True)
class Setup:
    """A method on random weights, images and classes.

    Attributes:
      method: of a row.
      backbone: with random weights.
      names: of the classes.
      support: random features of the shots.
    """

    method: methods.Method
    backbone: ClipBackbone
    names: list[str]
    support: methods.Support

    @classmethod
    def of(
        cls, row: str, sizes: clip_lib.ClipConfig = measuring.VIT_B16, classes: int = CLASSES
    ) -> "Setup":
        """The method of a row."""
        backbone = _backbone(sizes)
        choice = methods.configure(f"{row}@optimizer.batch_size={BATCH}")
        phrases = choice.config.get("prompts", {}).get("phrases", "").split("|")
        if len(phrases) > 1:  # four tokens each for CLIP, but not in the bundled vocabulary
            choice = methods.configure(f"{choice.name};prompts.phrases={phrases[0]}")
        names = [" ".join(words) for words in itertools.islice(_CLASSES, classes)]
        width, labels = sizes.embed_width, np.repeat(np.arange(classes, dtype=np.int32), SHOTS)
        rng = np.random.default_rng(0)

        def raw_views(_: str, count: int) -> np.ndarray:
            return rng.standard_normal((len(labels), count, width), np.float32)

        features = clip_lib.normalize(raw_views("", 1)[:, 0])
        support = methods.Support(features, labels, raw_views)
        method = methods.build(choice, backbone, names, TEMPLATE, support)
        return cls(method, backbone, names, support)

    def parameters(self) -> dict[str, int]:
        """Number of parameters that each stage trains."""
        trained = self._initialize().trained
        return {
            name: sum(leaf.size for leaf in jax.tree.leaves(stage.split(trained)[0]))
            for name, stage in self._stages()
        }

    def steps(self) -> dict[str, tuple[Callable, tuple]]:
        """The training step of each stage, with its arguments."""
        learned, features = self._initialize(), self.method.training_features(self.support)
        steps: dict[str, tuple[Callable, tuple]] = {}
        for name, stage in self._stages():
            phase = self._phase(stage, features is not None)
            state = initial_state(stage, phase.update, learned.trained)
            classes = stage.method.training_classes(self.backbone)
            batch = self._batch(features)
            steps[name] = make_step(phase, 0), (state, self.backbone, learned.fixed, classes, batch)
        return steps

    def _initialize(self) -> methods.Learned:
        return self.method.initialize(jax.random.key(0), self.backbone, self.support)

    def _stages(self) -> list[tuple[str, methods.Stage]]:
        return [(f"stage {n}", stage) for n, stage in enumerate(self.method.stages(), 1)]

    def _phase(self, stage: methods.Stage, cached: bool) -> Phase:
        size, labels = self.backbone.sizes.image_size, self.support.labels
        examples = Examples(np.zeros((len(labels), 1, 1, 3), np.uint8), labels, tuple(self.names))
        batches = TrainingBatches(examples, stage.optimizer.batch_size, 0)
        return Phase(
            stage=stage,
            examples=examples,
            batches=batches,
            update=stage.update or optimizer.make(stage.optimizer, batches.per_epoch),
            make_views=views.build(
                stage.method.config.views,
                templates=stage.method.templates,
                size=size,
                mean=self.backbone.mean,
                std=self.backbone.std,
                further=stage.method.further_views,
            ),
            first=0,
            steps=optimizer.steps(stage.optimizer, batches.per_epoch),
            cached_views=int(cached),
        )

    def _batch(self, features: np.ndarray | None) -> dict[str, Any]:
        size, rng = self.backbone.sizes.image_size, np.random.default_rng(0)
        indices = np.arange(BATCH, dtype=np.int32) * SHOTS
        batch = {"indices": indices, "labels": self.support.labels[indices]}
        if features is not None:
            return batch | {"features": features[indices, 0]}
        return batch | {"images": rng.integers(0, 256, (BATCH, size, size, 3), np.uint8)}


@functools.cache
def _backbone(sizes: clip_lib.ClipConfig) -> ClipBackbone:
    _, tokenizer = clip_lib.load("world")
    sizes = dataclasses.replace(sizes, eot_id=tokenizer.eot_id)
    return ClipBackbone(measuring.random_clip(sizes), tokenizer)
