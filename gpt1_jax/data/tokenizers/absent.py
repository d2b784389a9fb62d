"""A stand-in for the tokenizer of a model that came without one: it knows the number of pieces, but no text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NoReturn

from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError


class NoTokenizer:
    """A vocabulary of a known size whose pieces have no text."""

    end_id = None
    exact = False

    def __init__(self, vocab_size: int) -> None:
        """Takes the number of pieces.

        Raises:
            ValueError: it is not a whole number above 0.
        """
        if type(vocab_size) is not int or vocab_size < 1:
            raise ValueError(f"its vocab_size is {vocab_size!r}, expected a whole number above 0")
        self.vocab_size = vocab_size
        self.special_ids: Mapping[str, int] = {}

    def encode(self, text: str) -> NoReturn:
        """Raises UserError, since there is no tokenizer."""
        self._refuse()

    def encode_batch(self, texts: Sequence[str], threads: int) -> NoReturn:
        """Raises UserError, since there is no tokenizer."""
        self._refuse()

    def decode(self, ids: Sequence[int]) -> NoReturn:
        """Raises UserError, since there is no tokenizer."""
        self._refuse()

    def fingerprint(self) -> str:
        """Returns a hash of the number of pieces."""
        return hashlib.sha256(f"no tokenizer of {self.vocab_size}".encode()).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes the number of pieces."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        described = {"kind": "none", "vocab_size": self.vocab_size}
        write_whole(directory / "tokenizer.json", json.dumps(described) + "\n")

    def _refuse(self) -> NoReturn:
        raise UserError(
            "This run has no tokenizer, because its model was converted from files without one, so it can neither read "
            "nor write text; convert it again with --tokenizer=openai:DIR or --tokenizer=sentencepiece:FILE.model."
        )
