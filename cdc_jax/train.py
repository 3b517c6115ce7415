"""Training: `train_and_evaluate(config, workdir)`, which reads top to bottom."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cdc_jax import adapted, devices, methods, optimizer, run_folder, views
from cdc_jax import adapter as adapter_lib
from cdc_jax import clip as clip_lib
from cdc_jax.adapter import Adapter, Classes
from cdc_jax.checkpoint import Checkpoints
from cdc_jax.clip.model import Clip
from cdc_jax.evaluate import Evaluator, ImageFeatures, Scores, summarize
from cdc_jax.interpretation import interpret
from cdc_jax.progress import Progress
from cdc_jax.tasks import Task, load
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.views.compose import ViewFunction

State = dict[str, Any]
PyTree = Any


def train_and_evaluate(config: ConfigDict, workdir: Path | str) -> dict[str, dict[str, Any]]:
    """Adapts CLIP to a few-shot task by each of the configured methods, and evaluates them.

    Args:
      config: see `experiments/configs/fewshot.py`.
      workdir: every method gets a folder in it, see `run_folder`, with `split.json` (the items
        used) and `checkpoints/`. A method that is complete is not run again, one that was
        interrupted goes on at its newest checkpoint.

    Returns:
      Method -> contents of its `results.json`, see `evaluate.summarize`.

    Raises:
      ValueError: something in the configuration that can't be done, before any work; or a workdir
        that holds another configuration's run.
    """
    names = config.methods.split(",")
    if config.checkpoint_every % config.log_every:
        raise ValueError(
            f"checkpoint_every {config.checkpoint_every} must be a multiple of log_every "
            f"{config.log_every}, so that no logged mean spans a restart"
        )
    small = config.model == "world"
    chosen = {
        name: methods.configure(name, small, config[methods.split(name)[0]]) for name in names
    }
    folders = {name: Path(workdir) / name for name in names}
    for name in names:
        run_folder.claim(folders[name], _settings(config, chosen[name]))
    complete = {name: results for name in names if (results := _read_results(folders[name]))}
    if len(complete) == len(names):
        return complete
    clip, tokenizer = clip_lib.load(config.model, dtype=jnp.dtype(config.dtype))
    task = load(config, clip.config.image_size)
    mesh = devices.make_mesh()
    clip = devices.replicate(clip, mesh)
    features = ImageFeatures(mesh, config.evaluation_batch_size)
    seen = jnp.asarray(features(clip, {}, task.train)[0])
    runs = {}
    for name in names:  # all are put together before the first is trained
        settled, mean_logit = adapter_lib.calibrate(
            chosen[name], clip, tokenizer, task.template, task.class_names, seen, task.train.labels
        )
        adapter = adapter_lib.create(
            settled, clip, tokenizer, task.template, task.class_names, mean_logit
        )
        runs[name] = _Run(
            config, name, settled, adapter, mean_logit, task, clip, mesh, features, folders[name]
        )
    return {name: complete.get(name) or _run(run) for name, run in runs.items()}


class _Run(NamedTuple):
    """One method on one task."""

    config: ConfigDict
    name: str
    method: ConfigDict
    adapter: Adapter
    mean_logit: float
    task: Task
    clip: Clip
    mesh: Mesh
    features: ImageFeatures
    folder: Path


def _run(run: _Run) -> dict[str, Any]:
    """Trains, from wherever an earlier run left it, evaluates, and writes all there is to know."""
    config, method, adapter, task = run.config, run.method, run.adapter, run.task
    clip, mesh = run.clip, run.mesh
    run_folder.write_json(run.folder / "split.json", task.items())
    examples = task.training_set(method.train_on)
    batches = TrainingBatches(examples, method.optimizer.batch_size, config.seed)
    steps = method.optimizer.epochs * batches.per_epoch
    update = optimizer.make(method.optimizer, batches.per_epoch)
    parameters = adapter.initialize(jax.random.key(config.seed), clip)
    state = {
        "parameters": parameters,
        "optimizer": update.init(parameters),
        "step": jnp.zeros((), jnp.int32),
    }
    evaluator = Evaluator(adapter, run.features)
    # Where a run starts, in this order of precedence:
    # 1. complete: results.json is there, nothing is run;
    with Checkpoints(run.folder / "checkpoints") as checkpoints:
        # 2. interrupted: the newest complete checkpoint;
        first = checkpoints.latest_step() or 0
        if first:
            state = checkpoints.restore(first, state)
        # 3. new: the initial prompts.
        for name in ("metrics.jsonl", "curve.jsonl"):
            run_folder.cut(run.folder / name, first)
        state = devices.replicate(state, mesh)
        classes = devices.replicate(adapter.classes(clip, task.class_names), mesh)
        step = make_step(adapter, update, make_views(method, clip, task), steps, config.seed)
        window: list[dict[str, jax.Array]] = []
        title = f"{methods.title(run.name)}: training"
        with Progress(title, steps, first, config.progress) as progress:
            put = functools.partial(devices.shard, mesh=mesh)
            for i, batch in enumerate(batches.stream(first, steps, put), first):
                state, parts = step(state, clip, classes, batch)
                window.append(parts)
                progress.advance()
                epoch, within = divmod(i + 1, batches.per_epoch)
                if (i + 1) % config.log_every == 0 or i + 1 == steps:
                    _log(run.folder / "metrics.jsonl", i + 1, window)
                    window = []
                if config.curve_every and not within and not epoch % config.curve_every:
                    scores = _evaluate(run, evaluator, state["parameters"])
                    line = {"epoch": epoch, "step": i + 1} | summarize(scores)["summary"]
                    run_folder.append(run.folder / "curve.jsonl", line)
                if (i + 1) % config.checkpoint_every == 0 or i + 1 == steps:
                    checkpoints.save(i + 1, state)

    learned = state["parameters"]
    exported = adapted.describe(
        learned, task.class_names, task.template, method, run.mean_logit, config.model, clip
    )
    adapted.write(run.folder / "adapted", exported)
    scores = _evaluate(run, evaluator, learned)
    vocabulary, embeddings = adapter.tokenizer.vocabulary(), clip.text.token_embedding[...]
    text = evaluator.text_features(clip, learned, task.class_names)
    run_folder.write_json(
        run.folder / "interpretation.json",
        interpret(vocabulary, embeddings, learned.get("context"), text, scores),
    )
    run_folder.write_scores(run.folder, scores)
    run_folder.write_gallery(run.folder, scores, task.test)
    results = summarize(scores) | {
        "method": run.name,
        "title": methods.title(run.name),
        "phrases": method.prompts.phrases,
        "steps": steps,
        "trainable_parameters": sum(p.size for p in jax.tree.leaves(parameters)),
        "note": task.note,
        "skipped": {"count": len(task.skipped), "images": [s._asdict() for s in task.skipped]},
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    }
    run_folder.write_json(run.folder / "results.json", results)
    return results


def _evaluate(run: _Run, evaluator: Evaluator, parameters: PyTree) -> dict[str, Scores]:
    """Scores of every test split among whose classes the method can choose."""
    splits = {k: v for k, v in run.task.test.items() if run.adapter.covers(v.class_names)}
    scores = {}
    title = f"{methods.title(run.name)}: evaluating"
    with Progress(title, len(splits), show=run.config.progress) as progress:
        for split, examples in splits.items():
            scores[split] = evaluator.scores(run.clip, parameters, examples)
            progress.advance()
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
) -> Any:
    """The jitted training step.

    Returns:
      (state, clip, classes, batch) -> (state, losses by name). The old state is donated. Only the
      learned vectors are differentiated.
    """

    def step(state: State, clip: Clip, classes: Classes, batch: dict[str, jax.Array]):
        images = make(seed, state["step"], batch["indices"], batch["images"], batch.get("aspects"))

        def objective(parameters):
            progress = state["step"] / steps
            return adapter.objective(clip, parameters, classes, images, batch["labels"], progress)

        gradients, parts = jax.grad(objective, has_aux=True)(state["parameters"])
        updates, optimizer_state = update.update(gradients, state["optimizer"], state["parameters"])
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "optimizer": optimizer_state,
            "step": state["step"] + 1,
        }, parts

    return jax.jit(step, donate_argnums=0)


def _settings(config: ConfigDict, method: ConfigDict) -> dict[str, Any]:
    """The part of a configuration that a method's run depends on."""
    others = {"methods", "sweep", "study", "progress", *methods.METHODS}
    shared = {k: v for k, v in config.to_dict().items() if k not in others}
    for key in ("workers", "check"):
        del shared["data"][key]
    return shared | {"method": method.to_dict()}


def _read_results(folder: Path) -> dict[str, Any] | None:
    path = folder / "results.json"
    return json.loads(path.read_text()) if path.exists() else None


def _log(path: Path, step: int, window: list[dict[str, jax.Array]]) -> None:
    host = jax.device_get(window)
    line = {"step": step} | {k: float(np.mean([parts[k] for parts in host])) for k in host[0]}
    if not np.isfinite(line["loss"]):
        raise FloatingPointError(f"the loss is {line['loss']} by step {step}: lower the rate")
    run_folder.append(path, line)
