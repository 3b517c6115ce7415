"""Trust that holds: sets of classes, risk, calibration and novelty, from validation images.

Pure functions, arrays in and arrays out, that import nothing else of the project. Validation images
choose a threshold or a temperature, and test images use it. The guarantees need validation images
that the model was not trained on, from the distribution of the test images.

* `scores`, `conformal`: sets that hold the true class as often as asked.
* `selective`: predictions to accept at an asked risk.
* `temperature`: probabilities that match how often predictions are right.
* `novelty`: images of no training class, at an asked false-alarm rate.
"""

from cdc_jax.trust.conformal import (
    class_thresholds,
    coverage,
    mean_set_size,
    prediction_sets,
    quantile,
    threshold,
)
from cdc_jax.trust.novelty import (
    energy,
    false_alarms_at_recall,
    maximum_concept_matching,
    novelty_threshold,
)
from cdc_jax.trust.scores import aps_scores, lac_scores, raps_scores
from cdc_jax.trust.selective import (
    Selection,
    SelectiveRule,
    risk_upper_bound,
    select,
    selective_rule,
)
from cdc_jax.trust.temperature import EvidenceCalibration, calibrate_evidence, fit_temperature

__all__ = [
    "class_thresholds",
    "coverage",
    "mean_set_size",
    "prediction_sets",
    "quantile",
    "threshold",
    "energy",
    "false_alarms_at_recall",
    "maximum_concept_matching",
    "novelty_threshold",
    "aps_scores",
    "lac_scores",
    "raps_scores",
    "Selection",
    "SelectiveRule",
    "risk_upper_bound",
    "select",
    "selective_rule",
    "EvidenceCalibration",
    "calibrate_evidence",
    "fit_temperature",
]
