"""Chooses the next token from its logits.

Letters: B sequences, V pieces.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt1_jax.model.decoding.settings import Generation


class Sampling(NamedTuple):
    """How a token is drawn; each field is a float32 or int32 scalar, or None if it is off.

    Attributes:
        temperature: divides the logits; None takes the most probable token.
        top_k: draws only from this many most probable tokens.
        top_p: draws only from the fewest most probable tokens that together have this probability.
        repetition_penalty: a logit of a piece seen before is divided by it, or multiplied where it is negative
            (Keskar et al., 2019, as it is commonly done).
    """

    temperature: jax.Array | None
    top_k: jax.Array | None
    top_p: jax.Array | None
    repetition_penalty: jax.Array | None


def sampling_of(settings: Generation, vocab_size: int) -> Sampling:
    """Returns the settings in the form that the model's arithmetic uses."""
    top_k = min(settings.top_k, vocab_size)
    return Sampling(
        temperature=jnp.float32(settings.temperature) if settings.temperature else None,
        top_k=jnp.int32(top_k) if top_k else None,
        top_p=jnp.float32(settings.top_p) if settings.top_p < 1 else None,
        repetition_penalty=(
            jnp.float32(settings.repetition_penalty) if settings.repetition_penalty != 1 else None
        ),
    )


def choose(
    logits: jax.Array, keys: jax.Array, drawn: jax.Array, sampling: Sampling, seen: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Chooses a token for each sequence.

    Args:
        logits: float32 [B, V].
        keys: random keys [B].
        drawn: int32 [B], the number of tokens that each key has drawn before.
        sampling: what is done to the logits first, in the order penalty, temperature, top_k, top_p.
        seen: bool [B, V]; with a repetition penalty only.

    Returns:
        Tokens int32 [B], and their log-probabilities by the logits as they came, float32 [B].
    """
    changed = adjusted(logits, sampling, seen)
    if sampling.temperature is None:
        tokens = jnp.argmax(changed, axis=-1)
    else:
        keys = jax.vmap(jax.random.fold_in)(keys, drawn)
        tokens = jax.vmap(jax.random.categorical)(keys, changed)
    return tokens.astype(jnp.int32), -optax.softmax_cross_entropy_with_integer_labels(logits, tokens)


def adjusted(logits: jax.Array, sampling: Sampling, seen: jax.Array | None) -> jax.Array:
    """Returns the logits [B, V] from which tokens are drawn; see `choose`."""
    if sampling.repetition_penalty is not None and seen is not None:
        logits = penalized(logits, seen, sampling.repetition_penalty)
    if sampling.temperature is None:
        return logits
    # The most probable token's logit becomes 0, which no temperature changes; the others can only fall to −∞. Without
    # this, logits would overflow at a low temperature, and infinity minus infinity is NaN.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / sampling.temperature
    return truncated(logits, sampling.top_k, sampling.top_p)


def penalized(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Returns logits [B, V] in which a penalty above 1 lowers those of seen pieces."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def truncated(logits: jax.Array, top_k: jax.Array | None, top_p: jax.Array | None) -> jax.Array:
    """Returns logits [B, V] with −∞ outside top_k and then top_p; equal logits stay or go together."""
    if top_k is None and top_p is None:
        return logits
    descending = -jnp.sort(-logits, axis=-1)
    rank = jnp.arange(logits.shape[-1])
    kept = jnp.ones_like(rank, bool) if top_k is None else rank < top_k
    if top_p is not None:
        chances = jax.nn.softmax(jnp.where(kept, descending, -jnp.inf), axis=-1)
        before = jnp.cumsum(chances, axis=-1) - chances
        kept = kept & ((before < top_p) | (rank == 0))
    least = jnp.where(kept, descending, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where(logits >= least, logits, -jnp.inf)
