"""The tokenizer of the published GPT-1, in two files: one maps pieces to ids, the other lists merges of pieces."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from etils import epath

from gpt1_jax.data.tokenizers.gpt1_words import Words, cut
from gpt1_jax.data.tokenizers.gpt1_workers import EncodingProcesses
from gpt1_jax.disk.inputs import read_bytes
from gpt1_jax.disk.paths import expand
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.wording import counted

OPENAI_FILES = ("encoder_bpe_40000.json", "vocab_40000.bpe")
# Hugging Face publishes the same two files under other names.
HUGGING_FACE_FILES = ("vocab.json", "merges.txt")

# Until this much text has come, starting workers would cost more than it saves.
_ALONE_CHARACTERS = 2**25
_MOST_WORKERS = 16

# Decoding drops these spaces, which makes the text easier to read; encoding puts them back, so the ids stay the same.
_NEEDLESS_SPACE = re.compile(
    r"""
      (?<=\S)\ (?=([,;!?)])(?<!\1\ \1))
    | (?<=\()\ (?=[^\s(])
    | (?:(?<=[^\W_]{2})(?<!\bco)(?<!\bvs) | (?<=n't) | (?<=[a-z]\ 's))\ (?=\.(?!\S))
    | (?<=[^\W_])\ (?=(?: : | 's | n't)(?!\S))
    | (?:(?<=\bi) | (?<=\b(?:he|it|we)) | (?<=\b(?:she|you)) | (?<=\bthey))\ (?='(?:d|ll|m|re|ve)(?!\S))
    """,
    re.VERBOSE,
)


def open_openai(directory: epath.PathLike) -> "OpenAITokenizer":
    """Reads the two files from a directory, under OpenAI's names or Hugging Face's.

    Raises:
        OSError: the files are missing or cannot be read.
        ValueError: a file is damaged, or the two do not fit each other.
    """
    directory = expand(directory, "data.tokenizer")
    for names in (OPENAI_FILES, HUGGING_FACE_FILES):
        if all((directory / name).exists() for name in names):
            return OpenAITokenizer(*(read_bytes(directory / name, "data.tokenizer") for name in names))
    raise FileNotFoundError(
        f"{directory} holds neither {' and '.join(OPENAI_FILES)} nor {' and '.join(HUGGING_FACE_FILES)}"
    )


class OpenAITokenizer:
    """GPT-1's tokenizer: lower case, one space between words, one line break between paragraphs.

    A character without a piece becomes piece 0, `<unk>`.
    """

    exact = False

    def __init__(self, encoder: bytes, merges: bytes) -> None:
        """Takes the contents of the two files.

        Raises:
            ValueError: a file is damaged, or the two do not fit each other.
        """
        self.encoder, self.merges = encoder, merges
        self._ids = _read_ids(encoder)
        self._merges = _read_merges(merges, self._ids)
        self.vocab_size: int = len(self._ids)
        self.end_id: int | None = None
        self.special_ids: Mapping[str, int] = {}
        self._texts = [_show(piece) for piece in sorted(self._ids, key=self._ids.__getitem__)]
        self._characters = 0  # encoded so far
        self._workers: EncodingProcesses | None = None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a text.

        Raises:
            UserError: ftfy or spaCy is not installed.
        """
        return self.encode_batch([text], threads=1)[0].tolist()

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        """Returns the ids of each text, int32 [N]; after enough text, as many processes as `threads` share the work.

        Raises:
            UserError: ftfy or spaCy is not installed.
        """
        # This comes first, since it reports a package that is not installed.
        words = self._words
        parts_of_texts = [list(cut(text)) for text in texts]
        parts = [part for parts in parts_of_texts for part in parts]
        self._characters += sum(map(len, texts))
        count = min(threads, os.cpu_count() or 1, _MOST_WORKERS)
        if count > 1 and self._characters > _ALONE_CHARACTERS:
            self._workers = self._workers or EncodingProcesses((self._ids, self._merges), count)
            found = iter(self._workers.encode(parts))
        else:
            found = (words.encode(*part) for part in parts)
        return [words.join(next(found) for _ in parts) for parts in parts_of_texts]

    def decode(self, ids: Sequence[int]) -> str:
        """Returns a readable text; `encode` gives the same ids again, unless they hold upper case or `<unk>`."""
        text = "".join(self._texts[id] for id in ids)
        return _NEEDLESS_SPACE.sub("", re.sub(" *\n *", "\n", text).strip(" "))

    def fingerprint(self) -> str:
        """Returns a hash of both files."""
        return hashlib.sha256(self.encoder + b"\0" + self.merges).hexdigest()

    def save(self, directory: epath.PathLike) -> None:
        """Writes both files as they were read, and the kind of tokenizer."""
        directory = epath.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in zip(OPENAI_FILES, (self.encoder, self.merges), strict=True):
            write_whole(directory / name, content)
        write_whole(directory / "tokenizer.json", json.dumps({"kind": "openai"}) + "\n")

    @cached_property
    def _words(self) -> Words:
        return Words(self._ids, self._merges)


def _read_ids(encoder: bytes) -> dict[str, int]:
    try:
        ids = json.loads(encoder)
    except ValueError as error:
        raise ValueError(f"the file of ids is not JSON: {error}") from error
    if not isinstance(ids, dict) or not all(type(id) is int for id in ids.values()):
        raise ValueError("the file of ids is not an object of pieces and their ids")
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(
            f"the ids of its {counted(len(ids), 'piece')} are not 0 to {len(ids) - 1}, each once"
        )
    if ids.get("<unk>") != 0:
        raise ValueError("piece 0 is not '<unk>'")
    return ids


def _read_merges(merges: bytes, ids: dict[str, int]) -> list[tuple[str, str]]:
    """Returns the pairs to merge, in order of priority."""
    # Editors on Windows may have added a byte-order mark and carriage returns.
    text = merges.decode("utf-8-sig").replace("\r\n", "\n")
    header, *lines = text.rstrip("\n").split("\n")
    if not header.startswith("#version"):
        raise ValueError("the file of merges does not begin with a line '#version: …'")
    pairs = []
    for number, line in enumerate(lines, start=2):
        first, _, second = line.partition(" ")
        if not {first, second, first + second} <= ids.keys():
            raise ValueError(
                f"line {number} of the merges, {line!r}, is not two pieces that make a third in the file of ids"
            )
        pairs.append((first, second))
    return pairs


def _show(piece: str) -> str:
    """Returns the text of a piece, with a space after the end of a word and after an unknown one."""
    if piece == "<unk>":
        return "<unk> "
    return piece.replace("\n</w>", "\n").replace("</w>", " ")
