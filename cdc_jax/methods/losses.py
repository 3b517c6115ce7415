"""Losses on the semantic templates: L_de keeps them apart, L_con near the hand-crafted template.

The published part of the paper names both losses and defines neither. The forms are this project's
reading (L_con: KgCoOp, Yao et al. 2023). Two distances from a frozen teacher are PromptSRC's
(Khattak et al. 2023). All features are L2-normalised.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

# Accelerators' default precision would round cosines to three digits.
_dot = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def pairwise(
    text: Float[Array, "templates classes embed"], margin: float = 0.0
) -> Float[Array, ""]:
    """L_de on class features: how alike the templates are.

    sum_m mean_{k, n != m} max(0, cos(g(t^m_k), g(t^n_k)) - margin); 0 for one template.

    Args:
      text: text features of every template and class.
      margin: similarity up to which the loss is 0, in [-1, 1).
    """
    count, classes = text.shape[:2]
    if count == 1:
        return jnp.zeros(())
    similarity = _dot("mkd,nkd->mnk", text, text)
    excess = jax.nn.relu(similarity - margin) * (1 - jnp.eye(count))[..., None]
    return excess.sum() / ((count - 1) * classes)


def match(
    image: Float[Array, "views batch embed"],
    text: Float[Array, "templates classes embed"],
    labels: Int[Array | np.ndarray, "batch"],
    logit_scale: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """L_de on image-conditioned features: view m must match template m of its class.

    sum_m mean_x −log softmax_m'( cos(f^m(a^m(x)), g(t^m'_y)) / tau ) at m' = m.

    Args:
      image: image features of every template's own view.
      text: text features of every template and class.
      labels: classes of the images.
      logit_scale: 1/tau.

    Raises:
      ValueError: image and text features have different numbers of templates.
    """
    if image.shape[0] != text.shape[0]:
        raise ValueError(
            f"`match` needs image features of each of the {text.shape[0]} templates, got "
            f"{image.shape[0]}: give every template its own view or visual prompts"
        )
    logits = logit_scale * _dot("mbd,nbd->mbn", image, text[:, labels])
    targets = jnp.broadcast_to(jnp.arange(len(text))[:, None], logits.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(1).sum()


def negative_correlation(
    logits: Float[Array, "batch templates classes"],
) -> Float[Array, ""]:
    """L_de on predictions: each template's prediction must differ from the mean prediction.

    sum_m mean_x (p^m − p̄) · sum_{n != m} (p^n − p̄) = −sum_m mean_x |p^m − p̄|², with
    p^m = softmax(z^m); 0 for one template, never positive. Liu and Yao 1999, "Ensemble learning
    via negative correlation".

    Args:
      logits: of every template.
    """
    probability = jax.nn.softmax(logits, -1)
    deviation = probability - probability.mean(-2, keepdims=True)
    return -jnp.square(deviation).sum((-2, -1)).mean()


def cosine_consistency(
    text: Float[Array, "templates classes embed"],
    anchors: Float[Array, "#templates classes embed"],
) -> Float[Array, ""]:
    """L_con: sum_m mean_k (1 − cos(g(t^m_k), g(t^0_k))).

    Args:
      text: text features of every template and class.
      anchors: features of the hand-crafted template: one for all templates, or one for each.
    """
    return (1 - _dot("mkd,mkd->mk", text, jnp.broadcast_to(anchors, text.shape))).mean(1).sum()


def softmax_consistency(
    text: Float[Array, "templates classes embed"],
    anchors: Float[Array, "#templates classes embed"],
    logit_scale: Float[Array, ""] | float,
) -> Float[Array, ""]:
    """L_con as classification: a class must match its own anchor among the anchors of all classes.

    sum_m mean_k −log softmax_k'( cos(g(t^m_k), g(t^0_k')) / tau ) at k' = k. For the arguments see
    `cosine_consistency`.
    """
    logits = logit_scale * _dot("mkd,mld->mkl", text, jnp.broadcast_to(anchors, text.shape))
    targets = jnp.broadcast_to(jnp.arange(text.shape[1]), logits.shape[:2])
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(1).sum()


def absolute_distance(
    features: Float[Array, "templates rows embed"],
    anchors: Float[Array, "#templates rows embed"],
) -> Float[Array, ""]:
    """PromptSRC's distance of features: sum_m mean_{r, d} |f^m_rd − a_rd|.

    Args:
      features: of images or classes, under every template.
      anchors: features of the teacher: one set for all templates, or one for each.
    """
    return jnp.abs(features - anchors).mean((1, 2)).sum()


def divergence(
    logits: Float[Array, "batch templates classes"],
    anchors: Float[Array, "batch templates classes"],
) -> Float[Array, ""]:
    """PromptSRC's distance of predictions: sum_m mean_{x, k} p^0_k (log p^0_k − log p^m_k).

    It is the Kullback-Leibler divergence from the student to the teacher over the number of
    classes.

    Args:
      logits: of every template.
      anchors: logits of the teacher.
    """
    taught, learned = (jax.nn.log_softmax(z, -1) for z in (anchors, logits))
    return (jnp.exp(taught) * (taught - learned)).mean((0, 2)).sum()
