"""One page of results of one commit: python -m benchmarks.page --output=DIR.

It runs the benchmarks below one after another, in 70 minutes on two cores, writes what each prints to a file of DIR,
and everything to DIR/results.md. The same command goes on wherever it was stopped. The machine should do nothing else.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from gpt1_jax.door import door
from gpt1_jax.errors import Fault, UserError

_ROOT = Path(__file__).parents[1]
# Other benchmarks have flags of the same names, and a test imports several.
_SHARED: Any = {"allow_override": True}
_OUTPUT = flags.DEFINE_string("output", "results", "the directory of the results", **_SHARED)
_OPENAI = flags.DEFINE_string("openai", None, "a directory with GPT-1's tokenizer, for its rows", **_SHARED)
_COMMANDS = flags.DEFINE_multi_string(
    "benchmark",
    [
        "training --rounds=5",
        "training --preset=small",
        "training --preset=tiny --steps=4",
        "memory",
        "finetuning --preset=tiny --tasks=demo_entailment --rounds=5",
        "finetuning --tasks=demo_entailment --batches=2 --rounds=3 '--sides=gpt1_jax,transformers: buckets'",
        "finetuning --tasks=demo_entailment --batch=32 --batches=1 --rounds=3 '--sides=gpt1_jax,transformers: buckets'",
        "usage --texts=1000",
        "usage --preset= --texts=64 --prompts=16 --rounds=2",
        "generation --rounds=3",
        "startup --rounds=2",
        "startup --preset=small --rounds=2",
        "data --rounds=5",
        "tokenizing --rounds=5",
        "growth --rounds=3",
        "scaling --rounds=3",
    ],
    "a benchmark and its flags",
)


def main(_: list[str]) -> None:
    """Writes the page."""
    print(write_page(Path(_OUTPUT.value).expanduser(), find_commit(_ROOT), _COMMANDS.value))


def write_page(directory: Path, commit: str, commands: list[str]) -> Path:
    """Runs what has not run before, and writes the page.

    Raises:
        Fault: a benchmark failed.
    """
    place = directory / commit
    place.mkdir(parents=True, exist_ok=True)
    outputs = [_run(command, place) for command in commands]
    machine = json.loads(outputs[0].splitlines()[-1])["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "jax", "torch", "transformers"))
    lines = [
        "# Results",
        "",
        f"What `python -m benchmarks.page` printed for commit {commit}. {machine['processor']}, {machine['cores']}"
        f" cores, load before {machine['load_before']:.1f}; {versions}.",
    ]
    for command, output in zip(commands, outputs, strict=True):
        printed = "\n".join(output.splitlines()[:-1])
        lines += ["", f"## {command}", "", "```", printed, "```"]
    page = directory / "results.md"
    page.write_text("\n".join([*lines, ""]))
    return page


def find_commit(root: Path) -> str:
    """Returns the short name of the commit that the files below `root` are of.

    Raises:
        UserError: they differ from it, or are in no repository.
    """
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    commit = done.stdout.strip()
    if done.returncode:
        raise UserError(f"A page of results is of a commit, but {root} is in no repository; clone one.")
    if commit.endswith("-dirty"):
        raise UserError(
            "A page of results is of a commit, but some files differ from theirs; commit them first."
        )
    return commit


def _run(command: str, place: Path) -> str:
    """Returns what a benchmark prints, from its file if it has run before."""
    path = place / f"{re.sub('[^a-z0-9=]+', '_', command)}.txt"
    if path.exists():
        return path.read_text()
    print(command, flush=True)
    name, *arguments = shlex.split(command)
    if name == "tokenizing" and _OPENAI.value:
        arguments.append(f"--openai={_OPENAI.value}")
    if name in ("growth", "scaling"):
        arguments.append(f"--output={place / name}.png")
    line = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(line, cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Fault(f"{command} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    path.write_text(done.stdout)
    return done.stdout


if __name__ == "__main__":
    door(main)
