"""What a Transformer would predict from the states behind each of its layers, read through the token table.

Letters: B sequences, T positions, D width, V the tokenizer's pieces, L layers, H heads, N guesses.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gpt1_jax.devices.mesh import replicated
from gpt1_jax.model import output
from gpt1_jax.model.inside import read_inside
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training import stopping
from gpt1_jax.usage.notices import check_finite
from gpt1_jax.usage.states import pad
from gpt1_jax.usage.windows import Window, make_batches

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun


class Guessed(NamedTuple):
    """The most probable pieces somewhere, and how probable the piece is that is asked for.

    Attributes:
        ids, logprobs: int32 and float32 [..., N], the most probable pieces, the best first.
        asked: float32 [...], the log-probability of the piece that is asked for.
    """

    ids: np.ndarray
    logprobs: np.ndarray
    asked: np.ndarray


def read_layers(
    trained: "TrainedRun", ids: Sequence[int], asked: Sequence[int], n: int
) -> tuple[Guessed, np.ndarray]:
    """Returns what is predicted at each layer and position [L + 1, T], and the weights of attention [L, H, T, T].

    Args:
        trained: the run, of a Transformer.
        ids: T ids.
        asked: for each position, the piece whose probability is asked for.
        n: the number of guesses.
    """
    length = len(ids)
    # Few widths are compiled.
    (batch,) = make_batches([Window(0, 0, 0, length)], trained.bounds)
    tokens, groups = pad([ids] * batch.rows, batch.rows, batch.width)
    targets, _ = pad([asked], 1, batch.width)
    with trained.on_mesh():
        read = trained.compiled(_make_layers, n)
        guessed, weights = jax.device_get(read(trained.trunk_params, tokens, groups, targets[0]))
    found = Guessed(*(check_finite(part[:, :length]) for part in guessed))
    return found, check_finite(weights[:, :, :length, :length])


def read_hidden(trained: "TrainedRun", ids: Sequence[int], places: Sequence[int], n: int) -> Guessed:
    """Returns what a model that fills masks puts into each of several places [P] of a text, each masked alone.

    Args:
        trained: the run of such a model.
        ids: T ids.
        places: the positions.
        n: the number of guesses.
    """
    mask = trained.tokenizer.special_ids["mask"]
    found = Guessed(
        np.zeros((len(places), n), np.int32),
        np.zeros((len(places), n), np.float32),
        np.zeros(len(places), np.float32),
    )
    windows = [Window(number, 0, 0, len(ids)) for number in range(len(places))]
    for batch in make_batches(windows, trained.bounds):
        stopping.check()
        numbers = [window.passage for window in batch.windows]
        at = np.zeros(batch.rows, np.int32)
        at[: len(numbers)] = [places[number] for number in numbers]
        hidden = [[mask if here == place else id for here, id in enumerate(ids)] for place in at]
        tokens, groups = pad(hidden, batch.rows, batch.width)
        with trained.on_mesh():
            read = trained.compiled(_make_hidden, n)
            guessed = jax.device_get(read(trained.trunk_params, tokens, groups, at, np.array(ids)[at]))
        for kept, part in zip(found, guessed, strict=True):
            kept[numbers] = part[: len(numbers)]
    return Guessed(*map(check_finite, found))


def _make_layers(trained: "TrainedRun", n: int) -> Any:
    """Returns the compiled function (parameters, tokens, groups [B, T], asked [T]) → what `read_layers` returns."""
    trunk = trained.trunk
    assert isinstance(trunk, Transformer)

    @partial(jax.jit, out_shardings=replicated(trained.mesh))
    def layers(
        params: Any, tokens: jax.Array, groups: jax.Array, asked: jax.Array
    ) -> tuple[tuple[jax.Array, ...], jax.Array]:
        states, weights = read_inside(trunk, params, tokens, groups)
        behind: Any = trunk.apply({"params": params}, states[:-1, 0], method="finish")
        # The last states have been finished. Not all logits are held at once.
        finished = jnp.concatenate([behind, states[-1:, 0]])
        return jax.lax.map(lambda layer: _guess(trunk, params, layer, asked, n), finished), weights[:, 0]

    return layers


def _make_hidden(trained: "TrainedRun", n: int) -> Any:
    """Returns the compiled function (parameters, tokens, groups [B, T], places, asked [B]) → the parts of `Guessed`."""
    trunk = trained.trunk
    assert isinstance(trunk, Transformer)

    @partial(jax.jit, out_shardings=replicated(trained.mesh))
    def hidden(
        params: Any, tokens: jax.Array, groups: jax.Array, places: jax.Array, asked: jax.Array
    ) -> tuple[jax.Array, ...]:
        states: Any = trunk.apply({"params": params}, tokens, None, None, groups)
        there = jnp.take_along_axis(states, places[:, None, None], 1)[:, 0]
        return _guess(trunk, params, there, asked, n)

    return hidden


def _guess(
    trunk: Transformer, params: Any, states: jax.Array, asked: jax.Array, n: int
) -> tuple[jax.Array, ...]:
    """Returns the parts of `Guessed` for finished states [T, D]."""
    logits = output.logits(trunk.config, params, states.astype(jnp.float32), trunk.vocab_size)
    logprobs = jax.nn.log_softmax(logits)
    values, ids = jax.lax.top_k(logprobs, n)
    return ids, values, jnp.take_along_axis(logprobs, asked[:, None], -1)[:, 0]
