"""The loop, turned by a stage that costs nothing: what is logged, evaluated, saved, and when it gives up."""

import gc
import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import Mesh
from support import tiny_config, use_mesh

from gpt1_jax import signals
from gpt1_jax.errors import Stopped
from gpt1_jax.run import Run
from gpt1_jax.training import loop, record, stopping
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.divergence import PATIENCE, PROOF, Diverged, DivergedAgain
from gpt1_jax.training.entries import mend_results
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.loop import train
from gpt1_jax.training.session import early_evaluations, settle
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State


class Rows(NamedTuple):
    losses: np.ndarray


@jax.jit
def fake_step(state: State, batch: Rows) -> tuple[State, dict[str, jax.Array]]:
    """Counts good steps in the only parameter; a loss that is not finite changes nothing else."""
    loss = batch.losses[0]
    good = jnp.isfinite(loss).astype(jnp.float32)
    metrics = {"loss": loss, "grad_norm": jnp.abs(loss), "learning_rate": jnp.float32(0.5)}
    good = jnp.where(jnp.isinf(batch.losses[-1]), jnp.inf, state.params["good"] + good)
    return State(state.step + 1, {"good": good}, {}), metrics


def abstract_of(mesh: Any) -> State:
    place = jax.NamedSharding(mesh, jax.P())
    return State(
        jax.ShapeDtypeStruct((), jnp.int32, sharding=place),
        {"good": jax.ShapeDtypeStruct((), jnp.float32, sharding=place)},
        {},
    )


class FakeProgram:
    """What the loop asks of a compiled step."""

    __call__ = staticmethod(fake_step)

    def knows(self, batch: Rows) -> bool:
        return True

    def prepare(self, rows: Any, tell: Callable[[str], None]) -> None:
        pass


class FakeTrainer(NamedTuple):
    """What the loop asks of a trainer."""

    mesh: Mesh
    abstract: State

    def compile(self, samples: Any, batch_size: int) -> Any:
        return FakeProgram()


def fail(_: Any) -> tuple[str, str]:
    raise ValueError("no sample")


class Trial:
    """A run directory in which the fake stage can be trained again and again."""

    def __init__(self, directory: Path, **settings: int) -> None:
        self.directory = directory
        quiet = {
            "num_steps": 7,
            "log_every": 100,
            "eval_every": 100,
            "checkpoint_every": 100,
            "keep_checkpoints": 2,
        }
        self.settings = quiet | settings
        self.bad: set[int] = set()  # the steps whose loss is not finite
        self.ruined = 0  # the step whose update makes the parameter infinite
        self.early: set[int] = set()
        self.held_out: dict[int, float] = {}  # by the number of good steps the parameter tells
        self.stop_at = 0  # the step, in one training
        self.stop_while_evaluating = 0  # the same, while this number of good steps is evaluated
        self.evaluated: list[int] = []
        self.told: list[str] = []
        self.task: str | None = None
        self.score = "loss"
        self.sample: Callable[[Any], tuple[str, str]] | None = None
        self.asked: list[int] = []
        self.held: dict[int, tuple[int, ...]] = {}  # by step: files, threads, Python objects, checkpoints

    def train(self, **settings: int) -> bool:
        overrides = {f"train.{name}": value for name, value in (self.settings | settings).items()}
        config = tiny_config(**overrides).train
        run = Run(str(self.directory))
        run.directory.mkdir(exist_ok=True)

        def rows(step: int, start: int, end: int) -> Rows:
            self.asked.append(step)
            if step in self.held:
                gc.collect()
                files, threads = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("fd", "task"))  # noqa: PTH208
                saved = len(list((self.directory / "checkpoints").iterdir()))
                self.held[step] = files, threads, len(gc.get_objects()), saved
            if step + 1 == self.stop_at:
                signals._state.requested = signal.SIGTERM
            losses = np.full(end - start, np.nan if step + 1 in self.bad else 10.0 - step, np.float32)
            losses[-1] = np.inf if step + 1 == self.ruined else losses[-1]
            return Rows(losses)

        def evaluate(params: dict[str, jax.Array]) -> dict[str, float]:
            good = int(params["good"])
            self.evaluated.append(good)
            if good == self.stop_while_evaluating:
                signals._state.requested = signal.SIGTERM
            stopping.check()
            return {self.score: self.held_out.get(good, 1.0)}

        with use_mesh() as mesh:
            place = jax.NamedSharding(mesh, jax.P())
            stage = Stage(
                kind="pretrain",
                task=self.task,
                start=lambda: jax.device_put(State(jnp.int32(0), {"good": jnp.float32(0)}, {}), place),
                rows=rows,
                sample_rows=lambda step: None,
                evaluate=evaluate,
                score=self.score,
                record=lambda step: None,
                parameters=1,
                tokens_per_step=128,
                flops_per_token=1e6,
                sample=self.sample,
                early=self.early,
            )
            trainer: Any = FakeTrainer(mesh, abstract_of(mesh))
            try:
                with mock.patch.object(loop, "tell", self.told.append):
                    train(stage, trainer, config, run)
                return True
            except Stopped as stop:
                assert stop.code == 143 and str(self.directory) in str(stop)
                return False
            finally:
                signals._state.requested = None
                self.stop_at = self.stop_while_evaluating = 0

    def entries(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, (self.directory / "metrics.jsonl").read_text().splitlines())
        return [entry for entry in lines if entry["kind"] == kind]

    def logged(self, kind: str) -> list[int]:
        return [entry["step"] for entry in self.entries(kind)]

    def checkpoint(self, step: int) -> State:
        with use_mesh() as mesh:
            return Checkpoints(epath.Path(self.directory) / "checkpoints", 2).restore(step, abstract_of(mesh))

    def steps(self) -> list[int]:
        return Checkpoints(epath.Path(self.directory) / "checkpoints").steps()

    def left(self) -> tuple[Any, ...]:
        """What a run leaves, without what depends on the clock."""
        clock = ("tokens_per_second", "seconds_per_step")
        entries = [entry for kind in ("train", "eval") for entry in self.entries(kind)]
        values = [{name: x for name, x in entry.items() if name not in clock} for entry in entries]
        good = [float(self.checkpoint(step).params["good"]) for step in self.steps()]
        return values, self.results(), self.steps(), good

    def results(self) -> dict[str, Any]:
        if not (self.directory / "results.json").exists():
            return {}
        return json.loads((self.directory / "results.json").read_text())


def test_first_and_last_steps_are_logged_and_the_last_is_evaluated_and_saved(tmp_path: Path) -> None:
    """This holds even if log_every, eval_every and checkpoint_every are longer than the run."""
    trial = Trial(tmp_path)
    assert trial.train()
    assert trial.logged("train") == [1, 7] and trial.logged("eval") == [7] and trial.steps() == [7]
    assert trial.asked == list(range(7))  # step n takes batch n − 1, each once
    assert [entry["loss"] for entry in trial.entries("train")] == [10.0, 4.0]
    assert int(trial.checkpoint(7).step) == 7


@pytest.mark.parametrize("num_steps", [1, 2, 12])
def test_things_are_done_when_they_are_due(tmp_path: Path, num_steps: int) -> None:
    trial = Trial(tmp_path, num_steps=num_steps, log_every=3, eval_every=4, checkpoint_every=5)
    assert trial.train()
    steps = range(1, num_steps + 1)
    assert trial.logged("train") == [s for s in steps if s % 3 == 0 or s in (1, num_steps)]
    assert trial.logged("eval") == [s for s in steps if s % 4 == 0 or s == num_steps]
    saved = [s for s in steps if s % 5 == 0 or s == num_steps]
    proven = max((s for s in saved if s <= num_steps - PROOF), default=0)
    assert trial.steps() == sorted(
        {trial.results()["best"]["step"], *saved[-2:], *(s for s in saved if s >= proven)}
    )
    for entry, step in zip(trial.entries("train"), trial.logged("train"), strict=True):
        assert entry["loss"] == 11.0 - step  # each step's own, though read a step later
        assert entry["tokens_per_second"] == pytest.approx(128 / entry["seconds_per_step"])


def test_some_steps_are_evaluated_besides_the_regular_ones_and_made_up_after_a_stop(tmp_path: Path) -> None:
    trial = Trial(tmp_path, eval_every=4)
    trial.early, trial.stop_while_evaluating = {1, 2}, 2
    assert not trial.train()
    assert trial.train()
    assert trial.logged("eval") == [1, 2, 4, 7]


def test_the_authors_evaluations_are_at_doublings_of_a_thousand_within_the_first_epoch() -> None:
    settings = tiny_config(**{"train.eval_every": -1, "train.num_epochs": 3.0, "train.num_steps": 0}).train
    assert settle(settings, 5000).eval_every == 5000
    assert early_evaluations(settings, 5000) == {1000, 2000, 4000}
    assert (
        early_evaluations(settings, 1000) == early_evaluations(replace(settings, eval_every=0), 5000) == set()
    )


@pytest.mark.parametrize("num_steps", [4, 7])
@pytest.mark.parametrize("during", ["step", "evaluation"])
def test_a_stop_saves_first_and_the_evaluation_is_made_up(
    tmp_path: Path, num_steps: int, during: str
) -> None:
    undisturbed, trial = (
        Trial(tmp_path / name, num_steps=num_steps, eval_every=4) for name in ("one", "other")
    )
    assert undisturbed.train()
    if during == "step":
        trial.stop_at = 4
    else:
        trial.stop_while_evaluating = 4
    assert not trial.train()
    assert trial.steps() == [4] and trial.logged("eval") == [] and trial.results() == {}
    assert trial.train()
    assert trial.left() == undisturbed.left()


class Crash(BaseException):
    """Ends the process as a kill would."""


# What is killed behind a write is nearly what is killed before the next one.
@pytest.mark.parametrize("behind", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_whatever_a_crash_leaves_out_is_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    """Killed before or behind each write in turn: the run ends with the same lines, results and checkpoints."""
    settings = {"num_steps": 6, "log_every": 1, "eval_every": 2, "checkpoint_every": 3}
    held_out = {2: 3.0, 4: 2.0, 6: 2.5}
    undisturbed = Trial(tmp_path / "undisturbed", **settings)
    undisturbed.held_out = held_out
    writes = [0, -1]  # how many there were, and which one kills

    def wrap(owner: type, name: str) -> None:
        write = getattr(owner, name)

        def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
            writes[0] += 1
            if writes[0] == writes[1] and not behind:
                raise Crash
            result = write(self, *args, **kwargs)
            if writes[0] == writes[1]:
                raise Crash
            return result

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (Checkpoints, "save"),
        (MetricsLog, "write"),
        (Run, "write_results"),
    ):
        wrap(owner, name)
    assert undisturbed.train()
    count = writes[0]
    assert count > 12
    for place in range(1, count + 1):
        trial = Trial(tmp_path / str(place), **settings)
        trial.held_out = held_out
        writes[:] = [0, place]
        with pytest.raises(Crash):
            trial.train()
        writes[1] = -1
        assert trial.train(), place
        assert trial.left() == undisturbed.left(), place


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what Linux tells")
def test_a_longer_run_holds_no_more(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=310, log_every=1, eval_every=10, checkpoint_every=10)
    trial.held = {109: (), 309: ()}  # long after a save has begun
    assert trial.train()
    grown = np.subtract(trial.held[309], trial.held[109])
    assert (grown < (20, 20, 2000, 2)).all()  # 200 steps, 20 evaluations, 20 checkpoints later


@pytest.mark.parametrize("begin", [1, 2, 8])
@pytest.mark.parametrize("every", [100, 1, 4])
def test_ten_steps_in_a_row_that_are_not_finite_end_the_run_and_it_goes_back_to_proven_parameters(
    tmp_path: Path, begin: int, every: int
) -> None:
    """Nothing is saved or pruned from then on: what the update before them made is good for nothing."""
    end = begin + PATIENCE - 1
    trial = Trial(tmp_path, num_steps=40, eval_every=100, checkpoint_every=every)
    trial.bad = set(range(begin, 41))
    saved = [step for step in range(1, begin) if step % every == 0]
    proven = max((step for step in saved if step < begin - PROOF), default=0)
    saved = sorted({*saved[-2:], *(step for step in saved if step >= proven)})
    back = f"back to checkpoint {proven}" if proven else "back to the beginning"
    with pytest.raises(Diverged, match=f"Steps {begin} to {end} of .* were not finite.*{back}"):
        trial.train()
    assert trial.steps() == saved
    with pytest.raises(DivergedAgain, match=r"lower optimizer\.learning_rate"):
        trial.train()
    assert any(back in line for line in trial.told)
    assert proven == 0 or proven in trial.steps()
    trial.bad = set()
    trial.asked.clear()
    assert trial.train()
    assert trial.asked[0] <= proven and float(trial.checkpoint(40).params["good"]) == 40


def test_a_divergence_further_on_is_another_one(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=60, checkpoint_every=5)
    for begin in (13, 33):
        trial.bad = set(range(begin, 61))
        with pytest.raises(Diverged):
            trial.train()
    with pytest.raises(DivergedAgain):
        trial.train()


def test_the_end_of_a_run_is_no_proof_of_its_parameters(tmp_path: Path) -> None:
    """Even a few steps that are not finite end a run if no step follows that proves the parameters good."""
    trial = Trial(tmp_path, num_steps=14, checkpoint_every=4)
    trial.bad = {12, 13, 14}
    with pytest.raises(Diverged, match=r"Steps 12 to 14 .* 3 in a row.*back to checkpoint 8"):
        trial.train()
    assert trial.steps() == [4, 8] and trial.evaluated == []
    with pytest.raises(DivergedAgain):
        trial.train()
    trial.bad = {13, 14}
    assert trial.train() and trial.steps()[-1] == 14


def test_parameters_that_an_update_made_infinite_are_never_saved(tmp_path: Path) -> None:
    """The parameters are not finite even though loss and gradient of the step were, as after the last step."""
    trial = Trial(tmp_path, num_steps=12, checkpoint_every=4)
    trial.ruined = 12
    with pytest.raises(Diverged, match=r"update of step 12 .* not finite.*back to checkpoint 8"):
        trial.train()
    assert trial.steps() == [4, 8] and trial.evaluated == []


def test_checkpoints_of_restarts_while_steps_are_not_finite_remove_none(tmp_path: Path) -> None:
    """A stop saves the step at hand, but proven checkpoints stay, however often it is started and stopped."""
    trial = Trial(tmp_path, num_steps=60, checkpoint_every=10)
    trial.bad = set(range(22, 61))
    for stop in (25, 28, 31, 34):
        trial.stop_at = stop
        assert not trial.train()
    assert trial.steps() == [10, 20, 25, 28, 31, 34]
    with pytest.raises(Diverged, match="back to checkpoint 31"):
        trial.train()
    for back in (28, 25, 20):
        with pytest.raises(Diverged, match=f"back to checkpoint {back}"):
            trial.train()
    trial.bad = set()
    assert trial.train() and float(trial.checkpoint(60).params["good"]) == 60


def test_nine_in_a_row_are_survived_however_often(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=35, log_every=1)
    trial.bad = set(range(1, 36)) - {10, 20, 30, 35}
    assert trial.train()
    assert float(trial.checkpoint(35).params["good"]) == 4
    assert [entry["loss"] for entry in trial.entries("train")][8:11] == [None, 1.0, None]


def test_results_tell_the_last_and_the_best_evaluation(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=4, eval_every=1)
    trial.held_out = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.25}
    assert trial.train()
    assert trial.results() == {
        "kind": "pretrain",
        "task": None,
        "step": 4,
        "validation": {"loss": 2.25},
        "best": {"step": 2, "loss": 2.0},
    }


def test_the_best_is_remembered_over_a_restart(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=6, eval_every=1)
    trial.held_out = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.25, 5: 2.1, 6: 2.2}
    trial.stop_at = 3
    assert not trial.train()
    assert trial.train()
    assert trial.results()["best"] == {"step": 2, "loss": 2.0}


def test_the_best_is_saved_and_stays(tmp_path: Path) -> None:
    """This holds even if no checkpoint is due and older ones go, also after a restart."""
    trial = Trial(tmp_path, num_steps=9, eval_every=1, checkpoint_every=3)
    trial.held_out = {1: 3.0, 2: 2.0} | dict.fromkeys(range(3, 20), 2.5)
    trial.stop_at = 4
    assert not trial.train() and trial.steps() == [1, 2, 3, 4]  # 1 is the newest that steps have proven
    assert trial.train() and trial.steps() == [2, 6, 9]


def test_of_a_task_the_higher_score_is_better(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=3, eval_every=1)
    trial.task, trial.score = "sst2", "accuracy"
    trial.held_out = {1: 0.5, 2: 0.75, 3: 0.625}
    assert trial.train()
    assert trial.results()["task"] == "sst2" and trial.results()["best"] == {"step": 2, "accuracy": 0.75}


def test_a_best_evaluation_that_a_crash_undid_does_not_count(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=4, eval_every=1)
    assert trial.train()
    undone = trial.results() | {"best": {"step": 6, "loss": 0.1}}
    (tmp_path / "results.json").write_text(json.dumps(undone))
    assert trial.train(num_steps=5)
    assert trial.results()["best"] == {"step": 5, "loss": 1.0}


def test_a_stop_request_saves_the_step_at_hand_and_going_on_repeats_nothing(tmp_path: Path) -> None:
    trial = Trial(tmp_path, log_every=1)
    trial.stop_at = 4
    assert not trial.train()
    assert trial.steps() == [4] and trial.logged("train") == [1, 2, 3, 4]
    assert trial.train()
    assert trial.logged("train") == [1, 2, 3, 4, 5, 6, 7] and trial.asked == list(range(7))
    assert float(trial.checkpoint(7).params["good"]) == 7


def test_a_stop_request_in_the_last_step_saves_it_and_leaves_the_evaluation_to_the_next_start(
    tmp_path: Path,
) -> None:
    trial = Trial(tmp_path)
    trial.stop_at = 7
    assert not trial.train() and trial.steps() == [7] and trial.evaluated == []
    assert trial.train() and trial.asked == list(range(7)) and trial.evaluated == [7]


@pytest.mark.parametrize("content", [None, b"", b'{"step": 6}'])
def test_results_that_are_missing_or_damaged_are_made_again_from_the_log(
    tmp_path: Path, content: bytes | None
) -> None:
    trial = Trial(tmp_path, num_steps=6, eval_every=2)
    trial.held_out = {2: 3.0, 4: 1.0, 6: 2.0}
    trial.train()
    path = tmp_path / "results.json"
    before = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    stage: Any = SimpleNamespace(kind="pretrain", task=None, score="loss", positive_label=None)
    mend_results(Run(str(tmp_path)), stage, 6)
    assert json.loads(path.read_bytes()) == json.loads(before)


def test_a_sample_that_fails_stops_no_lone_process_but_is_an_error_of_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others would wait for one that leaves it out."""
    trial = Trial(tmp_path / "alone", num_steps=2, eval_every=1)
    trial.sample = fail
    assert trial.train()
    trial = Trial(tmp_path / "several", num_steps=2, eval_every=1)
    trial.sample = fail
    monkeypatch.setattr(record, "hosts", SimpleNamespace(alone=lambda: False, first=lambda: True))
    with pytest.raises(ValueError, match="no sample"):
        trial.train()


def test_an_evaluation_without_a_score_is_never_the_best_of_several(tmp_path: Path) -> None:
    trial = Trial(tmp_path, num_steps=4, eval_every=1)
    trial.held_out = {1: math.nan, 2: 2.0, 3: math.nan, 4: 2.5}
    assert trial.train()
    assert trial.results()["best"] == {"step": 2, "loss": 2.0}


def test_a_longer_run_goes_on_from_the_end(tmp_path: Path) -> None:
    trial = Trial(tmp_path)
    assert trial.train() and trial.train(num_steps=9)
    assert trial.logged("train") == [1, 7, 9] and trial.asked == list(range(9))
