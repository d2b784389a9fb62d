"""Continues sequences one token at a time, with a cache of keys and values, in one compiled loop.

Sequences are right-aligned: they end at the same slot and begin where their length says, so that every step writes one
slot of all caches. A slot's position is its distance from the beginning of its sequence. Where documents are kept
apart, a sequence begins anew at each piece that ends one.

Letters: B sequences, P slots of the prompts, N new tokens at most, C = P + N slots, D width, H heads, K head width,
V the tokenizer's pieces.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.model.attention import Cache, cached_attention
from gpt1_jax.model.decoding.sampling import Sampling, choose
from gpt1_jax.model.dropout import layer_dropouts
from gpt1_jax.model.output import logits
from gpt1_jax.model.transformer import Block, Transformer


class Weights(NamedTuple):
    """A Transformer's parameters as decoding reads them, cast to the dtype of activations.

    Attributes:
        around: the parameters outside the blocks, by name.
        blocks: a tree for each layer; a stacked array would be sliced, and so copied, for each layer of each token.
    """

    around: dict[str, jax.Array]
    blocks: tuple[Any, ...]


class Begins(NamedTuple):
    """Where sequences begin.

    Attributes:
        seen: int32 [B], the first slot that later ones attend to.
        placed: int32 [B], the slot of position 0.
    """

    seen: jax.Array
    placed: jax.Array


class Anew(NamedTuple):
    """How sequences begin anew.

    Attributes:
        piece: int32, the piece that later ones do not look behind.
        restart: bool, whether positions begin anew there, too.
    """

    piece: jax.Array
    restart: jax.Array

    def behind(self, begins: Begins, last: jax.Array, slot: jax.Array) -> Begins:
        """Returns where sequences begin once their tokens `last` [B] lie in a slot."""
        here = last == self.piece
        return Begins(jnp.where(here, slot, begins.seen), jnp.where(here & self.restart, slot, begins.placed))


class Prompts(NamedTuple):
    """The prompts to continue.

    Attributes:
        tokens: int32 [B, P], right-aligned.
        begins: where each begins.
        limits: int32 [B], the most new tokens for each, at least 1.
        stops: int32 [M], the tokens that end a sequence.
        keys: a random key for each, [B].
        drawn: int32, the number of tokens that these keys have drawn already.
        seen: bool [B, V], the pieces that a repetition penalty applies to; None without a penalty.
        anew: how sequences begin anew; None if they do not.
    """

    tokens: jax.Array
    begins: Begins
    limits: jax.Array
    stops: jax.Array
    keys: jax.Array
    drawn: jax.Array
    seen: jax.Array | None
    anew: Anew | None


class Sequences(NamedTuple):
    """Sequences in progress.

    Attributes:
        caches: of each layer.
        slot: int32, where the last token will go, which is not in the caches yet.
        last: int32 [B], the last token.
        begins: as in `Prompts`, by now.
        step: int32, new tokens so far.
        tokens: int32 [B, N].
        log_probabilities: float32 [B, N], the model's own, before any of `Sampling`.
        done: bool [B].
        counts: int32 [B], the number of `tokens` that belong to each sequence.
        seen: as in `Prompts`, with the new tokens.
    """

    caches: tuple[Cache, ...]
    slot: jax.Array
    last: jax.Array
    begins: Begins
    step: jax.Array
    tokens: jax.Array
    log_probabilities: jax.Array
    done: jax.Array
    counts: jax.Array
    seen: jax.Array | None


@partial(jax.jit, static_argnums=0)
def unstack(model: Transformer, params: Any) -> Weights:
    """Returns parameters for decoding. Like all functions here, it runs under the mesh."""
    dtype = model.config.dtype

    def layer(number: int) -> Any:
        return {
            name: stacked[number] if name.startswith("norm") else stacked[number].astype(dtype)
            for name, stacked in params["blocks"].items()
        }

    blocks = tuple(layer(number) for number in range(model.config.num_layers))
    around = {
        name: array if "norm" in name else array.astype(dtype)
        for name, array in params.items()
        if name != "blocks"
    }
    return Weights(around, blocks)


def empty_caches(model: Transformer, batch: int, slots: int) -> tuple[Cache, ...]:
    """Returns empty caches, one for each layer."""
    config = model.config
    shape = (batch, config.num_heads, slots, config.d_model // config.num_heads)
    return tuple(Cache(*(jnp.zeros(shape, config.dtype),) * 2) for _ in range(config.num_layers))


def advance(
    model: Transformer,
    weights: Weights,
    tokens: jax.Array,
    caches: tuple[Cache, ...],
    slot: jax.Array,
    begins: Begins,
) -> tuple[jax.Array, tuple[Cache, ...]]:
    """Reads further tokens.

    Args:
        tokens: int32 [B, T], for the slots from `slot` on.
        caches, slot: see `attention.cached_attention`.
        begins: where the sequences begin.

    Returns:
        The logits of what follows the last token, float32 [B, V], and the caches with these tokens in them.
    """
    config = model.config
    places = slot + jnp.arange(tokens.shape[1]) - begins.placed[:, None]
    places = jnp.clip(places, 0, config.context_length - 1)
    x: Any = model.apply({"params": weights.around}, tokens, places, method="embed")
    extended, nothing_dropped = [], layer_dropouts(config, None, 0)
    for params, cache in zip(weights.blocks, caches, strict=True):
        attend = partial(cached_attention, cache=cache, slot=slot, first=begins.seen)
        x, cache = Block(config).apply({"params": params}, x, attend, nothing_dropped)
        extended.append(cache)
    last: Any = model.apply({"params": weights.around}, x[:, -1], method="finish")
    return logits(config, weights.around, last, model.vocab_size), tuple(extended)


@partial(jax.jit, static_argnums=(0, 4))
def begin(model: Transformer, weights: Weights, prompts: Prompts, sampling: Sampling, size: int) -> Sequences:
    """Reads the prompts and chooses the first new token of each; `size` is N."""
    batch, width = prompts.tokens.shape
    caches = empty_caches(model, batch, width + size)
    logits, caches = advance(model, weights, prompts.tokens, caches, jnp.int32(0), prompts.begins)
    nothing = Sequences(
        caches=caches,
        slot=jnp.int32(width - 1),
        last=prompts.tokens[:, -1],
        # Their own, since `proceed` takes over what it is given.
        begins=jax.tree.map(jnp.copy, prompts.begins),
        step=jnp.int32(0),
        tokens=jnp.zeros((batch, size), jnp.int32),
        log_probabilities=jnp.zeros((batch, size), jnp.float32),
        done=jnp.zeros(batch, bool),
        counts=jnp.zeros(batch, jnp.int32),
        seen=prompts.seen,
    )
    return _append(nothing, logits, prompts, sampling)


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def proceed(
    model: Transformer,
    weights: Weights,
    state: Sequences,
    prompts: Prompts,
    sampling: Sampling,
    until: jax.Array,
) -> Sequences:
    """Continues until every sequence has `until` new tokens (at most N) or is done."""

    def more(state: Sequences) -> jax.Array:
        return (state.step < until) & ~state.done.all()

    def step(state: Sequences) -> Sequences:
        begins = state.begins
        if prompts.anew is not None:
            begins = prompts.anew.behind(begins, state.last, state.slot)
        logits, caches = advance(model, weights, state.last[:, None], state.caches, state.slot, begins)
        return _append(state._replace(caches=caches, begins=begins), logits, prompts, sampling)

    return jax.lax.while_loop(more, step, state)


def _append(state: Sequences, logits: jax.Array, prompts: Prompts, sampling: Sampling) -> Sequences:
    """Adds one token to each sequence that is not done."""
    tokens, log_probabilities = choose(logits, prompts.keys, prompts.drawn + state.step, sampling, state.seen)
    counts = state.counts + ~state.done
    seen = state.seen
    if seen is not None:
        seen = seen.at[jnp.arange(len(tokens)), tokens].set(True)
    return Sequences(
        caches=state.caches,
        slot=state.slot + 1,
        last=tokens,
        begins=state.begins,
        step=state.step + 1,
        tokens=state.tokens.at[:, state.step].set(tokens),
        log_probabilities=state.log_probabilities.at[:, state.step].set(log_probabilities),
        done=state.done | jnp.isin(tokens, prompts.stops) | (counts >= prompts.limits),
        counts=counts,
        seen=seen,
    )
