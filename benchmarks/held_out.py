"""Bits per byte of simple models on the held-out text of a run: python -m benchmarks.held_out [--source=demo].

Give it the `data.source` and `data.vocab_size` of a run's config, and its figures are over the same tokens and bytes as
the run's `bits_per_byte`. The whole text is held in memory.

`xz` finds any text again that it has seen, however far back. The other models here, like every model with a context
window, look no further than their context.
"""

import json
import lzma

import numpy as np
from absl import flags

from gpt1_jax.config import DataConfig
from gpt1_jax.data.corpus import Corpus, prepare
from gpt1_jax.data.sources import Source, SplitName, open_source, read_documents
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.wording import counted

_SOURCE = flags.DEFINE_string("source", "demo", "the text, as data.source of a config")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 4096, "sentencepiece pieces, as data.vocab_size", 1)
_CACHE_DIR = flags.DEFINE_string("cache_dir", "~/.cache/gpt1_jax", "tokenized corpora, as data.cache_dir")

_XZ_DICTIONARY = 2**26  # of `xz -9`
_MAX_BYTES = 2**30  # a dictionary of this size takes xz 11 GB of memory; its limit is 1.5 times this


def main(_: list[str]) -> None:
    """Prints the table and, as the last line, the same in JSON."""
    source, vocab_size = _SOURCE.value, _VOCAB_SIZE.value
    data = DataConfig(source, "sentencepiece", vocab_size, _CACHE_DIR.value, tfds_dir=None)
    corpus = prepare(data)
    size = corpus.train.bytes + corpus.validation.bytes
    if size > _MAX_BYTES:
        raise UserError(
            f"--source={source} has {counted(size, 'byte')} of text, more than the {_MAX_BYTES:,} that these models "
            "can take; name a part of it."
        )
    bits = measure_xz(open_source(source)) | measure_token_models(corpus)
    rows = {name: total / corpus.validation.bytes for name, total in bits.items()}

    print(
        f"{source}: {counted(corpus.train.bytes, 'byte')} ({counted(len(corpus.train), 'token')}) of training text, "
        f"{counted(corpus.validation.bytes, 'byte')} ({counted(len(corpus.validation), 'token')}) held out\n"
    )
    print(f"{'model':40}  bits per byte")
    for name, value in rows.items():
        print(f"{name:40}  {value:13.3f}")
    facts = {
        "source": source,
        "vocab_size": vocab_size,
        "corpus": corpus.fingerprint,
        "validation_bytes": corpus.validation.bytes,
        "validation_tokens": len(corpus.validation),
        "bits_per_byte": rows,
    }
    print("\n" + json.dumps(facts))


# ── xz on bytes ──────────────────────────────────────────────────────────────────────────────────────────────


def measure_xz(source: Source) -> dict[str, float]:
    """Returns the bits that `xz` makes of the held-out text, alone and behind the training text."""
    train, documents = b"".join(_read(source, "train")), _read(source, "validation")
    validation = b"".join(documents)
    return {
        "xz -9, each document alone": 8 * sum(map(xz_size, documents)),
        "xz -9, held-out text alone": 8 * xz_size(validation),
        "xz -9, given the training text": 8 * (xz_size(train + validation) - xz_size(train)),
    }


def xz_size(data: bytes) -> int:
    """Returns the size of `data` after `xz -9 --extreme`, with a dictionary as large as the data if that is larger."""
    dictionary = max(_XZ_DICTIONARY, len(data))
    preset = 9 | lzma.PRESET_EXTREME
    lzma2 = {"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": dictionary}
    return len(lzma.compress(data, filters=[lzma2]))


def _read(source: Source, split: SplitName) -> list[bytes]:
    """Returns the documents of `split`, each closed by a zero byte, as the end piece closes it for the other models."""
    return [document.encode() + b"\0" for document in read_documents(source, split)]


# ── Models of tokens ─────────────────────────────────────────────────────────────────────────────────────────


def measure_token_models(corpus: Corpus) -> dict[str, float]:
    """Returns −Σ log2 p of the held-out tokens after the first, under models of the training tokens."""
    train = corpus.train.read(0, len(corpus.train))
    validation = corpus.validation.read(0, len(corpus.validation))
    vocab_size = corpus.tokenizer.vocab_size
    unigram = unigram_probabilities(train, vocab_size)[validation[1:]]
    trigram = KneserNey(train, vocab_size, order=3).probabilities(make_windows(validation, 3, vocab_size))
    return {
        "unigram of tokens, add-one": -float(np.log2(unigram).sum()),
        "trigram of tokens, Kneser-Ney": -float(np.log2(trigram).sum()),
    }


def unigram_probabilities(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Returns p(w) = (c(w) + 1) / (N + V) from tokens [N]: float64 [V]."""
    counts = np.bincount(tokens, minlength=vocab_size) + 1
    return counts / counts.sum()


def make_windows(tokens: np.ndarray, order: int, vocab_size: int) -> np.ndarray:
    """Every token but the first as the last of its window, int [N] → int [N - 1, order], for orders from 2.

    What lies before the stream is `vocab_size`, a token that is never predicted.
    """
    padding = np.full(order - 2, vocab_size, tokens.dtype)
    return np.lib.stride_tricks.sliding_window_view(np.concatenate([padding, tokens]), order)


class KneserNey:
    """The interpolated Kneser-Ney model of n-grams: a proper distribution after any context.

    Chen and Goodman (1999), "An empirical study of smoothing techniques for language modeling". With h'
    the context h without its first token, and down to the uniform p_0(w) = 1 / V,

        p_n(w | h) = (max(c(h w) − D, 0) + D · |{v: c(h v) > 0}| · p_{n−1}(w | h')) / Σ_v c(h v),

    which is p_{n−1}(w | h') after a context that was never seen. c(h w) is a count at the highest order, and
    below it the number of different tokens seen before h w. D = n1 / (n1 + 2 n2), for each order, from
    the numbers n1 and n2 of its n-grams with c = 1 and c = 2; where n1 = 0 it is ½, for with D = 0 what was
    never seen would have no probability.

    An n-gram is packed into one int64, in base V + 1, the first token in the highest place: this fits
    trigrams of up to two million different tokens.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int, order: int) -> None:
        """Counts the n-grams of tokens [N ≥ order], each in [0, V)."""
        self._vocab_size = vocab_size
        self._orders: list[_Order] = []  # from 1 to `order`
        keys = _pack(np.lib.stride_tricks.sliding_window_view(tokens, order), vocab_size + 1)
        for n in range(order, 0, -1):
            grams, counts = np.unique(keys, return_counts=True)
            self._orders.insert(0, _Order(grams, counts, vocab_size + 1))
            keys = grams % (vocab_size + 1) ** (n - 1)  # of each different n-gram all but its first token

    def probabilities(self, windows: np.ndarray) -> np.ndarray:
        """Returns p(last token | the tokens before it) of each window, int [N, order] → float64 [N]."""
        result = np.full(len(windows), 1 / self._vocab_size)
        for n, order in enumerate(self._orders, start=1):
            result = order.interpolate(_pack(windows[:, -n:], self._vocab_size + 1), result)
        return result


class _Order:
    """The counts of one order: G n-grams after C contexts."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray, base: int) -> None:
        """Takes packed n-grams in order, int64 [G], and how often each occurs, int64 [G]."""
        self._grams, self._counts, self._base = grams, counts, base
        self._contexts, starts = np.unique(grams // base, return_index=True)  # int64 [C], sorted like grams
        self._totals = np.add.reduceat(counts, starts)  # [C], Σ_v c(h v)
        self._followers = np.diff(starts, append=len(grams))  # [C], |{v: c(h v) > 0}|
        ones, twos = np.sum(counts == 1), np.sum(counts == 2)
        self._discount = ones / (ones + 2 * twos) if ones else 0.5

    def interpolate(self, grams: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Returns p_n of packed n-grams from their p_{n−1}: int64 [N], float64 [N] → float64 [N]."""
        contexts = grams // self._base
        total = _look_up(self._contexts, self._totals, contexts)
        followers = _look_up(self._contexts, self._followers, contexts)
        count = _look_up(self._grams, self._counts, grams)
        kept = np.maximum(count - self._discount, 0)
        interpolated = (kept + self._discount * followers * lower) / np.maximum(total, 1)
        return np.where(total > 0, interpolated, lower)


def _pack(windows: np.ndarray, base: int) -> np.ndarray:
    """Returns each row as one number, its first token in the highest place: int [N, n] → int64 [N]."""
    packed = np.zeros(len(windows), np.int64)
    for column in windows.T:
        packed = packed * base + column
    return packed


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns the value of each wanted key, or 0: sorted keys [K], values [K], wanted [N] → [N]."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)


if __name__ == "__main__":
    door(main)
