"""Processes that turn text into ids, each remembering the words it has met.

They are new interpreters, since a fork does not survive jax's threads and a spawned process would run the main program
again. A process ends when its parent does, for whatever reason, or when it has had no work for a while.
"""

import contextlib
import pickle
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any

from gpt1_jax.data.tokenizers.gpt1_words import Words

# A part of a text and whether a "<" comes before it, as `gpt1_words.cut` yields them.
TextPart = tuple[str, bool]
# The ids of pieces, and the merges in order of priority.
Vocabulary = tuple[Mapping[str, int], Sequence[tuple[str, str]]]

# Short texts are sent together, up to this many characters.
_GROUP_CHARACTERS = 2**18
_IDLE_SECONDS = 30


class EncodingProcesses:
    """Processes with the same vocabulary that share the work of encoding."""

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        """Starts `count` processes; `vocabulary` holds the arguments of `Words`."""
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        # Each thread waits for one process at a time.
        self._threads = ThreadPoolExecutor(count)
        workers = list(self._threads.map(_Worker, [vocabulary] * count))
        for worker in workers:
            self._idle.put(worker)
        weakref.finalize(self, _close, workers)

    def encode(self, parts: Iterable[TextPart]) -> list[bytes]:
        """Returns what `Words.encode` gives for each part."""
        return [ids for found in self._threads.map(self._ask, _group(parts)) for ids in found]

    def _ask(self, group: list[TextPart]) -> list[bytes]:
        worker = self._idle.get()
        try:
            return worker.ask(group)
        finally:
            self._idle.put(worker)


class _Worker:
    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._start()

    def ask(self, group: list[TextPart]) -> list[bytes]:
        """Sends a group of parts to the process and returns their ids.

        Raises:
            EOFError, OSError: the process ended twice instead of answering.
        """
        try:
            return self._exchange(group)
        # The process had been idle for too long.
        except (EOFError, OSError, pickle.UnpicklingError):
            self.close()
            self._start()
            return self._exchange(group)

    def close(self) -> None:
        """Ends the process."""
        # Unsent bytes may stay unsent.
        with contextlib.suppress(BrokenPipeError), self._process:
            self._process.kill()

    def _start(self) -> None:
        program = f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; serve()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._exchange(self._vocabulary)

    def _exchange(self, message: object) -> Any:
        _send(self._process.stdin, message)
        assert self._process.stdout is not None
        return pickle.load(self._process.stdout)


def serve() -> None:
    """Runs a worker: reads a vocabulary, then encodes parts of texts until the input ends or nothing comes."""
    # Ctrl-C is left to the parent.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    words = Words(*pickle.load(source))
    # Each message waits for the answer to the one before, so none is hidden from select in a buffer.
    _send(target, None)
    while select.select([source], [], [], _IDLE_SECONDS)[0]:
        try:
            group = pickle.load(source)
        except EOFError:
            return
        _send(target, [words.encode(*part) for part in group])


def _send(file: IO[bytes] | None, message: object) -> None:
    assert file is not None
    pickle.dump(message, file, pickle.HIGHEST_PROTOCOL)
    file.flush()


def _group(parts: Iterable[TextPart]) -> Iterator[list[TextPart]]:
    group: list[TextPart] = []
    characters = 0
    for part in parts:
        group.append(part)
        characters += len(part[0])
        if characters >= _GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _close(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.close()
