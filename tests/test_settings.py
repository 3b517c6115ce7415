"""Settings that no type bounds."""

import jax
import numpy as np
import pytest

from cdc_jax import pretrain, settings, train
from cdc_jax.tasks import Examples
from cdc_jax.tasks.batches import TrainingBatches


@pytest.mark.parametrize("seed", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_every_seed_that_is_taken_has_a_key_and_an_order_of_its_own(get_config, seed):
    settings.check(get_config("fewshot", f"seed={seed}"))
    key = jax.random.key_data(jax.random.key(seed))
    assert int(key[-1]) == seed and int(key[0]) == 0
    images = Examples(np.zeros((9, 1, 1, 3), np.uint8), np.zeros(9, np.int64), ("a",))
    assert sorted(TrainingBatches(images, 3, seed).indices(0)) != []


@pytest.mark.parametrize("seed", [-1, 2**32, 2**40, -(2**31), 10**30])
def test_others_are_refused_before_any_work(get_config, tmp_path, seed):
    message = f"seed must be a whole number from 0 to 4294967295, got {seed}"
    config = get_config("fewshot", f"seed={seed}")
    with pytest.raises(ValueError, match=message):
        train.train_and_evaluate(config, tmp_path / "run")
    config = get_config("pretrain", "short")
    config.seed = seed
    with pytest.raises(ValueError, match=message):
        pretrain.pretrain(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("seed", [True, 1.0, "1", None])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        settings.check_seed(seed)


@pytest.mark.parametrize(
    "dtype", ["fp16", "float", "half", "FLOAT32", "float64", "int32", "", "bf16"]
)
def test_a_dtype_that_there_is_not_is_refused(get_config, tmp_path, dtype):
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16, got"):
        train.train_and_evaluate(get_config("fewshot", f"dtype={dtype}"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", settings.DTYPES)
def test_a_dtype_that_there_is(get_config, dtype):
    settings.check(get_config("fewshot", f"dtype={dtype}"))
