"""Computes many batches with few in flight, so that neither the devices nor the host wait for each other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from gpt1_jax.devices.mesh import use

_Given = TypeVar("_Given")
_Started = TypeVar("_Started")

_IN_FLIGHT = 2


def overlapped(compute: Callable[[_Given], Any], given: Iterable[_Given], mesh: Mesh) -> Iterator[Any]:
    """Yields what `compute` returns for each member, in order, as arrays of the host.

    Accelerators queue what they are asked for. XLA for CPUs computes one program after the other, and a core without
    work in small operations waits; two threads that each wait for a program of their own keep all cores busy. Over
    several devices that would mix up their collectives, so there the CPU's programs queue as well.

    Args:
        compute: a function of a member, which calls a compiled program under the mesh.
        given: is asked for the next member while two are in flight; what it raises ends the work.
        mesh: where the programs run.
    """

    def start(member: _Given) -> Any:
        # What a thread has set, such as the mesh, holds for no other thread.
        with use(mesh), jax.enable_x64(False):
            return compute(member)

    if mesh.size > 1 or mesh.devices.flat[0].platform != "cpu":
        yield from map(jax.device_get, _delayed(map(start, given)))
        return
    with ThreadPoolExecutor(_IN_FLIGHT, "compute") as pool:
        futures = (pool.submit(lambda member: jax.device_get(start(member)), member) for member in given)
        yield from (future.result() for future in _delayed(futures))


def _delayed(started: Iterable[_Started]) -> Iterator[_Started]:
    """Yields the members when so many as may be in flight have come after them."""
    queue: deque[_Started] = deque()
    for member in started:
        queue.append(member)
        if len(queue) > _IN_FLIGHT:
            yield queue.popleft()
    yield from queue
