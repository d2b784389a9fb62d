"""Every test sees eight devices of the CPU, so that meshes can be tried anywhere."""

from collections.abc import Iterator

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compiles without LLVM's optimizations: three times faster, and what is proved is the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
