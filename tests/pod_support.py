"""Processes on this machine that train together, as a user starts them."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from command_support import ROOT, SMALL, Runner

STEPS = 16
SETTINGS = SMALL | {
    "train.num_steps": STEPS,
    "train.batch_size": 8,
    "train.eval_every": 8,
    "train.checkpoint_every": 8,
    "optimizer.total_steps": STEPS,
    "mesh.data": -1,
}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


class Pod:
    """Processes of one device each, or of several, on this machine."""

    command = ("-m", "gpt1_jax.main")

    def __init__(self, runner: Runner, workdir: Path, count: int, devices: int = 1, **overrides: Any) -> None:
        values = (
            SETTINGS
            | {"data.source": runner.source, "data.cache_dir": runner.directory / "cache"}
            | overrides
        )
        port = free_port()
        self.processes = [
            subprocess.Popen(
                [
                    sys.executable, *self.command, "--config=configs/pretrain.py:tiny",
                    f"--workdir={workdir}", f"--coordinator=localhost:{port}", f"--num_processes={count}",
                    f"--process_id={number}",
                    *(f"--config.{key}={value}" for key, value in self.given(values, number).items()),
                ],
                cwd=ROOT,
                env=runner.environment | {"JAX_NUM_CPU_DEVICES": str(devices)},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for number in range(count)
        ]  # fmt: skip

    def given(self, values: dict[str, Any], number: int) -> dict[str, Any]:
        """What a process is given: a list has a value for each."""
        return {key: value[number] if isinstance(value, list) else value for key, value in values.items()}

    def finish(self, expect: int = 0) -> list[tuple[str, str]]:
        """Standard output and error of each."""
        texts = []
        try:
            for process in self.processes:
                texts.append(process.communicate(timeout=240))
            codes = [process.returncode for process in self.processes]
            assert codes == [expect] * len(codes), (codes, texts)
        finally:
            for process in self.processes:
                process.kill()
        return texts
