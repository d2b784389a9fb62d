"""Batches of a task's examples; like those of pre-training, they are a function of (seed, step).

Letters: B batch, S sequences per example, T positions (the width of the batch), P places of an example with labels, C
outputs of the head at each.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.shapes import Shared
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.grouping import Grouping, find_strata

# The training step is compiled for at most this many widths.
NUM_WIDTHS = 4
# Compiling for a width takes as long as about so many steps of the longest batches, on CPUs.
_COMPILING = 40
# A width pays if it saves as much within so many epochs, the paper's number. How long the run is to be does not count,
# since a run that is prolonged goes on with its widths.
_EPOCHS = 3
# Evaluation is cheaper per batch, so compiling weighs more, and fewer widths are better.
NUM_EVALUATION_WIDTHS = 2
_WIDTH_MULTIPLE = 8


class TaskBatch(NamedTuple):
    """Rows of a global batch, as NumPy arrays.

    Attributes:
        tokens: int32 [B, S, T], padded with 0.
        targets: int32 [B, S, T], the token after each input.
        weights: float32 [B, S, T], the weights of the targets in the auxiliary language-model loss.
        noise: uint32 [B, S], the seeds of the dropout masks.
        update: uint32 [B], in each row the same, the seed of masks that all sequences share.
        labels: float32 [B, P, C].
        label_weights: float32 [B, P], the weights of the labels in the task's loss.
        types: int32 [B, S, T], the token type of each input; None is 0 for all.
        groups: int32 [B, S, T], each input attends to those of its own group only; None is one group of all.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    noise: np.ndarray
    update: np.ndarray
    labels: np.ndarray
    label_weights: np.ndarray
    types: np.ndarray | None = None
    groups: np.ndarray | None = None


class TaskBatches:
    """Batches of examples; every example weighs the same, unless `Grouping` leaves it out or says otherwise."""

    def __init__(
        self, examples: EncodedExamples, grouping: Grouping, *, seed: int, num_widths: int = NUM_WIDTHS
    ) -> None:
        """Prepares batches of these examples, which are not copied, in at most `num_widths` widths; 0: what pays."""
        self.batch_size = grouping.batch_size
        self.steps_per_epoch = grouping.batches(len(examples))
        self._examples = examples
        self._grouping = grouping
        self._lengths, self._strata = examples.lengths(), find_strata(examples)
        self._seed = seed
        self._epoch = lru_cache(maxsize=2)(self._make_epoch)
        self.widths = self._choose_widths(num_widths)

    def rows(self, step: int, start: int, stop: int) -> TaskBatch:
        """Returns rows start:stop of the global batch of `step`.

        Both kinds of weights sum to 1 over a global batch or, where examples are spread, to the size of the batch
        divided by the mean size: a batch of one example less weighs that much less.
        """
        batch = self._batch(step)
        noise = hash_numbers(
            self._seed, step, np.arange(start, stop)[:, None], np.arange(self._examples.sequences)
        )
        update = np.full(stop - start, hash_numbers(self._seed, step))
        rows = assemble(self._examples, batch[start:stop], stop - start, self._width(batch), batch)
        share = self._grouping.share(len(batch), len(self._examples))
        weights, label_weights = (part * np.float32(share) for part in (rows.weights, rows.label_weights))
        return rows._replace(noise=noise, update=update, weights=weights, label_weights=label_weights)

    def sample(self, step: int) -> TaskBatch:
        """Returns one empty row with the shape of a step's batch."""
        none = np.zeros(0, np.int64)
        return assemble(self._examples, none, 1, self._width(self._batch(step)), none)

    def _batch(self, step: int) -> np.ndarray:
        """Returns the numbers of the examples in a step's batch."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._epoch(epoch)[index]

    def _width(self, batch: np.ndarray) -> int:
        return _smallest_width(self.widths, int(self._lengths[batch].max()))

    def _make_epoch(self, epoch: int) -> list[np.ndarray]:
        """Returns the numbers of the examples in each batch."""
        return self._grouping.epoch(self._lengths, self._strata, np.random.default_rng((self._seed, epoch)))

    def _choose_widths(self, num_widths: int) -> list[int]:
        # An epoch that no seed changes, so that runs of several seeds share their compiled programs.
        batches = self._grouping.epoch(self._lengths, self._strata, np.random.default_rng(0))
        longest = [int(self._lengths[batch].max()) for batch in batches]
        pools = self._grouping.rule == "pools"
        lengths = self._lengths if pools else np.array([*longest, self._lengths.max()])
        if num_widths:
            return choose_widths(lengths, num_widths)

        def cost(widths: list[int]) -> int:
            padded = sum(_smallest_width(widths, length) for length in longest)
            return _EPOCHS * padded + _COMPILING * len(widths) * widths[-1]

        return min((choose_widths(lengths, count) for count in range(1, NUM_WIDTHS + 1)), key=cost)


class TaskEvaluationBatches:
    """Every example once, in company of similar length."""

    def __init__(self, examples: EncodedExamples, batches: Sequence[Shared]) -> None:
        """Takes the examples, which are not copied, and which of them share a batch."""
        self.batches = batches
        self._examples = examples

    def rows(self, step: int, start: int, stop: int) -> TaskBatch:
        """Returns rows start:stop of batch `step`, without noise; rows that fill up a batch are padding."""
        numbers, _, width = self.batches[step]
        return assemble(self._examples, numbers[start:stop], stop - start, width, numbers)


def in_two_widths(lengths: np.ndarray, batch_size: int) -> list[Shared]:
    """Returns batches of N examples, sorted by length, as fine-tuning evaluates them: in two widths chosen for them."""
    order = np.argsort(lengths, kind="stable")
    widths = choose_widths(lengths, NUM_EVALUATION_WIDTHS)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [
        Shared(batch, batch_size, _smallest_width(widths, int(lengths[batch].max()))) for batch in batches
    ]


def choose_widths(lengths: np.ndarray, count: int = NUM_WIDTHS) -> list[int]:
    """Returns at most `count` widths, ascending, with the least padding when each example gets the next greater one.

    Dynamic programming over the multiples of 8 that occur finds them. No width exceeds the longest example, where the
    model's context may end.
    """
    rounded = np.minimum(-(-lengths // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE, lengths.max())
    candidates, counts = np.unique(rounded, return_counts=True)
    # The number of examples shorter than each candidate.
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j] is the number of tokens in all examples up to candidate j − 1, if that is the last of the chosen widths.
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
    examples: EncodedExamples, numbers: np.ndarray, rows: int, width: int, batch: np.ndarray
) -> TaskBatch:
    """Returns the rows of some examples and then padding up to `rows`, without noise.

    The weights follow the authors' reduction. The language model's loss is the mean over a sequence's targets, of which
    a completion has only its own, and then over all sequences of the batch's examples. The task's loss is the mean over
    the batch's labels: its examples, or its words, or the ends of its spans.

    Args:
        examples: the split.
        numbers: the numbers of the examples.
        rows, width: B and T of the arrays.
        batch: the numbers of the examples in the global batch.
    """
    sequences = examples.sequences
    tokens = np.zeros((rows, sequences, width + 1), np.int32)
    weights = np.zeros((rows, sequences, width), np.float32)
    found, known = examples.head_labels(numbers, width)
    labels = np.zeros((rows, *found.shape[1:]), np.float32)
    label_weights = np.zeros((rows, *known.shape[1:]), np.float32)
    for row, number in enumerate(numbers.tolist()):
        for s in range(sequences):
            ids = examples.sequence(number, s)
            tokens[row, s, : len(ids)] = ids
            first = examples.first_target(number)
            # A sequence of one token has none.
            count = max(len(ids) - 1 - first, 0)
            weights[row, s, first : first + count] = 1 / (max(count, 1) * sequences * len(batch))
    types = groups = None
    if examples.both_ways:
        types, groups = _types_and_groups(examples, numbers, rows, width)
    labels[: len(numbers)] = found
    label_weights[: len(numbers)] = known / max(examples.places()[batch].sum(), 1)
    noise = np.zeros((rows, sequences), np.uint32)
    inputs, targets = tokens[:, :, :-1], tokens[:, :, 1:]
    return TaskBatch(inputs, targets, weights, noise, noise[:, 0], labels, label_weights, types, groups)


def _types_and_groups(
    examples: EncodedExamples, numbers: np.ndarray, rows: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns token types, 1 in the second text of a sequence, and groups, −1 behind a sequence's end, [rows, S, T]."""
    assert examples.seconds is not None
    seconds, ends = np.zeros((2, rows, examples.sequences, 1), np.int32)
    seconds[: len(numbers), :, 0] = examples.seconds.reshape(len(examples), -1)[numbers]
    ends[: len(numbers), :, 0] = np.diff(examples.offsets).reshape(len(examples), -1)[numbers]
    places = np.arange(width, dtype=np.int32)
    inside = places < ends
    return ((places >= seconds) & inside).astype(np.int32), inside.astype(np.int32) - 1


def _smallest_width(widths: list[int], length: int) -> int:
    return next(width for width in widths if width >= length)
