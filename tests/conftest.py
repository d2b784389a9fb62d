"""Every test sees eight devices of the CPU, so that meshes can be tried anywhere."""

import os
import signal
from collections.abc import Iterator

import jax
import pytest

# Triton reads this when it is imported: its kernels are interpreted, since there is no GPU.
os.environ["TRITON_INTERPRET"] = "1"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compiles without LLVM's optimizations: three times faster, and what is proved is the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session", autouse=True)
def _no_signal_is_ignored_by_commands() -> None:
    """Signals that this process ignores would be ignored by every command.

    It was told to ignore them, as by nohup and `&`, or libtpu does so when it is loaded, if SIGHUP has no handler. A
    command does not inherit handlers, so a signal that has one is not ignored.
    """
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
        elif signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
