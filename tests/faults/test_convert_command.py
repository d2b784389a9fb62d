"""Places and moments that a conversion may meet: OUT is whole or absent, and nothing lies hidden beside it."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faults.commands import ROOT
from interop_support import files_of, make_run, refused, sentencepiece

from gpt1_jax.errors import Fault
from gpt1_jax.interop.conversion import convert
from gpt1_jax.troubles import explain

pytestmark = pytest.mark.usefixtures("quick_compilation")
FORMATS = ("openai", "huggingface", "gpt1_jax")
# The command, which a signal meets once it has written the files of a run.
DISTURBED = """
import os, runpy, sys, time
from gpt1_jax import signals
from gpt1_jax.interop import conversion
number, write = int(sys.argv.pop(1)), conversion.write_run
def disturbed(model, building, source_format):
    write(model, building, source_format)
    assert any(building.iterdir())
    os.kill(os.getpid(), number)
    while not signals.requested():
        time.sleep(0.01)
conversion.write_run = disturbed
runpy.run_module("gpt1_jax.convert", run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs") / "run"
    make_run(directory, sentencepiece())
    return directory


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that takes no more of a file, as a full one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("size", [0, 5000])
def test_a_disk_that_is_full_is_a_fault_and_leaves_nothing(
    target: str, size: int, run: Path, tmp_path: Path
) -> None:
    with largest_file(size), pytest.raises(Exception) as error:
        convert("gpt1_jax", target, str(run), str(tmp_path / "a" / "out"))
    told = explain(error.value)
    assert isinstance(told, Fault) and "\n" not in str(told), error.value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_a_signal_leaves_nothing(number: signal.Signals, code: int, run: Path, tmp_path: Path) -> None:
    """It comes when files are written, and OUT is not yet whole."""
    ended = subprocess.run(
        [sys.executable, "-c", DISTURBED, str(int(number)), "--from=gpt1_jax", "--to=gpt1_jax", str(run),
         str(tmp_path / "out")],
        cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, text=True, stderr=subprocess.PIPE, timeout=120,
    )  # fmt: skip
    assert ended.returncode == code and "Traceback" not in ended.stderr, ended.stderr
    assert not list(tmp_path.iterdir())


def test_links_are_written_through(run: Path, tmp_path: Path) -> None:
    """One to an empty directory, and one that leads nowhere yet."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    (tmp_path / "dangling").symlink_to("absent/below")
    for name in ("link", "dangling"):
        convert("gpt1_jax", "openai", str(run), str(tmp_path / name))
        assert (tmp_path / name).is_symlink() and "params_0.npy" in files_of(tmp_path / name)
    names = {"absent", "dangling", "empty", "link"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_what_out_may_not_be(run: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "pipe").touch()
    for name in ("circle", "pipe"):
        assert "exists already" in refused("gpt1_jax", run, tmp_path / name, to="openai")
    for name in ("below", "checkpoints/9", "tokenizer/a"):
        assert "lies in IN=" in refused("gpt1_jax", run, run / name, to="openai")
    (tmp_path / "run").symlink_to(run)
    assert "lies in IN=" in refused("gpt1_jax", tmp_path / "run", run / "below", to="openai")


def test_a_name_may_be_as_long_as_names_can_be(run: Path, tmp_path: Path) -> None:
    convert("gpt1_jax", "openai", str(run), str(tmp_path / ("n" * 255)))
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sentencepiece.model"])
def test_a_pipe_among_the_files_is_not_waited_for(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    hub = tmp_path / "in" / "hub"
    convert("gpt1_jax", "huggingface", str(run), str(hub))
    (hub / name).unlink()
    os.mkfifo(hub / name)
    refused("huggingface", hub, tmp_path / "out")
