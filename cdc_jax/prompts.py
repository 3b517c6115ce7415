"""Semantic templates: M learnable prompts, shallow or deep, of text or of text and image.

Template m reads [start] v^m_1..v^m_d (its other words) name . [end]. Its learned vectors are a
plain pytree outside the frozen CLIP, so that neither optimiser nor checkpoint ever sees a frozen
weight. Hand-crafted templates have none: their features are those of the plain texts.

  context   (templates, layers, d, text width): row 0 enters the first layer, row j replaces the
            same positions before layer j (CoOp: one row; MaPLe: several). Class-specific ones are
            (templates, classes, layers, d, text width)
  coupling  present in multimodal prompts: kernel (templates, layers, text width, vision width) and
            bias (templates, layers, vision width), one linear map a layer from the text prompts to
            the visual ones (MaPLe)
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cdc_jax import devices
from cdc_jax.clip.config import Transformer
from cdc_jax.clip.model import Clip, normalize
from cdc_jax.clip.tokenizer import Tokenizer

Parameters = dict[str, Any]
MODALITIES = ("text", "multimodal", "probe")
TEXT_MEMORY = 3 * 2**30
"""Bytes that the activations of class names may take, unless told otherwise."""


@dataclasses.dataclass(frozen=True)
class Templates:
    """What is fixed about M semantic templates.

    Attributes:
      phrases: initial words of each template, M of them and equally many tokens long.
      context: d, learned vectors of a template; they start as the first d words of its phrase,
        the phrase's other words stay fixed. With 0, nothing is learned: hand-crafted templates.
      suffix: what follows the class name.
      layers: J, prompted layers.
      modality: `"text"`, `"multimodal"` for visual prompts as well, or `"probe"` for a linear
        classifier on image features in place of any prompt.
      class_specific: every class has learned vectors of its own (CoOp's class-specific context,
        Zhou et al. 2022), for names that say little to the CLIP. They know no other classes.
      noise: standard deviation of what is added to the words of all templates but the first, and
        of deep prompts.
    """

    phrases: tuple[str, ...]
    context: int
    suffix: str = "."
    layers: int = 1
    modality: str = "text"
    class_specific: bool = False
    noise: float = 0.02

    def __post_init__(self):
        if not self.phrases:
            raise ValueError("at least one template is needed, got no phrases")
        if self.modality not in MODALITIES:
            raise ValueError(f"modality must be one of {MODALITIES}, got {self.modality!r}")
        if self.context < 0 or self.layers < 1:
            raise ValueError(
                f"context must be at least 0 and layers at least 1, got {self.context} and "
                f"{self.layers}"
            )
        if self.class_specific and self.modality != "text":
            raise ValueError(
                f"class-specific prompts are of text only, got modality {self.modality!r}: set "
                "prompts.class_specific=False"
            )

    def words(self, tokenizer: Tokenizer) -> Int[np.ndarray, "templates words"]:
        """Token ids of the phrases.

        Raises:
          ValueError: phrases of different lengths, or shorter than the context.
        """
        ids = [tokenizer.words(phrase) for phrase in self.phrases]
        lengths = {phrase: len(i) for phrase, i in zip(self.phrases, ids, strict=True)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all phrases must have equally many tokens, got {lengths}")
        if len(ids[0]) < self.context:
            raise ValueError(
                f"phrase {self.phrases[0]!r} has {len(ids[0])} tokens, context asks for "
                f"{self.context}: choose a longer phrase or fewer context tokens"
            )
        return np.array(ids, np.int32)


def cycle(phrases: Sequence[str], templates: int) -> tuple[str, ...]:
    """The phrases in turn, one for each of so many templates."""
    return tuple(phrases[m % len(phrases)] for m in range(templates))


def initialize(
    key: jax.Array, templates: Templates, clip: Clip, tokenizer: Tokenizer, classes: int
) -> Parameters:
    """Initial learned vectors (this project's choice, after CoOp and MaPLe).

    Nothing for hand-crafted templates; `classifier`, zeros, for a probe.

    The first row of template m's context is the embeddings of its first d words, plus N(0, noise²)
    for m > 1; deeper rows are N(0, noise²). Coupling maps start as PyTorch's Linear does, uniform
    in ±1/sqrt(text width), the deep layers' as copies of one draw.

    Args:
      key: random key.
      templates: the templates.
      clip: the frozen model.
      tokenizer: its tokenizer.
      classes: K, of a probe or of class-specific templates.

    Raises:
      ValueError: more prompted layers than a tower has, or phrases that don't fit.
    """
    config, layers, count = clip.config, templates.layers, len(templates.phrases)
    depth = config.text.depth
    if templates.modality == "multimodal":
        depth = min(depth, config.vision.depth)
    if layers > depth:
        raise ValueError(f"{layers} prompted layers asked for, this CLIP has {depth}")
    if templates.modality == "probe":
        return {"classifier": jnp.zeros((1, classes, config.embed_width))}
    if not templates.context:
        return {}
    ids = templates.words(tokenizer)[:, : templates.context]
    noise_key, coupling_key = jax.random.split(key)
    shape = (count, layers, templates.context, config.text.width)
    noise = templates.noise * jax.random.normal(noise_key, shape)
    context = noise.at[0, 0].set(0).at[:, 0].add(clip.text.embed(jnp.asarray(ids)))
    if templates.class_specific:
        context = jnp.repeat(context[:, None], classes, 1)
    parameters: Parameters = {"context": context}
    if templates.modality == "multimodal":
        inputs, outputs = config.text.width, config.vision.width
        bound, draws = inputs**-0.5, jnp.minimum(jnp.arange(layers), 1)
        drawn = jax.random.uniform(
            coupling_key, (count, 2, inputs + 1, outputs), minval=-bound, maxval=bound
        )[:, draws]
        parameters["coupling"] = {"kernel": drawn[:, :, :-1], "bias": drawn[:, :, -1]}
    return parameters


@partial(jax.jit, static_argnames=("start_id", "memory"))
def text_features(
    clip: Clip,
    parameters: Parameters,
    start_id: int,
    fixed_words: Int[Array, "templates words"],
    names: Int[Array, "classes tokens"],
    memory: int = TEXT_MEMORY,
) -> Float[Array, "templates classes embed"]:
    """Normalised text features of every class under every template.

    As many classes as fit into `memory` keep their activations for the derivative. A longer list's
    others run in chunks, forward once more in the derivative: at most 1.5 times the products. Texts
    of class-specific templates have no beginning in common: each takes the plain forward pass, and
    nothing bounds their memory.

    Args:
      clip: the frozen model.
      parameters: learned vectors.
      start_id: id of the start-of-text token.
      fixed_words: token ids between each template's learned vectors and the name; may be empty.
      names: class names up to their end-of-text token, of `Tokenizer.names`.
      memory: bytes that the classes' activations may take on a device, whatever their number.
    """
    context = parameters["context"]
    if context.ndim == 5:
        return _class_specific(clip, context, start_id, fixed_words, names)
    classes, tokens = names.shape
    memory *= devices.sharers()
    chunk, chunks = split_classes(clip.config.text, len(context), classes, tokens, memory)

    def prefix(context, words):
        return clip.text.prefix(start_id, context, clip.text.embed(words))

    # Every device encodes its share of the prefixes, few as they are, and of the classes.
    prefixes = jax.vmap(prefix)(devices.split(context, devices.AXES), fixed_words)
    prefixes = jax.tree.map(devices.split, prefixes)
    encode = jax.vmap(lambda prefix: normalize(clip.text.names(prefix, names, chunk, chunks)))
    return devices.split(encode(prefixes))


def _class_specific(
    clip: Clip,
    context: Float[Array, "templates classes layers d width"],
    start_id: int,
    fixed_words: Int[Array, "templates words"],
    names: Int[Array, "classes tokens"],
) -> Float[Array, "templates classes embed"]:
    """`text_features` of class-specific templates."""

    def encode(context, words, name):
        places = jnp.full(1 + context.shape[1], start_id)  # the prompts take all but the first
        return clip.text(jnp.concatenate([places, words, name])[None], context)[0]

    of_template = jax.vmap(encode, (0, None, 0))
    context = devices.split(context, None, devices.AXES)
    features = jax.vmap(of_template, (0, 0, None))(context, fixed_words, names)
    return devices.split(normalize(features))


def split_classes(
    sizes: Transformer, templates: int, classes: int, tokens: int, memory: int
) -> tuple[int, int]:
    """How many classes of a list are encoded in chunks, so that activations stay within a bound.

    A token of a class name leaves 5 width + mlp_width float32 numbers a block for the derivative:
    the block's input, queries, keys, values, the attention's output and the MLP's input. The
    classes outside the chunks keep theirs, and so does the one chunk at work; a chunk is an eighth
    of what fits, long enough for fast products (this project's choice).

    Args:
      sizes: of the text tower.
      templates: M.
      classes: K.
      tokens: of the longest name, with its end of text.
      memory: bytes. At least one class is encoded at a time, whatever the bound.

    Returns:
      Classes a chunk, and the number of chunks: 0 where all fit.
    """
    one = 4 * sizes.depth * templates * tokens * (5 * sizes.width + sizes.mlp_width)
    fit = max(memory // one, 1)
    chunk = max(fit // 8, 1)
    return chunk, 1 + -(-(classes - fit) // chunk) if classes > fit else 0


def visual_prompts(parameters: Parameters) -> Float[Array, "templates layers d width"] | None:
    """The visual prompts that the coupling maps make of the text prompts; None without maps."""
    if "coupling" not in parameters:
        return None
    coupling = parameters["coupling"]
    precision = jax.lax.Precision.HIGHEST
    prompts = jnp.einsum(
        "mjdt,mjtv->mjdv", parameters["context"], coupling["kernel"], precision=precision
    )
    return prompts + coupling["bias"][:, :, None]


@jax.jit
def image_features(
    clip: Clip, parameters: Parameters, views: Float[Array, "views batch height width 3"]
) -> Float[Array, "templates_or_1 batch embed"]:
    """Normalised image features under every template.

    Args:
      clip: the frozen model.
      parameters: learned vectors.
      views: one view for each template, or one that all share.

    Returns:
      Features of each template's own view; one row where neither view nor prompts differ.
    """
    prompts = visual_prompts(parameters)
    if prompts is None:
        return jax.vmap(clip.encode_image)(views)
    views = jnp.broadcast_to(views, (len(prompts), *views.shape[1:]))
    return normalize(jax.vmap(clip.vision)(views, prompts))
