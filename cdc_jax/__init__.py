"""CDC in JAX: few-shot adaptation of CLIP, with predictions that know how sure they are.

`clip` loads the frozen model, `prompts` and `views` make the semantic sets, `evidence` classifies
by them, `train.train_and_evaluate` runs whole experiments.
"""

import os

# transformers is used for tokenizers only and would advise, at every start, to install torch.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
