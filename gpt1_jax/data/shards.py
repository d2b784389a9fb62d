"""The work of which a corpus is made: pure functions for any number of workers, on one machine or many.

A worker needs no more than a `Job` and a `Task`. What it found it writes to a file of the job's directory, last and at
once; a task with such a file is done. So whatever a lost worker left undone another does again, with the same bytes,
and a task that is done twice, even at the same time, does no harm.
"""

import json
import os
import sys
import threading
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from typing import IO, Literal

import numpy as np
from etils import epath

from gpt1_jax.data.sources import Source, open_source
from gpt1_jax.data.splits import HELD_OUT, SplitName, hold_out
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError

# Of the training part of a text so much is compared with what its tokens decode to, and a share of what is more.
_COMPARED_CHARACTERS = 2_000_000
_COMPARED_OF = 16
_BATCH_CHARACTERS = 4_000_000  # documents are tokenized together until they are this long


@dataclass(frozen=True)
class Job:
    """A source on its way into token shards in a directory, which has the tokenizer in it."""

    source: str
    tfds_dir: str | None
    split_seed: int  # of a source that is not divided
    fingerprint: str  # of the source, which must not change meanwhile
    directory: str


@dataclass(frozen=True)
class Task:
    """To count the documents of a part of a source, or to write its shard of a split."""

    kind: Literal["count"] | SplitName
    part: int
    before: int = 0  # the documents in earlier parts, and in all, of a source that is not divided
    total: int = 0


@dataclass
class Done:
    """What became of a part: its documents of a split, their UTF-8 bytes, the shard of their tokens, what they lost."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    shard_bytes: int = 0
    crc32: int = 0
    compared: int = 0  # characters of text, with what decoding gives of them
    lost: int = 0  # of these, those that it does not give back


def do(
    job: Job,
    task: Task,
    tokenizer: Tokenizer | None = None,
    threads: int = 1,
    progress: Callable[[Done], None] = lambda done: None,
) -> None:
    """Does a task unless it is done.

    Args:
        job: the task's job.
        task: what to do.
        tokenizer: the job's; None loads it from the job's directory.
        threads: how many tokenize.
        progress: is told now and then how far the work is.

    Raises UserError where the source has bad text or is no longer what it was.
    """
    if _is_done(job, task):
        return
    source = _open(job)
    if task.kind == "count":
        # Of a lone part only 19, or 20 and more, make a difference.
        enough = HELD_OUT if source.parts("train") == 1 else None
        done = Done(documents=sum(1 for _ in islice(source.read("train", task.part), enough)))
    else:
        tokenizer = tokenizer or _load_tokenizer(job.directory)
        done = _write_shard(job, task, task.kind, source, tokenizer, threads, progress)
    content = json.dumps(asdict(done)).encode()
    _write_at_once(job, result_path(job, task), lambda file: file.write(content))


def result_path(job: Job, task: Task) -> epath.Path:
    """Where the result of a task is kept."""
    return epath.Path(job.directory) / "work" / f"{task.kind}-{task.part:05}.json"


def result(job: Job, task: Task) -> Done:
    """The result of a task that is done."""
    return Done(**json.loads(result_path(job, task).read_text()))


def _is_done(job: Job, task: Task) -> bool:
    try:
        result(job, task)
    except (OSError, ValueError, TypeError, RecursionError):  # not yet, or a crash has damaged it
        return False
    return True


def shard_name(split: SplitName, part: int) -> str:
    """The file of a part's tokens."""
    return f"{split}-{part:05}.bin"


def _write_shard(
    job: Job,
    task: Task,
    split: SplitName,
    source: Source,
    tokenizer: Tokenizer,
    threads: int,
    progress: Callable[[Done], None],
) -> Done:
    """Writes each document and the end piece, and one end piece before the first of all."""
    end = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], np.int32)
    dtype = token_type(tokenizer)
    documents = source.read(split, task.part)
    if not source.divided:
        documents = hold_out(documents, split, task.before, task.total, job.split_seed)
    done = Done()

    def write(file: IO[bytes]) -> None:
        def append(ids: np.ndarray) -> None:
            data = ids.astype(dtype).tobytes()
            file.write(data)
            done.tokens += len(ids)
            done.shard_bytes += len(data)
            done.crc32 = zlib.crc32(data, done.crc32)

        if task.part == 0:
            append(end)  # so that the first real token is predicted too
        for texts in _group(documents):
            for text, ids in zip(texts, tokenizer.encode_batch(texts, threads), strict=True):
                append(ids)
                append(end)
                _compare(done, split, tokenizer, text, ids)
            done.documents += len(texts)
            done.bytes += sum(len(text.encode()) for text in texts)
            progress(done)

    _write_at_once(job, epath.Path(job.directory) / shard_name(split, task.part), write)
    return done


def _compare(done: Done, split: SplitName, tokenizer: Tokenizer, text: str, ids: np.ndarray) -> None:
    """Counts what decoding does not give back: all of validation, by which bytes are measured, and some of the rest."""
    enough = split == "train" and done.compared > _COMPARED_CHARACTERS + done.bytes // _COMPARED_OF
    if not (tokenizer.exact or enough):
        done.compared += len(text)
        done.lost += count_lost(text, tokenizer.decode(ids.tolist()))


def count_lost(text: str, decoded: str) -> int:
    """The characters of a text that its decoded ids do not have."""
    if decoded == text:
        return 0
    return max(1, (Counter(text) - Counter(decoded)).total())


def token_type(tokenizer: Tokenizer) -> str:
    """The type of the tokens of a shard: little-endian, 16 bits where they suffice."""
    return "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"


def _write_at_once(job: Job, path: epath.Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file elsewhere, then gives it its name: nobody reads half of it, and halves go with the job's work."""
    work = epath.Path(job.directory) / "work"
    work.mkdir(parents=True, exist_ok=True)
    half = work / uuid.uuid4().hex
    with half.open("wb") as file:
        write(file)
    half.replace(path)


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


@lru_cache(maxsize=1)
def _open(job: Job) -> Source:
    # Kept from task to task: looking at every file again takes long where there are many.
    source = open_source(job.source, job.tfds_dir)
    if source.fingerprint() != job.fingerprint:
        raise UserError(
            f"data.source={job.source} changed while it was tokenized; run the same command again."
        )
    return source


@lru_cache(maxsize=1)
def _load_tokenizer(directory: str) -> Tokenizer:
    return load_tokenizer(epath.Path(directory) / "tokenizer")


def end_with_parent() -> None:
    """Ends this process when its standard input does, which whoever started it holds open."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":  # a worker of `gpt1_jax.data.workers`
    end_with_parent()
    try:
        job = Job(**json.loads(sys.argv[1]))
        for task in json.loads(sys.argv[2]):
            do(job, Task(**task))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
