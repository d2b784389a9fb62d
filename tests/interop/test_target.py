"""Directories that are written whole or not at all."""

import threading
import time
from pathlib import Path

import pytest

from gpt1_jax.errors import Fault
from gpt1_jax.interop.target import whole_directory


def test_a_thread_that_a_failure_leaves_behind_makes_nothing_again(tmp_path: Path) -> None:
    written = threading.Event()

    def write(directory: Path) -> None:
        time.sleep(0.3)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "late").touch()
        written.set()

    with pytest.raises(OSError), whole_directory(tmp_path / "out") as building:
        threading.Thread(target=write, args=(building / "below",)).start()
        raise OSError
    assert written.wait(timeout=10)
    assert not list(tmp_path.iterdir())


def test_a_fault_names_the_directory_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(Fault) as error, whole_directory(tmp_path / "out") as building:
        raise Fault(f"{building}/checkpoints cannot be written.")
    assert str(error.value) == f"{tmp_path}/out/checkpoints cannot be written."
