"""The whole way of methods on the bundled world: stopped and resumed, exported, predicting."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import cdc_jax
from cdc_jax import train
from cdc_jax.tasks.batches import TrainingBatches

FILES = ("metrics.jsonl", "adapted/learned.safetensors", "scores.npz")


def stop_and_resume(config, folder: Path, stops: int, step: int, monkeypatch):
    """Trains. So many runs are stopped before their batch `step`, and the last goes on.

    Returns:
      What `train_and_evaluate` returns.
    """
    stream = TrainingBatches.stream

    def stopping(self, first, last, put):
        for i, batch in enumerate(stream(self, first, last, put)):
            if i == step:
                raise KeyboardInterrupt
            yield batch

    for _ in range(stops):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(TrainingBatches, "stream", stopping)
            train.train_and_evaluate(config, folder)
    return train.train_and_evaluate(config, folder)


def require_same_files(whole: Path, resumed: Path, names: Sequence[str]) -> None:
    """Requires that two runs of methods wrote the same bytes."""
    for name in names:
        for file in FILES:
            first, second = (path / name / file for path in (whole, resumed))
            assert first.exists() == second.exists(), (name, file)
            assert not first.exists() or first.read_bytes() == second.read_bytes(), (name, file)
        assert (whole / name / "scores.npz").exists()


def require_evaluated_predictions(run: Path, task, split: str) -> None:
    """Requires that `predict` gives what the evaluation of a run found."""
    scores, examples = np.load(run / "scores.npz"), task.test[split]
    names, images = list(examples.class_names), list(examples.images[:])
    predictions = cdc_jax.predict(run, images, class_names=names)
    predicted = [names.index(one.predicted) for one in predictions]
    assert predicted == scores[f"{split}/predicted"].tolist()
    confidence = [one.probability[0][1] for one in predictions]
    np.testing.assert_allclose(confidence, scores[f"{split}/confidence"], atol=1e-5)
