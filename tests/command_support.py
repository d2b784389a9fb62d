"""Commands run as a user runs them, with small settings."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from faults.commands import Commands, Ended, plain_environment
from orbax.checkpoint import v1 as ocp

ROOT = Path(__file__).parents[1]
STEPS = 40
# The smallest that Linux has.
PIPE_BYTES = 4096
SMALL = {
    "model.num_layers": 1,
    "model.num_heads": 2,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.context_length": 16,
    "data.vocab_size": 300,
    "train.num_steps": STEPS,
    "train.batch_size": 4,
    "train.log_every": 1,
    "train.eval_every": 10,
    "train.eval_batches": 3,
    "train.checkpoint_every": 4,
    "optimizer.warmup_steps": 5,
}
WORDS = [
    "river",
    "stone",
    "light",
    "under",
    "morning",
    "carries",
    "the",
    "a",
    "old",
    "song",
    "finds",
    "again",
]


def make_text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + ".\n"


class Runner:
    """Runs the command with small settings, on texts and a cache shared by all tests of this file.

    Compiled programs are shared by all tests of all processes. The schedule ends at one step however long a run is, so
    that most runs have the same program.
    """

    def __init__(self, directory: Path, commands: Commands | None = None) -> None:
        """With `commands`, a command that runs to its end starts with everything imported, which saves seconds."""
        self.directory, self.commands = directory, commands
        (directory / "texts").mkdir()
        for i in range(21):
            (directory / "texts" / f"{i:02}.txt").write_text(make_text(i, 300))
        self.source = f"text:{directory}/texts/*.txt"
        (directory / "cache").mkdir()
        shared = directory.parents["PYTEST_XDIST_WORKER" in os.environ] / "compiled"
        shared.mkdir(mode=0o700, exist_ok=True)
        (directory / "cache" / "compiled").symlink_to(shared)
        self.environment = plain_environment()

    def start(self, workdir: Path, **overrides: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "gpt1_jax.main", *self._flags(workdir, overrides)],
            cwd=ROOT, env=self.environment, text=True, errors="replace", stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, pipesize=PIPE_BYTES,
        )  # fmt: skip

    def run(self, workdir: Path, expect: int = 0, **overrides: Any) -> str:
        """Runs to the end; returns standard output, or standard error if failure is expected."""
        code, out, err = self.call("main", *self._flags(workdir, overrides))
        assert code == expect, out + err
        return err if expect else out

    def call(self, module: str, *flags: str, text: str = "") -> Ended:
        """Returns how a command ends whose standard input is `text`."""
        if self.commands is not None:
            return self.commands.run(module, *flags, stdin=text.encode())
        done = subprocess.run(
            [sys.executable, "-m", f"gpt1_jax.{module}", *flags],
            cwd=ROOT, env=self.environment, input=text.encode(), capture_output=True, timeout=300,
        )  # fmt: skip
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    def _flags(self, workdir: Path, overrides: dict[str, Any]) -> list[str]:
        own = {"data.source": self.source, "data.cache_dir": self.directory / "cache"}
        values = SMALL | own | {"optimizer.total_steps": STEPS} | overrides
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        return ["--config=configs/pretrain.py:tiny", f"--workdir={workdir}", *flags]

    def interrupt(self, workdir: Path, number: int, step: int, delay: float) -> tuple[int, str]:
        """Runs until `step` is said and `delay` seconds more, then sends the signal.

        The pipe holds so few lines that the run waits for the test, however slow that is to look.

        Returns:
            The exit code, and what was said.
        """
        process = self.start(workdir)
        assert process.stdout is not None
        pipe, said = process.stdout.fileno(), b""
        while max(map(int, re.findall(rb"step (\d+)/", said)), default=0) < step and (
            more := os.read(pipe, 64)
        ):
            said += more
        time.sleep(delay)
        process.send_signal(number)
        rest = "".join(process.communicate(timeout=120))
        return process.returncode, said.decode(errors="replace") + rest


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def last_step(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def logged(workdir: Path) -> list[dict[str, Any]]:
    """The log, without what depends on the clock."""
    clock = ("tokens_per_second", "seconds_per_step")
    return [{name: x for name, x in entry.items() if name not in clock} for entry in read_metrics(workdir)]


def parameters(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint, read by orbax alone."""
    state = ocp.load(epath.Path(workdir / "checkpoints" / str(step)))
    flat: dict[str, np.ndarray] = {}

    def visit(prefix: str, node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        if not isinstance(node, dict | list):
            flat[prefix] = np.asarray(node)
        for name, child in items:
            visit(f"{prefix}/{name}", child)

    visit("", state)
    return flat


def assert_same_end(one: Path, other: Path, step: int = STEPS) -> None:
    """Asserts that every logged number and the final state are the same to the last bit."""
    assert logged(one) == logged(other)
    ours, theirs = parameters(one, step), parameters(other, step)
    assert len(ours) > 30 and ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.tobytes() == theirs[name].tobytes(), name
    results = [json.loads((run / "results.json").read_text()) for run in (one, other)]
    assert results[0] == results[1]
