"""Exact measurements on held-out text and labeled examples: each counts once, on any mesh and for any batch size."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.masked import MaskedEvaluationBatches
from gpt1_jax.data.shapes import bounds_on, in_few_shapes
from gpt1_jax.devices.mesh import place_rows, replicated
from gpt1_jax.devices.overlap import overlapped
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.losses import token_log_probabilities
from gpt1_jax.model.output import before_table
from gpt1_jax.model.output import logits as logits_of
from gpt1_jax.model.trunk import Trunk, make_trunk, used_rows
from gpt1_jax.tasks.batches import TaskEvaluationBatches, in_two_widths
from gpt1_jax.tasks.encoded import EncodedExamples, LabelForm
from gpt1_jax.training import stopping
from gpt1_jax.training.objectives import Objective


class Measured(NamedTuple):
    """What a model makes of held-out text.

    Attributes:
        nats: the sum of the losses of all targets.
        targets: the number of targets: all tokens but the first, or of a model that fills masks the hidden ones.
    """

    nats: float
    targets: int

    @property
    def loss(self) -> float:
        """The mean loss in nats per target."""
        return self.nats / max(self.targets, 1)


# Is told how many batches are done, and how many there are.
Watch = Callable[[int, int], None]


def unwatched(done: int, total: int) -> None:
    """Does nothing."""


def watched(members: Iterable[Any], watch: Watch, total: int) -> Iterator[Any]:
    """Yields the members, and tells after each how many of the total came."""
    for done, member in enumerate(members, start=1):
        watch(done, total)
        yield member


def make_evaluate(
    loss: Objective,
    batches: EvaluationBatches | MaskedEvaluationBatches,
    num_batches: int,
    mesh: Mesh,
    watch: Watch = unwatched,
) -> Callable[[Any], Measured]:
    """Returns a function of the parameters that measures them on held-out windows.

    Args:
        loss: a loss without dropout; since batches have weights 0 and 1, it returns sums.
        batches: has every window once, in an order whose first batches are a fair sample.
        num_batches: the number of batches to look at; 0 means all.
        mesh: where to compute.
        watch: is told how far the measuring is.

    Returns:
        A function from parameters to what was measured; it raises Stopped between batches if a signal asked for that.
    """
    place = replicated(mesh)
    sums = jax.jit(
        lambda params, batch: jnp.stack([loss(params, batch)[0], batch.weights.sum()]), out_shardings=place
    )
    count = min(num_batches or batches.num_batches, batches.num_batches)

    def evaluate(params: Any) -> Measured:
        def measure(step: int) -> jax.Array:
            return sums(params, place_rows(partial(batches.rows, step), batches.batch_size, mesh))

        parts = overlapped(measure, stopping.checked(range(count)), mesh)
        nats, targets = (math.fsum(column) for column in zip(*watched(parts, watch, count), strict=True))
        return Measured(nats, round(targets))

    return evaluate


class Predict(Protocol):
    """What computes something of examples with parameters."""

    def __call__(
        self, params: Any, examples: EncodedExamples, batch_size: int | None, watch: Watch = unwatched
    ) -> list[np.ndarray]:
        """Returns what is found for each example, in order, `batch_size` at a time, or in few shapes if it is None."""
        ...


def make_predict(model: Classifier, mesh: Mesh) -> Predict:
    """Returns a function that finds the head's logits of each example, float32 [P, C], where T is its own length."""

    def logits(params: Any, batch: Any) -> jax.Array:
        given = batch.tokens, batch.types, batch.groups
        return cast(Any, model.apply({"params": params}, *given, method="answer"))

    return _over_examples(logits, mesh, model.trunk.config.context_length)


def make_generate(model: Classifier, mesh: Mesh) -> Callable[[Any], Generator]:
    """Returns a function of the parameters that makes a generator, which reads and says the specials too."""
    trunk = model.trunk
    with_specials = make_trunk(trunk.config, used_rows(trunk))
    more = table_rows(with_specials.vocab_size) - table_rows(trunk.vocab_size)

    def generate(params: Any) -> Generator:
        tokens = jnp.pad(params["trunk"]["tokens"], [(0, more), (0, 0)])
        return Generator(with_specials, mesh, {**params["trunk"], "tokens": tokens})

    return generate


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


def score_text(loss: float, splits: Sequence[Split], causal: bool = True) -> dict[str, float]:
    """Returns what a loss over all targets of some splits is in other measures.

    Args:
        loss: in nats per target.
        splits: what was measured.
        causal: whether the targets are all tokens, each found from those before it.

    Returns:
        "loss", "perplexity", and "bits_per_byte". The latter is left out if decoding does not give the text back: the
        bytes then include what the tokenizer lost, which the model never had to predict. It is also left out of a model
        that fills masks: what it finds with most of the text before it does not add up to the text.
    """
    scores = {"loss": loss, "perplexity": perplexity(loss)}
    if causal and not any(split.lost for split in splits):
        tokens = sum(len(split) - 1 for split in splits)
        scores["bits_per_byte"] = bits_per_byte(loss, sum(split.bytes for split in splits) / tokens)
    return scores


def perplexity(loss: float) -> float:
    """Returns exp(loss), or infinity if that overflows."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def bits_per_byte(loss: float, bytes_per_token: float) -> float:
    """Returns a loss in nats per token as bits per UTF-8 byte of the text, which compares across tokenizers."""
    return loss / math.log(2) / bytes_per_token
