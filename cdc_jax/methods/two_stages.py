"""2SFS: the towers' layer norms are trained first, then a classifier on the adapted towers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Backbone, Texts
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.family import Problem
from cdc_jax.methods.method import Text
from cdc_jax.methods.stage import Learned, Stage
from cdc_jax.methods.support import Support, unit
from cdc_jax.methods.tower_adapters import TOWERS, TowerFamily, TowerMethod
from cdc_jax.wording import Template

_BLOCK_NORMS = ("blocks.attention_norm", "blocks.mlp_norm")
_OTHER_NORMS = {"text": ("final_norm",), "vision": ("pre_norm", "post_norm")}


class Classes(NamedTuple):
    """A class list whose names the classifier may have.

    Attributes:
      rows: of each name among the classifier's rows and the texts behind them.
      texts: token ids of the names that the classifier lacks; None if it has all.
    """

    rows: Int[Array | np.ndarray, "classes"]
    texts: Texts | None


@dataclasses.dataclass(frozen=True, eq=False)
class TwoStages(TowerMethod):
    """2SFS (Farina et al. 2025): layer norms in the first stage, a classifier in the second.

    Stage 1 trains gain and bias of the layer norms in the blocks of both towers, and classifies by
    texts. Stage 2 starts from the class features of stage 1, one row a class, and trains the rows
    on images of the adapted tower. A prediction takes the row of a training class, and the adapted
    text tower for any other name.

    From the authors' code: 60 % of the steps in stage 1, rounded down; 300 steps a shot in all; a
    cosine and an optimiser of its own for each stage; one text for all datasets. The norms outside
    the blocks stay as they are, although the README says that all are tuned: `norms.outer` trains
    them as well. Differences: a name that occurs twice in training has two rows, where the authors'
    evaluation takes the later row for both. An incomplete last batch is dropped. The authors take
    float16 and their own lists of shots. Their variants that train LoRA or biases in stage 1 are
    not here.

    Attributes:
      classifies: whether the classifier answers; False in stage 1.
    """

    classifies: bool = True

    @property
    def is_clip(self) -> bool:
        """Always false: a classifier answers for the training classes."""
        return False

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """The backbone's norms, and its text features as the classifier."""
        del key, support
        weights = backbone.weights()
        norms: dict[str, Any] = {
            tower: {
                norm.replace("blocks.", ""): {
                    part: jnp.asarray(weights[f"{tower}.{norm}.{part}"], jnp.float32)
                    for part in ("scale", "bias")
                }
                for norm in (*_BLOCK_NORMS, *_OTHER_NORMS[tower] * self.config.norms.outer)
            }
            for tower in TOWERS
        }
        trained = {"norms": norms, "classifier": self._text_features(backbone)}
        return Learned(trained | self.head.initialize(), self.head.fixed())

    def stages(self) -> tuple[Stage, ...]:
        """See `Method`."""
        first, second = (self.config.optimizer.copy_and_resolve_references() for _ in range(2))
        with first.unlocked(), second.unlocked():
            for key in ("steps", "epochs"):
                first[key] = int(self.config.first_share * first[key])
                second[key] -= first[key]
        head = tuple(self.head.initialize())
        by_texts = dataclasses.replace(self, classifies=False)

        def begin(backbone: Backbone, learned: Learned, classes: Any) -> dict[str, Any]:
            del classes
            return learned.trained | {
                "classifier": self._text_features(self.adapt(backbone, learned))
            }

        return (
            Stage(by_texts, first, trains=("norms", *head)),
            Stage(self, second, trains=("classifier", *head), begin=begin),
        )

    def adapt(self, backbone: Backbone, learned: Learned) -> Backbone:
        """See `Method`."""
        changed: dict[str, Array] = {}
        for tower, norms in learned.trained["norms"].items():
            for norm, parts in norms.items():
                place = f"blocks.{norm}" if f"blocks.{norm}" in _BLOCK_NORMS else norm
                changed |= {f"{tower}.{place}.{part}": value for part, value in parts.items()}
        return backbone.with_weights(changed)

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> Any:
        """See `Method`."""
        if not self.classifies:
            return super().classes(backbone, names, template)
        count = len(self.class_names)
        if tuple(names) == self.class_names:
            return Classes(np.arange(count), None)
        places = {name: row for row, name in enumerate(self.class_names)}
        others = [name for name in names if name not in places]
        rows = [places.get(name, -1) for name in names]
        behind = iter(range(count, count + len(others)))
        rows = [next(behind) if row < 0 else row for row in rows]
        texts = super().classes(backbone, others, template) if others else None
        return Classes(np.array(rows), texts)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Any,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        if not self.classifies:
            return super().class_features(backbone, learned, classes, image)
        features = unit(learned.trained["classifier"])
        if classes.texts is not None:
            texts = super().class_features(backbone, learned, classes.texts, image)
            features = jnp.concatenate([features, texts], 1)
        return features[:, classes.rows]

    def _text_features(self, backbone: Backbone) -> Float[Array, "templates classes embed"]:
        """Features of the training classes' texts."""
        ids = super().classes(backbone, self.class_names)
        return super().class_features(backbone, Learned({}, {}), ids)


class TwoStageFamily(TowerFamily):
    """The family of 2SFS."""

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """See `TowerFamily`.

        Raises:
          ValueError: the share of the first stage is impossible.
        """
        if not 0 <= config.first_share <= 1:
            raise ValueError(
                "first_share is stage 1's share of the steps, from 0 to 1, got "
                f"{config.first_share}"
            )
        return super().fields(config, problem)


TWO_SFS = TwoStageFamily(TwoStages)
