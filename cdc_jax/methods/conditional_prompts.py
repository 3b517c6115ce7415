"""Prompts that a small network computes: from the image in CoCoOp, from the class in TCP."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Backbone
from cdc_jax.config_type import ConfigDict
from cdc_jax.methods import losses
from cdc_jax.methods.family import Family, Problem
from cdc_jax.methods.feature_adapters import texts_of
from cdc_jax.methods.method import Batch, Method, Term, Text
from cdc_jax.methods.prompt_tuning import templates_of
from cdc_jax.methods.prompts import Classes, SharedPrompts
from cdc_jax.methods.stage import Learned
from cdc_jax.methods.support import Support, hand_crafted_features
from cdc_jax.wording import Template, require_template, single


class Layers(NamedTuple):
    """Sizes of a network of two linear layers with biases, one network for each template.

    Attributes:
      inputs: width of the input.
      hidden: width between the layers.
      outputs: width of the output.
    """

    inputs: int
    hidden: int
    outputs: int

    def initialize(self, key: jax.Array, templates: int) -> dict[str, dict[str, Array]]:
        """PyTorch's start of linear layers: uniform within ± inputs^(−1/2), biases as well."""
        sizes = {"down": (self.inputs, self.hidden), "up": (self.hidden, self.outputs)}
        layers = {}
        for (name, (inputs, outputs)), one in zip(
            sizes.items(), jax.random.split(key), strict=True
        ):
            shape, bound = (templates, inputs + 1, outputs), inputs**-0.5
            drawn = jax.random.uniform(one, shape, jnp.float32, -bound, bound)
            layers[name] = {"kernel": drawn[:, :-1], "bias": drawn[:, -1]}
        return layers


def linear(
    layer: dict[str, Array], x: Float[Array, "templates rows inputs"]
) -> Float[Array, "templates rows outputs"]:
    """A linear layer of each template."""
    product = jnp.einsum("mri,mio->mro", x, layer["kernel"], precision=jax.lax.Precision.HIGHEST)
    return product + layer["bias"][:, None]


@dataclasses.dataclass(frozen=True, eq=False)
class CoCoOp(Method):
    """CoCoOp (Zhou et al. 2022): an image's feature shifts the vectors of the prompt.

    v_i(x) = v_i + h(f(x)) for each of the d vectors. h is linear, ReLU, linear. The text tower
    encodes every class for every image: with B images in a batch, B times as many texts as CoOp.
    The start of text and the prompt run once for each image, and the class names attend to them.
    The names of long lists run in chunks, which are encoded a second time in the derivative. The
    backbone's bound of memory counts the texts of all images. Predictions need the text tower too.

    From the authors' code: h reads normalised features, and its hidden width is d/16. The texts
    have the words of `prompts.phrases` and end after the class name, for every dataset. Difference:
    the authors compute in float16 without scaling of the loss. Several templates each have a
    network.

    Attributes:
      prompts: the templates without their shifts.
    """

    prompts: SharedPrompts

    @property
    def templates(self) -> int:
        """See `Method`."""
        return len(self.prompts.templates.phrases)

    @property
    def reads_images(self) -> bool:
        """See `Method`."""
        return True

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del support
        prompts = self.prompts.initialize(key, backbone, len(self.class_names))
        sizes = backbone.sizes
        hidden = sizes.embed_width // self.config.network.reduction
        layers = Layers(sizes.embed_width, hidden, sizes.text_width)
        network = layers.initialize(jax.random.fold_in(key, 1), self.templates)
        trained = {"prompts": prompts, "network": network} | self.head.initialize()
        return Learned(trained, self.head.fixed())

    def classes(
        self, backbone: Backbone, names: Sequence[str], template: Template = ""
    ) -> Int[Array, "classes tokens"]:
        """Token ids of the names."""
        del template
        return jnp.asarray(backbone.name_ids(names, suffix=self.prompts.templates.suffix))

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Int[Array, "classes tokens"],
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        if image is None:
            raise ValueError("CoCoOp's class features depend on the image, and got none")
        context, network = learned.trained["prompts"]["context"], learned.trained["network"]
        image = jnp.broadcast_to(image, (len(context), *image.shape[1:]))
        shift = linear(network["up"], jax.nn.relu(linear(network["down"], image)))
        shifted = context[:, None] + shift[:, :, None, None]
        templates, batch, *rest = shifted.shape
        words = np.repeat(self.prompts.fixed_words, batch, 0)
        text = backbone.encode_prompted(shifted.reshape(-1, *rest), words, classes)
        return text.reshape(templates, batch, *text.shape[1:])

    def word_vectors(self, learned: Learned) -> Float[Array, "templates d width"] | None:
        """The vectors before an image shifts them."""
        return self.prompts.vectors(learned.trained["prompts"])


@dataclasses.dataclass(frozen=True, eq=False)
class TCP(Method):
    """TCP (Yao et al. 2024): a class's own feature gives the vectors of a later layer.

    Learned vectors stand before the class name, as in CoOp. Before block `prompts.block` of the
    text tower, counted from 0, they are replaced by d vectors h(t⁰_k) of the class. t⁰_k is the
    normalised feature of the hand-crafted text. h is linear, QuickGELU, linear. The loss adds
    L_con, which ties the class features to t⁰_k. Texts with vectors of their own have no beginning
    in common: each takes the plain forward pass, long lists in chunks.

    From the authors' code: d = 4 vectors that start as N(0, 0.02²), a hidden width of d/4, block 8
    of 12, the weight 8, Adam with an epsilon of 1e-3, without which the authors' float16 gives NaN.
    Block 0 of the settings is two thirds of the depth. Differences: the authors' texts behind the
    vectors follow the dataset. Here the task's text follows from the class name on. The authors
    have "person doing {}." for UCF101 and no full stop for Cars: set `prompts.rest`. For Aircraft,
    DTD and Food they have other hand-crafted texts than CLIP: set `templates`. They take 25 epochs
    for SUN397 and ImageNet: set `optimizer.epochs`. Several templates each have a network.

    Attributes:
      block: before which the vectors of a class enter.
      texts: the hand-crafted text of the setting `templates`; None takes the task's text.
    """

    block: int
    texts: Template | None

    @property
    def templates(self) -> int:
        """See `Method`."""
        return self.config.prompts.templates

    def initialize(self, key: jax.Array, backbone: Backbone, support: Support) -> Learned:
        """See `Method`."""
        del support
        prompts, sizes = self.config.prompts, backbone.sizes
        shape = (prompts.templates, prompts.context, sizes.text_width)
        context = prompts.noise * jax.random.normal(key, shape, jnp.float32)
        hidden = sizes.embed_width // self.config.network.reduction
        layers = Layers(sizes.embed_width, hidden, prompts.context * sizes.text_width)
        network = layers.initialize(jax.random.fold_in(key, 1), self.templates)
        trained = {"prompts": {"context": context}, "network": network} | self.head.initialize()
        return Learned(trained, self.head.fixed())

    def classes(self, backbone: Backbone, names: Sequence[str], template: Template = "") -> Classes:
        """See `Method`."""
        text = template or self.template
        rest = self.config.prompts.rest or "{}" + single(text).partition("{}")[2]
        before, _, after = rest.partition("{}")
        ids = backbone.name_ids([before + name for name in names], suffix=after)
        anchors = hand_crafted_features(backbone, [self.texts or text], names)
        return Classes(jnp.asarray(ids), anchors)

    def class_features(
        self,
        backbone: Backbone,
        learned: Learned,
        classes: Classes,
        image: Float[Array, "templates_or_1 batch embed"] | None = None,
    ) -> Text:
        """See `Method`."""
        del image
        context, network = learned.trained["prompts"]["context"], learned.trained["network"]
        templates, count, width = context.shape
        anchors = jnp.broadcast_to(classes.anchors, (templates, *classes.anchors.shape[1:]))
        hidden = linear(network["down"], anchors)
        vectors = linear(network["up"], hidden * jax.nn.sigmoid(1.702 * hidden))
        vectors = vectors.reshape(templates, -1, 1, count, width)
        first = jnp.broadcast_to(context[:, None, None], vectors.shape)
        prompts = jnp.concatenate([first, vectors], 2)
        no_words = np.zeros((templates, 0), np.int32)
        at = (0, self.block)
        return backbone.encode_class_prompted(prompts, no_words, classes.names, at)

    def terms(self, batch: Batch) -> dict[str, Term]:
        """The head's loss and L_con."""
        value = losses.cosine_consistency(batch.forward.text, batch.classes.anchors)
        weight = self.config.loss.consistency_weight
        return super().terms(batch) | {"consistency": Term(value, weight)}

    def word_vectors(self, learned: Learned) -> Float[Array, "templates d width"]:
        """See `Method`."""
        return learned.trained["prompts"]["context"]


class ConditionalFamily(Family):
    """A family of conditional prompts."""

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """None here; checks the sizes.

        Raises:
          ValueError: a setting has a value that does not fit the backbone or has no meaning.
        """
        width, reduction = problem.backbone.sizes.embed_width, config.network.reduction
        if not 1 <= reduction <= width:
            raise ValueError(
                f"network.reduction must be between 1 and the features' width {width}, got "
                f"{reduction}"
            )
        for key in ("templates", "context"):
            if config.prompts[key] < 1:
                raise ValueError(f"prompts.{key} must be at least 1, got {config.prompts[key]}")
        return {}


class CoCoOpFamily(ConditionalFamily):
    """The family of CoCoOp."""

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The templates; see `ConditionalFamily`."""
        fields = super().fields(config, problem)
        templates = templates_of(config.prompts, problem.template)
        return {**fields, "prompts": SharedPrompts(templates, problem.backbone)}


class TCPFamily(ConditionalFamily):
    """The family of TCP."""

    def texts(self, config: ConfigDict, template: Template) -> Sequence[Template]:
        """The text of the setting `templates`, or the task's text."""
        return (texts_of(config.templates) or template,)

    def fields(self, config: ConfigDict, problem: Problem) -> Mapping[str, Any]:
        """The block and the text; see `ConditionalFamily`."""
        fields = super().fields(config, problem)
        depth, rest = problem.backbone.sizes.text_depth, config.prompts.rest
        block = config.prompts.block or 2 * depth // 3
        if not 1 <= block < depth:
            raise ValueError(
                f"prompts.block must be between 1 and {depth - 1} for a text tower of {depth} "
                f"blocks, got {block}"
            )
        if rest:
            require_template(rest, "prompts.rest")
        return {**fields, "block": block, "texts": texts_of(config.templates)}


COCOOP = CoCoOpFamily(CoCoOp)
TCP_FAMILY = TCPFamily(TCP)
