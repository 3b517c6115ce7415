"""Pre-norm transformer blocks, and how both towers run them with prompts.

float32 weights compute in float32 on every device. bfloat16 weights make matrix products of
bfloat16 inputs with float32 sums, and each result is rounded to bfloat16; the residual stream,
layer norms and softmax stay in float32.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from cdc_jax.backbone import Branch
from cdc_jax.clip.config import Transformer

KeysValues = tuple[Float[Array, "*b heads tokens head"], Float[Array, "*b heads tokens head"]]
Prefix = tuple[Float[Array, "*d heads before head"], Float[Array, "*d heads before head"]]
_Keys = Float[Array, "... heads _ head"]
Prefixes = list[tuple[_Keys, _Keys]]
"""Keys and values of consecutive blocks, a pair for those with equally many tokens."""

Module = TypeVar("Module", bound=nnx.Module)

_KEPT = "product with weights"


def _dot(pattern: str, a: Array, b: Array) -> Array:
    """An einsum with float32 sums, as float32; only results of bfloat16 inputs are rounded."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    # Libraries have their fastest products where the result has the inputs' dtype.
    return jnp.einsum(pattern, a, b, precision=precision).astype(jnp.float32)


def _shared_dot(pattern: str, a: Array, b: Array) -> Array:
    """`_dot` of a (*b, heads, tokens, _) with one b (heads, _, _): all of `a` as one matrix a head.

    XLA turns other forms of it around on the CPU, and then has no product of bfloat16.
    """
    a = jnp.moveaxis(a, -3, 0)
    out = _dot(pattern, a.reshape(a.shape[0], -1, a.shape[-1]), b)
    return jnp.moveaxis(out.reshape(*a.shape[:-1], -1), 0, -3)


def project(x: Array, kernel: Array) -> Array:
    """x @ kernel, the inputs in the kernel's dtype."""
    if kernel.dtype == jnp.float32:
        return _dot("...i,io->...o", x, kernel)
    return _rounded_project(x, kernel)


@jax.custom_vjp
def _rounded_project(x, kernel):
    return _dot("...i,io->...o", x.astype(kernel.dtype), kernel)


def _rounded_project_forward(x, kernel):
    return _rounded_project(x, kernel), (x, kernel)


def _rounded_project_backward(residuals, cotangent):
    # Autodiff would multiply the float32 cotangent in float32.
    x, kernel = residuals
    cotangent = cotangent.astype(kernel.dtype)
    dx = _dot("...o,io->...i", cotangent, kernel)
    dkernel = _dot("...i,...o->io", x.astype(kernel.dtype), cotangent)
    return dx.astype(x.dtype), dkernel.astype(kernel.dtype)


_rounded_project.defvjp(_rounded_project_forward, _rounded_project_backward)


def dropout_mask(key: Array, rate: float, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """0 with probability `rate`, else 1 / (1 − rate)."""
    return jax.random.bernoulli(key, 1 - rate, shape) / (1 - rate)


def _of_branch(branch: Branch, x: Array) -> Array:
    """The output of a branch of one block."""
    x = jnp.repeat(x[..., None, :], len(branch.down), -2)
    if branch.rate:
        x = x * dropout_mask(branch.keys, branch.rate, x.shape)
    hidden = _dot("...pi,pir->...pr", x, branch.down)
    out = _dot("...pr,pro->...po", hidden, branch.up)
    return out.reshape(*out.shape[:-2], -1)


class Dense(nnx.Module):
    """An affine map on the last axis, with a low-rank map beside it in some training steps."""

    branch: Branch | None = None

    def __init__(self, inputs: int, outputs: int, std: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b outputs"]:
        """In the kernel's dtype, with float32 sums and a float32 result."""
        out = project(x, self.kernel[...]) + self.bias[...].astype(jnp.float32)
        if self.branch is not None:
            out += _of_branch(self.branch, x)
        return checkpoint_name(out, _KEPT)


class LayerNorm(nnx.Module):
    """Layer normalisation in float32."""

    def __init__(self, width: int, epsilon: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*b width"]) -> Float[Array, "*b width"]:
        """To mean 0 and variance 1, then scale and bias."""
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        return x * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)


class Block(nnx.Module):
    """A pre-norm transformer block."""

    def __init__(self, sizes: Transformer, rngs: nnx.Rngs):
        width, depth = sizes.width, sizes.depth
        self.heads, self.activation = sizes.heads, sizes.activation
        residual_std = (2 * depth * width) ** -0.5
        self.attention_norm = LayerNorm(width, sizes.epsilon)
        self.qkv = Dense(width, 3 * width, width**-0.5, rngs)
        self.attention_out = Dense(width, width, residual_std, rngs)
        self.mlp_norm = LayerNorm(width, sizes.epsilon)
        self.mlp_in = Dense(width, sizes.mlp_width, (2 * width) ** -0.5, rngs)
        self.mlp_out = Dense(sizes.mlp_width, width, residual_std, rngs)

    def __call__(
        self,
        x: Float[Array, "*b tokens width"],
        mask: Float[Array | np.ndarray, "tokens tokens"] | None = None,
        prefix: Prefix | None = None,
    ) -> tuple[Float[Array, "*b tokens width"], KeysValues]:
        """Runs the block.

        Args:
          x: tokens.
          mask: added to the attention scores among `x`, 0 or -inf; None lets all attend to all.
          prefix: keys and values, (heads, before, head), of earlier tokens that all of `x` attends
            to as well.

        Returns:
          The tokens after the block, and their keys and values in its attention.
        """
        q, k, v = self._split(self.qkv(self.attention_norm(x)))
        scores = _dot("...qd,...kd->...qk", q, k)
        if mask is not None:
            scores += mask
        if prefix is not None:
            before = _shared_dot("hqd,hkd->hqk", q, prefix[0])
            scores = jnp.concatenate([before, scores], -1)
        weights = jax.nn.softmax(scores, -1).astype(v.dtype)
        if prefix is None:
            mixed = _dot("...qk,...kd->...qd", weights, v)
        else:
            before, weights = jnp.split(weights, [prefix[0].shape[-2]], -1)
            mixed = _shared_dot("hqk,hkd->hqd", before, prefix[1])
            mixed += _dot("...qk,...kd->...qd", weights, v)
        x = x + self.attention_out(jnp.swapaxes(mixed, -3, -2).reshape(x.shape))
        hidden = self.mlp_in(self.mlp_norm(x))
        if self.activation == "quick_gelu":
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        else:
            hidden = jax.nn.gelu(hidden, approximate=False)
        return x + self.mlp_out(hidden), (k, v)

    def _split(self, qkv: Array) -> tuple[Array, Array, Array]:
        """(..., tokens, 3 * width) to scaled queries, keys and values by head."""
        qkv = qkv.reshape(*qkv.shape[:-1], 3, self.heads, -1)
        q, k, v = (jnp.swapaxes(qkv[..., i, :, :], -3, -2) for i in range(3))
        dtype = self.qkv.kernel.dtype
        return (q * q.shape[-1] ** -0.5).astype(dtype), k.astype(dtype), v.astype(dtype)


def stack(sizes: Transformer, rngs: nnx.Rngs) -> Block:
    """All blocks of a tower as one whose parameters have a leading axis over depth."""

    @nnx.split_rngs(splits=sizes.depth)
    @nnx.vmap
    def blocks(rngs):
        return Block(sizes, rngs)

    return blocks(rngs)


def with_branch(blocks: Block, layer: str, branch: Branch) -> None:
    """Puts a branch beside a linear layer of stacked blocks.

    Raises:
      ValueError: there is no such layer, or the shapes do not fit it.
    """
    dense = getattr(blocks, layer, None)
    if not isinstance(dense, Dense):
        raise ValueError(f"{layer} is no linear layer of a block")
    depth, inputs, outputs = dense.kernel.shape
    _, parts, _, rank = branch.down.shape
    expected = (depth, parts, inputs, rank), (depth, parts, rank, outputs // parts)
    if outputs % parts or (branch.down.shape, branch.up.shape) != expected:
        raise ValueError(
            f"a branch of {layer}, {inputs} to {outputs} in {depth} blocks, has maps of shapes "
            f"{branch.down.shape} and {branch.up.shape}"
        )
    dense.branch = nnx.data(branch)


def draws(blocks: Block) -> bool:
    """Whether a branch of the blocks has dropout."""
    branches = (dense.branch for dense in vars(blocks).values() if isinstance(dense, Dense))
    return any(branch is not None and branch.rate > 0 for branch in branches)


def with_draws(tower: Module, number: Int[Array, ""] | int) -> Module:
    """The tower with dropout masks of its own for each number."""

    def other(leaf):
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return jax.vmap(jax.random.fold_in, (0, None))(leaf, number)

    return jax.tree.map(other, tower)


def scan(
    blocks: Block,
    x: Float[Array, "*b tokens width"],
    prompts: Float[Array, "layers prompt width"],
    start: int,
    causal: bool = False,
    at: Sequence[int] | None = None,
    share: float = 1.0,
) -> tuple[Float[Array, "*b tokens2 width"], Prefixes]:
    """Runs all blocks with prompts at the places from `start` on.

    Row j of the prompts enters before block `at[j]`, which is j unless given. Row 0 is in `x`
    already if it enters block 0. In a later block it is inserted, and the tokens behind it move.
    The other rows take its places.

    Args:
      blocks: of a tower.
      x: tokens.
      prompts: vectors.
      start: place of the first vector.
      causal: whether tokens attend to earlier tokens only.
      at: rising numbers of blocks.
      share: weight of the rows after the first, beside the tokens that stand at their places.

    Returns:
      The tokens, and the keys and values of all blocks.

    Raises:
      ValueError: `at` does not fit the prompts or the tower.
    """
    depth = _depth(blocks)
    at = tuple(range(len(prompts))) if at is None else tuple(at)
    if len(at) != len(prompts) or at[0] < 0 or list(at) != sorted(set(at)) or at[-1] >= depth:
        raise ValueError(
            f"prompts of {len(prompts)} layers need as many rising blocks from 0 on, the tower has "
            f"{depth}, got {at}"
        )
    prefixes: Prefixes = []
    if at[0] > 0:
        early, blocks = _parts(blocks, (at[0], depth - at[0]))
        x, keys_values = _run(early, x, prompts[:1, :0], start, causal)
        prefixes.append(keys_values)
        row = jnp.broadcast_to(prompts[0], (*x.shape[:-2], *prompts.shape[1:]))
        x = jnp.concatenate([x[..., :start, :], row, x[..., start:, :]], -2)
    later = tuple(block - at[0] for block in at)
    x, keys_values = _run(blocks, x, prompts, start, causal, at=later, share=share)
    return x, [*prefixes, keys_values]


def scan_behind(
    blocks: Block, x: Float[Array, "*b tokens width"], prefixes: Prefixes
) -> Float[Array, "*b tokens width"]:
    """Runs all blocks on tokens that attend to a prefix, and causally to each other.

    Args:
      blocks: of a tower.
      x: tokens.
      prefixes: keys and values of earlier tokens, of `scan`.
    """
    no_prompt = jnp.zeros((1, 0, x.shape[-1]), jnp.float32)
    parts = _parts(blocks, [len(keys) for keys, _ in prefixes])
    for part, prefix in zip(parts, prefixes, strict=True):
        x, _ = _run(part, x, no_prompt, 0, causal=True, prefix=prefix)
    return x


def _run(blocks, x, prompts, start, causal, prefix=None, at=(0,), share=1.0):
    """Runs blocks on equally many tokens, of which row 0 of the prompts is a part."""
    depth, mask = _depth(blocks), _causal(x.shape[-2]) if causal else None
    padded = jnp.zeros((depth, *prompts.shape[1:]), prompts.dtype).at[np.array(at)].set(prompts)
    replaced = np.isin(np.arange(depth), at[1:])

    def layer(x, inputs):
        block, prompt, replace, prefix = inputs
        stop = start + prompt.shape[0]
        if share != 1:
            prompt = share * prompt + (1 - share) * x[..., start:stop, :]
        x = jnp.where(replace, x.at[..., start:stop, :].set(prompt), x)
        return block(x, mask, prefix)

    # Products with weights are kept for the derivative, the cheap rest is computed again.
    policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
    layer = jax.checkpoint(layer, policy=policy, prevent_cse=False)
    return jax.lax.scan(layer, x, (blocks, padded, replaced, prefix))


def _depth(blocks: Block) -> int:
    return blocks.qkv.kernel.shape[0]


def _parts(blocks: Block, depths: Sequence[int]) -> list[Block]:
    """The blocks in consecutive parts."""
    if len(depths) == 1:
        return [blocks]
    starts = [sum(depths[:i]) for i in range(len(depths))]
    parts = [slice(start, start + depth) for start, depth in zip(starts, depths, strict=True)]
    return [jax.tree.map(lambda leaf, part=part: leaf[part], blocks) for part in parts]


def _causal(tokens: int) -> np.ndarray:
    return np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
