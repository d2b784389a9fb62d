"""What every tokenizer can do, and how one is opened by its spec or loaded from a directory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import open_openai
from gpt1_jax.data.tokenizers.huggingface import load_huggingface, open_huggingface
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.disk.inputs import read_bytes
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

# The tokenizers that are trained on the source: each is a function of texts and the number of pieces.
_TRAINERS: dict[str, Callable[[Iterator[str], int], "Tokenizer"]] = {
    "sentencepiece": train_sentencepiece,
    "wordpiece": train_wordpiece,
    "byte_bpe": train_byte_bpe,
}
TRAINED = tuple(_TRAINERS)
TOKENIZER_FORMS = (
    f"{' or '.join(map(repr, TRAINED))} (trained on the source), 'sentencepiece:FILE.model', 'huggingface:DIR' (or a "
    "tokenizer.json) or 'openai:DIR' (GPT-1's own)"
)


class Tokenizer(Protocol):
    """Turns text into ids in [0, vocab_size) and back."""

    @property
    def vocab_size(self) -> int:
        """The number of pieces."""
        ...

    @property
    def end_id(self) -> int | None:
        """The piece that ends a document, or None if the tokenizer has none."""
        ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The pieces that BERT puts into sequences, by "cls", "sep", "mask" and "pad", as far as it has them."""
        ...

    @property
    def exact(self) -> bool:
        """Whether decoding gives back every text; a tokenizer that is not exact loses some characters."""
        ...

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text; names of special pieces in it are plain characters."""
        ...

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """Returns the ids of each text, int32 [N], as `encode` would."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of ids."""
        ...

    def fingerprint(self) -> str:
        """Returns a hash of everything that decides the ids."""
        ...

    def save(self, directory: epath.PathLike) -> None:
        """Makes the directory and writes everything into it that `load_tokenizer` needs."""
        ...


def open_tokenizer(spec: str) -> Tokenizer | None:
    """Opens the tokenizer that `data.tokenizer` names; returns None for one of `TRAINED`, which has yet to be trained.

    Raises:
        UserError: the spec has another form, or its files are missing or damaged.
    """
    kind, _, rest = spec.partition(":")
    if spec in TRAINED:
        return None
    if kind not in _OPENED or not rest:
        raise UserError(f"data.tokenizer={spec!r} is not a tokenizer; set it to {TOKENIZER_FORMS}.")
    opener, expected = _OPENED[kind]
    try:
        return opener(rest)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.tokenizer={spec!r} cannot be read ({error}); name {expected}.") from error


def train_tokenizer(kind: str, texts: Iterator[str], vocab_size: int) -> Tokenizer:
    """Trains a tokenizer of a kind of `TRAINED`; the same texts give the same tokenizer.

    Raises:
        UserError: the texts are empty, or `vocab_size` does not suit them.
    """
    return _TRAINERS[kind](texts, vocab_size)


def load_tokenizer(directory: epath.PathLike) -> Tokenizer:
    """Loads the tokenizer that `Tokenizer.save` wrote.

    Raises:
        UserError: it is missing or damaged.
    """
    directory = epath.Path(directory)
    try:
        described = json.loads((directory / "tokenizer.json").read_text())
        kind = described["kind"]
        if kind == "none":
            return NoTokenizer(described["vocab_size"])
        if kind == "openai":
            return open_openai(directory)
        if kind == "huggingface":
            return load_huggingface(directory)
        if kind != "sentencepiece":
            raise ValueError(f"unknown kind {kind!r}")
        return SentencePieceTokenizer((directory / "sentencepiece.model").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{directory} holds no tokenizer that can be loaded ({error}).") from error


def _open_sentencepiece(path: str) -> SentencePieceTokenizer:
    return SentencePieceTokenizer(read_bytes(expand(path, "data.tokenizer"), "data.tokenizer"))


# How the files of each kind are opened, and what they should be.
_OPENED: dict[str, tuple[Callable[[str], Tokenizer], str]] = {
    "sentencepiece": (_open_sentencepiece, "a SentencePiece .model file"),
    "openai": (
        open_openai,
        "a directory with GPT-1's two vocabulary files, as in the folder model/ of "
        "github.com/openai/finetune-transformer-lm",
    ),
    "huggingface": (
        open_huggingface,
        "a tokenizer.json or a directory with one, with GPT-2's vocab.json and merges.txt, or with BERT's vocab.txt",
    ),
}
