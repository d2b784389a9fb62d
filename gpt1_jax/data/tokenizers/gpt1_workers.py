"""Processes that turn text into ids beside this one, each remembering the words it has met.

They are new interpreters, neither forks (jax has threads, which a fork does not survive) nor copies of the
main program, and leave by themselves: when this process ends, however it ends, or has no work for them.
"""

import contextlib
import pickle
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import IO, Any

from gpt1_jax.data.tokenizers.gpt1_words import Words

Part = tuple[str, bool]  # as `openai_words.cut` makes them

_GROUP_CHARACTERS = 2**18  # short texts travel together
_IDLE_SECONDS = 30


class Workers:
    """A number of processes with the same vocabulary."""

    def __init__(self, vocabulary: tuple[Any, Any], count: int) -> None:
        """`vocabulary` is what `Words` is made of."""
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._threads = ThreadPoolExecutor(count)  # each waits for one process at a time
        workers = list(self._threads.map(_Worker, [vocabulary] * count))
        for worker in workers:
            self._idle.put(worker)
        weakref.finalize(self, _close, workers)

    def encode(self, parts: Iterable[Part]) -> list[bytes]:
        """What `Words.encode` gives for each part."""
        return [ids for found in self._threads.map(self._ask, _group(parts)) for ids in found]

    def _ask(self, group: list[Part]) -> list[bytes]:
        worker = self._idle.get()
        try:
            return worker.ask(group)
        finally:
            self._idle.put(worker)


class _Worker:
    def __init__(self, vocabulary: tuple[Any, Any]) -> None:
        self._vocabulary = vocabulary
        self._start()

    def ask(self, group: list[Part]) -> list[bytes]:
        """Raises EOFError or OSError where the process ends, twice, instead of answering."""
        try:
            return self._exchange(group)
        except (EOFError, OSError, pickle.UnpicklingError):  # it had been idle
            self.close()
            self._start()
            return self._exchange(group)

    def close(self) -> None:
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError), self._process:  # what is unsent stays so
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
    """The life of a worker: a vocabulary, then parts of texts, until the input ends or nothing comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    source, target = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    words = Words(*pickle.load(source))
    _send(
        target, None
    )  # each message waits for the last one's answer: none is hidden in a buffer from select
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


def _group(parts: Iterable[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
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
