"""With JAX_ENABLE_X64=1 a run learns, evaluates and predicts as without it."""

import json

import forked_runs
import numpy as np
import pytest
import safetensors.numpy

import cdc_jax
from cdc_jax import train

SETTING = (
    "methods=coop,cdc,shots=1,world.test_images=1,evaluation_batch_size=24,progress=False,"
    "coop.optimizer.epochs=2,cdc.optimizer.epochs=2,log_every=1,checkpoint_every=2,curve_every=2"
)
SCRIPT = """
import sys, warnings
warnings.simplefilter("error")
import jax
jax.config.update("jax_enable_x64", True)  # what the variable does in a process that is started
import numpy as np
import cdc_jax
from cdc_jax import config_file, settings, train
config = config_file.apply(settings.experiment(), sys.argv[2])
train.train_and_evaluate(config, sys.argv[1])
for method in ("coop", "cdc"):
    (row,) = cdc_jax.predict(f"{sys.argv[1]}/{method}", np.full((1, 32, 32, 3), 99, np.uint8))
    print(row.predicted, row.probability[0][1])
"""


@pytest.mark.slow
def test_a_run_with_64_bits_equals_one_without(get_config, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    script = forked_runs.Script(tmp_path / "script.py", tmp_path / "x64", SETTING)
    expected = train.train_and_evaluate(get_config("fewshot", SETTING), tmp_path / "x32")
    printed, errors = script.communicate(1200)
    assert script.returncode == 0, errors
    for line, method in zip(printed.splitlines(), ("coop", "cdc"), strict=True):
        (row,) = cdc_jax.predict(tmp_path / "x32" / method, np.full((1, 32, 32, 3), 99, np.uint8))
        name, _, probability = line.rpartition(" ")
        assert name == row.predicted
        assert float(probability) == pytest.approx(row.probability[0][1], abs=1e-3)
        results = json.loads((tmp_path / f"x64/{method}/results.json").read_text())
        assert results["steps"] == expected[method]["steps"]
        learned = [
            safetensors.numpy.load_file(tmp_path / kind / method / "adapted/learned.safetensors")
            for kind in ("x32", "x64")
        ]
        assert learned[0].keys() == learned[1].keys()
        for key, array in learned[0].items():
            assert array.dtype == learned[1][key].dtype
            np.testing.assert_allclose(array, learned[1][key], atol=1e-3)
        # What one learned, the other can use.
        assert cdc_jax.predict(tmp_path / "x64" / method, np.zeros((1, 32, 32, 3), np.uint8))
