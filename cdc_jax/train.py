"""Training: `train_and_evaluate(config, workdir)`, which reads top to bottom."""

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cdc_jax import adapter as adapter_lib
from cdc_jax import clip as clip_lib
from cdc_jax import devices, methods, prompts, views
from cdc_jax.adapter import Adapter, Classes
from cdc_jax.checkpoint import Checkpoints
from cdc_jax.clip.model import Clip
from cdc_jax.clip.tokenizer import Tokenizer
from cdc_jax.evaluate import Evaluator, summarize
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
      workdir: every method gets a folder in it: `config.json`, `metrics.jsonl` (one object a
        line), `split.json` (the items used), `checkpoints/`, and `results.json` when it is
        complete. A method that is complete is not run again, one that was interrupted goes on at
        its newest checkpoint.

    Returns:
      Method -> contents of its `results.json`, see `evaluate.summarize`.

    Raises:
      ValueError: something in the configuration that can't be done, before any work; or a workdir
        that holds another configuration's run.
    """
    names = [methods.known(name) for name in config.methods.split(",")]
    if config.checkpoint_every % config.log_every:
        raise ValueError(
            f"checkpoint_every {config.checkpoint_every} must be a multiple of log_every "
            f"{config.log_every}, so that no logged mean spans a restart"
        )
    small = config.model == "world"
    chosen = {name: methods.configure(name, small, config[name]) for name in names}
    clip, tokenizer = clip_lib.load(config.model, dtype=jnp.dtype(config.dtype))
    task = load(config, clip.config.image_size)
    mesh = devices.make_mesh()
    clip = devices.replicate(clip, mesh)
    mean_logit = _mean_zero_shot_logit(task, clip, tokenizer, mesh, config)
    adapters = {
        name: adapter_lib.create(chosen[name], clip, tokenizer, task.template, mean_logit)
        for name in names
    }
    return {
        name: _run(
            config, name, chosen[name], adapters[name], task, clip, mesh, Path(workdir) / name
        )
        for name in names
    }


def _mean_zero_shot_logit(
    task: Task, clip: Clip, tokenizer: Tokenizer, mesh: Mesh, config: ConfigDict
) -> float:
    """Mean logit of the training images under the hand-crafted template."""
    zero_shot = methods.configure("zero_shot")
    adapter = adapter_lib.create(zero_shot, clip, tokenizer, task.template, 0.0)
    parameters = prompts.initialize(jax.random.key(0), adapter.templates, clip, tokenizer)
    evaluator = Evaluator(adapter, mesh, config.evaluation_batch_size)
    return float(evaluator.logits(clip, parameters, task.train).mean())


def _run(
    config: ConfigDict, name: str, method: ConfigDict, adapter: Adapter, task: Task, clip: Clip,
    mesh: Mesh, folder: Path,
) -> dict[str, Any]:  # fmt: skip
    """One method, from wherever an earlier run left it."""
    _claim(folder, _settings(config, method))

    # Where a run starts, in this order of precedence:
    # 1. complete: results.json is there, nothing is run;
    if (folder / "results.json").exists():
        return json.loads((folder / "results.json").read_text())
    _write_json(folder / "split.json", task.items())
    batches = TrainingBatches(task.train, method.optimizer.batch_size, config.seed)
    steps = method.optimizer.epochs * batches.per_epoch
    optimizer = make_optimizer(method.optimizer, batches.per_epoch)
    key = jax.random.key(config.seed)
    parameters = prompts.initialize(key, adapter.templates, clip, adapter.tokenizer)
    state = {
        "parameters": parameters,
        "optimizer": optimizer.init(parameters),
        "step": jnp.zeros((), jnp.int32),
    }
    with Checkpoints(folder / "checkpoints") as checkpoints:
        # 2. interrupted: the newest complete checkpoint;
        first = checkpoints.latest_step() or 0
        if first:
            state = checkpoints.restore(first, state)
        # 3. new: the initial prompts.
        _cut_metrics(folder / "metrics.jsonl", first)
        state = devices.replicate(state, mesh)
        classes = devices.replicate(adapter.classes(clip, task.class_names), mesh)
        step = make_step(adapter, optimizer, make_views(method, clip, task), steps, config.seed)
        window: list[dict[str, jax.Array]] = []
        with Progress(f"{methods.TITLES[name]}: training", steps, first) as progress:
            put = functools.partial(devices.shard, mesh=mesh)
            for i, batch in enumerate(batches.stream(first, steps, put), first):
                state, parts = step(state, clip, classes, batch)
                window.append(parts)
                progress.advance()
                if (i + 1) % config.log_every == 0 or i + 1 == steps:
                    _log(folder / "metrics.jsonl", i + 1, window)
                    window = []
                if (i + 1) % config.checkpoint_every == 0 or i + 1 == steps:
                    checkpoints.save(i + 1, state)

    evaluator = Evaluator(adapter, mesh, config.evaluation_batch_size)
    scores = {}
    with Progress(f"{methods.TITLES[name]}: evaluating", len(task.test)) as progress:
        for split, examples in task.test.items():
            scores[split] = evaluator.scores(clip, state["parameters"], examples)
            progress.advance()
    results = summarize(scores) | {
        "method": name,
        "steps": steps,
        "trainable_parameters": sum(p.size for p in jax.tree.leaves(parameters)),
        "note": task.note,
        "skipped": {"count": len(task.skipped), "images": [s._asdict() for s in task.skipped]},
        "device": f"{mesh.size} x {mesh.devices.flat[0].device_kind}",
    }
    _write_json(folder / "results.json", results)
    return results


def make_optimizer(config: ConfigDict, steps_per_epoch: int) -> optax.GradientTransformation:
    """The published methods' optimiser: a rate an epoch, by a cosine after one warm-up epoch.

    Epoch 0 runs at `warmup_rate`, epoch k >= 1 at learning_rate / 2 · (1 + cos(pi (k − 1) / T)),
    T epochs in all. `sgd` has momentum 0.9, and weight decay added to the gradient before it, as
    PyTorch does; `adam` has its usual constants.

    Raises:
      ValueError: an unknown optimiser, or a rate, decay or number of epochs below zero.
    """
    for key in ("learning_rate", "warmup_rate", "weight_decay", "epochs"):
        if config[key] < 0:
            raise ValueError(f"optimizer.{key} must not be negative, got {config[key]}")
    known = {"sgd": lambda rate: optax.sgd(rate, momentum=0.9), "adam": optax.adam}
    if config.name not in known:
        raise ValueError(
            f"unknown optimizer.name {config.name!r}: choose one of {', '.join(known)}"
        )

    def rate(step):
        epoch = step // steps_per_epoch
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * (epoch - 1) / max(config.epochs, 1)))
        return jnp.where(epoch == 0, config.warmup_rate, config.learning_rate * cosine)

    return optax.chain(optax.add_decayed_weights(config.weight_decay), known[config.name](rate))


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
    optimizer: optax.GradientTransformation,
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
        updates, optimizer_state = optimizer.update(
            gradients, state["optimizer"], state["parameters"]
        )
        return {
            "parameters": optax.apply_updates(state["parameters"], updates),
            "optimizer": optimizer_state,
            "step": state["step"] + 1,
        }, parts

    return jax.jit(step, donate_argnums=0)


def _settings(config: ConfigDict, method: ConfigDict) -> dict[str, Any]:
    """The part of a configuration that a method's run depends on."""
    others = {"methods", *methods.METHODS}
    shared = {k: v for k, v in config.to_dict().items() if k not in others}
    return shared | {"method": method.to_dict()}


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Writes config.json, or checks that it says the same."""
    path = folder / "config.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _write_json(path, settings)
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


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is either complete or not there."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(path)


def _log(path: Path, step: int, window: list[dict[str, jax.Array]]) -> None:
    host = jax.device_get(window)
    line = {"step": step} | {k: float(np.mean([parts[k] for parts in host])) for k in host[0]}
    if not np.isfinite(line["loss"]):
        raise FloatingPointError(f"the loss is {line['loss']} by step {step}: lower the rate")
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\n")


def _cut_metrics(path: Path, step: int) -> None:
    """Drops lines that an interrupted run logged after the checkpoint it goes on from."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["step"] <= step]
        path.write_text("".join(line + "\n" for line in lines))
