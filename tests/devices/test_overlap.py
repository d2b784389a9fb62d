"""Batches are computed side by side, few at a time, and come back in order."""

import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from gpt1_jax.config import MeshConfig
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.devices.overlap import in_halves, overlapped


def one_device() -> Mesh:
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def all_devices() -> Mesh:
    return make_mesh(MeshConfig(-1, 1, 1))


@pytest.mark.parametrize("make", [one_device, all_devices])
def test_all_come_back_in_order_as_arrays_of_the_host(make) -> None:
    square = jax.jit(lambda x: {"square": x * x})
    found = [*overlapped(lambda number: square(jnp.full(2, number)), range(7), make())]
    assert all(isinstance(one["square"], np.ndarray) for one in found)
    assert [one["square"].tolist() for one in found] == [[number**2] * 2 for number in range(7)]
    assert [*overlapped(lambda number: square(jnp.float32(number)), [], make())] == []


@pytest.mark.parametrize("make", [one_device, all_devices])
def test_at_most_three_have_been_begun_and_not_been_given(make) -> None:
    asked: list[int] = []

    def given() -> Iterator[int]:
        for number in range(10):
            asked.append(number)
            yield number

    for done, _ in enumerate(overlapped(jnp.float32, given(), make())):
        assert len(asked) <= done + 3
    assert len(asked) == 10


def test_two_are_computed_side_by_side_on_one_cpu() -> None:
    both = threading.Barrier(2)

    def compute(number: int) -> jax.Array:
        both.wait(timeout=60)  # breaks unless another one gets here
        return jnp.float32(number)

    assert [float(one) for one in overlapped(compute, range(6), one_device())] == [0, 1, 2, 3, 4, 5]


def test_programs_of_several_devices_begin_one_after_the_other() -> None:
    """Their collectives would otherwise meet in another order on each device."""
    threads = {
        int(one) for one in overlapped(lambda _: np.int64(threading.get_ident()), range(6), all_devices())
    }
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("make", [one_device, all_devices])
def test_each_is_computed_under_the_mesh_in_32_bits(make) -> None:
    mesh = make()

    def compute(_: int) -> np.ndarray:
        here = jax.sharding.get_abstract_mesh()
        return np.array([here.size, jnp.arange(2.0).dtype.itemsize])

    with jax.enable_x64(True):
        found = [*overlapped(compute, range(3), mesh)]
    assert np.array(found).tolist() == [[mesh.size, 4]] * 3
    with use(mesh):
        assert jax.sharding.get_abstract_mesh().size == mesh.size


@pytest.mark.parametrize("make", [one_device, all_devices])
def test_what_fails_ends_the_work(make) -> None:
    def stop_after_two() -> Iterator[int]:
        yield from (0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        [*overlapped(jnp.float32, stop_after_two(), make())]
    with pytest.raises(ZeroDivisionError):
        [*overlapped(lambda number: jnp.float32(1 // number), (2, 1, 0, 1, 1), make())]


def test_halves_are_worked_on_side_by_side_and_put_together() -> None:
    both, mesh = threading.Barrier(2), one_device()

    def work(members: slice, halted: Callable[[], bool]) -> list[int]:
        both.wait(timeout=60)
        assert not halted()
        assert jax.sharding.get_abstract_mesh().size == 1
        return [number * 10 for number in range(5)[members]]

    assert in_halves(work, 5, mesh) == [0, 10, 20, 30, 40]


def until(halted: Callable[[], bool]) -> list[int]:
    ended = time.monotonic() + 60
    while not halted():
        assert time.monotonic() < ended
        time.sleep(0.01)
    return [0]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_half_gives_up_when_the_other_one_fails(failing: int) -> None:
    def work(members: slice, halted: Callable[[], bool]) -> list[int]:
        if members.start == failing:
            raise ZeroDivisionError
        return until(halted)

    with pytest.raises(ZeroDivisionError):
        in_halves(work, 2, one_device())


def test_both_halves_give_up_at_an_interrupt() -> None:
    def work(members: slice, halted: Callable[[], bool]) -> list[int]:
        if members.start == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return until(halted)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_halves(work, 2, one_device())
    finally:
        signal.signal(signal.SIGINT, before)
