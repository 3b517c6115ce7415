"""The pure functions give the same with and without jit and under pmap, against float64 NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from scipy.special import digamma

from cdc_jax import evidence
from cdc_jax.methods import losses

RNG = np.random.default_rng(0)
LOGS = RNG.normal(size=(1, 5, 3, 4))  # devices, images, sources, classes
LABELS = np.array([[0, 1, 2, 3, 1]])
TEXT = RNG.normal(size=(1, 3, 4, 6))  # devices, templates, classes, embed
TEXT /= np.linalg.norm(TEXT, axis=-1, keepdims=True)

flags.FLAGS["chex_skip_pmap_variant_if_single_device"].value = False
every_way = chex.variants(with_jit=True, without_jit=True, with_pmap=True)


class Transformations(chex.TestCase):
    """Each function takes a leading axis of devices, one here; tests/pod.py has eight."""

    def both(self, function, *arguments):
        arguments = [jnp.asarray(a, jnp.float32 if a.dtype == float else None) for a in arguments]
        return self.variant(jax.vmap(function))(*arguments)

    @every_way
    def test_dempsters_rule(self):
        expected = 4 * (np.prod(1 + np.exp(LOGS) / 4, axis=2) - 1)
        found = self.both(evidence.combine, LOGS)
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)

    @every_way
    def test_trusted_cross_entropy(self):
        logs = LOGS[:, :, 0]
        alpha = np.exp(logs) + 1
        picked = np.take_along_axis(alpha, LABELS[..., None], -1)[..., 0]
        expected = digamma(alpha.sum(-1)) - digamma(picked)
        found = self.both(evidence.trusted_cross_entropy, logs, LABELS)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @every_way
    def test_decoupling_of_templates(self):
        cosine = np.einsum("dmkv,dnkv->dmnk", TEXT, TEXT)
        apart = ~np.eye(3, dtype=bool)
        expected = np.maximum(cosine, 0)[:, apart].sum((1, 2)) / (2 * 4)
        found = self.both(losses.pairwise, TEXT)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @every_way
    def test_consistency_with_an_anchor(self):
        anchors = TEXT[:, :1]
        expected = (1 - np.einsum("dmkv,dnkv->dmk", TEXT, anchors)).mean(-1).sum(-1)
        found = self.both(losses.cosine_consistency, TEXT, anchors)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
