"""What every tokenizer can do, and how one is opened by its spec or loaded from a directory."""

import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from etils import epath

from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import open_openai
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer
from gpt1_jax.disk.inputs import read_bytes
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

TOKENIZER_FORMS = (
    "'sentencepiece' (trained on the source), 'sentencepiece:FILE.model' or 'openai:DIR' (GPT-1's own)"
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
    """Opens the tokenizer that `data.tokenizer` names; returns None for `sentencepiece`, which has yet to be trained.

    Raises:
        UserError: the spec has another form, or its files are missing or damaged.
    """
    kind, _, rest = spec.partition(":")
    if spec == "sentencepiece":
        return None
    if kind not in ("sentencepiece", "openai") or not rest:
        raise UserError(f"data.tokenizer is {spec!r}: expected {TOKENIZER_FORMS}")
    if kind == "openai":
        try:
            return open_openai(rest)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"data.tokenizer is {spec!r}, which cannot be read ({error}): "
                "expected a directory with GPT-1's two vocabulary files, as in the folder model/ of "
                "github.com/openai/finetune-transformer-lm"
            ) from error
    content = read_bytes(expand(rest, "data.tokenizer"), "data.tokenizer")
    try:
        return SentencePieceTokenizer(content)
    except ValueError as error:
        raise UserError(
            f"data.tokenizer is {spec!r}, whose file cannot be read ({error}): "
            "expected a SentencePiece .model file"
        ) from error


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
        if kind != "sentencepiece":
            raise ValueError(f"unknown kind {kind!r}")
        return SentencePieceTokenizer((directory / "sentencepiece.model").read_bytes())
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{directory} holds no tokenizer that can be loaded ({error})") from error
