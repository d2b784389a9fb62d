"""Continues sequences one token at a time, with a cache of keys and values, in one compiled loop.

Sequences are right-aligned: they end at the same slot and begin where their length says, so that every step writes one
slot of all caches. A slot's position is its distance from the beginning of its sequence. So a sequence that is done can
leave its row to another at any time, whose prompt then ends where the others are by now. Where documents are kept
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
from gpt1_jax.model.layers import batch_sharded, constrained
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


class Rules(NamedTuple):
    """What ends sequences, and where they begin anew.

    Attributes:
        stops: int32 [M], the tokens that end a sequence.
        anew: how sequences begin anew; None if they do not.
    """

    stops: jax.Array
    anew: Anew | None

    def behind(self, begins: Begins, last: jax.Array, slot: jax.Array) -> Begins:
        """Returns where sequences begin once their tokens `last` [B] lie in a slot."""
        if self.anew is None:
            return begins
        here = last == self.anew.piece
        placed = jnp.where(here & self.anew.restart, slot, begins.placed)
        return Begins(jnp.where(here, slot, begins.seen), placed)


class Prompts(NamedTuple):
    """Prompts to continue.

    Attributes:
        tokens: int32 [B, P], right-aligned.
        begins: where each begins.
        limits: int32 [B], the most new tokens for each, at least 1.
        keys: a random key for each, [B].
        drawn: int32 [B], the number of tokens that these keys have drawn already.
        seen: bool [B, V], the pieces that a repetition penalty applies to; None without a penalty.
        rules: for all.
    """

    tokens: jax.Array
    begins: Begins
    limits: jax.Array
    keys: jax.Array
    drawn: jax.Array
    seen: jax.Array | None
    rules: Rules


class Sequences(NamedTuple):
    """Sequences in progress, each in a row that it leaves to another when it is done.

    Attributes:
        caches: of each layer.
        slot: int32, where the last tokens will go, which are not in the caches yet.
        last: int32 [B], the last token.
        tokens: int32 [B, N], the new ones.
        log_probabilities: float32 [B, N], the model's own, before any of `Sampling`.
        counts: int32 [B], the number of new tokens.
        done: bool [B].
        begins, limits, keys, drawn, seen: as in `Prompts`, by now.
    """

    caches: tuple[Cache, ...]
    slot: jax.Array
    last: jax.Array
    tokens: jax.Array
    log_probabilities: jax.Array
    counts: jax.Array
    done: jax.Array
    begins: Begins
    limits: jax.Array
    keys: jax.Array
    drawn: jax.Array
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


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def vacant(model: Transformer, batch: int, slots: int, size: int, penalty: bool) -> Sequences:
    """Returns `batch` rows without a sequence: caches of `slots`, room for `size` new tokens each.

    With a penalty, they keep which pieces they have seen.
    """
    caches = empty_caches(model, batch, slots)
    zeros = batch_sharded(jnp.zeros(batch, jnp.int32))
    return Sequences(
        caches=jax.tree.map(lambda x: constrained(x, "batch", "heads", None, None), caches),
        # Wherever prompts begin, it is not before slot 0.
        slot=jnp.int32(slots),
        last=zeros,
        tokens=batch_sharded(jnp.zeros((batch, size), jnp.int32)),
        log_probabilities=batch_sharded(jnp.zeros((batch, size), jnp.float32)),
        counts=zeros,
        done=batch_sharded(jnp.ones(batch, bool)),
        begins=Begins(zeros, zeros),
        limits=zeros,
        keys=jax.random.split(jax.random.key(0), batch),
        drawn=zeros,
        seen=batch_sharded(jnp.zeros((batch, model.vocab_size), bool)) if penalty else None,
    )


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def enter(
    model: Transformer,
    weights: Weights,
    state: Sequences,
    prompts: Prompts,
    rows: jax.Array,
    sampling: Sampling,
) -> Sequences:
    """Reads prompts, chooses the first new token of each, and puts them into rows.

    Args:
        state: the sequences in progress.
        prompts: M of them.
        rows: int32 [M], where they go; a prompt whose row does not exist goes nowhere.
    """
    count, width = prompts.tokens.shape
    begun = empty_caches(model, count, width)
    logits, begun = advance(model, weights, prompts.tokens, begun, jnp.int32(0), prompts.begins)
    tokens, log_probabilities = choose(logits, prompts.keys, prompts.drawn, sampling, prompts.seen)

    # Their last slot is the one before that of the new token.
    shift = state.slot - width
    places = (shift + jnp.arange(width)) % state.caches[0].keys.shape[2]

    def put(old: Any, new: Any) -> Any:
        return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), old, new)

    return Sequences(
        caches=jax.tree.map(
            lambda old, new: old.at[rows[:, None], :, places].set(new.swapaxes(1, 2), mode="drop"),
            state.caches,
            begun,
        ),
        slot=state.slot,
        last=put(state.last, tokens),
        tokens=state.tokens.at[rows, 0].set(tokens, mode="drop"),
        log_probabilities=state.log_probabilities.at[rows, 0].set(log_probabilities, mode="drop"),
        counts=put(state.counts, jnp.ones(count, jnp.int32)),
        done=put(state.done, jnp.isin(tokens, prompts.rules.stops) | (prompts.limits <= 1)),
        begins=put(state.begins, jax.tree.map(lambda slot: shift + slot, prompts.begins)),
        limits=put(state.limits, prompts.limits),
        keys=put(state.keys, prompts.keys),
        drawn=put(state.drawn, prompts.drawn + 1),
        seen=put(state.seen, _with(prompts.seen, tokens)),
    )


class Pace(NamedTuple):
    """How far to continue.

    Attributes:
        steps: int32, by so many tokens at most.
        vacant: int32, until so many rows are done.
    """

    steps: jax.Array
    vacant: jax.Array


@partial(jax.jit, static_argnums=0, donate_argnums=2)
def proceed(
    model: Transformer, weights: Weights, state: Sequences, rules: Rules, sampling: Sampling, pace: Pace
) -> Sequences:
    """Continues all sequences that are not done, a token a step."""

    def more(progress: tuple[jax.Array, Sequences]) -> jax.Array:
        step, state = progress
        return (step < pace.steps) & (state.done.sum() < pace.vacant)

    def step(progress: tuple[jax.Array, Sequences]) -> tuple[jax.Array, Sequences]:
        step, state = progress
        begins = rules.behind(state.begins, state.last, state.slot)
        logits, caches = advance(model, weights, state.last[:, None], state.caches, state.slot, begins)
        tokens, log_probabilities = choose(logits, state.keys, state.drawn, sampling, state.seen)
        # Rows that are done write behind their last token.
        here, counts = (jnp.arange(len(tokens)), state.counts), state.counts + ~state.done
        return step + 1, state._replace(
            caches=caches,
            slot=state.slot + 1,
            last=tokens,
            tokens=state.tokens.at[here].set(tokens, mode="drop"),
            log_probabilities=state.log_probabilities.at[here].set(log_probabilities, mode="drop"),
            counts=counts,
            done=state.done | jnp.isin(tokens, rules.stops) | (counts >= state.limits),
            begins=begins,
            drawn=state.drawn + 1,
            seen=_with(state.seen, tokens),
        )

    return jax.lax.while_loop(more, step, (jnp.int32(0), state))[1]


def _with(seen: jax.Array | None, tokens: jax.Array) -> jax.Array | None:
    """Returns the pieces seen [B, V] with further ones [B]."""
    return None if seen is None else seen.at[jnp.arange(len(tokens)), tokens].set(True)
