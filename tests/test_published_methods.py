"""Methods as configurations of one adapter, against each written out for itself in plain PyTorch.

`references/methods.npz` holds the float64 answers of `references/methods_reference.py`. Ours are
float32, where single entries near zero have few correct digits: a difference counts in units of
the tensor's largest value.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_clip

from cdc_jax import methods

TEMPLATE = "a photo of a {}."
PHRASES = "a photo of a|the picture with a"
# What changes in a row to fit the small towers; weights that may be tuned again are held here.
ROWS = {
    "coop": {},
    "kgcoop": {},
    "maple": {"prompts.layers": 3},
    "multi_template": {"prompts.layers": 3, "prompts.templates": 2, "prompts.phrases": PHRASES},
    "cdc": {
        "prompts.layers": 3, "prompts.templates": 3, "prompts.phrases": PHRASES,
        "head.kl_weight": 0.02, "loss.decoupling_weight": 0.1, "loss.consistency_weight": 8.0,
    },
}  # fmt: skip
PROGRESS = 0.25  # of training: the KL weight is at half of its final value


@pytest.fixture(scope="module")
def stored():
    return small_clip.stored("methods")


@pytest.fixture(scope="module")
def clip(stored, tmp_path_factory):
    return small_clip.load(stored["vocabulary"], tmp_path_factory.mktemp("methods") / "clip")


def learned(stored, prefix):
    """Tensors in our layout; PyTorch's Linear keeps (outputs, inputs)."""
    tensors = {"context": stored[f"{prefix}/context"]}
    if f"{prefix}/coupling_weight" in stored:
        tensors["coupling"] = {
            "kernel": stored[f"{prefix}/coupling_weight"].swapaxes(-1, -2),
            "bias": stored[f"{prefix}/coupling_bias"],
        }
    return {"prompts": tensors}


def assert_close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_equals_the_plain_form(clip, stored, row):
    config = methods.configure(row).config.unlock()
    config.head.shift = float(stored["shift"])
    config.update_from_flattened_dict(ROWS[row])
    names = [str(name) for name in stored["names"]]
    method = methods.rebuild("prompt_tuning", config, clip, names, TEMPLATE)
    classes = method.classes(clip, names)
    views = jnp.asarray(stored["views"] if row == "cdc" else stored["views"][:1])

    # Nearly all of the time goes into compiling, of which level 0 does least.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def answers(clip, trained, classes):
        learned = methods.Learned(trained, {})
        image = method.image_features(clip, learned, views)
        forward = method.forward(clip, learned, classes, image)

        def objective(trained):
            learned = methods.Learned(trained, {})
            return methods.objective(
                method, clip, learned, classes, views, stored["labels"], PROGRESS
            )

        (loss, _), gradients = jax.value_and_grad(objective, has_aux=True)(trained)
        return forward._asdict() | {"loss": loss}, gradients

    found, gradients = answers(clip, learned(stored, row), classes)
    for name, value in found.items():
        assert_close(value, stored[f"{row}/{name}"])
    jax.tree.map(assert_close, gradients, learned(stored, f"{row}/gradient"))
    assert_close(classes.anchors[0], stored["anchors"])
