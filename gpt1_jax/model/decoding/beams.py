"""Beam search: the sequences of highest log-probability, divided by a power of their length.

Letters: B prompts, W beams per prompt, N new tokens at most, V pieces. Flat arrays have B · W rows, a prompt's beams
side by side.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt1_jax.model.attention import Cache
from gpt1_jax.model.decoding.decode import Begins, Prompts, Weights, advance, empty_caches
from gpt1_jax.model.transformer import Transformer

# The score of anything that is not a candidate.
NEVER = -jnp.inf


class Beams(NamedTuple):
    """Sequences of one prompt side by side, the best first.

    Attributes:
        tokens: int32 [B, W, N].
        log_probabilities: float32 [B, W, N], one for each token.
        lengths: int32 [B, W], the number of tokens that count.
        scores: float32 [B, W]; NEVER for a sequence that does not exist.
    """

    tokens: jax.Array
    log_probabilities: jax.Array
    lengths: jax.Array
    scores: jax.Array


class _State(NamedTuple):
    """A search underway.

    Attributes:
        caches: of each layer.
        begins: where the running beams begin, [B · W] each.
        step: int32, new tokens so far.
        running: the beams that continue; their scores are sums.
        ended: the beams that have ended; their scores are divided.
        open: bool [B], whether a running beam may still become better than those that ended.
    """

    caches: tuple[Cache, ...]
    begins: Begins
    step: jax.Array
    running: Beams
    ended: Beams
    open: jax.Array


@partial(jax.jit, static_argnums=(0, 4, 5))
def search(
    model: Transformer,
    weights: Weights,
    prompts: Prompts,
    length_penalty: jax.Array,
    width: int,
    size: int,
) -> Beams:
    """Continues each prompt by beam search; the keys of `prompts` are not used.

    A sequence ends with a stop or at its limit. Its score is then the sum of its log-probabilities, divided by its
    length to the power of `length_penalty`. The search for a prompt is over when as many sequences have ended as there
    are beams, and no running one has a higher score by now.

    Args:
        length_penalty: float32; 0 compares sums, 1 means.
        width: W.
        size: N.

    Returns:
        The W best that ended.
    """
    batch, slots = prompts.tokens.shape
    logits, caches = advance(
        model,
        weights,
        prompts.tokens,
        empty_caches(model, batch, slots + size),
        jnp.int32(0),
        prompts.begins,
    )
    caches, begins = jax.tree.map(lambda x: jnp.repeat(x, width, axis=0), (caches, prompts.begins))
    none = Beams(
        tokens=jnp.zeros((batch, width, size), jnp.int32),
        log_probabilities=jnp.zeros((batch, width, size), jnp.float32),
        lengths=jnp.zeros((batch, width), jnp.int32),
        scores=jnp.full((batch, width), NEVER, jnp.float32),
    )
    # All beams are the prompt: only one may branch.
    alone = none._replace(scores=none.scores.at[:, 0].set(0))
    start = _State(caches, begins, jnp.int32(0), alone, none, jnp.ones(batch, bool))
    grow = partial(_grow, prompts=prompts, length_penalty=length_penalty)

    def step(state: _State) -> _State:
        last = jax.lax.dynamic_index_in_dim(state.running.tokens, state.step - 1, axis=2)
        last, slot, begins = last.reshape(-1, 1), slots + state.step - 1, state.begins
        begins = prompts.rules.behind(begins, last[:, 0], slot)
        logits, caches = advance(model, weights, last, state.caches, slot, begins)
        return grow(state._replace(caches=caches, begins=begins), logits)

    state = grow(start, jnp.repeat(logits, width, axis=0))
    return jax.lax.while_loop(lambda state: state.open.any(), step, state).ended


def _grow(state: _State, logits: jax.Array, *, prompts: Prompts, length_penalty: jax.Array) -> _State:
    """Adds a token: of the 2 W best continuations, some end and the others run on."""
    limits, stops = prompts.limits, prompts.rules.stops
    batch, width, _ = state.running.tokens.shape
    length = state.step + 1
    found = jax.nn.log_softmax(logits).reshape(batch, width, -1)
    pieces = found.shape[-1]
    totals = (state.running.scores[..., None] + found).reshape(batch, -1)
    # At least W of these run on whatever stops: there is a continuation of each beam for each stop, and W others.
    totals, candidates = jax.lax.top_k(totals, min((1 + max(1, stops.size)) * width, width * pieces))
    parents, tokens = candidates // pieces, (candidates % pieces).astype(jnp.int32)
    chances = jnp.take_along_axis(found.reshape(batch, -1), candidates, axis=1)
    grown = _take(state.running, parents)
    grown = Beams(
        tokens=grown.tokens.at[:, :, state.step].set(tokens),
        log_probabilities=grown.log_probabilities.at[:, :, state.step].set(chances),
        lengths=jnp.full(parents.shape, length),
        scores=totals,
    )
    ends = jnp.isin(tokens, stops) | (length >= limits)[:, None]
    among_best = jnp.arange(parents.shape[1]) < width
    divisor = length.astype(jnp.float32) ** length_penalty

    eligible = ends & among_best & state.open[:, None]
    fresh = grown._replace(scores=jnp.where(eligible, totals / divisor, NEVER))
    ended = _best(jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), state.ended, fresh), width)
    open_scores = jnp.where(ends, NEVER, totals)
    scores, places = jax.lax.top_k(open_scores, width)
    running = _take(grown, places)._replace(scores=scores)
    parents = jnp.take_along_axis(parents, places, axis=1)
    rows = (jnp.arange(batch)[:, None] * width + parents).reshape(-1)
    caches, begins = jax.tree.map(lambda x: x[rows], (state.caches, state.begins))

    full = (ended.scores > NEVER).all(1)
    better = scores[:, 0] / divisor > ended.scores.min(1)
    still = state.open & (better | ~full) & (length < limits)
    return _State(caches, begins, length, running, ended, still)


def _best(beams: Beams, width: int) -> Beams:
    """Returns the `width` beams of highest score, in order."""
    _, places = jax.lax.top_k(beams.scores, width)
    return _take(beams, places)


def _take(beams: Beams, places: jax.Array) -> Beams:
    """Returns beams [B, M] by their places [B, M] among those of each prompt."""
    return jax.tree.map(
        lambda x: jnp.take_along_axis(x, places.reshape(*places.shape, *(1,) * (x.ndim - 2)), axis=1), beams
    )
