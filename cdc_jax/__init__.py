"""CDC in JAX: few-shot adaptation of CLIP, with predictions that know how sure they are.

`clip` loads the frozen model, `methods` holds what is learned on top, `views` augments images,
`evidence` fuses opinions, `train.train_and_evaluate` runs whole experiments, `predict` applies
what they learned.
"""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cdc_jax.prediction import predict as predict

# transformers is used for tokenizers only and would advise, at every start, to install torch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")


def __getattr__(name: str) -> Any:
    # Found when asked for: importing it here would make `from cdc_jax import evidence` slow.
    if name == "predict":
        from cdc_jax.prediction import predict

        return predict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
