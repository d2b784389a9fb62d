"""Causal attention with dropout on its weights (the paper's section 3.1, the authors' `_attn`).

Letters: B sequences, T positions, H heads, K head width.
"""

import jax
import jax.numpy as jnp

from gpt1_jax.model.dropout import dropout, grid_index

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
        form: "plain" computes all T × T scores at once, "chunked" query chunks; "auto" is chunked.

    Returns:
        [B, T, H, K].
    """
    length, heads = query.shape[1:3]
    chunk = length if form == "plain" else CHUNK
    outputs = []
    for start in range(0, length, chunk):
        stop = min(start + chunk, length)
        rows, columns = jnp.arange(start, stop), jnp.arange(stop)
        scores = jnp.einsum(
            "bqhk,bshk->bhqs", query[:, start:stop], key[:, :stop], preferred_element_type=jnp.float32
        )
        scores = scores * query.shape[-1] ** -0.5
        scores = jnp.where(rows[:, None] >= columns, scores, MASKED)
        index = grid_index(
            (jnp.arange(heads), context_length * context_length), (rows, context_length), (columns, 1)
        )
        weights = dropout(jax.nn.softmax(scores), noise, site, index, rate).astype(value.dtype)
        outputs.append(jnp.einsum("bhqs,bshk->bqhk", weights, value[:, :stop]))
    return jnp.concatenate(outputs, axis=1)
