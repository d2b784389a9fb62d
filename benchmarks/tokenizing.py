"""How fast text becomes ids: python -m benchmarks.tokenizing [--vocabulary=DIR] [--source=text:GLOB] [--threads=N].

`byte_bpe` of a published vocabulary (GPT-2's files in DIR) or trained on the source, beside OpenAI's tiktoken with the
same pieces, if it is installed, which must find the same ids; and `sentencepiece` and `wordpiece`, trained on the
source. Sides take turns, after a round that warms up; medians, and the range.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
from absl import flags

from benchmarks.timing import conclude, measure
from gpt1_jax.data.sources import open_source, read_documents
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer, open_huggingface
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.door import door
from gpt1_jax.errors import Fault

_VOCABULARY = flags.DEFINE_string("vocabulary", None, "a directory with GPT-2's files; by default trained")
_SOURCE = flags.DEFINE_string("source", "demo", "the text, as data.source of a config")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 8192, "pieces of what is trained", 300)
_MEGABYTES = flags.DEFINE_float("megabytes", 10.0, "the most text, in millions of characters", 0.001)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "of every side", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "of timing", 1)

# GPT-2's, with possessive counts, as tiktoken writes it.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    documents = list(_read())
    size = sum(len(text.encode()) for text in documents)
    pieces = _VOCAB_SIZE.value
    bytes_ = (
        open_huggingface(_VOCABULARY.value) if _VOCABULARY.value else train_byte_bpe(iter(documents), pieces)
    )
    tokenizers = {
        "byte_bpe": bytes_,
        "sentencepiece": train_sentencepiece(iter(documents), pieces),
        "wordpiece": train_wordpiece(iter(documents), pieces),
    }
    sides: dict[str, Callable[[], Any]] = {
        name: lambda one=one: one.encode_batch(documents, _THREADS.value) for name, one in tokenizers.items()
    }
    if (theirs := _tiktoken(bytes_, documents)) is not None:
        sides["tiktoken"] = theirs
        for ours, other in zip(sides["byte_bpe"](), theirs(), strict=True):
            if not np.array_equal(ours, other):
                raise Fault("tiktoken finds other ids than byte_bpe.")
    rows = measure(sides, _ROUNDS.value, size / 1e6, "MB")
    for row in rows:
        print(row)
    conclude(
        source=_SOURCE.value,
        threads=_THREADS.value,
        vocab_size=bytes_.vocab_size,
        documents=len(documents),
        bytes=size,
        rows=[asdict(row) for row in rows],
    )


def _read() -> Iterator[str]:
    """Yields training documents of the source, until there is enough."""
    left = int(_MEGABYTES.value * 1e6)
    for text in read_documents(open_source(_SOURCE.value or "demo"), "train"):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _tiktoken(tokenizer: HuggingFaceTokenizer, documents: list[str]) -> Callable[[], Any] | None:
    """Returns a function that encodes the documents with tiktoken and the same pieces, if it is installed."""
    try:
        import tiktoken  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    (name,) = {"vocab.json", "encoder.json"} & tokenizer.files.keys()
    # The characters that stand for bytes: those that print stand for themselves.
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    spelled = {chr(byte): byte for byte in printed} | {chr(256 + n): byte for n, byte in enumerate(others)}
    special = {id for id in (tokenizer.end_id, *tokenizer.special_ids.values()) if id is not None}
    ranks = {
        bytes(map(spelled.__getitem__, piece)): id
        for piece, id in json.loads(tokenizer.files[name]).items()
        if id not in special
    }
    encoding = tiktoken.Encoding("ours", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={})
    return lambda: encoding.encode_ordinary_batch(documents, num_threads=_THREADS.value)


if __name__ == "__main__":
    door(main, fields={"data.source": "source", "data.vocab_size": "vocab_size"})
