"""Causal attention with dropout on its weights (the paper's section 3.1, the authors' `_attn`).

Letters: B sequences, T positions, H heads, K head width, C slots of a cache.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.config import ModelConfig
from gpt1_jax.errors import UserError
from gpt1_jax.model import flash, library_attention
from gpt1_jax.model.dropout import dropout, grid_index
from gpt1_jax.model.recomputed import recomputed

# Queries are taken this many at a time, each chunk against the keys up to its own end: the masked half of the
# scores is never computed. Measured on CPU (BUILD_NOTES.md).
CHUNK = 128
MASKED = -1e9  # the authors' score of a masked position


def causal_attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    noise: jax.Array | None,
    site: jax.Array | int,
    rate: float,
    context_length: int,
    form: str,
) -> jax.Array:
    """softmax(q kᵀ / √K, masked) with dropout, times v; the softmax is in float32.

    Args:
        query, key, value: [B, T, H, K].
        noise, site, rate: see `dropout.keep_mask`.
        context_length: the model's longest T; the stride of the dropout index, so that a mask does not depend
            on how far a batch is padded.
        form: see `choose_attention`. "plain" computes all T × T scores at once, "chunked", which is "auto" too, a
            chunk of queries at a time; the others are kernels and run under a mesh, "splash" and "cudnn" without
            dropout.

    Returns:
        [B, T, H, K].
    """
    if form == "flash":
        return flash.flash_attention(
            query, key, value, noise=noise, site=site, rate=rate, context_length=context_length
        )
    if form in ("splash", "cudnn"):
        assert noise is None or rate == 0, form  # choose_attention refuses it
        return library_attention.attend(form, query, key, value)
    length = query.shape[1]
    chunk = length if form == "plain" else CHUNK
    outputs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        attend = recomputed(partial(_attend, rate=rate, context_length=context_length))
        outputs.append(attend(query[:, start:stop], key[:, :stop], value[:, :stop], noise, site))
    return jnp.concatenate(outputs, axis=1)


def _attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    noise: jax.Array | None,
    site: jax.Array | int,
    *,
    rate: float,
    context_length: int,
) -> jax.Array:
    """`causal_attention` of the last positions: query [B, Q, H, K]; key and value [B, S, H, K] up to their end."""
    columns, heads = jnp.arange(key.shape[1]), query.shape[2]
    rows = columns[-query.shape[1] :]
    scores = jnp.einsum("bqhk,bshk->bhqs", query, key, preferred_element_type=jnp.float32)
    scores = jnp.where(rows[:, None] >= columns, scores * query.shape[-1] ** -0.5, MASKED)
    index = grid_index(
        (jnp.arange(heads), context_length * context_length), (rows, context_length), (columns, 1)
    )
    weights = dropout(jax.nn.softmax(scores), noise, site, index, rate).astype(value.dtype)
    return jnp.einsum("bhqs,bshk->bqhk", weights, value)


def choose_attention(config: ModelConfig, platform: str, dropout: bool) -> str:
    """The form in which a transformer's attention runs on a platform: config.attention, or what "auto" stands for.

    Args:
        platform: of the devices, as jax names it: cpu, gpu or tpu.
        dropout: whether the run drops anything, as training does.

    Raises:
        UserError: config.attention names a form that does not fit; it says why.
    """
    dropout = dropout and config.attention_dropout > 0
    fastest = {"tpu": ("flash", "splash"), "gpu": ("cudnn",)}.get(platform, ())
    auto = next((form for form in fastest if not _unfit(form, config, platform, dropout)), "chunked")
    if config.attention == "auto":
        return auto
    reason = _unfit(config.attention, config, platform, dropout)
    if reason:
        raise UserError(f"model.attention={config.attention} {reason}; set auto, which is {auto} here.")
    return config.attention


def _unfit(form: str, config: ModelConfig, platform: str, dropout: bool) -> str | None:
    """Why a form cannot be had, as the rest of a sentence; None where it can."""
    runs_on = {"flash": ("tpu", "gpu"), "splash": ("tpu",), "cudnn": ("gpu",)}
    if form not in runs_on:
        return None
    if platform not in runs_on[form]:
        return f"runs on {'/'.join(runs_on[form]).upper()} only, and the devices are {platform.upper()}"
    width = config.d_model // config.num_heads
    if form == "flash":
        if platform == "tpu" and not flash.fits(config.context_length, width, config.dtype):
            return (
                f"cannot hold a head of model.context_length={config.context_length} × {width} in a TPU core"
            )
        if platform == "gpu" and width not in flash.GPU_WIDTHS:
            widths = ", ".join(map(str, flash.GPU_WIDTHS))
            return f"takes heads {widths} wide on a GPU, and model.d_model / model.num_heads is {width}"
        return None
    if dropout:
        return f"knows no dropout, and model.attention_dropout={config.attention_dropout:g}"
    if form == "cudnn" and config.dtype != "bfloat16":
        return f"computes in bfloat16, and model.dtype={config.dtype}"
    if form == "cudnn" and (width % 8 or width > library_attention.CUDNN_WIDTH):
        return (
            f"takes heads up to {library_attention.CUDNN_WIDTH} wide, in multiples of 8, and "
            f"model.d_model / model.num_heads is {width}"
        )
    return None


class Cache(NamedTuple):
    """What a layer's attention keeps of the positions so far, so that none is computed twice.

    All sequences stand at one slot: those whose beginning is shorter begin at a later slot.

    Fields:
        keys, values: [B, H, C, K].
    """

    keys: jax.Array
    values: jax.Array


def cached_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, cache: Cache, slot: jax.Array, first: jax.Array
) -> tuple[jax.Array, Cache]:
    """`causal_attention` without dropout for positions that follow those in a cache, which are added to it.

    Args:
        query, key, value: [B, T, H, K].
        cache: of all slots before `slot`.
        slot: int32, where the first of the T positions goes.
        first: int32 [B], the slot at which each sequence begins.

    Returns:
        [B, T, H, K], and the cache with the new positions.
    """
    place = (0, 0, slot, 0)
    keys = jax.lax.dynamic_update_slice(cache.keys, key.swapaxes(1, 2), place)
    values = jax.lax.dynamic_update_slice(cache.values, value.swapaxes(1, 2), place)
    rows, columns = slot + jnp.arange(query.shape[1]), jnp.arange(keys.shape[2])
    visible = (rows[:, None] >= columns) & (columns >= first[:, None, None, None])
    scores = jnp.einsum("bqhk,bhsk->bhqs", query, keys, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(jnp.where(visible, scores * query.shape[-1] ** -0.5, MASKED)).astype(value.dtype)
    return jnp.einsum("bhqs,bhsk->bqhk", weights, values), Cache(keys, values)
