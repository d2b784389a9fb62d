"""The README's longer commands and its Python, run as they stand there, on books and for a few steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_support import ROOT, read_metrics
from large_data import write_books

MEGABYTES = 18

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with configs/ and some books/ in it."""
    directory = tmp_path_factory.mktemp("readme")
    (directory / "configs").symlink_to(ROOT / "configs")
    (directory / "books").mkdir()
    write_books(directory / "books", MEGABYTES)
    return directory


def command_with(part: str) -> list[str]:
    """Returns the README's command that contains a text, split as by a shell, for the run that the tests made."""
    text = (ROOT / "README.md").read_text().replace("runs/pretrain-tiny", "runs/books")
    line = next(line for line in text.splitlines() if line.startswith("python -m gpt1_jax.") and part in line)
    return [sys.executable, *shlex.split(line)[1:]]


def call(place: Path, command: list[str]) -> str:
    """Returns what the command printed, after asserting its success."""
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("workdir", "parameters"), [("runs/books", "4,240,384"), ("runs/paper", "116,534,784")]
)
def test_a_command_of_the_readme_takes_steps(place: Path, workdir: str, parameters: str) -> None:
    few = [
        "--config.train.num_steps=3",
        "--config.train.eval_batches=2",
        f"--config.data.cache_dir={place}/cache",
    ]
    out = call(place, command_with(f"--workdir={workdir}") + few)
    assert f"{parameters} parameters" in out and "peak memory" in out
    assert [entry["step"] for entry in read_metrics(place / workdir)] == [1, 3, 3]


def test_what_was_pretrained_writes_is_finetuned_and_taken_elsewhere(place: Path) -> None:
    if not (place / "runs" / "books").exists():
        pytest.skip("the test before made no run")
    assert call(place, command_with("gpt1_jax.generate")).startswith("In the beginning")
    few = ["--config.finetune.max_examples=32", f"--config.data.cache_dir={place}/cache"]
    assert "accuracy" in call(place, command_with("finetune.py:demo_same_verse") + few)
    convert = command_with("--from=gpt1_jax")
    call(place, [*convert[:-2], "runs/books", "hub"])
    assert {"config.json", "model.safetensors"} <= {file.name for file in (place / "hub").iterdir()}


def test_the_python_of_the_readme_runs(place: Path) -> None:
    if not (place / "runs" / "same-verse").exists():
        pytest.skip("the test before made no run")
    text = (ROOT / "README.md").read_text().replace("runs/pretrain-tiny", "runs/books")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert blocks
    call(place, [sys.executable, "-c", "\n".join(blocks)])
