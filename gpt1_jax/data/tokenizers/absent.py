"""What stands for the tokenizer of a model that came without one: it counts the pieces and knows no text."""

import hashlib
import json
from collections.abc import Sequence
from typing import NoReturn

from etils import epath

from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.errors import UserError


class NoTokenizer:
    """So many pieces, none of which has a text."""

    end_id = None
    exact = False

    def __init__(self, vocab_size: int) -> None:
        """Raises ValueError where the number of pieces is none."""
        if type(vocab_size) is not int or vocab_size < 1:
            raise ValueError(f"its vocab_size is {vocab_size!r}, expected a whole number above 0")
        self.vocab_size = vocab_size

    def encode(self, text: str) -> NoReturn:
        """Raises UserError."""
        self._refuse()

    def encode_batch(self, texts: Sequence[str], threads: int) -> NoReturn:
        """Raises UserError."""
        self._refuse()

    def decode(self, ids: Sequence[int]) -> NoReturn:
        """Raises UserError."""
        self._refuse()

    def fingerprint(self) -> str:
        """A hash of the number of pieces."""
        return hashlib.sha256(f"no tokenizer of {self.vocab_size}".encode()).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes the number of pieces."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        described = {"kind": "none", "vocab_size": self.vocab_size}
        write_whole(directory / "tokenizer.json", json.dumps(described) + "\n")

    def _refuse(self) -> NoReturn:
        raise UserError(
            "This run has no tokenizer, since its model was converted from files without one, so that it reads and "
            "writes no text; convert it again with --tokenizer=openai:DIR or --tokenizer=sentencepiece:FILE.model."
        )
