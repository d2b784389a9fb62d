"""Which checkpoint a run is opened with, with checkpoints whose one parameter is their step."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from support import tiny_config, use_mesh

from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.chosen import best_step, restore_chosen


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A fine-tuned run whose best evaluation was the second of three."""
    return begin(tmp_path / "run", **{"finetune.task": "cola"})


def begin(directory: Path, **overrides: Any) -> Run:
    run = Run(str(directory))
    run.record(tiny_config(**overrides), {})
    checkpoints = Checkpoints(run.checkpoints, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, {"step": jnp.int32(step)})
    checkpoints.close()
    run.write_results({"step": 3, "validation": {"accuracy": 0.5}, "best": {"step": 2, "accuracy": 0.7}})
    return run


def opened(run: Run, step: Any = None, told: list[str] | None = None) -> int:
    with use_mesh() as mesh:
        abstract = {"step": jax.ShapeDtypeStruct((), jnp.int32, sharding=jax.NamedSharding(mesh, jax.P()))}
        tell = pytest.fail if told is None else told.append
        return int(restore_chosen(run, abstract, step, tell)["step"])


def damage(run: Run, step: int) -> None:
    for path in (Path(run.checkpoints) / str(step)).rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def test_a_fine_tuned_run_opens_with_its_best_evaluation_unless_its_config_says_the_last(
    tmp_path: Path,
) -> None:
    best = begin(tmp_path / "best", **{"finetune.task": "cola"})
    last = begin(tmp_path / "last", **{"finetune.task": "cola", "finetune.select": "last"})
    assert (opened(best), opened(last)) == (2, 3)


def test_a_fine_tuned_run_from_before_the_choice_opens_with_its_last_step(run: Run) -> None:
    path = Path(run.directory) / "config.json"
    values = json.loads(path.read_text())
    del values["finetune"]["select"]
    path.write_text(json.dumps(values))
    (Path(run.directory) / "history.json").unlink()
    assert opened(run) == 3


def test_a_pre_trained_run_opens_with_its_last_step(tmp_path: Path) -> None:
    assert opened(begin(tmp_path / "run")) == 3


@pytest.mark.parametrize(
    "overrides", [{}, {"finetune.task": "cola"}, {"finetune.task": "cola", "finetune.select": "last"}]
)
def test_whatever_the_run_a_step_is_named_by_word_or_number(
    tmp_path: Path, overrides: dict[str, str]
) -> None:
    run = begin(tmp_path / "run", **overrides)
    assert [opened(run, step) for step in ("best", "last", 1, 2)] == [2, 3, 1, 2]


def test_a_damaged_best_checkpoint_is_told_and_the_newest_sound_one_takes_its_place(run: Run) -> None:
    damage(run, 2)
    told: list[str] = []
    assert opened(run, told=told) == 3
    assert "checkpoint 2 is damaged" in told[0] and len(told) == 1
    damage(run, 3)
    assert opened(run, "best", told) == 1


def test_a_best_checkpoint_that_is_gone_is_told(run: Run) -> None:
    Checkpoints(run.checkpoints).go_back(1)
    told: list[str] = []
    assert opened(run, told=told) == 1
    assert "step 2" in told[0] and len(told) == 1


def test_a_damaged_checkpoint_that_was_named_by_its_step_is_refused(run: Run) -> None:
    damage(run, 2)
    with pytest.raises(UserError, match=r"Checkpoint 2 .* is damaged"):
        opened(run, 2)


def test_the_log_says_which_was_the_best_where_results_are_lost(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    lines = [{"step": step, "kind": "eval", "loss": loss} for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0))]
    (run.directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run.directory / "results.json").unlink()
    assert best_step(run) == 2 and opened(run, "best") == 2


def test_before_the_first_evaluation_a_fine_tuned_run_opens_with_its_newest_step_and_has_no_best(
    run: Run,
) -> None:
    (run.directory / "results.json").unlink()
    assert opened(run) == 3
    with pytest.raises(UserError, match="no evaluation yet"):
        opened(run, "best")


def test_a_step_that_was_not_saved_is_told_with_those_that_were(run: Run) -> None:
    with pytest.raises(UserError, match="no checkpoint of step 7; it has 1, 2, 3"):
        opened(run, 7)
