"""Nearest words, similarity and disagreement of templates, against brute force."""

import jax.numpy as jnp
import numpy as np
import pytest

from cdc_jax import interpretation
from cdc_jax.evaluate import Scores
from cdc_jax.methods.heads import Prediction
from cdc_jax.records import SplitRecord

RNG = np.random.default_rng(0)
EMBEDDINGS = RNG.normal(size=(9, 4)).astype(np.float32)
WORDS, TABLE = [f"w{i}" for i in range(9)], jnp.asarray(EMBEDDINGS)


def scores(template_predicted):
    predicted = np.array(template_predicted)
    one = np.zeros(len(predicted))
    return Scores(SplitRecord(), one, Prediction(one, one, one, one, predicted, one, one), ())


def test_padding_of_the_table_is_no_word():
    padded = jnp.concatenate([TABLE, TABLE[4:5]])
    found = interpretation.nearest_words(WORDS, padded, TABLE[None, 4:5], len(WORDS))
    assert found == interpretation.nearest_words(WORDS, TABLE, TABLE[None, 4:5], len(WORDS))


def test_nearest_words_are_those_at_the_least_distance():
    vectors = RNG.normal(size=(2, 3, 4)).astype(np.float32)
    found = interpretation.nearest_words(WORDS, TABLE, jnp.asarray(vectors), count=3)
    for m in range(2):
        for d in range(3):
            distance = np.linalg.norm(EMBEDDINGS - vectors[m, d], axis=-1)
            order = np.argsort(distance)[:3]
            assert [entry["word"] for entry in found[m][d]] == [f"w{i}" for i in order]
            assert [entry["distance"] for entry in found[m][d]] == pytest.approx(
                distance[order].tolist(), abs=1e-4
            )


def test_a_word_is_its_own_nearest():
    found = interpretation.nearest_words(WORDS, TABLE, TABLE[None, 4:5], 1)
    assert found[0][0][0]["word"] == "w4"
    assert found[0][0][0]["distance"] < 1e-3


def test_distances_of_bfloat16_embeddings_are_those_of_float32():
    rounded = jnp.asarray(EMBEDDINGS, jnp.bfloat16)
    vectors = jnp.asarray(rounded[None, 3:4], jnp.float32) + 0.003
    found = interpretation.nearest_words(WORDS, rounded, vectors, 1)
    assert found[0][0][0]["word"] == "w3"
    assert found[0][0][0]["distance"] == pytest.approx(0.006, rel=0.1)


def test_rows_of_a_classifier_are_no_unit_vectors():
    cosine = interpretation.template_cosine(jnp.asarray([[[3.0, 4.0], [0.5, 0.0]]]))
    np.testing.assert_allclose(cosine, [[1]], rtol=1e-6)


def test_the_whole_interpretation():
    text = RNG.normal(size=(2, 5, 3))
    text /= np.linalg.norm(text, axis=-1, keepdims=True)
    splits = {"a": scores([[0, 0], [1, 2]]), "b": scores([[3, 3], [4, 4], [0, 1]])}
    vectors = jnp.asarray(EMBEDDINGS[None, :2].repeat(2, 0))
    made = interpretation.interpret(WORDS, TABLE, vectors, jnp.asarray(text), splits)
    assert made["disagreement"] == [[0, 0.4], [0.4, 0]]
    cosine = np.mean([text[0, k] @ text[1, k] for k in range(5)])
    np.testing.assert_allclose(made["template_cosine"], [[1, cosine], [cosine, 1]], atol=1e-5)
    assert [[entry[0]["word"] for entry in row] for row in made["words"]] == [["w0", "w1"]] * 2
    assert interpretation.interpret(WORDS, TABLE, None, jnp.asarray(text), splits)["words"] == []


def test_class_features_that_depend_on_the_image_have_no_cosine():
    splits = {"a": scores([[0, 0], [1, 2]])}
    vectors = jnp.asarray(EMBEDDINGS[None, :2].repeat(2, 0))
    made = interpretation.interpret(WORDS, TABLE, vectors, None, splits)
    assert made["template_cosine"] == []
    assert made["disagreement"] == [[0, 0.5], [0.5, 0]]
    assert [[entry[0]["word"] for entry in row] for row in made["words"]] == [["w0", "w1"]] * 2
