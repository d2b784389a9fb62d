"""Small runs for the drivers of faults, each begun, damaged and gone on with by the command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from command_support import SMALL, make_text
from faults.commands import ROOT, Commands, Ended

STEPS, BEGUN = 12, 8  # a run ends at the first, and is damaged at the second
SETTINGS = SMALL | {
    "train.num_steps": STEPS,
    "train.eval_every": 4,
    "train.checkpoint_every": 2,
    "optimizer.warmup_steps": 2,
    "optimizer.total_steps": STEPS,
}
TEXTS = {"good": "light river song", "bad": "stone under old"}


class Place:
    """A text, a task and a cache, and the commands that train on them."""

    def __init__(self, directory: Path, commands: Commands) -> None:
        self.directory, self.commands = directory, commands
        (directory / "texts").mkdir()
        for i in range(21):
            (directory / "texts" / f"{i:02}.txt").write_text(make_text(i, 100))
        (directory / "reviews").mkdir()
        for name, count in (("train", 48), ("validation", 8)):
            lines = [
                {"text": TEXTS[label].split()[i % 3] + " again" * (i % 4), "label": label}
                for i in range(count)
                for label in (("good", "bad")[i % 2],)
            ]
            path = directory / "reviews" / f"{name}.jsonl"
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def pretrain(self, run: Path, **overrides: Any) -> Ended:
        """Runs the command of pre-training to its end."""
        return self.commands.run("main", *self.pretraining(run, **overrides))

    def finetune(self, run: Path, start: Path, **overrides: Any) -> Ended:
        """Runs the command of fine-tuning to its end."""
        return self.commands.run("main", *self.finetuning(run, start, **overrides))

    def pretraining(self, run: Path, **overrides: Any) -> list[str]:
        """The flags of pre-training."""
        values = {"data.source": f"text:{self.directory}/texts/*.txt"} | SETTINGS | overrides
        return self._flags("configs/pretrain.py:tiny", run, values)

    def finetuning(self, run: Path, start: Path, **overrides: Any) -> list[str]:
        """The flags of fine-tuning: 12 steps."""
        values = {
            "init_from": start,
            "data.source": f"files:{self.directory}/reviews",
            "finetune.kind": "classification",
            "train.batch_size": 8,
            "train.num_epochs": 2,
            "train.log_every": 1,
            "train.eval_every": 4,
            "train.checkpoint_every": 2,
        }
        return self._flags("configs/finetune.py:custom", run, values | overrides)

    def start(self, flags: Sequence[str]) -> subprocess.Popen[str]:
        """Starts a training as a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "gpt1_jax.main", *flags],
            cwd=ROOT,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _flags(self, config: str, run: Path, values: Mapping[str, Any]) -> list[str]:
        values = {"data.cache_dir": self.directory / "cache"} | dict(values)
        flags = [f"--config.{key}={value}" for key, value in values.items()]
        return [f"--config={config}", f"--workdir={run}", *flags]


def losses(run: Path) -> list[tuple[int, str, float]]:
    """What the log says of each step: it is the same, to the last bit, however often the run was disturbed."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        (entry["step"], entry["kind"], entry["loss"] if "loss" in entry else entry["accuracy"])
        for entry in entries
    ]


def copied(run: Path, to: Path) -> Path:
    """A copy of a run."""
    shutil.copytree(run, to)
    return to


Damage = Callable[[bytes], bytes]


def damages(places: int) -> Iterator[tuple[str, Damage]]:
    """Yields what a crash or a bad disk makes of a file, by name: content → content; `places` of the bits flip."""
    yield "empty", lambda content: b""
    yield "zeros", lambda content: bytes(len(content))
    yield "half", lambda content: content[: len(content) // 2]
    yield "zeros at the end", lambda content: content + bytes(512)
    for place in range(places):

        def flip(content: bytes, place: int = place) -> bytes:
            at = len(content) * (2 * place + 1) // (2 * places)
            return (
                content[:at] + bytes([content[at] ^ 1 << place % 8]) + content[at + 1 :] if content else b"?"
            )

        yield f"a bit at {place + 1}/{places + 1}", flip
