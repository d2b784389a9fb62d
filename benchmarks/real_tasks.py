"""The whole table of real tasks with one command, for a model that was pre-trained on books:

    python -m benchmarks.real_tasks --data=DIR --init_from=RUN --lstm_from=RUN --output=DIR2

DIR holds the data sets as they are distributed: CoLA, SST-2, MRPC, STS-B and RTE (GLUE), RACE and DPR. The command
calls benchmarks.ablations for each line of `PLAN`, and keeps the runs that are finished.
"""

import subprocess
import sys
from typing import NamedTuple

from absl import flags

from gpt1_jax.door import door
from gpt1_jax.errors import UserError

SOURCES = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "rte": "RTE",
    "race_middle": "RACE",
    "dprd": "DPR",
}


class Line(NamedTuple):
    """The fine-tunings of some tasks with equal settings."""

    tasks: tuple[str, ...]
    variants: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    max_examples: int = 2000


PLAN = (
    Line(("cola", "rte"), ("full", "no_pretraining", "baselines"), seeds=(0, 1, 2)),
    Line(("cola", "rte"), ("no_auxiliary", "lstm")),
    Line(("sst2", "mrpc", "stsb"), ("full", "no_pretraining", "no_auxiliary", "baselines")),
    Line(("race_middle",), ("full", "no_pretraining", "no_auxiliary", "baselines"), max_examples=300),
    Line(("cola", "sst2", "race_middle", "dprd"), ("zero_shot",)),
    Line(("sst2",), ("transfer",)),
)
# The rate of a small model: the paper's is for twelve layers and 100 epochs of pre-training.
SETTINGS = {"train.batch_size": 16, "optimizer.learning_rate": 5e-4, "optimizer.warmup_fraction": 0.1}

_DATA = flags.DEFINE_string("data", None, "the directory of the data sets")
_INIT_FROM = flags.DEFINE_string("init_from", None, "the pre-trained run")
_LSTM_FROM = flags.DEFINE_string(
    "lstm_from", None, "a run pre-trained with model.kind=lstm; without it, no LSTM is compared"
)
_OUTPUT = flags.DEFINE_string("output", None, "the directory of all runs, and of table.md and transfer.png")


def main(_: list[str]) -> None:
    """Works through the plan; the last table that it prints is the whole."""
    if None in (_DATA.value, _INIT_FROM.value, _OUTPUT.value):
        raise UserError("--data=DIR, --init_from=RUN and --output=DIR2 are all needed.")
    for line in PLAN:
        command = [sys.executable, "-m", "benchmarks.ablations", *arguments(line)]
        if code := subprocess.run(command, check=False).returncode:
            sys.exit(code)


def arguments(line: Line) -> list[str]:
    """Returns the flags of benchmarks.ablations."""
    tasks = ",".join(f"{task}:files:{_DATA.value}/{SOURCES[task]}" for task in line.tasks)
    variants = [name for name in line.variants if name != "lstm" or _LSTM_FROM.value]
    return [
        f"--init_from={_INIT_FROM.value}",
        *([f"--lstm_from={_LSTM_FROM.value}"] if _LSTM_FROM.value else []),
        f"--output={_OUTPUT.value}",
        f"--tasks={tasks}",
        f"--variants={','.join(variants)}",
        f"--seeds={','.join(map(str, line.seeds))}",
        f"--max_examples={line.max_examples}",
        *(f"--set={key}={value}" for key, value in SETTINGS.items()),
    ]


if __name__ == "__main__":
    door(main)
