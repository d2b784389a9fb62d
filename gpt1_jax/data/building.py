"""From a source to the directory of a corpus: the tokenizer, the tasks of which there are shards, the manifest last.

The work is done in a hidden directory beside the corpus's own. What a try that failed has finished, the next one uses.
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
from gpt1_jax.data.manifest import FORMAT_VERSION, fingerprint, write_manifest
from gpt1_jax.data.progress import Progress
from gpt1_jax.data.shards import Done, Job, Task, result, shard_name, token_type
from gpt1_jax.data.sources import Source, open_source
from gpt1_jax.data.splits import SplitName, hold_out
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer, open_tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.data.workers import Workers, local_workers
from gpt1_jax.disk.locks import lock
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

_PARTS_FOR_PIECES = 256  # 4 GB at least; reading more changes the pieces little


def tokenize(
    data: DataConfig, tokenizer: Tokenizer | None, progress: Progress, workers: Workers = local_workers
) -> epath.Path:
    """Tokenizes a source, unless that is done, and returns the corpus's directory.

    Args:
        data: the source and how it is read. Its cache_dir holds one directory a corpus, named by what it was made from.
            All workers must see it by this name, which may be of a bucket, gs://…
        tokenizer: takes the place of the one that `data` names.
        progress: is told how far the work is.
        workers: do the work.

    Raises UserError where source, tokenizer or the size of the vocabulary is wrong, or a split has no text.
    """
    text, given, made_from, directory = _plan(data, tokenizer)
    # A bucket gives no directory another name; there a corpus is one as soon as it has a manifest.
    remote = "://" in str(directory)
    building = directory if remote else directory.parent / f".{directory.name}"
    whole = directory / "manifest.json" if remote else directory

    if not whole.exists():
        if given is not None:
            given.encode("")  # what it lacks is told before any text is read
        with _alone(building, progress):
            if not whole.exists():
                job = Job(text.name, data.tfds_dir, data.split_seed, made_from["text"], str(building))
                _build(_Work(job, text, workers, progress), made_from, given, data.vocab_size)
                if not remote:
                    _name(building, directory)
                return directory
            if not remote:
                building.rmdir()  # another process had it ready meanwhile
    progress.say(f"reusing the tokens of {data.source} in {directory}")
    return directory


def trained_corpus(data: DataConfig) -> epath.Path | None:
    """Where the corpus lies whose tokenizer was trained on the source; None where it is not made yet."""
    directory = _plan(data, None).directory
    return directory if directory.exists() else None


class _Plan(NamedTuple):
    text: Source
    tokenizer: Tokenizer | None  # None is yet to be trained
    made_from: dict[str, Any]
    directory: epath.Path


def _plan(data: DataConfig, tokenizer: Tokenizer | None) -> _Plan:
    """What a corpus is made from, and its directory, which is named by that."""
    text = open_source(data.source, data.tfds_dir)
    given = open_tokenizer(data.tokenizer) if tokenizer is None else tokenizer
    pieces = given.fingerprint() if given else f"sentencepiece {data.vocab_size}"
    made_from = {"format": FORMAT_VERSION, "source": text.name, "text": text.fingerprint(), "pieces": pieces}
    if not text.divided and data.split_seed != -1:  # -1 is what corpora without this entry were made with
        made_from["split_seed"] = data.split_seed
    key = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return _Plan(text, given, made_from, expand(data.cache_dir, "data.cache_dir") / key)


def _name(building: epath.Path, directory: epath.Path) -> None:
    """Gives the finished work its name, unless another process did, on a disk without locks."""
    try:
        building.rename(directory)
    except OSError:
        if not (directory / "manifest.json").exists():
            raise
        building.rmtree(missing_ok=True)


@contextmanager
def _alone(building: epath.Path, progress: Progress) -> Iterator[None]:
    """Makes the directory of work; other processes of this machine wait until this one leaves it."""
    if "://" in str(building):
        yield
        return
    while True:
        building.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(building, os.O_RDONLY)
        except FileNotFoundError:  # its owner was done just now
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
    """What is to be done, and by whom."""

    job: Job
    text: Source
    workers: Workers
    progress: Progress


def _build(work: _Work, made_from: dict[str, Any], tokenizer: Tokenizer | None, vocab_size: int) -> None:
    """Writes the corpus, the manifest last."""
    text, building = work.text, epath.Path(work.job.directory)
    try:
        before, documents = _count_documents(work)
        if tokenizer is None and (building / "tokenizer" / "tokenizer.json").exists():
            tokenizer = load_tokenizer(building / "tokenizer")
        if tokenizer is None:
            work.progress.say(f"training {vocab_size} sentencepiece pieces on {text.name}")
            tokenizer = train_sentencepiece(_sample(work, before, documents), vocab_size)
        tokenizer.save(building / "tokenizer")
        splits: dict[str, Any] = {}
        for split in ("train", "validation"):
            tasks = [Task(split, part, before[part], documents) for part in range(text.parts(split))]
            splits[split] = _do_split(work, split, tasks, tokenizer)
    except BaseException as error:
        # What is mended makes another corpus; what was interrupted can be gone on with, where there is anything yet.
        # Not by a pattern, for which odd characters in the directory's own name would stand as well.
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
    """Training documents, of a text of very many parts those of some, evenly spread."""
    text, seed = work.text, work.job.split_seed
    parts = text.parts("train")
    for part in range(0, parts, max(1, parts // _PARTS_FOR_PIECES)):
        read = text.read("train", part)
        yield from read if text.divided else hold_out(read, "train", before[part], documents, seed)


def _count_documents(work: _Work) -> tuple[list[int], int]:
    """The documents before each part, and all there are: what is held out depends on a document's number."""
    job, text, workers, progress = work
    parts = text.parts("train")
    if text.divided:
        return [0] * max(parts, text.parts("validation")), 0
    tasks = [Task("count", part) for part in range(parts)]
    workers(job, tasks, None, lambda done: None, lambda task: progress.count("counting documents"))
    counts = [result(job, task).documents for task in tasks]
    *before, documents = accumulate(counts, initial=0)
    return before, documents


def _do_split(work: _Work, split: SplitName, tasks: list[Task], tokenizer: Tokenizer) -> dict[str, Any]:
    """Writes the shards of a split and returns its entry in the manifest."""
    job, _, workers, progress = work
    started = time.perf_counter()
    total = Done()

    def describe(done: Done) -> str:
        seconds = time.perf_counter() - started
        return (
            f"{split}: {done.documents:,} documents, {done.bytes / 1e6:,.1f} MB, {done.tokens:,} tokens "
            f"in {seconds:.1f} s ({done.tokens / seconds:,.0f} tokens/s)"
            + (
                f", {done.lost / done.compared:.2%} of the characters lost by the tokenizer"
                if done.lost
                else ""
            )
        )

    def finished(task: Task) -> None:
        _add(total, result(job, task))
        progress.count(describe(total))

    workers(job, tasks, tokenizer, lambda done: progress.count(describe(done)), finished)
    every = [result(job, task) for task in tasks]
    total = Done()
    for done in every:
        _add(total, done)
    if not total.documents:
        raise UserError(f"data.source is {job.source!r}, too short for a {split} split: add text")
    progress.say(describe(total))
    return {
        "documents": total.documents,
        "bytes": total.bytes,
        "tokens": total.tokens,
        "compared": total.compared,
        "lost": total.lost,
        "shards": [
            {"file": shard_name(split, task.part), "bytes": done.shard_bytes, "crc32": done.crc32}
            for task, done in zip(tasks, every, strict=True)
            if done.tokens
        ],
    }


def _add(total: Done, done: Done) -> None:
    total.documents += done.documents
    total.bytes += done.bytes
    total.tokens += done.tokens
    total.compared += done.compared
    total.lost += done.lost
