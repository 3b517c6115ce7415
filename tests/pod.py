"""What the tests of several devices and processes run in processes of their own.

python tests/pod.py CONFIG WORKDIR          trains and evaluates
python tests/pod.py CONFIG WORKDIR run NEW  trains and evaluates in the first folder, then as
                                            experiments/run.py does in the second
python tests/pod.py CONFIG WORKDIR eight    on eight devices: prints measurements, trains, and sends
                                            itself SIGTERM when step 4 is logged
python tests/pod.py CONFIG WORKDIR encoded CACHE FIRST LAST
                                            encodes images of a folder by cached features: prints
                                            how many, and writes the features
python tests/pod.py CONFIG WORKDIR stopped  as experiments/run.py; the second process sends itself
                                            SIGTERM before the processes confer for the first time
"""

import functools
import json
import runpy
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from cdc_jax import (
    backbone,
    devices,
    evidence,
    feature_cache,
    inference,
    interruption,
    methods,
    optimizer,
    run_folder,
    train,
    views,
)
from cdc_jax.configs import fewshot
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches
from cdc_jax.tasks.photographs import Photographs

COUNT = 8
EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@functools.cache
def shallow_clip():
    """The bundled CLIP with towers of one layer: XLA counts the body of a loop once."""
    world = backbone.load("world")
    for tower in (world.clip.text, world.clip.vision):
        tower.blocks = jax.tree.map(lambda stacked: stacked[:1], tower.blocks)
    return world


def training(name, classes, images):
    """A method's training step, what it is called with, and the method."""
    clip = shallow_clip()
    colours, shapes = ("red", "blue", "striped", "dotted"), ("circle", "square", "star", "cross")
    names = ([f"{colour} {shape}" for colour in colours for shape in shapes] * 16)[:classes]
    support = methods.Support(clip.encode_texts(names[:2]), np.arange(2))
    choice = methods.configure(name, "small")
    method = methods.build(choice, clip, names, "a photo of a {}.", support)
    flip = views.build(
        "flip", templates=4, size=32, mean=clip.mean, std=clip.std, label_properties=("shape",)
    )
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (images, 32, 32, 3), np.uint8)
    labels = rng.integers(0, classes, images, np.int32)
    examples = Examples(drawn, labels, tuple(names))
    (stage,) = method.stages()
    update = optimizer.make(stage.optimizer, 10)
    batches = TrainingBatches(examples, images, 0, 0, 1)
    phase = train.Phase(stage, examples, batches, update, flip, 0, 100)
    learned = method.initialize(jax.random.key(0), clip, support)
    state = train.initial_state(stage, update, learned.trained)
    batch = {"images": drawn, "labels": labels, "indices": np.arange(images, dtype=np.int32)}

    def step(axis=None):
        return train.make_step(phase, 1, axis)

    return step, (state, clip, learned.fixed, method.classes(clip, names), batch), method


def flops(classes, images):
    """FLOPs of all devices together, on 1, 2, 4 and 8 of them."""
    # CDC's encoders, and a head that is compiled sooner.
    step, (*copied, batch), _ = training("multi_template", classes, images)
    made = []
    for count in (1, 2, 4, 8):
        mesh = devices.make_mesh(count, images)
        arguments = (*devices.replicate(tuple(copied), mesh), devices.shard(batch, mesh))
        with jax.set_mesh(mesh):
            lowered = jax.jit(step()).lower(*arguments)
        compiled = lowered.compile({"xla_backend_optimization_level": 0})  # sooner, as many FLOPs
        made.append(count * compiled.cost_analysis()["flops"])
    return made


def pmapped():
    """Largest differences between `jax.pmap` and the same on one device."""
    rng = np.random.default_rng(0)
    logs = rng.normal(size=(COUNT, 5, 4, 3)).astype(np.float32)
    fused = jax.pmap(evidence.combine)(logs) - evidence.combine(jnp.asarray(logs))
    _, (_, clip, fixed, classes, _), method = training("cdc", 12, 16)
    contexts = rng.normal(0, 0.02, (COUNT, 4, 1, 4, 128)).astype(np.float32)

    def text(context):
        learned = methods.Learned({"prompts": {"context": context}}, fixed)
        return method.class_features(clip, learned, classes)

    encoded = jax.pmap(text)(contexts) - jnp.stack([text(context) for context in contexts])
    return {
        "evidence": float(abs(fused).max()),
        "prompts": float(abs(encoded).max()),
        "step": pmapped_step("cdc"),
        "combined_step": pmapped_step("prograd"),
    }


def pmapped_step(name):
    """Largest difference between a step under `jax.pmap` and on one device, and of its losses."""
    step, (state, clip, fixed, classes, batch), _ = training(name, 12, 16)
    shares = jax.tree.map(lambda a: a.reshape(COUNT, -1, *a.shape[1:]), batch)
    mapped = jax.pmap(step("devices"), "devices", in_axes=(None, None, None, None, 0))
    several = jax.device_get(mapped(state, clip, fixed, classes, shares))
    one = jax.device_get(jax.jit(step())(state, clip, fixed, classes, batch))
    stepped = [
        np.abs(a - b).max() / max(1, np.abs(b).max())
        for a, b in zip(jax.tree.leaves(several), jax.tree.leaves(one), strict=True)
    ]
    return float(max(stepped))


def mesh_shapes():
    """(data, model) for batches of 16, 12, 4 and 3 images."""
    return [devices.make_mesh(images=images).devices.shape for images in (16, 12, 4, 3)]


def stop_at(step):
    """Sends this process SIGTERM when a step is logged."""
    append = run_folder.append

    def appending(path, line):
        append(path, line)
        if line["step"] == step:
            signal.raise_signal(signal.SIGTERM)

    run_folder.append = appending


def stop_the_second():
    """Sends the second process, which logs nothing, SIGTERM before it confers with the other."""
    came = interruption.Notice.came

    def told(notice, meeting=True):
        if meeting and jax.process_index() == 1:
            signal.raise_signal(signal.SIGTERM)
        return came(notice, meeting)

    interruption.Notice.came = told


def encode(workdir, cache, first, last):
    """Encodes the photographs in a folder; every process writes what it got."""
    folder = Path(workdir)
    names = sorted(path.name for path in folder.glob("*.png"))[int(first) : int(last)]
    images = Photographs(names, folder.joinpath, 32, 48)
    world, mesh = backbone.load("world"), devices.make_mesh()
    cache = cache.replace("PROCESS", str(jax.process_index()))
    stored = feature_cache.FeatureCache(cache).of(*inference.encoder(world))
    frozen = inference.FrozenFeatures(devices.replicate(world, mesh), mesh, 8, stored)
    decoded = []
    read = Photographs.__getitem__
    Photographs.__getitem__ = lambda images, index: decoded.append(index) or read(images, index)
    features = frozen.encode(images)
    np.save(folder / f"{jax.process_index()}.npy", features)
    print(json.dumps({"encoded": frozen.encoded, "decoded": int(sum(map(len, decoded)))}))


def run(workdir):
    """What experiments/run.py does."""
    sys.argv = ["run.py", f"--config=fewshot.py:{argument}", f"--workdir={workdir}"]
    runpy.run_path(str(EXPERIMENTS / "run.py"), run_name="__main__")


if __name__ == "__main__":
    devices.start()
    devices.start()  # twice is once
    argument, workdir, *rest = sys.argv[1:]
    if rest == ["eight"]:
        measured = {"pmap": pmapped(), "meshes": mesh_shapes()}
        measured |= {"images": flops(12, 64), "classes": flops(256, 8)}
        print(json.dumps(measured), flush=True)
        stop_at(4)
    if rest[:1] == ["encoded"]:
        encode(workdir, *rest[1:])
        raise SystemExit
    if rest == ["stopped"]:
        stop_the_second()
        run(workdir)
    train.train_and_evaluate(fewshot.get_config(argument), workdir)
    if rest[:1] == ["run"]:
        run(rest[1])
