"""CDC in JAX: few-shot adaptation of CLIP, with an uncertainty for every prediction.

`clip` loads the frozen model, `methods` adapts it, `views` augments images, and `evidence` fuses
opinions. `train.train_and_evaluate` runs whole experiments. `predict` applies an adapted model.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdc_jax.prediction import predict as predict

# transformers is used for tokenizers only and would advise, at every start, to install torch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def __getattr__(name: str) -> Any:
    # Imported at first use: an import above would make `from cdc_jax import evidence` slow.
    if name == "predict":
        from cdc_jax.prediction import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
