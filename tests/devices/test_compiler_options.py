"""The compiler knows its options, some of which are given only if devices send something."""

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from gpt1_jax.devices.compiler_options import OPTIONS, OVERLAP, compiler_options


@pytest.mark.parametrize("name", [name for options in (OPTIONS["gpu"], OVERLAP["gpu"]) for name in options])
def test_the_compiler_knows_each_option(name: str) -> None:
    """Every build of XLA knows the names of all platforms."""
    assert jax.jit(lambda x: x + 1, compiler_options={name: True})(1) == 2
    with pytest.raises(jax.errors.JaxRuntimeError, match="No such compile option"):
        jax.jit(lambda x: x + 1, compiler_options={f"{name}_": True})(1)


@pytest.mark.parametrize(
    ("platform", "count", "given"),
    [("gpu", 8, OPTIONS["gpu"] | OVERLAP["gpu"]), ("gpu", 1, OPTIONS["gpu"]), ("cpu", 8, {}), ("tpu", 8, {})],
)
def test_those_for_sending_are_given_where_devices_send(
    platform: str, count: int, given: dict[str, bool]
) -> None:
    devices = np.array([SimpleNamespace(platform=platform)] * count)
    mesh: Any = SimpleNamespace(devices=devices, size=count)
    assert compiler_options(mesh) == given
