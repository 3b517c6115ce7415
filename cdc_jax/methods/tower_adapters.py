"""Methods that train the towers: CLIP-LoRA and CLIP-SVD, and what all tower methods share.

Both towers run in every training step, the text tower over all classes. The weights change once
for an evaluation, which then runs a plain CLIP. `two_stages` holds the third method.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt

from cdc_jax.backbone import Backbone, Branch
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods.family import Family, Problem
from cdc_jax.methods.method import Method, Text
from cdc_jax.methods.stage import Learned
from cdc_jax.methods.support import Support
from cdc_jax.wording import Template, require_template, sentences, single

TOWERS = ("text", "vision")
PARTS = {"qkv": 3, "attention_out": 1, "mlp_in": 1, "mlp_out": 1}
"""Linear layer of a block -> the number of matrices whose outputs it joins."""

_PRECISION = jax.lax.Precision.HIGHEST


@dataclasses.dataclass(frozen=True, eq=False)
class TowerMethod(Method):
    """A method that changes weights of both towers and classifies by plain texts.

    Attributes:
      texts: the templates, each with one {}; empty takes the task's text. A task with several texts
        has its single template here.
    """

    texts: tuple[str, ...]

    @property
    def templates(self) -> int:
        """See `Method`."""
        return max(len(self.texts), 1)

    @property
    def changes_images(self) -> bool:
        """See `Method`."""
        return True

    @property
    def is_clip(self) -> bool:
        """See `Method`."""
        return True

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> Any:
        """Token ids of all classes in the first template, then in the next."""
        texts = self.texts or (single(template or self.template),)
        return backbone.text_ids(
            [sentence for text in texts for name in names for sentence in sentences(text, name)]
        )

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Any,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        del learned, image
        features = backbone.encode_ids(classes)
        return features.reshape(self.templates, -1, features.shape[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class ClipLora(TowerMethod):
    """CLIP-LoRA (Zanella and Ben Ayed 2024): low-rank updates of queries, keys and values.

    Each such matrix W of both towers becomes W + alpha / sqrt(r) B A, with B = 0 at the start. In a
    training step, dropout acts on the input of A. Queries, keys and values have their own masks,
    and so does each token of each text and image. Texts can't share the computation of their
    beginning then. Without dropout, and in evaluation, the update is merged into W.

    From the authors' code: r = 2, alpha = 1, scaled by sqrt(r) and not by r, dropout 0.25, a cosine
    over 500 steps a shot, and one text for all datasets. Differences: logits have CLIP's scale,
    where the authors write 100. An incomplete last batch is dropped. The authors take float16.
    They draw the shots otherwise than CoOp. The option to update other matrices is not here.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """A is uniform within ± inputs^(−1/2), as PyTorch's linear layers."""
        del support
        rank, parts, maps = self.config.lora.rank, PARTS["qkv"], {}
        for tower, tower_key in zip(TOWERS, jax.random.split(key), strict=True):
            depth, inputs, outputs = backbone.weights()[kernel(tower, "qkv")].shape
            shape, bound = (depth, parts, inputs, rank), 1 / math.sqrt(inputs)
            maps[tower] = {
                "down": jax.random.uniform(tower_key, shape, jnp.float32, -bound, bound),
                "up": jnp.zeros((depth, parts, rank, outputs // parts), jnp.float32),
            }
        return Learned({"lora": maps} | self.head.initialize(), self.head.fixed())

    def adapt(self, backbone: Backbone, learned: Learned) -> Backbone:
        """See `Method`."""
        weights, changed = backbone.weights(), {}
        for tower, maps in learned.trained["lora"].items():
            name = kernel(tower, "qkv")
            update = jnp.matmul(maps["down"], self._scaled(maps), precision=_PRECISION)
            changed[name] = weights[name] + joined(update)
        return backbone.with_weights(changed)

    def adapt_in_step(
        self,
        backbone: Backbone,
        learned: Learned,
        seed: UInt[Array | np.uint32, ""] | int,
        step: Int[Array, ""] | int,
    ) -> Backbone:
        """The frozen towers with branches whose inputs have dropout."""
        rate, branches = self.config.lora.dropout, {}
        if not rate:
            return self.adapt(backbone, learned)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        for tower, key in zip(TOWERS, keys, strict=True):
            maps = learned.trained["lora"][tower]
            of_blocks = jax.random.split(key, len(maps["down"]))
            branches[kernel(tower, "qkv")] = Branch(
                maps["down"], self._scaled(maps), of_blocks, rate
            )
        return backbone.with_branches(branches)

    def image_features(
        self,
        backbone: Backbone,
        learned: Learned,
        views: Float[Array, "views batch height width 3"],
    ) -> Float[Array, "templates_or_1 batch embed"]:
        """All views as one batch, so that each has its own dropout masks."""
        del learned
        features = backbone.encode_images(views.reshape(-1, *views.shape[2:]))
        return features.reshape(*views.shape[:2], -1)

    def _scaled(self, maps: dict[str, Array]) -> Array:
        return self.config.lora.alpha / math.sqrt(self.config.lora.rank) * maps["up"]


@dataclasses.dataclass(frozen=True, eq=False)
class ClipSvd(TowerMethod):
    """CLIP-SVD (Koleilat et al. 2025): the singular values of all linear layers.

    Each matrix of the attention and the MLP is U diag(s) V', and only s is trained. U and V are
    computed once, from the frozen weights. They are fixed arrays: a checkpoint holds s only, and an
    exported model holds U and V, which are 1.2 times as large as CLIP at ViT-B/16. A step builds
    the matrices, which needs fewer products than U (s (V' x)) and equals it.

    From the authors' code: AdamW decays s towards 0, not towards its start; 200 steps a shot;
    nothing keeps s positive or in order. Differences: logits have CLIP's scale, where the authors
    write 100. An incomplete last batch is dropped. The authors take float16 and draw the shots
    otherwise than CoOp. In base-to-new tasks they take a rate of 4e-4, 10 or 20 epochs by dataset,
    and a cosine whose period is by mistake counted in batches, so that the rate swings; they take
    "a photo of a {}." for DTD, EuroSAT and UCF101. The row has the settings of few-shot tasks: set
    `optimizer.learning_rate`, `steps_per_shot=0` with `optimizer.epochs`, and `templates`.
    """

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del key, support
        weights = backbone.weights()
        values: dict[str, Any] = {tower: {} for tower in TOWERS}
        vectors: dict[str, Any] = {tower: {} for tower in TOWERS}
        for tower in TOWERS:
            for layer in PARTS:
                matrices = split(weights[kernel(tower, layer)], PARTS[layer])
                matrices = matrices.astype(jnp.promote_types(matrices.dtype, jnp.float32))
                left, values[tower][layer], right = jnp.linalg.svd(matrices, full_matrices=False)
                vectors[tower][layer] = {"left": left, "right": right}
        return Learned(
            {"singular_values": values} | self.head.initialize(),
            {"singular_vectors": vectors} | self.head.fixed(),
        )

    def adapt(self, backbone: Backbone, learned: Learned) -> Backbone:
        """See `Method`."""
        values, vectors = learned.trained["singular_values"], learned.fixed["singular_vectors"]
        changed = {}
        for tower in TOWERS:
            for layer, of_layer in values[tower].items():
                left, right = (vectors[tower][layer][side] for side in ("left", "right"))
                scaled = left * of_layer[..., None, :]
                changed[kernel(tower, layer)] = joined(
                    jnp.matmul(scaled, right, precision=_PRECISION)
                )
        return backbone.with_weights(changed)


def kernel(tower: str, layer: str) -> str:
    """The name of a linear layer's weights, see `Backbone.weights`."""
    return f"{tower}.blocks.{layer}.kernel"


def split(
    kernels: Float[Array, "depth inputs outputs"], parts: int
) -> Float[Array, "depth parts inputs part_outputs"]:
    """The matrices whose outputs a layer joins."""
    depth, inputs, _ = kernels.shape
    return kernels.reshape(depth, inputs, parts, -1).swapaxes(1, 2)


def joined(
    matrices: Float[Array, "depth parts inputs part_outputs"],
) -> Float[Array, "depth inputs outputs"]:
    """The inverse of `split`."""
    depth, _, inputs, _ = matrices.shape
    return matrices.swapaxes(1, 2).reshape(depth, inputs, -1)


class TowerFamily(Family):
    """A family of methods that change the towers."""

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The templates of the setting `templates`, or the task's single template.

        Raises:
          ValueError: a template has no {}.
        """
        for text in _texts(config.templates):
            require_template(text, "templates")
        return _texts(config.templates) or (single(template),)

    def settle(self, config: ConfigDict, problem: Problem, support: Support) -> ConfigDict:
        """Fills in the number of steps, too.

        Raises:
          ValueError: a template has no {}.
        """
        config = super().settle(config, problem, support)
        shots = int(np.bincount(support.labels).max())
        with config.unlocked():
            config.optimizer.steps = config.optimizer.steps or config.steps_per_shot * shots
        return config

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The texts, if they are not the task's."""
        del problem
        return {"texts": _texts(config.templates)}

    def changes_images(self, config: ConfigDict) -> bool:
        """Always true."""
        del config
        return True


class LoraFamily(TowerFamily):
    """The family of CLIP-LoRA."""

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """See `TowerFamily`.

        Raises:
          ValueError: the rank or the dropout is impossible.
        """
        if config.lora.rank < 1 or not 0 <= config.lora.dropout < 1:
            raise ValueError(
                "lora needs a rank of at least 1 and a dropout from 0 to below 1, got rank="
                f"{config.lora.rank} and dropout={config.lora.dropout}"
            )
        return super().fields(config, problem)


def _texts(templates: str) -> tuple[str, ...]:
    return tuple(text.strip() for text in templates.split("|")) if templates else ()


CLIP_LORA = LoraFamily(ClipLora)
CLIP_SVD = TowerFamily(ClipSvd)
