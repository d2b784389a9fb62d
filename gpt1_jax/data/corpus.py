"""A source tokenized once: memory-mapped shards of token ids that every later step reads from.

A corpus is a directory: `manifest.json`, `tokenizer/`, and the splits `train-00000.bin` … and
`validation-00000.bin` …, little-endian uint16, or uint32 where the vocabulary needs it.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import numpy as np
from rich.console import Console

from gpt1_jax.data.sources import Source, SplitName, open_source
from gpt1_jax.data.tokenizers import Tokenizer, load_tokenizer, open_tokenizer, train_sentencepiece
from gpt1_jax.errors import UserError

FORMAT_VERSION = 1
SHARD_TOKENS = 64 * 2**20
_BATCH_CHARACTERS = 4_000_000  # documents are tokenized together until they are this long
_LINE_SECONDS = 30  # between two lines of progress where there is no terminal


@dataclass(frozen=True, eq=False)
class Split:
    """The tokens of a split in one stream: end piece, document, end piece, document, …, end piece.

    With a tokenizer that has no end piece the stream is just the documents, joined.
    """

    shards: tuple[np.ndarray, ...]  # each [tokens in the shard], uint16 or uint32, memory-mapped
    documents: int
    bytes: int  # of the text as read, in UTF-8

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


def prepare(
    source: str,
    tokenizer: str | Tokenizer,
    vocab_size: int,
    cache_dir: str,
    tfds_dir: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Corpus:
    """Tokenizes a source, or finds that done already in `cache_dir`, and opens the result.

    Args:
        source: `data.source`, as `open_source` takes it.
        tokenizer: `data.tokenizer`, as `open_tokenizer` takes it, or a tokenizer that is at hand.
        vocab_size: the number of pieces of a tokenizer that is trained here; not read for any other.
        cache_dir: holds one directory a corpus, named by what it was made from.
        tfds_dir: `data.tfds_dir`, as `open_source` takes it.
        progress: is called with each line of progress; None writes to standard error.

    Raises UserError where source, tokenizer or the size of the vocabulary is wrong, or a split has no text.
    """
    text = open_source(source, tfds_dir)
    given = open_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    pieces = given.fingerprint() if given else f"sentencepiece {vocab_size}"
    made_from = {"format": FORMAT_VERSION, "source": text.name, "text": text.fingerprint(), "pieces": pieces}
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    cache = Path(cache_dir).expanduser()
    directory = cache / key

    with _Progress(progress) as reporter:
        if directory.exists():
            try:
                corpus = load(directory)
                reporter.say(f"reusing the tokens of {source} in {directory}")
                return corpus
            except UserError as error:
                reporter.say(f"{error}: tokenizing again")
                shutil.rmtree(directory, ignore_errors=True)
        if given is not None:
            given.encode("")  # what it lacks is told before any text is read
        cache.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{key}-", dir=cache))
        try:
            if given is None:
                reporter.say(f"training {vocab_size} sentencepiece pieces on {source}")
                given = train_sentencepiece(text.documents("train"), vocab_size)
            _build(building, made_from, text, given, reporter)
            _publish(building, directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return load(directory)


def load(directory: Path) -> Corpus:
    """Opens a corpus, each shard checked by size and checksum; UserError where it is missing or damaged."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        if manifest["format"] != FORMAT_VERSION:
            raise ValueError(f"its format is {manifest['format']}, expected {FORMAT_VERSION}")
        splits = {name: _open_split(directory, manifest, name) for name in ("train", "validation")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{directory} holds no whole corpus ({error})") from error
    return Corpus(
        train=splits["train"],
        validation=splits["validation"],
        tokenizer=load_tokenizer(directory / "tokenizer"),
        fingerprint=manifest["fingerprint"],
        directory=directory,
    )


def _open_split(directory: Path, manifest: dict[str, Any], name: str) -> Split:
    split = manifest["splits"][name]
    shards = []
    for shard in split["shards"]:
        path = directory / shard["file"]
        if path.stat().st_size != shard["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, expected {shard['bytes']}")
        tokens = np.asarray(np.memmap(path, manifest["dtype"], mode="r"))  # slices faster
        if zlib.crc32(tokens.data) != shard["crc32"]:
            raise ValueError(f"the checksum of {path.name} is wrong")
        shards.append(tokens)
    return Split(tuple(shards), split["documents"], split["bytes"])


# ---------------------------------------------------------------------------------------- building


def _build(
    directory: Path, made_from: dict[str, Any], source: Source, tokenizer: Tokenizer, reporter: "_Progress"
) -> None:
    """Writes the corpus into an empty directory, the manifest last."""
    tokenizer.save(directory / "tokenizer")
    dtype = "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"
    train = _write_split(directory, "train", dtype, source, tokenizer, reporter)
    validation = _write_split(directory, "validation", dtype, source, tokenizer, reporter)
    content = (tokenizer.fingerprint(), train["shards"], validation["shards"])
    manifest = made_from | {
        "fingerprint": hashlib.sha256(repr(content).encode()).hexdigest(),
        "vocab_size": tokenizer.vocab_size,
        "dtype": dtype,
        "splits": {"train": train, "validation": validation},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def _write_split(
    directory: Path, name: SplitName, dtype: str, source: Source, tokenizer: Tokenizer, reporter: "_Progress"
) -> dict[str, Any]:
    """Writes the shards of a split and returns its entry in the manifest."""
    end = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], np.int32)
    threads = os.cpu_count() or 1
    started = time.perf_counter()
    documents = size = 0

    def describe() -> str:
        seconds = time.perf_counter() - started
        return (
            f"{name}: {documents:,} documents, {size / 1e6:,.1f} MB, {writer.tokens:,} tokens "
            f"in {seconds:.1f} s ({writer.tokens / seconds:,.0f} tokens/s)"
        )

    with _ShardWriter(directory, name, dtype) as writer:
        writer.write(end)  # so that the first real token is predicted too
        for texts in _group(source.documents(name)):
            ids_of_texts = tokenizer.encode_batch(texts, threads)
            writer.write(np.concatenate([part for ids in ids_of_texts for part in (ids, end)]))
            documents += len(texts)
            size += sum(len(text.encode()) for text in texts)
            reporter.count(describe())
    if not documents:
        raise UserError(f"data.source is {source.name!r}, too short for a {name} split: add text")
    reporter.say(describe())
    return {"documents": documents, "bytes": size, "tokens": writer.tokens, "shards": writer.shards}


def _group(documents: Iterator[str]) -> Iterator[list[str]]:
    """Groups documents until they are long enough to keep all threads busy: memory stays flat."""
    group: list[str] = []
    characters = 0
    for document in documents:
        group.append(document)
        characters += len(document)
        if characters >= _BATCH_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _publish(building: Path, directory: Path) -> None:
    """Gives a finished corpus its name; where another process was first, its equal one stays."""
    building.chmod(0o755)  # a temporary directory is closed to others
    try:
        building.rename(directory)
    except OSError:
        if not directory.exists():
            raise


class _ShardWriter:
    """Writes a stream of tokens into shards of `SHARD_TOKENS`, and what the manifest says of them."""

    def __init__(self, directory: Path, name: SplitName, dtype: str) -> None:
        self.tokens = 0
        self.shards: list[dict[str, Any]] = []
        self._directory, self._name, self._dtype = directory, name, dtype
        self._files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def write(self, ids: np.ndarray) -> None:
        """Appends ids, int [N]."""
        while len(ids):
            room = SHARD_TOKENS - self.tokens % SHARD_TOKENS
            if self.tokens == SHARD_TOKENS * len(self.shards):
                self._open_next()
            data = ids[:room].astype(self._dtype).tobytes()
            self._file.write(data)
            shard = self.shards[-1]
            shard["bytes"] += len(data)
            shard["crc32"] = zlib.crc32(data, shard["crc32"])
            self.tokens += len(ids[:room])
            ids = ids[room:]

    def _open_next(self) -> None:
        self._files.close()
        file = f"{self._name}-{len(self.shards):05}.bin"
        self._file = self._files.enter_context((self._directory / file).open("wb"))
        self.shards.append({"file": file, "bytes": 0, "crc32": 0})


class _Progress:
    """Says lines to `say`, or to standard error, where a terminal also shows the count as it grows."""

    def __init__(self, say: Callable[[str], None] | None) -> None:
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        self.say = say or console.print
        self._status = console.status("") if say is None and console.is_terminal else None
        self._last_line = time.perf_counter()

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def count(self, line: str) -> None:
        """Shows how far the work is: live on a terminal, elsewhere a line now and then."""
        if self._status:
            self._status.update(line)
        elif time.perf_counter() - self._last_line > _LINE_SECONDS:
            self.say(line)
            self._last_line = time.perf_counter()
