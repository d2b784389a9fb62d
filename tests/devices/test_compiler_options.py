"""The compiler knows its options, which are given if devices send something."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from gpt1_jax.devices.compiler_options import OPTIONS, compiler_options


@pytest.mark.parametrize("name", [name for options in OPTIONS.values() for name in options])
def test_the_compiler_knows_each_option(name: str) -> None:
    """Every build of XLA knows the names of all platforms."""
    assert jax.jit(lambda x: x + 1, compiler_options={name: True})(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={f"{name}_": True})(1)


@pytest.mark.parametrize(
    ("platform", "count", "some"), [("gpu", 8, True), ("gpu", 1, False), ("cpu", 8, False)]
)
def test_they_are_given_where_devices_send(platform: str, count: int, some: bool) -> None:
    devices = np.array([SimpleNamespace(platform=platform)] * count)
    mesh: Any = SimpleNamespace(devices=devices, size=count)
    assert bool(compiler_options(mesh)) == some
