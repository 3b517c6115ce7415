"""From logits to fused opinions: evidence, Dempster's rule, trusted losses, in log space.

Evidence e >= 0 over K classes is a Dirichlet of concentration alpha = e + 1 and strength
S = sum_k alpha_k, and an opinion: belief b_k = e_k / S and uncertainty u = K / S, summing to one.
All functions take log-evidence, (..., classes) or (..., sources, classes), -inf for no evidence.

Dempster's rule in closed form (this project's derivation). An opinion is a mass function whose
focal sets are the singletons {k} and the whole frame. Intersections of those are singletons, the
frame or empty, so the fusion of M opinions has the same focal sets.
* The frame results only if every source gives its mass to the frame: m(frame) = prod_m u^m.
* {k} results if every source gives its mass to {k} or to the frame, and not all to the frame:
  m(k) = prod_m (b^m_k + u^m) - prod_m u^m.
* The remaining mass is the conflict C, on the empty set. Division by 1 - C keeps all ratios.
Evidence is such a ratio, e_k = K b_k / u, and b^m_k + u^m = u^m (1 + e^m_k / K), hence
    e_k = K m(k) / m(frame) = K (prod_m (1 + e^m_k / K) - 1).
Each class is fused alone and all terms are positive: O(sources * classes), nothing cancels, the
order of the sources is free. And since 1 - C = m(frame) / u, also C = 1 - prod_m u^m / u.

Inputs below float32 are promoted to float32. float64 stays. All functions work under jit, vmap and
grad. Shapes are always checked. Values are checked unless they are traced: NaN is refused, and a
traced NaN gives NaN.

* `opinions`: logits, evidence, opinions, probabilities.
* `fusion`: one opinion of several.
* `uncertainty`: how sure an opinion is, and how far several conflict.
* `losses`: what trains evidence.

Sources: Dempster 1967; Shafer 1976, "A Mathematical Theory of Evidence"; Jøsang 2016, "Subjective
Logic"; Jøsang, Cho and Chen 2018, "Uncertainty characteristics of subjective opinions"; Sensoy,
Kaplan and Kandemir 2018, "Evidential deep learning"; Malinin and Gales 2018, "Prior networks";
Han et al. 2021, "Trusted multi-view classification"; Denoeux 2008, "Conjunctive and disjunctive
combination"; Murphy 2000, "Combining belief functions when evidence conflicts"; Hendrycks and
Gimpel 2017, "A baseline for detecting misclassified examples".
"""

from cdc_jax.evidence.checks import Labels, PerClass, PerExample, PerSource
from cdc_jax.evidence.fusion import (
    average,
    cautious,
    combine,
    cumulate,
    discount,
    most_certain,
    pool,
)
from cdc_jax.evidence.losses import (
    annealed_kl_weight,
    dirichlet_kl_to_uniform,
    expected_squared_error,
    trusted_cross_entropy,
    trusted_loss,
    type_two_likelihood,
)
from cdc_jax.evidence.opinions import (
    KINDS,
    Opinion,
    calibrate_shift,
    expected_probability,
    from_logits,
    log_concentration,
    log_vacuity,
    opinion,
)
from cdc_jax.evidence.uncertainty import (
    conflict,
    dissonance,
    entropy,
    expected_entropy,
    least_confidence,
    mutual_information,
    weight_of_conflict,
)

__all__ = [
    "Opinion",
    "KINDS",
    "from_logits",
    "calibrate_shift",
    "log_concentration",
    "opinion",
    "expected_probability",
    "log_vacuity",
    "combine",
    "pool",
    "average",
    "cumulate",
    "cautious",
    "most_certain",
    "discount",
    "dissonance",
    "least_confidence",
    "entropy",
    "expected_entropy",
    "mutual_information",
    "conflict",
    "weight_of_conflict",
    "dirichlet_kl_to_uniform",
    "trusted_cross_entropy",
    "type_two_likelihood",
    "expected_squared_error",
    "annealed_kl_weight",
    "trusted_loss",
    "Labels",
    "PerClass",
    "PerExample",
    "PerSource",
]
