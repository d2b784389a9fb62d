"""Batches of a task's examples in buckets of length: like pre-training's a function of (seed, step).

Letters: B batch, S sequences an example, T positions (the bucket's width), C outputs of the head.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpt1_jax.hashing import hash_numbers
from gpt1_jax.tasks.encoding import EncodedExamples

POOL_BATCHES = 50  # within so many batches examples are sorted by length
NUM_WIDTHS = 4  # shapes that the step is compiled for, at most
NUM_EVALUATION_WIDTHS = 2  # forward alone costs less, so that compiling weighs more
_WIDTH_MULTIPLE = 8


class TaskBatch(NamedTuple):
    """Rows of a global batch, as NumPy arrays."""

    tokens: np.ndarray  # int32 [B, S, T], padded with 0
    targets: np.ndarray  # int32 [B, S, T], the next token of each
    weights: np.ndarray  # float32 [B, S, T], of the auxiliary language-model loss
    noise: np.ndarray  # uint32 [B, S], the seeds of the dropout masks
    labels: np.ndarray  # float32 [B, C]
    label_weights: np.ndarray  # float32 [B], of the task's loss


class TaskBatches:
    """Every example once an epoch, batches of similar length.

    An epoch's examples are shuffled, pools of POOL_BATCHES batches sorted by length and cut, the batches shuffled.
    The last batch of the sorting may be ragged: rows that fill it up weigh nothing.
    """

    def __init__(self, examples: EncodedExamples, *, seed: int, batch_size: int) -> None:
        """Examples are not copied."""
        self.batch_size = batch_size
        self.steps_per_epoch = -(-len(examples) // batch_size)
        self.widths = choose_widths(examples.lengths())
        self._examples = examples
        self._lengths = examples.lengths()
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)

    def rows(self, step: int, start: int, stop: int) -> TaskBatch:
        """The rows start:stop of the global batch of `step`; both kinds of weights sum to 1 over a global batch."""
        epoch, index = divmod(step, self.steps_per_epoch)
        batch = self._epoch(epoch)[index]
        noise = hash_numbers(
            self._seed, step, np.arange(start, stop)[:, None], np.arange(self._examples.sequences)
        )
        width = _fit_width(self.widths, int(self._lengths[batch].max()))
        return assemble(self._examples, batch[start:stop], stop - start, width, len(batch))._replace(
            noise=noise
        )

    def sample(self, width: int) -> TaskBatch:
        """One row of the shape that batches of a width have."""
        return assemble(self._examples, np.zeros(0, np.int64), 1, width, 1)

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        """The numbers of the examples of each batch."""
        generator = np.random.default_rng((self._seed, epoch))
        order = generator.permutation(len(self._examples))
        batches = []
        pool = POOL_BATCHES * self.batch_size
        for pool_start in range(0, len(order), pool):
            examples = order[pool_start : pool_start + pool]
            examples = examples[np.argsort(self._lengths[examples], kind="stable")]
            batches += [examples[i : i + self.batch_size] for i in range(0, len(examples), self.batch_size)]
        return [batches[i] for i in generator.permutation(len(batches))]


class TaskEvaluationBatches:
    """Every example once, sorted by length."""

    def __init__(self, examples: EncodedExamples, batch_size: int) -> None:
        """Examples are not copied."""
        self.batch_size = batch_size
        self.order = np.argsort(
            examples.lengths(), kind="stable"
        )  # row r of batch s is example order[s · B + r]
        self.num_batches = -(-len(examples) // batch_size)
        self.widths = choose_widths(examples.lengths(), NUM_EVALUATION_WIDTHS)
        self._examples = examples
        self._lengths = examples.lengths()

    def rows(self, step: int, start: int, stop: int) -> TaskBatch:
        """The rows start:stop of batch `step`, without noise; rows that fill up the last batch are padding."""
        batch = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        width = _fit_width(self.widths, int(self._lengths[batch].max()))
        return assemble(self._examples, batch[start:stop], stop - start, width, len(batch))


def choose_widths(lengths: np.ndarray, count: int = NUM_WIDTHS) -> list[int]:
    """At most `count` widths, ascending, that pad examples of these lengths the least when each takes the next.

    Found by dynamic programming over the multiples of 8 that occur; none is wider than the longest example, at which
    the model's context may end.
    """
    rounded = np.minimum(-(-lengths // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, lengths.max())
    candidates, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # examples shorter than each candidate
    # cost[j]: the tokens of all examples up to candidate j − 1, where that is the last width of those chosen
    cost = np.concatenate([[0.0], candidates * below[1:]])
    chosen = [[]] + [[int(width)] for width in candidates]
    for _ in range(count - 1):
        best = [(cost[j], chosen[j]) for j in range(len(cost))]
        for j in range(1, len(cost)):
            for i in range(1, j):
                total = cost[i] + candidates[j - 1] * (below[j] - below[i])
                if total < best[j][0]:
                    best[j] = (total, [*chosen[i], int(candidates[j - 1])])
        cost = np.array([total for total, _ in best])
        chosen = [widths for _, widths in best]
    return chosen[-1]


def assemble(
    examples: EncodedExamples, numbers: np.ndarray, rows: int, width: int, batch_examples: int
) -> TaskBatch:
    """The rows of some examples, followed by padding up to `rows`, without noise.

    The weights follow the authors' reduction: the language model's loss is the mean over a sequence's targets, then
    over all sequences of the batch's examples; the task's is the mean over its examples.

    Args:
        examples: the split.
        numbers: which of them.
        rows, width: B and T of the arrays.
        batch_examples: how many examples the global batch has.
    """
    sequences = examples.sequences
    tokens = np.zeros((rows, sequences, width + 1), np.int32)
    weights = np.zeros((rows, sequences, width), np.float32)
    labels = np.zeros((rows, examples.labels.shape[-1]), np.float32)
    label_weights = np.zeros(rows, np.float32)
    for row, number in enumerate(numbers.tolist()):
        for s in range(sequences):
            ids = examples.sequence(number, s)
            tokens[row, s, : len(ids)] = ids
            weights[row, s, : len(ids) - 1] = 1 / ((len(ids) - 1) * sequences * batch_examples)
    labels[: len(numbers)] = examples.labels[numbers]
    label_weights[: len(numbers)] = 1 / batch_examples
    noise = np.zeros((rows, sequences), np.uint32)
    return TaskBatch(tokens[:, :, :-1], tokens[:, :, 1:], weights, noise, labels, label_weights)


def _fit_width(widths: list[int], length: int) -> int:
    return next(width for width in widths if width >= length)
