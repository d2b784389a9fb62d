"""How fast text becomes ids: python -m benchmarks.tokenizing [--vocabulary=DIR] [--openai=DIR] [--source=text:GLOB].

Each of our tokenizers stands beside the libraries that find the same ids, which is checked: `byte_bpe` of a published
vocabulary (GPT-2's files in DIR) or trained on the source, beside Hugging Face's tokenizers and, if it is installed,
OpenAI's tiktoken; `wordpiece` and `sentencepiece`, trained on the source, beside the libraries that they are made of;
and `openai:DIR` beside transformers, whose ids differ. "New" is a text none of whose words was met before. Sides take
turns, after a round that warms up; medians, and the range. How long training took is told too.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
from absl import flags

from benchmarks.timing import conclude, measure
from gpt1_jax.data.sources import open_source, read_documents
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer, open_openai
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer, open_huggingface
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.door import door
from gpt1_jax.errors import Fault

_VOCABULARY = flags.DEFINE_string("vocabulary", None, "a directory with GPT-2's files; by default trained")
_OPENAI = flags.DEFINE_string("openai", None, "a directory with GPT-1's files; without it that is left out")
_SOURCE = flags.DEFINE_string("source", "demo", "the text, as data.source of a config")
_VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 8192, "pieces of what is trained", 300)
_MEGABYTES = flags.DEFINE_float("megabytes", 10.0, "the most text, in millions of characters", 0.001)
_THREADS = flags.DEFINE_integer("threads", os.cpu_count() or 1, "of every side", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "of timing", 1)

# GPT-2's, with possessive counts, as tiktoken writes it.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

Encode = Callable[[list[str]], list[Any]]


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    documents = list(_read())
    size = sum(len(text.encode()) for text in documents) / 1e6
    trained: dict[str, float] = {}

    def train(name: str, trainer: Callable[[Iterator[str], int], Any]) -> Any:
        began = time.perf_counter()
        tokenizer = trainer(iter(documents), _VOCAB_SIZE.value)
        trained[name] = size / (time.perf_counter() - began)
        print(f"training of {name:24} {trained[name]:.2f} MB/s", flush=True)
        return tokenizer

    bytes_ = open_huggingface(_VOCABULARY.value) if _VOCABULARY.value else train("byte_bpe", train_byte_bpe)
    words, pieces = train("wordpiece", train_wordpiece), train("sentencepiece", train_sentencepiece)
    families: list[tuple[str, Callable[[], Any], dict[str, Encode | None]]] = [
        (
            "byte_bpe",
            lambda: HuggingFaceTokenizer(bytes_.files),
            {"tokenizers": _library(bytes_), "tiktoken": _tiktoken(bytes_)},
        ),
        ("wordpiece", lambda: HuggingFaceTokenizer(words.files), {"tokenizers": _library(words)}),
        (
            "sentencepiece",
            lambda: SentencePieceTokenizer(pieces.model),
            {"its library": _sentencepiece(pieces)},
        ),
    ]
    rows = [row for family in families for row in _compare(documents, size, *family)]
    if _OPENAI.value:
        published = open_openai(_OPENAI.value)
        make = lambda: OpenAITokenizer(published.encoder, published.merges)  # noqa: E731
        rows += _compare(
            documents, size, "openai", make, {"transformers": _transformers(published)}, same=False
        )
    conclude(
        source=_SOURCE.value,
        threads=_THREADS.value,
        vocab_size=bytes_.vocab_size,
        documents=len(documents),
        megabytes=size,
        training=trained,
        rows=[asdict(row) for row in rows],
    )


def _compare(
    documents: list[str],
    size: float,
    name: str,
    make: Callable[[], Any],
    others: dict[str, Encode | None],
    same: bool = True,
) -> list[Any]:
    """Returns the measurements of a tokenizer that knows the words, of new ones, and of others.

    Raises:
        Fault: others find other ids, and they should find the same.
    """
    known = make()
    # A turn is two calls.
    fresh = iter([make() for _ in range(2 * _ROUNDS.value)])
    sides: dict[str, Callable[[], Any]] = {
        name: lambda: known.encode_batch(documents, _THREADS.value),
        f"{name}, new": lambda: next(fresh).encode_batch(documents, _THREADS.value),
    }
    ours = sides[name]()
    for other, encode in others.items():
        if encode is None:
            continue
        if same and not all(map(np.array_equal, ours, encode(documents))):
            raise Fault(f"{other} finds other ids than {name}.")
        sides[f"{name}: {other}"] = lambda encode=encode: encode(documents)
    rows = measure(sides, _ROUNDS.value, size, "MB")
    for row in rows:
        print(row, flush=True)
    return rows


def _read() -> Iterator[str]:
    """Yields training documents of the source, until there is enough."""
    left = int(_MEGABYTES.value * 1e6)
    for text in read_documents(open_source(_SOURCE.value or "demo"), "train"):
        yield text[:left]
        left -= len(text)
        if left <= 0:
            return


def _shared(encode: Callable[[str], Any]) -> Encode:
    """Returns a function that encodes texts with the threads that all sides have."""

    def encode_all(texts: list[str]) -> list[Any]:
        with ThreadPoolExecutor(_THREADS.value) as pool:
            return [*pool.map(encode, texts)]

    return encode_all


def _library(tokenizer: HuggingFaceTokenizer) -> Encode:
    """Returns what Hugging Face's library does by itself with the same pieces."""
    library = tokenizers.Tokenizer.from_str(tokenizer.described())
    library.encode_special_tokens = True
    return _shared(lambda text: library.encode(text, add_special_tokens=False).ids)


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> Encode:
    """Returns what SentencePiece does by itself with the same pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    return lambda texts: processor.encode(texts, num_threads=_THREADS.value)


def _transformers(published: OpenAITokenizer) -> Encode | None:
    """Returns a function that encodes texts with transformers' GPT-1, if it is installed."""
    try:
        from transformers import OpenAIGPTTokenizer
    except ImportError:
        return None
    merges = published.merges.decode().rstrip("\n").split("\n")[1:]
    # It says that it takes lines, and takes pairs alone.
    pairs: Any = [tuple(line.split()) for line in merges]
    theirs = OpenAIGPTTokenizer(json.loads(published.encoder), pairs)
    return _shared(lambda text: theirs(text)["input_ids"])


def _tiktoken(tokenizer: HuggingFaceTokenizer) -> Encode | None:
    """Returns a function that encodes texts with tiktoken and the same pieces, if it is installed."""
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
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=_THREADS.value)


if __name__ == "__main__":
    door(main, fields={"data.source": "source", "data.vocab_size": "vocab_size"})
