"""Batches of a masked language model (BERT): some pieces of a window are hidden, and these are to be found.

A window is [CLS], T − 2 tokens of the stream, [SEP]. Of its pieces 15 % are chosen; of these 80 % become [MASK], 10 %
another piece, and 10 % stay. Like all batches, they are a function of (seed, step).

Letters: B batch, S sequences per example (1 here), T positions, N = T − 2 tokens of the stream, M chosen pieces at
most, V pieces.
"""

from dataclasses import dataclass

import numpy as np

from gpt1_jax.data.batches import Batch, EvaluationBatches, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import WHOLE, Documents
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import hash_numbers

CHOSEN = 0.15
# Of the chosen pieces, the share that is masked, and the share that is masked or replaced.
_MASKED, _CHANGED = 0.8, 0.9
# [CLS] and [SEP] around a window.
AROUND = 2
# The group of padding, which attends to itself alone.
_PADDING = -1
# What a hash is for, as its last number.
_ORDER, _FATE, _PIECE = range(3)


def most_chosen(context_length: int) -> int:
    """Returns how many pieces are chosen at most, each alone, of a window of `context_length` positions: M."""
    return _share(context_length - AROUND)


@dataclass(frozen=True, eq=False)
class Masking:
    """How a tokenizer's pieces are hidden.

    Attributes:
        cls, sep, mask, pad: the special pieces.
        ordinary: int32 [·], the pieces that may replace others: all but special ones.
        special: bool [V], the pieces that are never chosen.
        continues: bool [V], whether a piece goes on a word that another has begun; None if pieces are hidden alone.
        closes: bool [V], whether a word ends with a piece, whatever follows.
    """

    cls: int
    sep: int
    mask: int
    pad: int
    ordinary: np.ndarray
    special: np.ndarray
    continues: np.ndarray | None
    closes: np.ndarray

    @classmethod
    def of(cls, tokenizer: Tokenizer, whole_words: bool) -> "Masking":
        """Returns the masking of a tokenizer's pieces, of each alone or of whole words.

        Raises:
            UserError: the tokenizer has no piece to mask with.
        """
        ids = tokenizer.special_ids
        if missing := [role for role in ("cls", "sep", "mask") if role not in ids]:
            raise UserError(
                f"model.causal=False fills masks, and the tokenizer has no piece [{missing[-1].upper()}]; set "
                "data.tokenizer to wordpiece, byte_bpe or huggingface:DIR of a BERT."
            )
        # Only tokenizers of that library have such pieces.
        assert isinstance(tokenizer, HuggingFaceTokenizer)
        special = np.zeros(tokenizer.vocab_size, bool)
        special[[*ids.values(), *tokenizer.unspoken]] = True
        continues, closes = tokenizer.words()
        return cls(
            cls=ids["cls"],
            sep=ids["sep"],
            mask=ids["mask"],
            pad=ids.get("pad", ids["sep"]),
            ordinary=np.flatnonzero(~special).astype(np.int32),
            special=special,
            continues=continues & ~special if whole_words else None,
            closes=closes | special,
        )

    def choose(self, text: np.ndarray, order: np.ndarray) -> np.ndarray:
        """Returns which pieces of a window are chosen, bool [N]: whole words in random order, up to 15 % of the pieces.

        Args:
            text: int32 [N], the tokens of a window.
            order: uint32 [N], a random number for each; the one of a word's first piece counts.
        """
        chosen = np.zeros(len(text), bool)
        may = ~self.special[text]
        begins = np.ones(len(text), bool)
        if self.continues is not None:
            begins[1:] = ~self.continues[text[1:]] | self.closes[text[:-1]]
        # Where each word ends: where the next begins.
        firsts = np.flatnonzero(begins)
        words = np.stack([firsts, np.append(firsts, len(text))[1:]], 1)[may[firsts]]
        most, count = _share(int(may.sum())), 0
        for first, end in words[np.argsort(order[words[:, 0]], kind="stable")].tolist():
            # As in BERT's program, a word that is too long for what is left is passed over, unless it is the first.
            if count and count + end - first > most:
                continue
            chosen[first:end] = True
            count += end - first
            if count >= most:
                break
        return chosen

    def hide(self, text: np.ndarray, fate: np.ndarray, piece: np.ndarray) -> np.ndarray:
        """Returns what stands in the place of chosen pieces, int32, given two random numbers for each, uint32."""
        share = fate / 2**32
        other = self.ordinary[piece % len(self.ordinary)]
        return np.where(share < _MASKED, self.mask, np.where(share < _CHANGED, other, text)).astype(np.int32)

    def make(
        self,
        text: np.ndarray,
        lengths: np.ndarray,
        numbers: tuple[int | np.ndarray, ...],
        documents: Documents,
    ) -> Batch:
        """Returns windows with some pieces hidden; weights are 1 there and 0 elsewhere, and the noise is 0.

        Args:
            text: int32 [B, N].
            lengths: int64 [B], how many tokens of each row are text; the rest is padding.
            numbers: what the random numbers of each position are made from, broadcast to [B, N].
            documents: how the documents of a window are treated.
        """
        rows, size = text.shape
        order, fate, piece = (
            np.broadcast_to(hash_numbers(*numbers, use), text.shape) for use in (_ORDER, _FATE, _PIECE)
        )
        tokens = np.full((rows, size + AROUND), self.pad, np.int32)
        tokens[:, 0] = self.cls
        targets, weights = tokens.copy(), np.zeros(tokens.shape, np.float32)
        # Places that are left over are [CLS], whose weight is 0. A whole word may be longer than the share.
        places = np.zeros((rows, most_chosen(size + AROUND)), np.int32) if self.continues is None else None
        groups, positions = np.full(tokens.shape, _PADDING, np.int32), np.zeros(tokens.shape, np.int32)
        for row, length in enumerate(lengths.tolist()):
            own = text[row, :length]
            chosen = self.choose(own, order[row, :length])
            hidden = self.hide(own, fate[row, :length], piece[row, :length])
            tokens[row, 1 : length + 1] = np.where(chosen, hidden, own)
            targets[row, 1 : length + 1] = own
            tokens[row, length + 1] = targets[row, length + 1] = self.sep
            weights[row, 1 : length + 1] = chosen
            if places is not None:
                places[row, : np.count_nonzero(chosen)] = 1 + np.flatnonzero(chosen)
            real = slice(length + AROUND)
            groups[row, real], positions[row, real] = documents.enclosed(own)
        noise = np.zeros((rows, 1), np.uint32)
        return Batch(
            tokens[:, None],
            targets[:, None],
            weights[:, None],
            noise,
            noise[:, 0],
            groups=groups[:, None],
            places=None if places is None else places[:, None],
            positions=positions[:, None] if documents.restart else None,
        )


def _share(pieces: int) -> int:
    """Returns how many of some pieces are chosen."""
    return max(1, round(CHOSEN * pieces))


class MaskedBatches:
    """Training windows with some pieces hidden, drawn like those of `PretrainingBatches`.

    Every window has the same share of the loss, and each chosen piece the same share of its window's.

    Attributes:
        windows: the tokens between [CLS] and [SEP].
    """

    def __init__(
        self,
        split: Split,
        masking: Masking,
        *,
        seed: int,
        batch_size: int,
        context_length: int,
        documents: Documents = WHOLE,
    ) -> None:
        """Checks that the stream is long enough.

        Raises:
            UserError: the stream has fewer than 2 N tokens.
        """
        self.windows = PretrainingBatches(
            split, seed=seed, batch_size=batch_size, context_length=context_length, around=AROUND
        )
        self.batch_size = batch_size
        self.examples_per_epoch = self.windows.examples_per_epoch
        self._masking, self._documents = masking, documents
        self._seed = seed

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Returns rows start:stop of the global batch of `step`; weights sum as in `PretrainingBatches.rows`."""
        windows = self.windows.rows(step, start, stop)
        text = windows.tokens[:, 0]
        rows, positions = np.arange(start, stop)[:, None], np.arange(text.shape[1])
        batch = self._masking.make(
            text, np.full(len(text), text.shape[1]), (self._seed, step, rows, positions), self._documents
        )
        shares = np.maximum(batch.weights.sum(-1, keepdims=True), 1) * self.batch_size
        weights = batch.weights / shares
        places = self.windows.starts(step, start, stop)[:, None] + np.arange(text.shape[1])
        weights[:, 0, 1:-1] = self._documents.weigh(weights[:, 0, 1:-1], places)
        return batch._replace(
            weights=weights,
            noise=windows.noise,
            update=windows.update,
            groups=batch.groups if self._documents.apart else None,
        )


class MaskedEvaluationBatches:
    """Disjoint windows of N tokens and a shorter last one, in the order of `EvaluationBatches`.

    What is hidden depends on the tokens and their place in the stream alone, so it is the same at every evaluation, for
    every batch size, on every mesh.
    """

    def __init__(
        self,
        split: Split,
        masking: Masking,
        *,
        batch_size: int,
        context_length: int,
        documents: Documents = WHOLE,
    ) -> None:
        """Checks that the stream is long enough.

        Raises:
            UserError: the stream has fewer than 2 tokens.
        """
        self.windows = EvaluationBatches(split, batch_size=batch_size, context_length=context_length - AROUND)
        self.batch_size = batch_size
        self.num_examples = self.windows.num_examples
        self.num_batches = self.windows.num_batches
        self._masking, self._documents = masking, documents

    def rows(self, step: int, start: int, stop: int) -> Batch:
        """Returns rows start:stop of batch `step` < num_batches; weights are 1 or 0; noise is 0."""
        windows, starts = self.windows.rows(step, start, stop), self.windows.starts(step, start, stop)
        text = windows.tokens[:, 0]
        places = starts[:, None] + np.arange(text.shape[1])
        lengths = np.clip(self.windows.tokens - starts, 0, text.shape[1])
        return self._masking.make(text, lengths, (0, places & 0xFFFFFFFF, places >> 32), self._documents)
