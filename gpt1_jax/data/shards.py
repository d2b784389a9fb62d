"""The work of making a corpus: functions that any number of workers can call, on one machine or on many.

A worker needs only a `Job` and a `Part`. The last thing it writes is the result, which appears in the job's directory
in one step; a part whose result is there is done. If a worker is lost, another does its part again and writes the same
bytes. Doing a part twice, even at the same time, does no harm.
"""

import json
import os
import sys
import threading
import uuid
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from typing import IO, Literal

import numpy as np
from etils import epath

from gpt1_jax.data.sources import Source, open_source
from gpt1_jax.data.splits import HELD_OUT, SplitName, select_split
from gpt1_jax.data.tokenizers.groups import grouped
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError

# Decoding is compared with this many characters of the training text, and with a share of the text beyond them.
_COMPARED_CHARACTERS = 2_000_000
_COMPARED_OF = 16
# Documents are tokenized in groups of about this length, which keeps all threads busy.
_GROUP_CHARACTERS = 4_000_000


@dataclass(frozen=True)
class Job:
    """A source to be written as token shards into a directory that holds the tokenizer.

    Attributes:
        source: the source's spec.
        tfds_dir: as in `open_source`.
        split_seed: chooses what is held out of a source that is not divided.
        fingerprint: of the source, which must not change while the job runs.
        directory: where shards and results go.
    """

    source: str
    tfds_dir: str | None
    split_seed: int
    fingerprint: str
    directory: str


@dataclass(frozen=True)
class Part:
    """A part of a source whose documents are to be counted, or written as one shard of a split.

    Attributes:
        kind: "count", or the split.
        number: the part's number within the source.
        before: the number of documents in earlier parts, if the source is not divided.
        total: the number of documents in all parts, if the source is not divided.
    """

    kind: Literal["count"] | SplitName
    number: int
    before: int = 0
    total: int = 0


@dataclass
class Result:
    """What a part was found to hold.

    Attributes:
        documents: the number of its documents in the split.
        bytes: the UTF-8 bytes of those documents.
        tokens: the number of tokens in the shard.
        shard_bytes: the size of the shard.
        crc32: the checksum of the shard.
        compared: the number of characters that were compared with what their tokens decode to.
        lost: the number of those that decoding does not give back.
    """

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    shard_bytes: int = 0
    crc32: int = 0
    compared: int = 0
    lost: int = 0


def process(
    job: Job,
    part: Part,
    tokenizer: Tokenizer | None = None,
    threads: int = 1,
    progress: Callable[[Result], None] = lambda result: None,
) -> None:
    """Counts or tokenizes a part, unless its result is there already.

    Args:
        job: the job that the part belongs to.
        part: what to do.
        tokenizer: the job's tokenizer; None loads it from the job's directory.
        threads: the number of threads that tokenize.
        progress: called now and then with the result so far.

    Raises:
        UserError: the source holds bad text or has changed.
    """
    if _is_done(job, part):
        return
    source = _open(job)
    if part.kind == "count":
        # For a source of one part it only matters whether there are 20 documents.
        enough = HELD_OUT if source.parts("train") == 1 else None
        result = Result(documents=sum(1 for _ in islice(source.read("train", part.number), enough)))
    else:
        tokenizer = tokenizer or _load_tokenizer(job.directory)
        result = _write_shard(job, part, source, tokenizer, threads, progress)
    content = json.dumps(asdict(result)).encode()
    _write_at_once(job, result_path(job, part), lambda file: file.write(content))


def result_path(job: Job, part: Part) -> epath.Path:
    """Returns the path of a part's result."""
    return epath.Path(job.directory) / "work" / f"{part.kind}-{part.number:05}.json"


def read_result(job: Job, part: Part) -> Result:
    """Reads the result of a part that is done."""
    return Result(**json.loads(result_path(job, part).read_text()))


def _is_done(job: Job, part: Part) -> bool:
    try:
        read_result(job, part)
    # The file is missing, or a crash damaged it.
    except (OSError, ValueError, TypeError, RecursionError):
        return False
    return True


def shard_name(split: SplitName, part: int) -> str:
    """Returns the name of the file that holds a part's tokens."""
    return f"{split}-{part:05}.bin"


def _write_shard(
    job: Job,
    part: Part,
    source: Source,
    tokenizer: Tokenizer,
    threads: int,
    progress: Callable[[Result], None],
) -> Result:
    """Writes each document and an end piece after it; the first part begins with an end piece."""
    split = part.kind
    assert split != "count"
    end = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], np.int32)
    dtype = token_type(tokenizer)
    documents = source.read(split, part.number)
    if not source.divided:
        documents = select_split(documents, split, part.before, part.total, job.split_seed)
    result = Result()

    def write(file: IO[bytes]) -> None:
        def append(ids: np.ndarray) -> None:
            data = ids.astype(dtype).tobytes()
            file.write(data)
            result.tokens += len(ids)
            result.shard_bytes += len(data)
            result.crc32 = zlib.crc32(data, result.crc32)

        if part.number == 0:
            # With an end piece in front, the first real token is predicted too.
            append(end)
        for texts in grouped(documents, _GROUP_CHARACTERS):
            for text, ids in zip(texts, tokenizer.encode_batch(texts, threads), strict=True):
                append(ids)
                append(end)
                _compare(result, split, tokenizer, text, ids)
            result.documents += len(texts)
            result.bytes += sum(len(text.encode()) for text in texts)
            progress(result)

    _write_at_once(job, epath.Path(job.directory) / shard_name(split, part.number), write)
    return result


def _compare(result: Result, split: SplitName, tokenizer: Tokenizer, text: str, ids: np.ndarray) -> None:
    """Counts the characters that decoding loses, in all validation text (for bits per byte) and some training text."""
    enough = split == "train" and result.compared > _COMPARED_CHARACTERS + result.bytes // _COMPARED_OF
    if not (tokenizer.exact or enough):
        result.compared += len(text)
        result.lost += count_lost(text, tokenizer.decode(ids.tolist()))


def count_lost(text: str, decoded: str) -> int:
    """Returns the number of characters of a text that are missing from its decoded ids."""
    if decoded == text:
        return 0
    return max(1, (Counter(text) - Counter(decoded)).total())


def token_type(tokenizer: Tokenizer) -> str:
    """Returns the type of a shard's tokens: little-endian, 16 bits if the vocabulary allows."""
    return "<u2" if tokenizer.vocab_size <= 2**16 else "<u4"


def _write_at_once(job: Job, path: epath.Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes a file under a temporary name and renames it, so that no reader sees half of it.

    Halves that are left behind are deleted with the rest of the job's work.
    """
    work = epath.Path(job.directory) / "work"
    work.mkdir(parents=True, exist_ok=True)
    half = work / uuid.uuid4().hex
    with half.open("wb") as file:
        write(file)
    half.replace(path)


@lru_cache(maxsize=1)
def _open(job: Job) -> Source:
    # The source is kept open between parts, since checking every file again takes long if there are many.
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
    """Ends this process when its standard input closes, which its parent holds open."""

    def watch() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


# A worker of `gpt1_jax.data.workers`.
if __name__ == "__main__":
    end_with_parent()
    try:
        job = Job(**json.loads(sys.argv[1]))
        for part in json.loads(sys.argv[2]):
            process(job, Part(**part))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
