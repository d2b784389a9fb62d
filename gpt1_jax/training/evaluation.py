"""Exact measurements on held-out text: each token counts once, on any mesh and for any batch size."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.masked import MaskedEvaluationBatches
from gpt1_jax.devices.mesh import place_rows, replicated
from gpt1_jax.devices.overlap import overlapped
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.trunk import make_trunk, used_rows
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


class Evaluate(Protocol):
    """What measures parameters on held-out windows."""

    def __call__(
        self,
        params: Any,
        batches: EvaluationBatches | MaskedEvaluationBatches,
        num_batches: int = 0,
        watch: Watch = unwatched,
    ) -> Measured:
        """Returns what was measured; between batches, it raises Stopped if a signal asked for that.

        Args:
            params: the parameters.
            batches: has every window once, in an order whose first batches are a fair sample.
            num_batches: the number of batches to look at; 0 means all.
            watch: is told how far the measuring is.
        """
        ...


def make_evaluate(loss: Objective, mesh: Mesh) -> Evaluate:
    """Returns a function that measures on a mesh; it is compiled once for each shape of batches.

    Args:
        loss: a loss without dropout; since batches have weights 0 and 1, it returns sums.
        mesh: where to compute.
    """
    place = replicated(mesh)
    sums = jax.jit(
        lambda params, batch: jnp.stack([loss(params, batch)[0], batch.weights.sum()]), out_shardings=place
    )

    def evaluate(
        params: Any,
        batches: EvaluationBatches | MaskedEvaluationBatches,
        num_batches: int = 0,
        watch: Watch = unwatched,
    ) -> Measured:
        def measure(step: int) -> jax.Array:
            return sums(params, place_rows(partial(batches.rows, step), batches.batch_size, mesh))

        count = min(num_batches or batches.num_batches, batches.num_batches)
        parts = overlapped(measure, stopping.checked(range(count)), mesh)
        nats, targets = (math.fsum(column) for column in zip(*watched(parts, watch, count), strict=True))
        return Measured(nats, round(targets))

    return evaluate


def make_generate(model: Classifier, mesh: Mesh) -> Callable[[Any], Generator]:
    """Returns a function of the parameters that makes a generator, which reads and says the specials too."""
    trunk = model.trunk
    with_specials = make_trunk(trunk.config, used_rows(trunk))
    more = table_rows(with_specials.vocab_size) - table_rows(trunk.vocab_size)

    def generate(params: Any) -> Generator:
        tokens = jnp.pad(params["trunk"]["tokens"], [(0, more), (0, 0)])
        return Generator(with_specials, mesh, {**params["trunk"], "tokens": tokens})

    return generate


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
