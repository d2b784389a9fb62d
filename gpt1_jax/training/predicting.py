"""What a model says of a task's examples: each counts once, on any mesh and for any size of the batches.

Letters: N examples, S sequences per example, B rows of a batch, T positions, D width, C outputs of the head; P places
that an example has outputs at.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.data.packing import Packed, pack, shared_widths
from gpt1_jax.data.shapes import Bounds, Shared, bounds_on, in_few_shapes
from gpt1_jax.devices.mesh import place_rows, replicated
from gpt1_jax.devices.overlap import overlapped
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.kernels.choice import keeps_apart
from gpt1_jax.model.losses import token_log_probabilities
from gpt1_jax.model.output import before_table
from gpt1_jax.model.output import logits as logits_of
from gpt1_jax.model.trunk import Trunk
from gpt1_jax.tasks.batches import TaskEvaluationBatches, in_two_widths
from gpt1_jax.tasks.encoded import EncodedExamples, LabelForm
from gpt1_jax.training import stopping
from gpt1_jax.training.evaluation import Watch, unwatched, watched

# The host holds the states of so many examples at once.
_EXAMPLES_AT_ONCE = 2**16
# A sequence takes so many positions of a row at least, so a row has few whose states are read.
_LEAST = 16


class Predict(Protocol):
    """What computes something of examples with parameters."""

    def __call__(
        self, params: Any, examples: EncodedExamples, batch_size: int | None, watch: Watch = unwatched
    ) -> list[np.ndarray]:
        """Returns what is found for each example, in order; batches have `batch_size` examples, or few shapes.

        Where sequences share rows, a batch has as many rows and more examples.
        """
        ...


def make_predict(model: Classifier, mesh: Mesh) -> Predict:
    """Returns a function that finds the head's logits of each example, float32 [P, C], where T is its own length."""
    if model.reads_one:
        return _over_sequences(model, mesh)

    def logits(params: Any, batch: Any) -> jax.Array:
        given = batch.tokens, batch.types, batch.groups
        return cast(Any, model.apply({"params": params}, *given, method="answer"))

    return _over_examples(logits, mesh, model.trunk.config.context_length)


def make_score(model: Trunk, mesh: Mesh) -> Predict:
    """Returns a function that finds the log-probability that scores each sequence, [S] of each example.

    Queries come from `tasks.zero_shot.encode_queries`; their `labels` say how many tokens at the end count.
    """

    def score(params: Any, batch: Any) -> jax.Array:
        tokens, targets, weights = (x.reshape(-1, x.shape[-1]) for x in batch[:3])
        hidden: Any = model.apply({"params": params}, tokens)
        hidden, bias = before_table(model.config, params, hidden), params.get("output_bias")
        found = token_log_probabilities(hidden, params["tokens"], targets, model.vocab_size, bias)
        real = weights > 0
        first = real.sum(-1) - batch.labels.reshape(-1)
        scored = real & (jnp.arange(real.shape[-1]) >= first[:, None])
        return jnp.where(scored, found, 0).sum(-1).reshape(batch.labels.shape)

    return _over_examples(score, mesh, model.config.context_length)


def make_guess(model: Trunk, mesh: Mesh, barred: np.ndarray) -> Callable[[Any, EncodedExamples], np.ndarray]:
    """Returns a function (parameters, queries) → what the model makes of the scored tokens, float32 [N, 3].

    These are the log-probability of the tokens; whether each of them is the most probable; and whether it is, if the
    first may be none of the barred pieces.

    Args:
        model: the trunk.
        mesh: where to compute.
        barred: bool [V].
    """

    def guess(params: Any, batch: Any, most: int) -> jax.Array:
        tokens, targets, weights = (x.reshape(-1, x.shape[-1]) for x in batch[:3])
        counts = batch.labels.reshape(-1, 1).astype(jnp.int32)
        first = (weights > 0).sum(-1, keepdims=True) - counts
        # Only the states of the scored tokens meet the table.
        places = jnp.clip(first + jnp.arange(most), 0, tokens.shape[-1] - 1)
        hidden: Any = model.apply({"params": params}, tokens)
        states = jnp.take_along_axis(hidden, places[..., None], 1).astype(jnp.float32)
        found = logits_of(model.config, params, states, model.vocab_size)
        wanted = jnp.take_along_axis(targets, places, 1)
        scored = jnp.arange(most) < counts
        chances = jnp.take_along_axis(jax.nn.log_softmax(found), wanted[..., None], -1)[..., 0]
        right = found.argmax(-1) == wanted
        allowed = jnp.where(barred, -jnp.inf, found[:, :1]).argmax(-1) == wanted[:, :1]
        filtered = jnp.concatenate([allowed, right[:, 1:]], 1)
        parts = [jnp.where(scored, chances, 0).sum(-1), *((x | ~scored).all(-1) for x in (right, filtered))]
        return jnp.stack([part.astype(jnp.float32) for part in parts], -1)[:, None]

    def measure(params: Any, queries: EncodedExamples) -> np.ndarray:
        most = int(queries.labels.max())
        run = _over_examples(
            lambda params, batch: guess(params, batch, most), mesh, model.config.context_length
        )
        return np.concatenate(run(params, queries, None))

    return measure


def _over_examples(function: Callable[[Any, Any], jax.Array], mesh: Mesh, context: int) -> Predict:
    """Applies (parameters, batch) → [B, P, C] to all examples; it is compiled once for each shape of their batches."""
    compiled = jax.jit(function, out_shardings=replicated(mesh))

    def predict(
        params: Any, examples: EncodedExamples, batch_size: int | None, watch: Watch = unwatched
    ) -> list[np.ndarray]:
        if not len(examples):
            return []
        lengths = examples.lengths()
        if batch_size is None:
            shared = in_few_shapes(lengths, bounds_on(mesh, context), examples.sequences)
        else:
            shared = in_two_widths(lengths, -(-batch_size // mesh.size) * mesh.size)
        batches = TaskEvaluationBatches(examples, shared)

        def compute(step: int) -> jax.Array:
            return compiled(params, place_rows(partial(batches.rows, step), shared[step].rows, mesh))

        parts = overlapped(compute, stopping.checked(range(len(shared))), mesh)
        predicted = [np.zeros(0)] * len(examples)
        for (numbers, _, _), part in zip(shared, watched(parts, watch, len(shared)), strict=True):
            for number, output in zip(numbers.tolist(), part, strict=False):
                predicted[number] = _without_padding(output, examples.form, int(lengths[number]))
        return predicted

    return predict


def _without_padding(output: np.ndarray, form: LabelForm, length: int) -> np.ndarray:
    """Returns an output [P, C], of which the positions of a batch are one dimension, cut to the example's own."""
    if form == "tags":
        return output[:length]
    return output[:, :length] if form == "spans" else output


# ── Where the head reads one state of each sequence ──────────────────────────────────────────────────────────


class _Rows(NamedTuple):
    """What `Classifier.read` takes, int32 [B, ...]."""

    tokens: np.ndarray
    only: np.ndarray
    types: np.ndarray | None
    groups: np.ndarray | None
    places: np.ndarray | None


class _States(NamedTuple):
    """What `Classifier.judge` takes."""

    states: np.ndarray


def _over_sequences(model: Classifier, mesh: Mesh) -> Predict:
    """Reads sequences, several in a row; their states come together again before the head, which is one small layer."""
    config, whole = model.trunk.config, replicated(mesh)
    together = keeps_apart(config, mesh)

    @partial(jax.jit, out_shardings=whole)
    def read(params: Any, rows: _Rows) -> jax.Array:
        return cast(Any, model.apply({"params": params}, *rows, method="read")).astype(jnp.float32)

    @partial(jax.jit, out_shardings=whole)
    def judge(params: Any, given: _States) -> jax.Array:
        return cast(Any, model.apply({"params": params}, given.states, method="judge"))

    def predict(
        params: Any, examples: EncodedExamples, batch_size: int | None, watch: Watch = unwatched
    ) -> list[np.ndarray]:
        if not len(examples):
            return []
        lengths, sequences = np.diff(examples.offsets), examples.sequences
        bounds, at_once = bounds_on(mesh, config.context_length), _EXAMPLES_AT_ONCE * sequences
        widths = shared_widths(lengths, config.context_length) if together else []

        def share(taken: np.ndarray) -> list[Shared]:
            if batch_size is None:
                return in_few_shapes(taken, bounds)
            return in_two_widths(taken, bounds.rounded(batch_size * sequences))

        starts = range(0, len(lengths), at_once)
        packs = [pack(lengths[start : start + at_once], share, widths, _LEAST) for start in starts]
        total, done, predicted = sum(map(len, packs)), 0, []
        for start, batches in zip(starts, packs, strict=True):

            def compute(packed: Packed, start: int = start) -> jax.Array:
                rows = _rows(model, examples, start, packed)
                return read(params, place_rows(lambda a, b: _part(rows, a, b), len(rows.tokens), mesh))

            states = np.zeros((len(lengths[start : start + at_once]), config.d_model), np.float32)
            parts = overlapped(compute, stopping.checked(batches), mesh)
            for packed, part in zip(batches, parts, strict=True):
                states[packed.numbers] = part[packed.rows, _slots(packed)[0]]
                done += 1
                watch(done, total)
            predicted += _judged(
                partial(judge, params), states.reshape(-1, sequences, config.d_model), bounds, mesh
            )
        return predicted

    return predict


def _rows(model: Classifier, examples: EncodedExamples, first: int, packed: Packed) -> _Rows:
    """Returns the sequences of a batch, whose numbers count from `first`."""
    numbers = (first + packed.numbers).tolist()
    parts = [examples.tokens[examples.offsets[n] : examples.offsets[n + 1]] for n in numbers]
    ends = np.zeros(len(parts), np.int64)
    if model.trunk.config.causal:
        ends[:] = [np.argmax(part == model.extract) for part in parts]
    slots, count = _slots(packed)
    only = np.zeros((packed.shape[0], count), np.int32)
    only[packed.rows, slots] = packed.starts + ends
    types = None
    if examples.both_ways:
        assert examples.seconds is not None
        seconds = examples.seconds[numbers]
        types = packed.lay(
            np.arange(len(part)) >= second for part, second in zip(parts, seconds, strict=True)
        )
    return _Rows(packed.lay(parts), only, types, packed.groups(not examples.both_ways), packed.places())


def _slots(packed: Packed) -> tuple[np.ndarray, int]:
    """Returns a number of each sequence in its row, int [N], and the number of numbers."""
    return packed.starts // _LEAST, -(-packed.shape[1] // _LEAST) if packed.several else 1


def _part(rows: _Rows, start: int, stop: int) -> _Rows:
    return jax.tree.map(lambda x: x[start:stop], rows)


def _judged(
    judge: Callable[[_States], jax.Array], states: np.ndarray, bounds: Bounds, mesh: Mesh
) -> list[np.ndarray]:
    """Returns the head's logits [P, C] of the states [N, S, D]; few shapes are compiled."""
    count = bounds.rounded(1 << (len(states) - 1).bit_length())
    padded = np.zeros((count, *states.shape[1:]), np.float32)
    padded[: len(states)] = states
    logits = judge(place_rows(lambda start, stop: _States(padded[start:stop]), count, mesh))
    return [*np.asarray(logits)[: len(states)]]
