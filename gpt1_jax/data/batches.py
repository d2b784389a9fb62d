"""Batches as a function of seed and step: without iterator state, any host can make its own rows of any step.

Shapes: B batch, S sequences per example (1 here), T positions, M of these.
"""

import math
from typing import NamedTuple

import numpy as np

from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import WHOLE, Documents
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers, index_shuffle
from gpt1_jax.wording import counted


class Batch(NamedTuple):
    """Rows of a global batch, as NumPy arrays.

    Attributes:
        tokens: int32 [B, S, T], the inputs.
        targets: int32 [B, S, T], the token after each input.
        weights: float32 [B, S, T], the weight of each target in the language-model loss.
        noise: uint32 [B, S], the seeds of the dropout masks.
        update: uint32 [B], in each row the same, the seed of masks that all sequences share.
        types: int32 [B, S, T], the token type of each input; None is 0 for all.
        groups: int32 [B, S, T], each input attends to those of its own group only; None is one group of all.
        places: int32 [B, S, M], the positions of all targets with a weight, each once, and of some without; None is all
            positions.
        positions: int32 [B, S, T], the position of each input as the model sees it; None is 0 to T − 1.
    """

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    noise: np.ndarray
    update: np.ndarray
    types: np.ndarray | None = None
    groups: np.ndarray | None = None
    places: np.ndarray | None = None
    positions: np.ndarray | None = None


class PretrainingBatches:
    """Windows of T training tokens: each epoch has every window once, in an order of its own.

    Example e = step · batch_size + row belongs to epoch e // n, and is window shuffle(e % n) of that epoch. The
    windows of an epoch lie end to end, beginning at an offset in [0, T) that is also drawn for each epoch. Batches
    run across the borders of epochs, so no example is dropped.
    """

    def __init__(
        self,
        split: Split,
        *,
        seed: int,
        batch_size: int,
        context_length: int,
        around: int = 0,
        documents: Documents = WHOLE,
    ) -> None:
        """Checks that the stream is long enough.

        Args:
            split: the training tokens.
            seed: decides the order.
            batch_size: B.
            context_length: the model's positions.
            around: how many of these are for other than the stream's tokens, which are T.
            documents: how the documents of a window are treated.

        Raises:
            UserError: the stream has fewer than 2 T tokens.
        """
        given, context_length = context_length, context_length - around
        if len(split) < 2 * context_length:
            raise UserError(
                f"model.context_length={given} is too long for the {counted(len(split), 'training token')} of "
                f"data.source; set at most {len(split) // 2 + around}, or add text."
            )
        self.batch_size = batch_size
        self.context_length = context_length
        self.examples_per_epoch = (len(split) - context_length) // context_length
        self._split = split
        self._seed = seed
        self._documents = documents

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Returns rows start:stop of the global batch of `step`.

        The weights of a global batch sum to 1, or to less by those of documents that are left out.
        """
        starts = self.starts(step, start, stop)
        windows = _read_windows(self._split, starts, self.context_length)
        tokens, targets = windows[:, None, :-1], windows[:, None, 1:]
        weights = np.full(windows[:, 1:].shape, 1 / (self.batch_size * self.context_length), np.float32)
        weights = self._documents.weigh(weights, starts[:, None] + np.arange(1, self.context_length + 1))
        noise = hash_numbers(self._seed, step, np.arange(start, stop)[:, None], np.arange(1))
        update = np.full(stop - start, hash_numbers(self._seed, step))
        groups, positions = self._documents.read(tokens)
        return Batch(tokens, targets, weights[:, None], noise, update, groups=groups, positions=positions)

    def starts(self, step: int, start: int, stop: int) -> np.ndarray:
        """Returns where in the stream the windows of rows start:stop of a step begin, int64 [B]."""
        epochs, indices = np.divmod(step * self.batch_size + np.arange(start, stop), self.examples_per_epoch)
        offsets = hash_numbers(self._seed, epochs, 0) % self.context_length
        windows = [
            index_shuffle(int(index), max_index=self.examples_per_epoch - 1, seed=int(seed), rounds=4)
            for index, seed in zip(indices, hash_numbers(self._seed, epochs, 1), strict=True)
        ]
        return offsets + np.array(windows, np.int64) * self.context_length


class EvaluationBatches:
    """Disjoint windows of T tokens and a shorter last one: every token but the first is a target once.

    The order is shuffled, always in the same way, so that the first batches, however many, are a fair sample.
    """

    def __init__(
        self, split: Split, *, batch_size: int, context_length: int, documents: Documents = WHOLE
    ) -> None:
        """Checks that the stream is long enough.

        Raises:
            UserError: the stream has fewer than 2 tokens.
        """
        if len(split) < 2:
            raise UserError(
                f"data.source gives {counted(len(split), 'validation token')}, expected 2 or more; add text."
            )
        self.batch_size = batch_size
        self.context_length = context_length
        self.num_examples = math.ceil((len(split) - 1) / context_length)
        self.num_batches = math.ceil(self.num_examples / batch_size)
        self.tokens = len(split)
        self._split = split
        self._documents = documents

    def starts(self, step: int, start: int, stop: int) -> np.ndarray:
        """Returns where in the stream the windows of rows start:stop of batch `step` begin, int64 [B]."""
        examples = range(step * self.batch_size + start, step * self.batch_size + stop)
        return np.array([self._locate(example) for example in examples], np.int64)

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Returns rows start:stop of batch `step` < num_batches; weights are 1, or 0 for padding; noise is 0."""
        starts = self.starts(step, start, stop)
        windows = _read_windows(self._split, starts, self.context_length)
        positions = starts[:, None] + np.arange(1, self.context_length + 1)
        weights = (positions < len(self._split)).astype(np.float32)
        noise = np.zeros((len(starts), 1), np.uint32)
        tokens, targets = windows[:, None, :-1], windows[:, None, 1:]
        groups, positions = self._documents.read(tokens)
        return Batch(
            tokens, targets, weights[:, None], noise, noise[:, 0], groups=groups, positions=positions
        )

    def _locate(self, example: int) -> int:
        """Returns where in the stream an example's window begins: at the end for a row that only fills the batch."""
        if example >= self.num_examples:
            return len(self._split)
        return index_shuffle(example, max_index=self.num_examples - 1, seed=0, rounds=4) * self.context_length


def _read_windows(split: Split, starts: np.ndarray, context_length: int) -> np.ndarray:
    """Returns the T inputs from each start and the last target, int32 [B, T + 1], with 0 beyond the end."""
    windows = np.zeros((len(starts), context_length + 1), np.int32)
    for window, start in zip(windows, starts.tolist(), strict=True):
        tokens = split.read(start, start + context_length + 1)
        window[: len(tokens)] = tokens
    return windows
