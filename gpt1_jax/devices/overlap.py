"""Computes several things at the same time, so that neither the devices nor the host wait for each other.

Accelerators queue what they are asked for. XLA for CPUs computes one program after the other, and leaves cores idle in
its small operations; two threads that each wait for a program of their own keep all cores busy. Programs of several
devices have to begin in the same order everywhere, for the sake of their collectives, so those queue on CPUs, too.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from gpt1_jax.devices.mesh import use

_Given = TypeVar("_Given")
_Started = TypeVar("_Started")

_IN_FLIGHT = 2


def one_cpu(mesh: Mesh) -> bool:
    """Returns whether a mesh is one device, a CPU, which computes better side by side."""
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def overlapped(compute: Callable[[_Given], Any], given: Iterable[_Given], mesh: Mesh) -> Iterator[Any]:
    """Yields what `compute` returns for each member, in order, as arrays of the host.

    Args:
        compute: a function of a member, which calls a compiled program under the mesh.
        given: is asked for the next member while two are in flight; what it raises ends the work.
        mesh: where the programs run.
    """

    def start(member: _Given) -> Any:
        with _on(mesh):
            return compute(member)

    if not one_cpu(mesh):
        yield from map(jax.device_get, _delayed(map(start, given)))
        return
    with ThreadPoolExecutor(_IN_FLIGHT, "compute") as pool:
        futures = (pool.submit(lambda member: jax.device_get(start(member)), member) for member in given)
        yield from (future.result() for future in _delayed(futures))


def in_halves(
    work: Callable[[slice, Callable[[], bool]], list[_Given]], count: int, mesh: Mesh
) -> list[_Given]:
    """Returns what a long piece of work gives for each of `count` members; a thread does each half.

    Args:
        work: a function of the members to work on, which returns a result for each, and of a function that says whether
            to give up, since the other half failed or the user interrupted.
        count: the number of members.
        mesh: the one CPU.
    """
    given_up = threading.Event()
    found: list[Any] = [None] * count

    def half(members: slice) -> None:
        with _on(mesh):
            found[members] = work(members, given_up.is_set)

    with ThreadPoolExecutor(2, "half") as pool:
        try:
            halves = [pool.submit(half, members) for members in (slice(0, None, 2), slice(1, None, 2))]
            wait(halves, return_when=FIRST_EXCEPTION)
        finally:
            given_up.set()
    for done in halves:
        done.result()
    return found


@contextmanager
def _on(mesh: Mesh) -> Iterator[None]:
    """Within its context, a thread computes on the mesh in 32 bits; what another one has set does not hold for it."""
    with use(mesh), jax.enable_x64(False):
        yield


def _delayed(started: Iterable[_Started]) -> Iterator[_Started]:
    """Yields the members when so many as may be in flight have come after them."""
    queue: deque[_Started] = deque()
    for member in started:
        queue.append(member)
        if len(queue) > _IN_FLIGHT:
            yield queue.popleft()
    yield from queue
