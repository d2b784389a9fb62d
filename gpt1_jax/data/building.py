"""Builds a corpus from a source: first the tokenizer, then the shards part by part, and the manifest last.

The work is done in a hidden directory beside the corpus's own. What an interrupted try has finished, the next one uses.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, NamedTuple

from etils import epath

from gpt1_jax.config import DataConfig
from gpt1_jax.data.documents import check_marked
from gpt1_jax.data.manifest import FORMAT_VERSION, fingerprint, write_manifest
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.shards import Job, Part, Result, read_result, shard_name, token_type
from gpt1_jax.data.sources import Source, open_source
from gpt1_jax.data.splits import SplitName, select_split
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer, open_tokenizer, train_tokenizer
from gpt1_jax.data.workers import Workers, local_workers
from gpt1_jax.disk.locks import lock
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError
from gpt1_jax.wording import counted

# The tokenizer is trained on this many parts, at least 4 GB; more would change the pieces little.
_PARTS_FOR_PIECES = 256


def tokenize(
    data: DataConfig, tokenizer: Tokenizer | None, progress: Progress, workers: Workers = local_workers
) -> epath.Path:
    """Tokenizes a source, unless that has been done, and returns the corpus's directory.

    Args:
        data: the source and how to read it. Its cache_dir holds one directory for each corpus, named after what the
            corpus is made from. All workers must see cache_dir under this name, which may be that of a bucket, gs://….
        tokenizer: replaces the one that `data` names.
        progress: receives lines that say how far the work is.
        workers: process the parts of the source.

    Raises:
        UserError: the source, the tokenizer or the vocabulary size is wrong, or a split has no text.
    """
    text, given, made_from, directory = _plan(data, tokenizer)
    if given is not None:
        check_marked(data, given)
    # Directories in a bucket cannot be renamed; there a corpus exists as soon as it has a manifest.
    remote = "://" in str(directory)
    building = directory if remote else directory.parent / f".{directory.name}"
    whole = directory / "manifest.json" if remote else directory

    if not whole.exists():
        if given is not None:
            # Any missing package is reported before text is read.
            given.encode("")
        with _keep_others_out(building, progress):
            if not whole.exists():
                job = Job(text.name, data.tfds_dir, data.split_seed, made_from["text"], str(building))
                _build(_Work(job, text, workers, progress), made_from, given, data)
                if not remote:
                    _rename(building, directory)
                return directory
            if not remote:
                # Another process has built it meanwhile.
                building.rmdir()
    progress.say(f"reusing the tokens of {data.source} in {directory}")
    return directory


def trained_corpus(data: DataConfig) -> epath.Path | None:
    """Returns the directory of the corpus whose tokenizer was trained on the source, or None if it is not built yet."""
    directory = _plan(data, None).directory
    return directory if directory.exists() else None


class _Plan(NamedTuple):
    text: Source
    # None if it has yet to be trained.
    tokenizer: Tokenizer | None
    made_from: dict[str, Any]
    directory: epath.Path


def _plan(data: DataConfig, tokenizer: Tokenizer | None) -> _Plan:
    """Returns what a corpus is made from, and its directory, which is named after that."""
    text = open_source(data.source, data.tfds_dir)
    given = open_tokenizer(data.tokenizer) if tokenizer is None else tokenizer
    pieces = given.fingerprint() if given else f"{data.tokenizer} {data.vocab_size}"
    made_from = {"format": FORMAT_VERSION, "source": text.name, "text": text.fingerprint(), "pieces": pieces}
    # Corpora without this entry were made with -1.
    if not text.divided and data.split_seed != -1:
        made_from["split_seed"] = data.split_seed
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return _Plan(text, given, made_from, expand(data.cache_dir, "data.cache_dir") / key)


def _rename(building: epath.Path, directory: epath.Path) -> None:
    """Gives the finished work its final name, unless another process has done so on a disk without locks."""
    try:
        building.rename(directory)
    except OSError:
        if not (directory / "manifest.json").exists():
            raise
        building.rmtree(missing_ok=True)


@contextmanager
def _keep_others_out(building: epath.Path, progress: Progress) -> Iterator[None]:
    """Makes the working directory and keeps it to this process; other processes of this machine wait."""
    if "://" in str(building):
        yield
        return
    while True:
        building.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(building, os.O_RDONLY)
        # Its owner has just finished.
        except FileNotFoundError:
            continue
        try:
            if not lock(handle, building):
                progress.say(f"waiting for another process that tokenizes the same text into {building}")
                lock(handle, building, wait=True)
            if building.exists() and os.path.samestat(os.fstat(handle), os.stat(building)):  # noqa: PTH116
                yield
                return
        finally:
            os.close(handle)


class _Work(NamedTuple):
    """A job, and who does it."""

    job: Job
    text: Source
    workers: Workers
    progress: Progress


def _build(work: _Work, made_from: dict[str, Any], tokenizer: Tokenizer | None, data: DataConfig) -> None:
    """Writes the corpus, the manifest last."""
    text, building = work.text, epath.Path(work.job.directory)
    try:
        before, documents = _count_documents(work)
        if tokenizer is None and (building / "tokenizer" / "tokenizer.json").exists():
            tokenizer = load_tokenizer(building / "tokenizer")
        if tokenizer is None:
            work.progress.say(
                f"training a tokenizer of {counted(data.vocab_size, 'piece')} ({data.tokenizer}) on {text.name}"
            )
            tokenizer = train_tokenizer(data.tokenizer, _sample(work, before, documents), data.vocab_size)
        tokenizer.save(building / "tokenizer")
        splits: dict[str, Any] = {}
        for split in ("train", "validation"):
            parts = [Part(split, number, before[number], documents) for number in range(text.parts(split))]
            splits[split] = _write_split(work, split, parts, tokenizer)
    except BaseException as error:
        # A mistake of the user's leads to another corpus once it is corrected, so this one is deleted. Interrupted
        # work is kept if it has any results. The directory is listed, not globbed: its own name may have magic signs.
        results = building / "work"
        kept = results.exists() and any(path.name[0] in "tv" for path in results.iterdir())
        if isinstance(error, UserError) or not kept:
            building.rmtree()
        raise
    manifest = made_from | {
        "fingerprint": fingerprint(tokenizer, splits),
        "vocab_size": tokenizer.vocab_size,
        "dtype": token_type(tokenizer),
        "splits": splits,
    }
    (building / "work").rmtree()
    write_manifest(building, manifest)


def _sample(work: _Work, before: list[int], documents: int) -> Iterator[str]:
    """Yields training documents; if the text has very many parts, those of some parts, evenly spread."""
    text, seed = work.text, work.job.split_seed
    parts = text.parts("train")
    for part in range(0, parts, max(1, parts // _PARTS_FOR_PIECES)):
        read = text.read("train", part)
        yield from read if text.divided else select_split(read, "train", before[part], documents, seed)


def _count_documents(work: _Work) -> tuple[list[int], int]:
    """Returns how many documents come before each part, and how many there are: their numbers decide the splits."""
    job, text, workers, progress = work
    if text.divided:
        return [0] * max(text.parts("train"), text.parts("validation")), 0
    parts = [Part("count", number) for number in range(text.parts("train"))]
    workers(job, parts, None, lambda result: None, lambda part: progress.count("counting documents"))
    counts = [read_result(job, part).documents for part in parts]
    *before, documents = accumulate(counts, initial=0)
    return before, documents


def _write_split(work: _Work, split: SplitName, parts: list[Part], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the shards of a split and returns the split's entry in the manifest."""
    job, _, workers, progress = work
    started = time.perf_counter()
    total = Result()

    def describe(result: Result) -> str:
        seconds = time.perf_counter() - started
        return (
            f"{split}: {counted(result.documents, 'document')}, {result.bytes / 1e6:,.1f} MB, "
            f"{counted(result.tokens, 'token')} in {seconds:.2f} s ({result.tokens / seconds:,.0f} tokens/s)"
            + (
                f", {result.lost / result.compared:.2%} of the characters lost by the tokenizer"
                if result.lost
                else ""
            )
        )

    def finished(part: Part) -> None:
        _add(total, read_result(job, part))
        progress.count(describe(total))

    workers(job, parts, tokenizer, lambda result: progress.count(describe(result)), finished)
    results = [read_result(job, part) for part in parts]
    total = Result()
    for result in results:
        _add(total, result)
    if not total.documents:
        raise UserError(f"data.source={job.source!r} is too short for a {split} split; add text.")
    progress.say(describe(total))
    return {
        "documents": total.documents,
        "bytes": total.bytes,
        "tokens": total.tokens,
        "compared": total.compared,
        "lost": total.lost,
        "shards": [
            {"file": shard_name(split, part.number), "bytes": result.shard_bytes, "crc32": result.crc32}
            for part, result in zip(parts, results, strict=True)
            if result.tokens
        ],
    }


def _add(total: Result, result: Result) -> None:
    total.documents += result.documents
    total.bytes += result.bytes
    total.tokens += result.tokens
    total.compared += result.compared
    total.lost += result.lost
