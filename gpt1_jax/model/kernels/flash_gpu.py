"""Flash attention with the paper's dropout on its weights, forward and backward, on GPUs, by kernels in Triton.

As on TPUs (`flash_tpu`), no scores are ever stored, and the weights that are dropped are those of all other forms.

Letters: B sequences, T positions, H heads, K head width.
"""

import importlib
import importlib.util
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.config import ModelConfig
from gpt1_jax.model.attention import BEFORE, Sight
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.kernels.over_mesh import attend_locally

# Triton's blocks are powers of two, and its products have 16 or more of each dimension.
WIDTHS = (16, 32, 64, 128)
# The fastest for both kernels together of those tried on an H100 in the paper's shapes (docs/measured.md).
OWN_BLOCK, OTHER_BLOCK = 64, 32
WARPS, STAGES = 4, 3
# The first GPUs with bfloat16, by their compute capability.
AMPERE = 8


class _Settings(NamedTuple):
    """What is fixed when a kernel is compiled.

    Attributes:
        rate: the rate of dropout, 0 for none.
        context_length: with which dropout counts.
        causal, grouped: what a position does not see; see `attention.Sight`.
    """

    rate: float
    context_length: int
    causal: bool
    grouped: bool


def lacking(config: ModelConfig) -> str | None:
    """Returns why the kernels cannot compute a model's attention, as the rest of a sentence, or None if they can."""
    width = config.d_model // config.num_heads
    if config.dtype != "bfloat16":
        return f"computes in bfloat16 on GPUs, and model.dtype={config.dtype}"
    if width not in WIDTHS:
        widths = ", ".join(map(str, WIDTHS))
        return f"takes heads {widths} wide on GPUs, and model.d_model / model.num_heads is {width}"
    if not _installed():
        return "needs jax-triton on GPUs (pip install 'gpt1_jax[cuda]', with Python 3.12 or later)"
    # What is compiled for here may be another device, of which nothing is known.
    capability = str(getattr(jax.devices()[0], "compute_capability", AMPERE))
    if not capability[0].isdigit():
        return f"needs an NVIDIA GPU, and this one is a {capability}"
    if float(capability) < AMPERE:
        return f"needs a GPU of compute capability {AMPERE}.0 or more, and this one has {capability}"
    return None


def _installed() -> bool:
    return importlib.util.find_spec("jax_triton") is not None


def flash_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, dropout: Dropout, sight: Sight = BEFORE
) -> jax.Array:
    """Computes `attention.plain_attention` by kernels: the same weights are dropped, and the softmax is in float32.

    Args:
        query, key, value: bfloat16 [B, T, H, K].
        dropout: of the weights.
        sight: what is not masked.

    Returns:
        [B, T, H, K].
    """
    rate = dropout.rate if dropout.active else 0.0
    settings = _Settings(rate, dropout.context_length, sight.causal, sight.groups is not None)

    def kernel(
        query: jax.Array, key: jax.Array, value: jax.Array, stream: jax.Array, sight: Sight
    ) -> jax.Array:
        groups = jnp.zeros((1, 1), jnp.int32) if sight.groups is None else sight.groups
        # They are parts of one array, the result of one product. XLA sees that and copies nothing.
        return _attention(jnp.stack([query, key, value], 2), stream, groups, settings)

    return attend_locally(kernel, query, key, value, dropout, sight)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attention(qkv: jax.Array, stream: jax.Array, groups: jax.Array, settings: _Settings) -> jax.Array:
    """Computes one device's part of qkv [B, T, 3, H, K]."""
    return _forward(qkv, stream, groups, settings)[0]


def _forward(
    qkv: jax.Array, stream: jax.Array, groups: jax.Array, settings: _Settings
) -> tuple[jax.Array, Any]:
    """Keeps the output [B, T, H, K] and the log-sum-exp of the scores, float32 [B, H, T]."""
    batch, length, _, heads, width = qkv.shape
    output = jax.ShapeDtypeStruct((batch, length, heads, width), qkv.dtype)
    row = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    output, logsumexp = _call("forward", (output, row), settings, qkv, stream, groups)
    return output, (qkv, stream, groups, output, logsumexp)


def _backward(settings: _Settings, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, None, None]:
    qkv, stream, groups, output, logsumexp = kept
    products = output.astype(jnp.float32) * cotangent.astype(jnp.float32)
    rows = logsumexp, products.sum(-1).swapaxes(1, 2)
    like = jax.ShapeDtypeStruct(qkv.shape, qkv.dtype)
    return _call("backward", like, settings, qkv, stream, groups, cotangent, *rows), None, None


_attention.defvjp(_forward, _backward)


def _call(kernel: str, outputs: Any, settings: _Settings, qkv: jax.Array, *others: jax.Array) -> Any:
    """Returns the outputs of a kernel, with one program for each block, head and sequence."""
    # Imported late: only GPUs need them, and only they have them.
    from gpt1_jax.model.kernels import triton_kernels

    jax_triton: Any = importlib.import_module("jax_triton")

    batch, length, _, heads, width = qkv.shape
    return jax_triton.triton_call(
        qkv,
        *others,
        kernel=getattr(triton_kernels, kernel),
        out_type=outputs,
        grid=(-(-length // OWN_BLOCK), heads, batch),
        num_warps=WARPS,
        num_stages=STAGES,
        name=f"flash_{kernel}",
        length=length,
        heads=heads,
        width=width,
        own=OWN_BLOCK,
        other=OTHER_BLOCK,
        context_length=settings.context_length,
        least=round(settings.rate * 2**32),
        causal=settings.causal,
        grouped=settings.grouped,
    )
