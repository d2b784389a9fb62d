"""A source tokenized once: memory-mapped shards of token ids that every later step reads from.

A corpus is a directory: `manifest.json`, `tokenizer/`, and a shard for each part of each split, `train-00000.bin` … and
`validation-00000.bin` …, little-endian uint16, or uint32 where the vocabulary needs it.
"""

import shutil
import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from gpt1_jax.config import DataConfig
from gpt1_jax.data.building import tokenize, trained_corpus
from gpt1_jax.data.manifest import check_manifest, read_manifest
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError

_COUNTED_TOKENS = 2**22  # of a split of earlier days, whose manifest has no seal
_CHECKED_BYTES = 8 * 2**30  # of a split; reading more at every start would take minutes


@dataclass(frozen=True, eq=False)
class Split:
    """The tokens of a split in one stream: end piece, document, end piece, document, …, end piece.

    With a tokenizer that has no end piece the stream is just the documents, joined.
    """

    shards: tuple[np.ndarray, ...]  # each [tokens in the shard], uint16 or uint32, memory-mapped
    documents: int
    bytes: int  # of the text as read, in UTF-8
    compared: int = (
        0  # characters of the text, with what decoding gives of them, where the tokenizer is not exact
    )
    lost: int = 0  # of these, those that it does not give back

    def __len__(self) -> int:
        """The number of tokens N."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens start:stop of the stream, int32 [stop - start], clipped to the stream's end."""
        parts = []
        shard = bisect_right(self._ends, start)
        while start < min(stop, len(self)):
            shard_start = self._ends[shard] - len(self.shards[shard])
            parts.append(self.shards[shard][start - shard_start : stop - shard_start])
            start, shard = self._ends[shard], shard + 1
        return np.concatenate(parts).astype(np.int32) if parts else np.zeros(0, np.int32)

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(shard) for shard in self.shards))


@dataclass(frozen=True, eq=False)
class Corpus:
    """A tokenized source and the tokenizer that made it."""

    train: Split
    validation: Split
    tokenizer: Tokenizer
    fingerprint: str  # of the tokens and the tokenizer, so the same on any machine
    directory: Path

    def loss(self) -> str | None:
        """A sentence where decoding does not give the text back."""
        lost, compared = (
            sum(getattr(split, name) for split in (self.train, self.validation))
            for name in ("lost", "compared")
        )
        if not lost:
            return None
        return (
            f"the tokenizer loses {lost / compared:.2%} of the text's characters: decoding does not give them back, so "
            "that no bits per byte are told"
        )


def prepare(
    data: DataConfig, tokenizer: Tokenizer | None = None, progress: Callable[[str], None] | None = None
) -> Corpus:
    """Tokenizes a source on this machine, or finds that done already in `data.cache_dir`, and opens the result.

    The arguments are those of `tokenize`, but that `progress` of None writes to standard error; raises as that does.
    """
    if "://" in data.cache_dir:
        raise UserError(
            f"data.cache_dir is {data.cache_dir!r}, whose files cannot be mapped into memory: expected a directory of "
            "this machine; mount the bucket, say with gcsfuse, and name where."
        )
    with Progress(progress) as reporter:
        directory = Path(tokenize(data, tokenizer, reporter))
        try:
            corpus = load(directory)
        except UserError as error:
            reporter.say(f"{error}: tokenizing again")
            shutil.rmtree(directory, ignore_errors=True)
            corpus = load(Path(tokenize(data, tokenizer, reporter)))
        if told := corpus.loss():
            reporter.say(told)
        return corpus


def is_prepared(data: DataConfig, tokenizer: Tokenizer) -> bool:
    """Whether the source is tokenized with a tokenizer that was trained on it, and with the very one that is given."""
    directory = trained_corpus(data)
    try:
        theirs = load_tokenizer(directory / "tokenizer") if directory else None
        return theirs is not None and theirs.fingerprint() == tokenizer.fingerprint()
    except UserError:
        return False


def load(directory: Path) -> Corpus:
    """Opens a corpus, each shard checked by size and, up to 8 GiB, checksum.

    Raises UserError where it is missing or damaged.
    """
    try:
        manifest = read_manifest(directory)
        tokenizer = load_tokenizer(directory / "tokenizer")
        check_manifest(manifest, tokenizer)
        splits = {name: _open_split(directory, manifest, name) for name in ("train", "validation")}
        if "seal" not in manifest:
            for split in splits.values():
                _count_again(split, tokenizer)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory} holds no whole corpus ({error})") from error
    return Corpus(
        train=splits["train"],
        validation=splits["validation"],
        tokenizer=tokenizer,
        fingerprint=manifest["fingerprint"],
        directory=directory,
    )


def _open_split(directory: Path, manifest: dict[str, Any], name: str) -> Split:
    split = manifest["splits"][name]
    small = sum(shard["bytes"] for shard in split["shards"]) <= _CHECKED_BYTES
    shards = []
    for shard in split["shards"]:
        path = directory / shard["file"]
        if path.stat().st_size != shard["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {shard['bytes']}")
        tokens = np.asarray(np.memmap(path, manifest["dtype"], mode="r"))  # slices faster
        if small and zlib.crc32(tokens.data) != shard["crc32"]:
            raise ValueError(f"the checksum of {path.name} is wrong")
        shards.append(tokens)
    counts = (split.get(name, 0) for name in ("compared", "lost"))
    return Split(tuple(shards), split["documents"], split["bytes"], *counts)


def _count_again(split: Split, tokenizer: Tokenizer) -> None:
    """Raises ValueError where a manifest without a seal has other counts than its tokens, if those are not too many."""
    if len(split) > _COUNTED_TOKENS:
        return
    tokens = split.read(0, len(split))
    if len(tokenizer.decode(tokens.tolist()).encode()) != split.bytes:
        raise ValueError("manifest.json is damaged: its bytes are not those of the tokens' text")
    if tokenizer.end_id is not None and np.count_nonzero(tokens == tokenizer.end_id) != split.documents + 1:
        raise ValueError("manifest.json is damaged: its documents are not those of the tokens")
