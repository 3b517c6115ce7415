"""Interprets learned templates: words near their vectors, their similarity, their disagreement."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cdc_jax.evaluate import Scores


def interpret(
    vocabulary: Sequence[str],
    embeddings: Float[Array | np.ndarray, "tokens width"],
    vectors: Float[Array | np.ndarray, "templates d width"] | None,
    text: Float[Array | np.ndarray, "templates classes embed"] | None,
    scores: Mapping[str, Scores],
) -> dict[str, Any]:
    """The contents of interpretation.json.

    Args:
      vocabulary: every token, by id.
      embeddings: their embeddings.
      vectors: learned vectors that all classes share; None where there are none.
      text: features of the classes trained on; None where they depend on the image.
      scores: of every test split.

    Returns:
      `words`: for each template and vector its nearest words; `template_cosine`: see
      `template_cosine`, empty without text features;
      `disagreement`: for each pair of templates the share of all test images that they classify
      differently.
    """
    words = [] if vectors is None else nearest_words(vocabulary, embeddings, vectors)
    predicted = np.concatenate([one.prediction.template_predicted for one in scores.values()])
    differ = (predicted[:, :, None] != predicted[:, None, :]).mean(0)
    return {
        "words": words,
        "template_cosine": []
        if text is None
        else np.asarray(template_cosine(text)).round(6).tolist(),
        "disagreement": differ.tolist(),
    }


def nearest_words(
    vocabulary: Sequence[str],
    embeddings: Float[Array | np.ndarray, "tokens width"],
    vectors: Float[Array | np.ndarray, "templates d width"],
    count: int = 5,
) -> list[list[list[dict[str, Any]]]]:
    """The tokens whose embeddings are nearest to each vector, by Euclidean distance as in CoOp.

    Args:
      vocabulary: every token, by id.
      embeddings: their embeddings. Padding of the table behind them is left out.
      vectors: learned vectors.
      count: how many.

    Returns:
      [template][vector] -> `word` and `distance` of the nearest, best first.
    """
    embeddings = embeddings[: len(vocabulary)].astype(jnp.float32)
    difference = (embeddings**2).sum(-1) - 2 * jnp.einsum("mdw,tw->mdt", vectors, embeddings)
    squared = difference + (vectors**2).sum(-1)[..., None]
    negative, ids = jax.lax.top_k(-squared, count)
    distance = np.sqrt(np.maximum(-np.asarray(negative), 0))
    return [
        [
            [
                {"word": vocabulary[i], "distance": round(float(d), 6)}
                for i, d in zip(word, far, strict=True)
            ]
            for word, far in zip(words, fars, strict=True)
        ]
        for words, fars in zip(np.asarray(ids), distance, strict=True)
    ]


def template_cosine(
    text: Float[Array | np.ndarray, "templates classes embed"],
) -> Float[Array | np.ndarray, "templates templates"]:
    """Mean over the classes of cos(g(t^m_k), g(t^n_k)), for every pair of templates."""
    text = text / jnp.linalg.norm(
        text, axis=-1, keepdims=True
    )  # a probe's rows are no unit vectors
    return jnp.einsum("mkd,nkd->mn", text, text) / text.shape[1]
