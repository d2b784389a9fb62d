"""A tokenized source: memory-mapped shards of token ids, written once and read by every later step.

A corpus is a directory of `manifest.json`, `tokenizer/`, and a shard for each part of each split: `train-00000.bin` …
and `validation-00000.bin` …, as little-endian uint16, or uint32 if the vocabulary needs it.
"""

import mmap
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
from gpt1_jax.disk.paths import expand_local
from gpt1_jax.errors import UserError
from gpt1_jax.wording import counted

# Limits the count of tokens in a split whose manifest, from an older version, has no seal.
_COUNTED_TOKENS = 2**22
# A split beyond this size is not read for its checksums, which would take minutes at every start.
_CHECKED_BYTES = 8 * 2**30


@dataclass(frozen=True, eq=False)
class Split:
    """The tokens of a split in one stream: end piece, document, end piece, document, …, end piece.

    If the tokenizer has no end piece, the documents are simply joined.

    Attributes:
        shards: the tokens of each shard, uint16 or uint32, memory-mapped.
        documents: the number of documents.
        bytes: the UTF-8 bytes of the text as read.
        compared: the number of characters that were compared with what decoding gives, if the tokenizer is not exact.
        lost: the number of those that decoding does not give back.
    """

    shards: tuple[np.ndarray, ...]
    documents: int
    bytes: int
    compared: int = 0
    lost: int = 0

    def __len__(self) -> int:
        """Returns the number of tokens N."""
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns tokens start:stop of the stream, int32 [stop - start], cut at the stream's end."""
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
    """A tokenized source, and the tokenizer that made it.

    Attributes:
        train: the training split.
        validation: the split that is held out.
        tokenizer: turns text into the ids of this corpus, and back.
        fingerprint: identifies tokens and tokenizer, the same on any machine.
        directory: where the corpus lies.
    """

    train: Split
    validation: Split
    tokenizer: Tokenizer
    fingerprint: str
    directory: Path

    def loss(self) -> str | None:
        """Returns a sentence on the characters that decoding loses, or None if it loses none."""
        lost, compared = (
            sum(getattr(split, name) for split in (self.train, self.validation))
            for name in ("lost", "compared")
        )
        if not lost:
            return None
        return (
            f"the tokenizer loses {lost / compared:.2%} of the text's characters: decoding does not give them back, so "
            "no bits per byte are reported"
        )


def prepare(
    data: DataConfig, tokenizer: Tokenizer | None = None, progress: Callable[[str], None] | None = None
) -> Corpus:
    """Tokenizes a source on this machine, unless `data.cache_dir` has the result already, and opens the result.

    Args:
        data: the source and how to read it, as in `tokenize`.
        tokenizer: replaces the one that `data` names.
        progress: receives lines that say how far the work is; None writes them to standard error.

    Raises:
        UserError: as in `tokenize`, or `data.cache_dir` is a bucket.
    """
    if "://" in data.cache_dir:
        raise UserError(
            f"data.cache_dir={data.cache_dir!r} is a bucket, whose files cannot be mapped into memory; mount it, say "
            "with gcsfuse, and name the mounted directory."
        )
    with Progress(progress) as reporter:
        directory = Path(tokenize(data, tokenizer, reporter))
        try:
            corpus = load(directory)
        except UserError as error:
            reporter.say(f"{error} It is tokenized again.")
            shutil.rmtree(directory, ignore_errors=True)
            corpus = load(Path(tokenize(data, tokenizer, reporter)))
        if sentence := corpus.loss():
            reporter.say(sentence)
        return corpus


def is_prepared(data: DataConfig, tokenizer: Tokenizer) -> bool:
    """Returns whether the source is tokenized with a tokenizer that was trained on it and equals the given one."""
    directory = trained_corpus(data)
    try:
        theirs = load_tokenizer(directory / "tokenizer") if directory else None
        return theirs is not None and theirs.fingerprint() == tokenizer.fingerprint()
    except UserError:
        return False


def find_tokenized(cache_dir: str, fingerprint: str) -> Corpus | None:
    """Returns the whole corpus of that content that a cache holds, wherever its text lay and lies, or None."""
    for path in sorted(expand_local(cache_dir, "data.cache_dir").glob("[!.]*/manifest.json")):
        try:
            if read_manifest(path.parent).get("fingerprint") == fingerprint:
                return load(path.parent)
        except (OSError, ValueError, UserError):
            continue
    return None


def load(directory: Path) -> Corpus:
    """Opens a corpus; each shard is checked by its size and, up to 8 GiB in a split, by its checksum.

    Raises:
        UserError: the corpus is missing or damaged.
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
        raise UserError(f"{directory} holds no whole corpus ({error}).") from error
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
            raise ValueError(
                f"{path.name} has {counted(path.stat().st_size, 'byte')}, expected {shard['bytes']}"
            )
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Around each window, which is drawn at random, the kernel would read a hundred times as much.
        if not small and hasattr(mmap, "MADV_RANDOM"):
            mapped.madvise(mmap.MADV_RANDOM)
        # A plain view is faster to slice than a memmap.
        tokens = np.frombuffer(mapped, manifest["dtype"])
        if small and zlib.crc32(tokens.data) != shard["crc32"]:
            raise ValueError(f"the checksum of {path.name} is wrong")
        shards.append(tokens)
    counts = (split.get(name, 0) for name in ("compared", "lost"))
    return Split(tuple(shards), split["documents"], split["bytes"], *counts)


def _count_again(split: Split, tokenizer: Tokenizer) -> None:
    """Checks a split's counts against its tokens, where no seal protects them, unless the tokens are too many.

    Raises:
        ValueError: the counts differ.
    """
    if len(split) > _COUNTED_TOKENS:
        return
    tokens = split.read(0, len(split))
    if len(tokenizer.decode(tokens.tolist()).encode()) != split.bytes:
        raise ValueError("manifest.json is damaged: its count of bytes does not match the tokens")
    if tokenizer.end_id is not None and np.count_nonzero(tokens == tokenizer.end_id) != split.documents + 1:
        raise ValueError("manifest.json is damaged: its count of documents does not match the tokens")
