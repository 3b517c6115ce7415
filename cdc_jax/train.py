"""Training: `train_and_evaluate(config, workdir)`, which reads top to bottom."""

import contextlib
import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from huggingface_hub import utils as hub
from ml_collections import ConfigDict

from cdc_jax import adapted, devices, guards, methods, optimizer, run_folder, views
from cdc_jax import adapter as adapter_lib
from cdc_jax import clip as clip_lib
from cdc_jax.adapter import Adapter, Classes
from cdc_jax.checkpoint import KEPT, Checkpoints
from cdc_jax.clip.model import Clip
from cdc_jax.evaluate import Evaluator, ImageFeatures, Scores, summarize
from cdc_jax.interpretation import interpret
from cdc_jax.interruption import Interrupted, Notice
from cdc_jax.log import Log, require_tensorboard
from cdc_jax.progress import Progress
from cdc_jax.tasks import Task, load
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.views.compose import ViewFunction

State = dict[str, Any]
PyTree = Any
Step = Callable[..., tuple[State, dict[str, jax.Array]]]

_SMALL_FILES = 2**25  # bytes, for what a run writes beside its checkpoints


def train_and_evaluate(config: ConfigDict, workdir: Path | str) -> dict[str, dict[str, Any]]:
    """Adapts CLIP to a few-shot task by each of the configured methods, and evaluates them.

    Args:
      config: see `settings.experiment`.
      workdir: every method gets a folder in it, see `run_folder`, with `split.json` (the items
        used) and `checkpoints/`. A method that is complete is not run again, one that was
        interrupted goes on at its newest checkpoint.

    Returns:
      Method -> contents of its `results.json`, see `evaluate.summarize`.

    Raises:
      ValueError: something in the configuration that can't be done, before any work; or a workdir
        that holds another configuration's run, or where another run is at work.
      OSError: a workdir that can't be written to, or without room for the run.
      FloatingPointError: a method's losses or gradients that are not finite; the others have run.
      Interrupted: SIGTERM came, and all is saved.
    """
    names = config.methods.split(",")
    small = config.model == "world"
    # To the embedded CLIP the names of what is on photographs say nothing. New classes and targets
    # need prompts that all classes share.
    closed = config.classes == "all" and not config.targets
    class_specific = small and config.dataset != "world" and closed
    chosen = {
        name: methods.configure(name, small, config[methods.split(name)[0]], class_specific)
        for name in names
    }
    root = epath.Path(workdir).expanduser()
    folders = {name: root / name for name in names}
    with contextlib.ExitStack() as held:
        notice = held.enter_context(Notice())

        def enter() -> None:
            if config.tensorboard:
                require_tensorboard()
            held.enter_context(run_folder.locked(root))
            for name in names:
                run_folder.check(folders[name], _settings(config, chosen[name]))

        def claim() -> None:
            for name in names:
                run_folder.require_same_items(folders[name], task.items())
                run_folder.claim(folders[name], _settings(config, chosen[name]))

        devices.first_decides(enter)
        devices.require_shared(root / run_folder.LOCK)
        complete = {name: results for name in names if (results := _read_results(folders[name]))}
        if config.tensorboard:  # of runs without it, too
            for name, result in complete.items():
                with Log(folders[name], tensorboard=True) as log:
                    log.start(result["steps"])
                    log.finish({"step": result["steps"]} | result["summary"])
        if len(complete) == len(names):
            return complete
        if not (config.progress and devices.is_first()) and not hub.are_progress_bars_disabled():
            hub.disable_progress_bars()
            held.callback(hub.enable_progress_bars)
        with devices.first_goes_first():
            image_size = clip_lib.read_config(config.model).image_size
        task = load(config, image_size)  # before weights are downloaded for data that is not there
        with devices.first_goes_first():
            clip, tokenizer = clip_lib.load(config.model, dtype=jnp.dtype(config.dtype))
        weights_hash = clip_lib.weights_hash(clip)
        mesh = devices.make_mesh()
        held.enter_context(jax.set_mesh(mesh))
        clip = devices.replicate(clip, mesh)
        features = ImageFeatures(mesh, config.evaluation_batch_size)
        seen = jnp.asarray(features(clip, {}, task.train)[0])
        runs = {}
        for name in names:  # all are put together before the first is trained
            settled, mean_logit = adapter_lib.calibrate(
                chosen[name], clip, tokenizer, task.template, task.class_names, seen,
                task.train.labels,
            )  # fmt: skip
            adapter = adapter_lib.create(
                settled, clip, tokenizer, task.template, task.class_names, mean_logit
            )
            runs[name] = _Run(
                config, name, settled, adapter, mean_logit, task, clip, weights_hash, features,
                notice, folders[name],
            )  # fmt: skip
            _require_possible(runs[name])
        devices.first_decides(claim)  # only now: what was refused so far leaves no trace
        diverged = []
        for name in [name for name in runs if name not in complete]:
            try:
                complete[name] = _run(runs[name])
            except FloatingPointError as error:  # the other methods need not wait for a remedy
                diverged.append(f"{name}: {error}")
        if diverged:
            raise FloatingPointError("; ".join(diverged))
        return {name: complete[name] for name in names}


class _Run(NamedTuple):
    """One method on one task."""

    config: ConfigDict
    name: str
    method: ConfigDict
    adapter: Adapter
    mean_logit: float
    task: Task
    clip: Clip
    weights_hash: str
    features: ImageFeatures
    notice: Notice
    folder: epath.Path


def _require_possible(run: _Run) -> None:
    """Raises what a method's own settings would make `_run` raise when its turn comes."""
    method, task, adapter = run.method, run.task, run.adapter
    task.training_set(method.train_on)
    TrainingBatches(task.train, method.optimizer.batch_size, run.config.seed)
    optimizer.make(method.optimizer, 1)
    make_views(method, run.clip, task)
    jax.eval_shape(adapter.initialize, jax.random.key(0), run.clip)
    logits = jnp.zeros((1, len(adapter.templates.phrases), len(task.class_names)))
    jax.eval_shape(adapter.head.predict, logits)


def _run(run: _Run) -> dict[str, Any]:
    """Trains, from wherever an earlier run left it, evaluates, and writes all there is to know."""
    method, adapter, task, clip = run.method, run.adapter, run.task, run.clip
    run_folder.write_json(run.folder / "split.json", task.items())
    evaluator = Evaluator(adapter, run.features)
    with Log(run.folder, run.config.tensorboard) as log:
        learned, steps = _train(run, evaluator, log)
        exported = adapted.describe(
            learned, task.class_names, task.template, method, run.mean_logit, run.config.model,
            clip, run.weights_hash,
        )  # fmt: skip
        adapted.write(run.folder / "adapted", exported)
        scores = _evaluate(run, evaluator, learned, run.notice)
        summary = summarize(scores)
        log.finish({"step": steps} | summary["summary"])
    vocabulary, embeddings = adapter.tokenizer.vocabulary(), clip.text.token_embedding[...]
    text = evaluator.text_features(clip, learned, task.class_names)
    run_folder.write_json(
        run.folder / "interpretation.json",
        interpret(vocabulary, embeddings, learned.get("context"), text, scores),
    )
    run_folder.write_scores(run.folder, scores)
    run_folder.write_gallery(run.folder, scores, task.test)
    results = summary | {
        "method": run.name,
        "title": methods.title(run.name),
        "phrases": method.prompts.phrases,
        "steps": steps,
        "trainable_parameters": sum(p.size for p in jax.tree.leaves(learned)),
        "note": task.note,
        "skipped": {"count": len(task.skipped), "images": [s._asdict() for s in task.skipped]},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    run_folder.write_json(run.folder / "results.json", results)
    return results


def _train(run: _Run, evaluator: Evaluator, log: Log) -> tuple[PyTree, int]:
    """What the method learned, and in how many steps."""
    config, method, adapter, task, clip = run.config, run.method, run.adapter, run.task, run.clip
    examples = task.training_set(method.train_on)()
    batches = TrainingBatches(examples, method.optimizer.batch_size, config.seed)
    steps = method.optimizer.epochs * batches.per_epoch
    update = optimizer.make(method.optimizer, batches.per_epoch)
    parameters = adapter.initialize(jax.random.key(config.seed), clip)
    state = {
        "parameters": parameters,
        "optimizer": update.init(parameters),
        "step": jnp.zeros((), jnp.int32),
    }
    devices.first_decides(
        lambda: run_folder.require_space(run.folder, _SMALL_FILES + (KEPT + 1) * _bytes(state))
    )
    mesh = devices.make_mesh(images=len(batches.indices(0)))
    # Where a run starts, in this order of precedence:
    # 1. complete: results.json is there, nothing is run;
    with Checkpoints(run.folder / "checkpoints") as checkpoints, jax.set_mesh(mesh):
        # 2. interrupted: the newest complete checkpoint, whatever devices it was written on. It
        #    holds prompts, optimiser, step and the frozen weights' hash; batches and views are
        #    functions of seed and step;
        first, window = checkpoints.latest_step() or 0, []
        if first:
            state, notes = checkpoints.restore(first, state)
            window = notes["window"]
            if notes["weights_hash"] != run.weights_hash:
                raise ValueError(
                    f"{run.folder} was begun on a CLIP of weights {notes['weights_hash'][:12]}…, "
                    f"{config.model!r} now has {run.weights_hash[:12]}…: give the former as model, "
                    "or delete that folder"
                )
        # 3. new: the initial prompts.
        log.start(first)
        state = devices.replicate(state, mesh)
        classes = devices.replicate(adapter.classes(clip, task.class_names), mesh)
        step = jax.jit(
            make_step(adapter, update, make_views(method, clip, task), steps, config.seed),
            donate_argnums=0,
        )
        title = f"{methods.title(run.name)}: training"
        with Progress(title, steps, first, config.progress) as progress:
            put = functools.partial(devices.shard, mesh=mesh)
            for i, batch in enumerate(batches.stream(first, steps, put), first):
                state, losses = step(state, clip, classes, batch)
                window.append(losses)
                progress.advance()
                done = i + 1
                epoch, within = divmod(done, batches.per_epoch)
                logs = done % config.log_every == 0 or done == steps
                stopped = run.notice.came(meeting=logs)
                saves = done % config.checkpoint_every == 0 or done == steps or stopped
                if logs or saves:
                    window = _fetched(window)
                    guards.require_finite(window, done, batches, examples, checkpoints)
                if logs:
                    mean = {k: float(np.mean([line[k] for line in window])) for k in window[0]}
                    log.write("metrics", {"step": done} | mean)
                    window = []
                if config.curve_every and not within and not epoch % config.curve_every:
                    scores = _evaluate(run, evaluator, state["parameters"])
                    line = {"epoch": epoch, "step": done} | summarize(scores)["summary"]
                    log.write("curve", line)
                if saves:  # after the logs, so that a checkpoint's are complete
                    notes = {"window": window, "weights_hash": run.weights_hash}
                    checkpoints.save(done, state, notes)
                if stopped:
                    raise Interrupted(
                        f"{run.folder} was stopped after step {done} of {steps} and saved: the "
                        "same command goes on with it"
                    )
    return state["parameters"], steps


def _evaluate(
    run: _Run, evaluator: Evaluator, parameters: PyTree, notice: Notice | None = None
) -> dict[str, Scores]:
    """Scores of every test split among whose classes the method can choose.

    Where all is saved, `notice` may stop it.
    """
    splits = {k: v for k, v in run.task.test.items() if run.adapter.covers(v.class_names)}
    scores = {}
    title = f"{methods.title(run.name)}: evaluating"
    with Progress(title, len(splits), show=run.config.progress) as progress:
        for split, examples in splits.items():
            scores[split] = evaluator.scores(run.clip, parameters, examples)
            progress.advance()
            if notice and notice.came():
                raise Interrupted(
                    f"{run.folder} was stopped while it was evaluated: the same command goes on "
                    "with that"
                )
    return scores


def make_views(method: ConfigDict, clip: Clip, task: Task) -> ViewFunction:
    """The view function of a method's configuration."""
    return views.build(
        method.views,
        templates=method.prompts.templates,
        size=clip.config.image_size,
        mean=clip.config.mean,
        std=clip.config.std,
        about=task.about,
    )


def make_step(
    adapter: Adapter,
    update: optax.GradientTransformation,
    make: ViewFunction,
    steps: int,
    seed: int,
    axis: str | None = None,
) -> Step:
    """The training step, to be jitted: only the learned vectors are differentiated.

    Args:
      adapter: the method.
      update: the optimiser.
      make: the views.
      steps: of the whole run.
      seed: of the views.
      axis: name of the axis of `jax.pmap`, if that runs it: each device has its share of the
        images, gradients and losses are means over them.

    Returns:
      (state, clip, classes, batch) -> (state, losses by name and the norms of gradient and
      update).
    """

    def step(state: State, clip: Clip, classes: Classes, batch: dict[str, jax.Array]):
        images = make(seed, state["step"], batch["indices"], batch["images"], batch.get("aspects"))
        images = devices.split(images, "model", "data")

        def objective(parameters):
            progress = state["step"] / steps
            return adapter.objective(clip, parameters, classes, images, batch["labels"], progress)

        made = jax.grad(objective, has_aux=True)(state["parameters"])
        gradients, losses = made if axis is None else jax.lax.pmean(made, axis)
        updates, optimizer_state = update.update(gradients, state["optimizer"], state["parameters"])
        losses["gradient_norm"] = optax.tree.norm(gradients)
        losses["update_norm"] = optax.tree.norm(updates)
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "optimizer": optimizer_state,
            "step": state["step"] + 1,
        }, losses

    return step


def _settings(config: ConfigDict, method: ConfigDict) -> dict[str, Any]:
    """The part of a configuration that a method's run depends on."""
    others = {"methods", "sweep", "progress", "tensorboard", *methods.METHODS}
    shared = {k: v for k, v in config.to_dict().items() if k not in others}
    for key in ("workers", "check"):
        del shared["data"][key]
    for key in ("root", "split"):  # however the path is spelled
        if path := shared["data"][key]:
            shared["data"][key] = os.path.abspath(os.path.expanduser(path))
    return shared | {"method": method.to_dict()}


def _read_results(folder: epath.Path) -> dict[str, Any] | None:
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def _fetched(window: list[Any]) -> list[dict[str, float]]:
    """Losses of the steps since the last log, from the devices."""
    return [{k: float(v) for k, v in losses.items()} for losses in jax.device_get(window)]
