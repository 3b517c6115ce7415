"""Training: `train_and_evaluate(config, workdir)`, which reads top to bottom."""

import contextlib
import dataclasses
import functools
import itertools
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from huggingface_hub import utils as hub
from ml_collections import ConfigDict

from cdc_jax import backbone as backbone_lib
from cdc_jax import (
    cached_views,
    calibration,
    class_names,
    devices,
    export,
    guards,
    methods,
    optimizer,
    programs,
    records,
    run_folder,
    selection,
    views,
)
from cdc_jax import settings as settings_lib
from cdc_jax.backbone import Backbone
from cdc_jax.checkpoint import KEPT, Checkpoints
from cdc_jax.escaping import visible
from cdc_jax.evaluate import evaluate, summarize
from cdc_jax.feature_cache import FeatureCache
from cdc_jax.folder_names import folder_name
from cdc_jax.inference import FrozenFeatures, Inference, encoder
from cdc_jax.interpretation import interpret
from cdc_jax.interruption import Interrupted, Notice
from cdc_jax.log import Log, require_tensorboard
from cdc_jax.methods import Choice, Learned, Method, Support
from cdc_jax.progress import Progress
from cdc_jax.step import Phase, State, initial_state, make_step
from cdc_jax.tasks import Task, catalog, load
from cdc_jax.tasks.batches import TrainingBatches

PyTree = Any

_SMALL_FILES = 2**25  # bytes, for what a run writes beside its checkpoints


def train_and_evaluate(config: ConfigDict, workdir: Path | str) -> dict[str, dict[str, Any]]:
    """Adapts a backbone to a few-shot task by each configured method, and evaluates the results.

    Args:
      config: see `settings.experiment`.
      workdir: every method writes into a folder of it, see `run_folder`. `folder_name` names the
        folder. It also gets `split.json`, the items of the task, and `checkpoints/`. A complete
        method does not run again. An interrupted method goes on at its newest whole checkpoint.

    Returns:
      Method -> contents of its `results.json`, see `records.Results`.

    Raises:
      ValueError: the configuration asks for something impossible; this is raised before any work.
        Or the workdir holds a run of another configuration, or another run is at work there.
      OSError: the workdir can't be written to, or has no room for the run.
      FloatingPointError: losses or gradients of a method are not finite. The other methods ran.
      Interrupted: SIGTERM came. All progress is saved.
    """
    settings_lib.check(config)
    names = methods.names(config.methods)
    rows = {name: methods.split(name)[0] for name in names}  # an unknown row needs no backbone
    root = epath.Path(workdir).expanduser()
    folders = {name: root / folder_name(name) for name in names}
    with contextlib.ExitStack() as stack:
        notice = stack.enter_context(Notice())
        if not (config.progress and devices.is_first()) and not hub.are_progress_bars_disabled():
            hub.disable_progress_bars()
            stack.callback(hub.enable_progress_bars)
        with devices.first_goes_first():
            model_settings = backbone_lib.read_settings(config.model)
        unfamiliar = bool(model_settings.profile) and _closed(config) and config.dataset != "world"
        choices = {
            name: methods.configure(name, model_settings.profile, config[row], unfamiliar)
            for name, row in rows.items()
        }
        settings = {name: _settings(config, choice) for name, choice in choices.items()}

        def enter() -> None:
            if config.tensorboard:
                require_tensorboard()
            stack.enter_context(run_folder.locked(root))
            for name in names:
                if dropped := run_folder.settle(folders[name]):
                    print(visible(dropped), file=sys.stderr, flush=True)
                run_folder.check(folders[name], settings[name], choices[name].defaults())

        def claim() -> None:
            for name in names:
                run_folder.require_same_items(folders[name], task.items())
                run_folder.claim(folders[name], settings[name])

        devices.first_decides(enter)
        devices.require_shared(root / run_folder.LOCK)
        results = {name: run_folder.read_results(folder) for name, folder in folders.items()}
        complete = {name: result for name, result in results.items() if result}
        if config.tensorboard:  # a complete run may have been logged without it
            for name, result in complete.items():
                with Log(folders[name], tensorboard=True) as log:
                    log.start(result.steps)
                    log.finish({"step": result.steps, **result.summary})
        missing = [name for name in names if name not in complete]
        if not missing:
            return {name: complete[name].to_json() for name in names}
        # Missing data is an error before the weights are downloaded.
        task = load(config, model_settings.preprocessing)
        if task.summary and config.progress and devices.is_first():
            print(task.summary, flush=True)
        with devices.first_goes_first():
            backbone = backbone_lib.load(config.model, dtype=jnp.dtype(config.dtype))
        _check_names(config, task, backbone)
        weights_hash = backbone.weights_hash()
        mesh = devices.make_mesh()
        stack.enter_context(jax.set_mesh(mesh))
        largest = max(map(len, (task.train, *task.test.values())))
        cache = FeatureCache(config.cache.folder, config.cache.gigabytes)
        frozen = FrozenFeatures(
            devices.replicate(backbone, mesh),
            mesh,
            min(config.evaluation_batch_size, largest),  # one size needs one program
            cache.of(*encoder(backbone)),
        )

        def before_batch() -> None:
            if notice.came():
                raise Interrupted(
                    f"{root} was stopped while views of the shots were encoded: the same command "
                    "encodes them again"
                )

        raw_views = cached_views.RawViews(
            task.train, config.seed, frozen, task.label_properties, before_batch
        )
        features = jnp.asarray(frozen.of(task.train)[0])
        support = Support(features, task.train.labels, raw_views)
        runs = []
        for name in missing:  # all methods are built before the first one is trained
            choice = choices[name]
            method = methods.build(
                choice, frozen.backbone, task.class_names, task.template, support
            )
            if method.needs_validation and not len(task.val):
                raise ValueError(
                    f"{name} needs validation images, and {task.record.dataset} has none: give "
                    "data with a validation split, or set head.calibrated=False"
                )
            key = jax.random.key(config.seed)
            training_features = method.training_features(support)
            run = Run(
                config=config,
                choice=choice,
                method=method,
                initial=method.initialize(key, frozen.backbone, support),
                phases=tuple(_phases(config, method, task, backbone, training_features)),
                features=training_features,
                task=task,
                frozen=frozen,
                weights_hash=weights_hash,
                notice=notice,
                folder=folders[name],
            )
            runs.append(run)
        devices.first_decides(claim)  # only now: a refused configuration leaves no files
        failures = []
        for run in runs:
            try:
                complete[run.choice.name] = _run(run)
            except FloatingPointError as error:  # the other methods still run
                failures.append(f"{run.choice.name}: {error}")
        if failures:
            raise FloatingPointError("; ".join(failures))
        return {name: complete[name].to_json() for name in names}


@dataclasses.dataclass(frozen=True)
class Run:
    """One method on one task.

    Attributes:
      config: of the experiment.
      choice: the row and its settings.
      method: the method.
      initial: the arrays that training starts from.
      phases: the stages of training; empty for a method that is not trained.
      features: of `Method.training_features`.
      task: the task.
      frozen: image features that no method changes, and the backbone.
      weights_hash: of the backbone.
      notice: listens for SIGTERM.
      folder: the method's folder.
    """

    config: ConfigDict
    choice: Choice
    method: Method
    initial: Learned
    phases: tuple[Phase, ...]
    features: np.ndarray | None
    task: Task
    frozen: FrozenFeatures
    weights_hash: str
    notice: Notice
    folder: epath.Path

    @property
    def steps(self) -> int:
        """Number of steps of the whole training."""
        return sum(phase.steps for phase in self.phases)

    @property
    def validation(self) -> selection.Parts:
        """The validation images by use."""
        return selection.parts(self.method, self.task.val)


class Resumed(NamedTuple):
    """Where an interrupted run goes on.

    Attributes:
      step: number of steps done.
      state: of training.
      window: losses of the steps since the last log.
    """

    step: int
    state: State
    window: list[Any]


def _phases(
    config: ConfigDict,
    method: Method,
    task: Task,
    backbone: Backbone,
    features: np.ndarray | None,
) -> list[Phase]:
    """The stages of a method on a task. Raises ValueError for wrong settings of a stage."""
    examples = task.training_set(method.config.train_on)
    make_views = views.build(
        method.config.views,
        templates=method.templates,
        size=backbone.sizes.image_size,
        mean=backbone.mean,
        std=backbone.std,
        label_properties=task.label_properties,
        further=method.further_views,
    )
    phases, first = [], 0
    for number, stage in enumerate(method.stages()):
        seed = (config.seed + 100_003 * number) % 2**32  # each stage has an order of its own
        batches = TrainingBatches(examples, stage.optimizer.batch_size, seed)
        update = stage.update or optimizer.make(stage.optimizer, batches.per_epoch)
        steps = optimizer.steps(stage.optimizer, batches.per_epoch)
        cached = cached_views.count(stage, task.label_properties, batches.per_epoch)
        if features is not None:
            cached = features.shape[1]
        phases.append(Phase(stage, examples, batches, update, make_views, first, steps, cached))
        first += steps
    return phases


def _run(run: Run) -> records.Results:
    """Trains from the newest checkpoint on, evaluates, and writes every file of the run."""
    method, task, backbone = run.method, run.task, run.frozen.backbone
    run_folder.write_json(run.folder / "split.json", task.items())
    inference = Inference(method, run.frozen)
    with Log(run.folder, run.config.tensorboard) as log:
        learned = _concluded(run, inference, _train(run, inference, log))
        text = inference.class_list(learned, task.class_names).text
        calibrated = _calibrated(run, inference, learned)
        adapted = export.describe(
            method,
            run.choice.family_name,
            learned,
            run.config.model,
            backbone,
            run.weights_hash,
            text,
            calibrated.arrays() if calibrated else {},
        )
        export.write(run.folder / "adapted", adapted)
        title = f"{run.choice.title}: evaluating"
        try:
            with Progress(title, len(task.test), show=run.config.progress) as progress:
                scores = evaluate(inference, learned, task.test, progress, run.notice)
        except Interrupted:
            raise Interrupted(
                f"{run.folder} was stopped while it was evaluated: the same command repeats the "
                "evaluation"
            ) from None
        figures = summarize(scores, calibrated)
        log.finish({"step": run.steps, **figures["summary"]})
    run_folder.write_json(
        run.folder / "interpretation.json",
        interpret(
            backbone.vocabulary(),
            backbone.token_embeddings(),
            method.word_vectors(learned),
            text,
            scores,
        ),
    )
    run_folder.write_scores(run.folder, scores)
    run_folder.write_gallery(run.folder, scores, task.test)
    results = records.Results(
        row=run.choice.record(method.changes_images),
        task=task.record,
        splits={name: one.split for name, one in scores.items()},
        figures=figures["splits"],
        summary=figures["summary"],
        facts=method.facts(learned),
        steps=run.steps,
        trainable_parameters=sum(p.size for p in jax.tree.leaves(learned.trained)),
        skipped=[skipped._asdict() for skipped in task.skipped],
        device=f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    )
    others = ("adapted", "gallery", *run_folder.LOGS)
    run_folder.sync(*(run.folder / name for name in others))
    run_folder.write_json(run.folder / "results.json", results.to_json())
    return results


def _concluded(run: Run, inference: Inference, learned: Learned) -> Learned:
    """The arrays with what validation images decide, see `Method.conclude`."""
    method, frozen, val, numbers = run.method, run.frozen, run.task.val, run.validation.choosing
    if not (method.needs_validation or method.selects) or not len(numbers):
        return learned
    validation = Support(frozen.of(val)[0, numbers], val.labels[numbers])
    logits = inference.logits(learned, val)[numbers]
    concluded = method.conclude(frozen.backbone, learned, validation, logits)
    return devices.replicate(concluded, devices.make_mesh())


def _calibrated(run: Run, inference: Inference, learned: Learned) -> calibration.Calibration | None:
    """Numbers of the validation images that calibrate; None without such images."""
    numbers = run.validation.calibrating
    if not len(numbers):
        return None
    prediction = jax.tree.map(lambda a: a[numbers], inference.split(learned, run.task.val))
    return calibration.of(prediction, run.task.val.labels[numbers])


def _train(run: Run, inference: Inference, log: Log) -> Learned:
    """Trains all stages and returns the learned arrays."""
    trained = run.initial.trained
    states = (initial_state(phase.stage, phase.update, trained) for phase in run.phases)
    needed = _SMALL_FILES + (KEPT + 1) * max(map(_bytes, states))
    devices.first_decides(lambda: run_folder.require_space(run.folder, needed))
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        # Where a run starts, in this order of precedence:
        # 1. complete: results.json exists, and nothing runs;
        # 2. interrupted: the run goes on at the newest whole checkpoint, on any devices. The
        #    checkpoint holds the trained parts, optimiser, step and the frozen weights' hash.
        #    Batches and views are functions of seed and step;
        # 3. new: the run starts from the initial parts.
        start = _resume(run, trained, checkpoints)
        done = start.step if start else 0
        log.start(done)
        title = f"{run.choice.title}: training"
        with Progress(title, run.steps, done, run.config.progress) as progress:
            for phase in run.phases:
                if phase.steps and done <= phase.end:
                    here = start if start and start.step > phase.first else None
                    arguments = (checkpoints, inference, log, progress)
                    trained = _train_phase(run, phase, trained, here, *arguments)
    mesh = devices.make_mesh()
    return devices.replicate(Learned(trained, run.initial.fixed), mesh)


def _train_phase(
    run: Run,
    phase: Phase,
    trained: dict[str, PyTree],
    start: Resumed | None,
    checkpoints: Checkpoints,
    inference: Inference,
    log: Log,
    progress: Progress,
) -> dict[str, PyTree]:
    """Trains a stage from its start, or from `start`, and returns its trained parts."""
    config, stage, batches = run.config, phase.stage, phase.batches
    first = start.step if start else phase.first
    if phase.cached_views and first < phase.end:  # else only the evaluation was interrupted
        known = run.features
        batches = batches.of_features(_cached_features(run, phase) if known is None else known)
    mesh = devices.make_mesh(images=len(batches.indices(0)))
    with jax.set_mesh(mesh):
        backbone, fixed = run.frozen.backbone, devices.replicate(run.initial.fixed, mesh)
        classes = stage.method.training_classes(backbone)
        window: list[Any] = []
        if start:
            _, state, window = start
        else:
            if stage.begin:
                trained = stage.begin(backbone, Learned(trained, fixed), classes)
            state = initial_state(stage, phase.update, trained, phase.first)
        validation = None
        if stage.best and len(numbers := run.validation.choosing):
            images = run.frozen.of(run.task.val)[:, numbers]
            validation = {"features": images, "labels": run.task.val.labels[numbers]}
        state, classes, validation = devices.replicate((state, classes, validation), mesh)
        options = programs.options(backbone.dtype)
        step = jax.jit(make_step(phase, config.seed), donate_argnums=0, compiler_options=options)
        put = functools.partial(devices.shard, mesh=mesh)
        stream = batches.stream(first - phase.first, phase.steps, put)
        for done, batch in zip(itertools.count(first + 1), stream, strict=False):
            state, losses = step(state, backbone, fixed, classes, batch, validation)
            window.append(losses)
            progress.advance()
            epoch, within = divmod(done - phase.first, batches.per_epoch)
            last = done == phase.end
            logs = done % config.log_every == 0 or last
            stopped = run.notice.came(meeting=logs)
            saves = done % config.checkpoint_every == 0 or last or stopped
            if logs or saves:
                window = _fetched(window)
                guards.require_finite(
                    window, done, phase.first, batches, phase.examples, checkpoints
                )
            if logs:
                mean = {k: float(np.mean([line[k] for line in window])) for k in window[0]}
                log.write("metrics", {"step": done} | mean)
                window = []
            if config.curve_every and not within and not epoch % config.curve_every:
                learned = Learned(state["trained"], fixed)
                figures = summarize(evaluate(inference, learned, run.task.test))
                log.write("curve", {"epoch": epoch, "step": done} | figures["summary"])
            if saves:  # after the logs: a checkpoint implies all log lines before it
                run_folder.sync(*(run.folder / name for name in run_folder.LOGS))
                notes = {"window": window, "weights_hash": run.weights_hash}
                checkpoints.save(done, state, notes)
            if stopped:
                raise Interrupted(
                    f"{run.folder} was stopped after step {done} of {run.steps} and saved: the "
                    "same command goes on with it"
                )
    if validation is not None:
        return state["best"]["trained"]
    return state["average"] if stage.average else state["trained"]


def _cached_features(run: Run, phase: Phase) -> np.ndarray:
    """See `cached_views.encode`. After SIGTERM, the next run encodes all views again."""
    batches = cached_views.batches(phase, run.frozen)
    title = f"{run.choice.title}: encoding views"
    with Progress(title, batches, show=run.config.progress) as progress:

        def before_batch() -> None:
            if run.notice.came():
                raise Interrupted(
                    f"{run.folder} was stopped while its views were encoded: the same command "
                    "encodes them again"
                )
            progress.advance()

        return cached_views.encode(phase, run.config.seed, run.frozen, before_batch)


def _resume(run: Run, trained: dict[str, PyTree], checkpoints: Checkpoints) -> Resumed | None:
    """Where an interrupted run goes on; None where nothing is saved."""

    def like(step: int) -> State:
        phase = next((phase for phase in run.phases if step <= phase.end), run.phases[-1])
        return initial_state(phase.stage, phase.update, trained)

    newest = checkpoints.restore_newest(like)
    if newest is None:
        return None
    step, state, notes = newest
    if notes["weights_hash"] != run.weights_hash:
        raise ValueError(
            f"{run.folder} was begun on a CLIP of weights {notes['weights_hash'][:12]}…, but "
            f"{run.config.model!r} now has weights {run.weights_hash[:12]}…: set model to the "
            "first CLIP, or delete that folder"
        )
    return Resumed(step, state, notes["window"])


def _check_names(config: ConfigDict, task: Task, backbone: Backbone) -> None:
    """Requires that the model can tell class names apart. Published names are not checked."""
    lists = {task.class_names, *(examples.class_names for examples in task.test.values())}
    published = config.dataset == "world" or config.dataset in catalog.PUBLISHED
    for names in () if published else lists:
        class_names.require_distinct(names, backbone)
    class_names.warn_of_wordless([name for names in lists for name in names], backbone)


def _closed(config: ConfigDict) -> bool:
    """Whether the run is tested on the training classes only."""
    return config.classes == "all" and not config.targets


def _settings(config: ConfigDict, choice: Choice) -> dict[str, Any]:
    """The part of a configuration that a method's run depends on."""
    others = {"methods", "sweep", "progress", "tensorboard", "cache", *methods.ROWS}
    shared = {k: v for k, v in config.to_dict().items() if k not in others}
    data = shared["data"]
    for key in ("workers", "check", "follow_links", "allow_copies"):
        del data[key]
    for part, key in ((data, "root"), (data, "split"), (data, "name"), (data["hf"], "class_names")):
        path = os.path.expanduser(part[key])
        if path and (key != "name" or os.path.exists(path)):  # a name may be an id on the hub
            part[key] = os.path.abspath(path)  # however it is spelled
    return shared | {"method": choice.config.to_dict()}


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _fetched(window: list[Any]) -> list[dict[str, float]]:
    """Losses of the steps since the last log, from the devices."""
    return [{k: float(v) for k, v in losses.items()} for losses in jax.device_get(window)]
