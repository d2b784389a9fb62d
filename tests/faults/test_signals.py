"""Signals in every phase of training: the exit code says which, and the same command ends as if nothing had been."""

import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import command_support
import pytest
from command_support import ROOT, SMALL, Runner, assert_same_end, make_text

STEPS = 20
SETTINGS = SMALL | {
    "train.num_steps": STEPS,
    "train.eval_every": 6,
    "train.checkpoint_every": 4,
    # The schedule of other files' runs, whose compiled programs these runs then find.
    "optimizer.total_steps": command_support.STEPS,
}
# Runs a command, and sends it signals within the n-th call of a function.
DISTURBED = """
import importlib, json, os, signal, sys, time
place, call, numbers, command = json.loads(sys.argv[1])
module, _, path = place.partition(":")
*owners, name = path.split(".")
owner = importlib.import_module(module)
for each in owners:
    owner = getattr(owner, each)
work, calls = getattr(owner, name), [0]
def disturbed(*args, **kwargs):
    calls[0] += 1
    if calls[0] == call:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.3)
    return work(*args, **kwargs)
setattr(owner, name, disturbed)
sys.argv = ["main", *command]
from gpt1_jax.door import door
from gpt1_jax.main import main
door(main)
"""
TERM, HUP, INT = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
# The phases of both stages, by a function within which the signal comes, and the number of its call.
BEFORE = {
    "restoring": ("gpt1_jax.training.checkpoints:Checkpoints.restore_newest", 1),
    "compiling": ("gpt1_jax.training.trainer:Trainer.compile", 1),
}
TRAINING = {
    "first-step": ("gpt1_jax.training.loop:place_rows", 1),
    "saving": ("gpt1_jax.training.checkpoints:Checkpoints.save", 2),
    "evaluating": ("gpt1_jax.training.record:Record.evaluate", 2),
    "judging": ("gpt1_jax.run:Run.write_results", 2),
}
PRETRAINING = TRAINING | {
    "reading": ("gpt1_jax.training.pretraining:open_corpus", 1),
    "callback": ("gpt1_jax.data.batches:PretrainingBatches.rows", 9),
    "evaluation-batch": ("gpt1_jax.data.batches:EvaluationBatches.rows", 2),
    "sampling": ("gpt1_jax.model.decoding.generator:Generator.__call__", 1),
}
FINETUNING = TRAINING | {
    "reading": ("gpt1_jax.training.labeled:read_task", 1),
    "encoding": ("gpt1_jax.training.labeled:encode_examples", 2),
    "callback": ("gpt1_jax.tasks.batches:TaskBatches.rows", 5),
    "predicting": ("gpt1_jax.training.answers:write_predictions", 1),
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return Runner(tmp_path_factory.mktemp("signals"))


def flags(values: dict[str, Any]) -> list[str]:
    return [f"--config.{key}={value}" for key, value in values.items()]


def pretraining(runner: Runner, workdir: Path) -> list[str]:
    places = {"data.source": runner.source, "data.cache_dir": runner.directory / "cache"}
    return ["--config=configs/pretrain.py:tiny", f"--workdir={workdir}", *flags(SETTINGS | places)]


def finetuning(runner: Runner, workdir: Path, start: Path) -> list[str]:
    data = runner.directory / "reviews"
    if not data.exists():
        data.mkdir()
        for name, count in (("train", 64), ("validation", 20), ("test", 5)):
            rows = [{"text": make_text(i, 3), "label": ("good", "bad")[i % 2]} for i in range(count)]
            (data / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "init_from": start,
        "data.cache_dir": runner.directory / "cache",
        "data.source": f"files:{data}",
        "finetune.kind": "classification",
        "train.batch_size": 8,
        "train.num_epochs": 2,
        "train.log_every": 1,
        "train.eval_every": 5,
        "train.checkpoint_every": 3,
    }
    return ["--config=configs/finetune.py:custom", f"--workdir={workdir}", *flags(values)]


def run(runner: Runner, command: list[str], *disturb: Any, seconds: int = 200) -> tuple[int, str]:
    """The exit code and what was said; with (place, call, signals) it gets those signals there."""
    line = ["-m", "gpt1_jax.main", *command]
    if disturb:
        line = ["-c", DISTURBED, json.dumps([*disturb, command])]
    done = subprocess.run(
        [sys.executable, *line],
        cwd=ROOT, env=runner.environment, text=True, timeout=seconds,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def undisturbed(runner: Runner) -> Path:
    workdir = runner.directory / "undisturbed"
    code, said = run(runner, pretraining(runner, workdir))
    assert code == 0, said
    return workdir


@pytest.fixture(scope="module")
def finetuned(runner: Runner, undisturbed: Path) -> Path:
    workdir = runner.directory / "finetuned"
    code, said = run(runner, finetuning(runner, workdir, undisturbed))
    assert code == 0, said
    return workdir


def check(code: int, said: str, number: int) -> None:
    assert code == 128 + number, said
    assert "run the same command again to go on" in said.splitlines()[-1], said
    assert "Traceback" not in said, said


@pytest.mark.parametrize(
    "place", sorted({place for place, _ in (BEFORE | PRETRAINING | FINETUNING).values()})
)
def test_the_function_that_a_phase_names_is_there(place: str) -> None:
    """The drivers run seldom, so this notices when they no longer fit the code."""
    assert callable(pkgutil.resolve_name(place))


@pytest.mark.parametrize(
    ("phase", "numbers"),
    [
        ("evaluation-batch", [TERM]),
        *(pytest.param(phase, [TERM], marks=pytest.mark.endurance) for phase in BEFORE | PRETRAINING),
        *(
            pytest.param(phase, numbers, marks=pytest.mark.endurance)
            for phase in ("callback", "evaluating")
            for numbers in ([HUP], [INT], [TERM, TERM], [HUP, TERM])
        ),
    ],
)
def test_a_signal_in_any_phase_of_pretraining(
    runner: Runner, undisturbed: Path, tmp_path: Path, phase: str, numbers: list[int]
) -> None:
    command = pretraining(runner, tmp_path / "run")
    check(*run(runner, command, *(BEFORE | PRETRAINING)[phase], numbers), numbers[0])
    code, said = run(runner, command)
    assert code == 0, said
    assert_same_end(tmp_path / "run", undisturbed, STEPS)


@pytest.mark.endurance
@pytest.mark.parametrize("phase", [*BEFORE, *FINETUNING])
def test_a_signal_in_any_phase_of_finetuning(
    runner: Runner, undisturbed: Path, finetuned: Path, tmp_path: Path, phase: str
) -> None:
    command = finetuning(runner, tmp_path / "run", undisturbed)
    check(*run(runner, command, *(BEFORE | FINETUNING)[phase], [TERM]), TERM)
    code, said = run(runner, command)
    assert code == 0, said
    assert_same_end(tmp_path / "run", finetuned, 16)
    for name in ("validation.tsv", "test.tsv"):
        predictions = [(each / "predictions" / name).read_bytes() for each in (tmp_path / "run", finetuned)]
        assert predictions[0] == predictions[1]


@pytest.mark.endurance
def test_fewer_steps_than_were_done_before_the_first_evaluation_are_done(
    runner: Runner, undisturbed: Path, tmp_path: Path
) -> None:
    command = finetuning(runner, tmp_path / "run", undisturbed)
    check(*run(runner, command, "gpt1_jax.training.loop:place_rows", 2, [TERM]), TERM)
    before = (tmp_path / "run" / "config.json").read_bytes()
    code, said = run(runner, [*command, "--config.train.num_epochs=0.1"])
    assert code == 0 and "is done: step 2 of 1" in said and "Traceback" not in said, said
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_a_second_ctrl_c_leaves_at_once(runner: Runner, tmp_path: Path) -> None:
    """Here while the first one's checkpoint is being written; what was saved before is there."""
    command = pretraining(runner, tmp_path / "run")
    code, said = run(runner, command, "gpt1_jax.training.checkpoints:Checkpoints.save", 3, [INT, INT])
    assert code == 130 and "once more leaves without" in said and "left without saving" in said
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert {"4", "6"} <= saved and "8" not in saved


@pytest.mark.endurance
@pytest.mark.parametrize("number", [signal.SIGKILL, TERM, INT])
def test_signals_at_random_moments(
    runner: Runner, undisturbed: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Again and again, from the start of the command on, until one try reaches the end."""
    command, moments = pretraining(runner, tmp_path / "run"), random.Random(number)
    before = time.monotonic()
    assert run(runner, pretraining(runner, tmp_path / "timed"))[0] == 0
    long = time.monotonic() - before
    for _ in range(8):
        process = subprocess.Popen(
            [sys.executable, "-m", "gpt1_jax.main", *command],
            cwd=ROOT, env=runner.environment | {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "")},
            text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        time.sleep(moments.uniform(0.1, 1) * long)
        process.send_signal(number)
        said, _ = process.communicate(timeout=120)
        assert process.returncode in (0, 128 + number, -number), said
        if process.returncode == 0:
            break
    code, said = run(runner, command)
    assert code == 0, said
    assert_same_end(tmp_path / "run", undisturbed, STEPS)
