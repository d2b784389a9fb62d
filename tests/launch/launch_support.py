"""Stand-ins for the commands of clouds and clusters: they record their arguments and answer by a script."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from command_support import ROOT, SMALL, Runner

Answer = str | tuple[int, str]  # what a stand-in prints; its exit code, too

LAUNCH = ROOT / "launch"
SECRETS = {
    "GOOGLE_OAUTH_ACCESS_TOKEN": "ya29.a-secret",
    "CLOUDSDK_AUTH_ACCESS_TOKEN": "ya29.another-secret",
    "WANDB_API_KEY": "0123456789abcdef-secret",
    "HF_TOKEN": "hf_secret",
}

STAND_IN = """#!{python}
import fcntl, json, pathlib, sys
here = pathlib.Path(__file__).parent
name = pathlib.Path(__file__).name
with (here / "lock").open("w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    with (here / "calls.jsonl").open("a") as file:
        file.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
    answers = json.loads((here / "answers.json").read_text())
    for words, rest in answers:
        if words in " ".join([name, *sys.argv[1:]]):
            code, text = rest[0]
            if len(rest) > 1:
                del rest[0]
            (here / "answers.json").write_text(json.dumps(answers))
            sys.stdout.write(text)
            sys.exit(code)
"""


class Cloud:
    """A directory of stand-ins, first on PATH.

    Args:
        directory: where they lie, and what they record.
        names: of the commands they stand in for.
    """

    def __init__(self, directory: Path, *names: str) -> None:
        self.directory = directory
        directory.mkdir()
        self.answers: list[tuple[str, list[tuple[int, str]]]] = []
        for name in names:
            self.script(name, STAND_IN.format(python=sys.executable))

    def script(self, name: str, text: str) -> None:
        """Another stand-in, of its own text."""
        (self.directory / name).write_text(text)
        (self.directory / name).chmod(0o755)

    def answer(self, words: str, *answers: Answer) -> None:
        """What calls that contain `words` print, or (exit code, print), in this order; the last one from then on.

        Without an answer a call prints nothing and ends with 0.
        """
        self.answers.append((words, [(0, x) if isinstance(x, str) else x for x in answers]))

    def run(self, *command: Any, expect: int = 0, cwd: Path = ROOT, **environment: str) -> tuple[str, str]:
        """Standard output and error of a command that finds the stand-ins, in an environment full of secrets."""
        (self.directory / "answers.json").write_text(json.dumps(self.answers))
        path = os.pathsep.join([str(self.directory), str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd,
            env=os.environ | SECRETS | {"PATH": path} | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        said = done.stdout + done.stderr
        assert done.returncode == expect, said
        assert "secret" not in said + json.dumps(self.calls())
        return done.stdout, done.stderr

    def calls(self) -> list[list[str]]:
        """The argument lists of all calls so far."""
        path = self.directory / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def small_run(runner: Runner, workdir: Path, **overrides: Any) -> list[str]:
    """The flags of a training that takes seconds, with a checkpoint every few steps."""
    values = (
        SMALL
        | {"data.source": runner.source, "data.cache_dir": runner.directory / "cache"}
        | {"train.batch_size": 8, "train.eval_every": 1000, "train.checkpoint_every": 20, "mesh.data": -1}
        | overrides
    )
    flags = [f"--config.{key}={value}" for key, value in values.items()]
    return ["--config=configs/pretrain.py:tiny", f"--workdir={workdir}", *flags]
