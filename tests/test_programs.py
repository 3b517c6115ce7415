"""How programs are compiled: options by dtype and machine, and what they compute."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cdc_jax import backbone, devices, inference, programs

pytestmark = pytest.mark.usefixtures("full_optimization")


@pytest.fixture
def cpu(monkeypatch):
    """Sets the text of /proc/cpuinfo and the machine's kind."""

    def become(flags, machine="x86_64"):
        monkeypatch.setattr(programs.platform, "machine", lambda: machine)
        monkeypatch.setattr(Path, "read_text", lambda path, **_: f"flags : fpu {flags}\n")
        monkeypatch.setattr(Path, "exists", lambda path, **_: True)
        programs._has_fast_onednn.cache_clear()

    yield become
    programs._has_fast_onednn.cache_clear()


def test_options_are_for_bfloat16_on_cpus_with_amx(cpu, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 12, 0))
    cpu("avx512f amx_bf16 amx_tile")
    assert programs.options("bfloat16")["xla_cpu_use_onednn"] is True
    assert programs.options("float32") is programs.options("float16") is None
    cpu("avx512f avx512_bf16")
    assert programs.options("bfloat16") is None
    cpu("amx_bf16", machine="arm64")
    assert programs.options("bfloat16") is None
    monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
    cpu("amx_bf16")
    assert programs.options("bfloat16") is None


def test_bfloat16_compiled_for_this_machine_is_near_float32():
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    names = ["red circle", "blue square", "striped star"]
    features, gradients = [], []
    for dtype in (jnp.float32, jnp.bfloat16):
        model, mesh = backbone.load("world", dtype), devices.make_mesh()
        frozen = inference.FrozenFeatures(devices.replicate(model, mesh), mesh, len(images))
        features.append(frozen.encode(images)[0].astype(np.float64))
        context = 0.02 * jax.random.normal(jax.random.key(1), (1, 1, 4, model.sizes.text_width))

        def loss(context, model, image):
            text = model.encode_prompted(context, np.zeros((1, 0), int), model.name_ids(names))
            return jnp.square(text[0] @ image).sum()

        compiled = jax.jit(jax.grad(loss), compiler_options=programs.options(model.dtype))
        gradients.append(np.ravel(compiled(context, model, features[0][0])).astype(np.float64))
    plain, low = features
    assert (plain * low).sum(-1).min() > 0.9995  # both have length 1
    exact, rounded = gradients
    cosine = exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded)
    assert cosine > 0.995
    assert np.linalg.norm(rounded) == pytest.approx(np.linalg.norm(exact), rel=0.05)


WRITER = """
import sys, warnings
warnings.simplefilter("error")
from pathlib import Path
import jax
from cdc_jax import programs

def run(factor):
    jax.clear_caches()
    assert jax.jit(lambda x: x * factor)(2) == 2 * factor
    return {path: path.read_bytes() for path in Path(sys.argv[1]).glob("programs/*-cache")}

programs.keep()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
first = run(3)
cut = next(path for path in first if "lambda" in path.name)
cut.write_bytes(first[cut][:40])  # by a process that was killed while it wrote
cut.with_name(cut.name.removesuffix("-cache") + "-atime").unlink()
programs.discard_unfinished(cut.parent)
assert len(run(5)) == len(first)
assert len(run(3)[cut]) > 1000
"""


def test_a_program_that_was_cut_short_is_written_again(tmp_path):
    environment = os.environ | {"CDC_JAX_CACHE": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
