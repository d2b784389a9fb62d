"""Warnings before the first step, compared with schedules that are counted update by update."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny_config

from gpt1_jax.run import Run
from gpt1_jax.training.optimizers import make_schedule
from gpt1_jax.training.outlook import REACHED, count_readings, look_ahead


def told(tmp_path: Path, tokens: int | None = None, **overrides: Any) -> str:
    config = tiny_config(**{name.replace("__", "."): value for name, value in overrides.items()})
    lines = look_ahead(config.optimizer, config.train.num_steps, Run(str(tmp_path)))
    if tokens is not None:
        lines += count_readings(config.train, config.model.context_length, tokens)
    return "\n".join(lines)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "warmup_cosine", "warmup_constant"])
@pytest.mark.parametrize("warmup", [0, 1, 5, 30])
@pytest.mark.parametrize("total", [0, 10, 29, 60])
@pytest.mark.parametrize("num_steps", [1, 2, 30])
def test_what_is_told_of_a_schedule_is_what_its_updates_have(
    tmp_path: Path, schedule: str, warmup: int, total: int, num_steps: int
) -> None:
    settings = {"optimizer.schedule": schedule, "optimizer.warmup_steps": warmup}
    settings |= {"optimizer.total_steps": total, "train.num_steps": num_steps}
    config = tiny_config(**settings)
    rates = np.array([float(make_schedule(config.optimizer, num_steps)(i)) for i in range(num_steps)])
    said = "\n".join(look_ahead(config.optimizer, num_steps, Run(str(tmp_path))))
    peak = config.optimizer.learning_rate
    assert ("nothing is learned" in said) == (rates.max() == 0)
    assert ("reaches" in said) == (0 < rates.max() < REACHED * peak)
    if "reaches" in said:
        assert f"reaches {rates.max():.3g} at most" in said
    last = num_steps - 1 - np.flatnonzero(rates)[-1] if rates.any() else 0
    assert (f"from step {num_steps - last + 1} to {num_steps}" in said) == bool(last)
    assert "from step" not in said or last


@pytest.mark.parametrize(("schedule", "idle"), [("cosine", 7), ("warmup_cosine", 8)])
def test_a_warm_up_may_end_between_two_updates(tmp_path: Path, schedule: str, idle: int) -> None:
    """The warm-up has 1.8 updates, in a schedule of 2."""
    settings = {"schedule": schedule, "warmup_steps": 0, "warmup_fraction": 0.9, "total_steps": 2}
    said = told(tmp_path, train__num_steps=10, **{f"optimizer__{name}": x for name, x in settings.items()})
    assert f"from step {11 - idle} to 10 the learning rate is 0" in said


def test_a_fraction_of_updates_so_few_that_one_is_all(tmp_path: Path) -> None:
    few = {"optimizer__warmup_steps": 0, "optimizer__warmup_fraction": 0.002, "optimizer__schedule": "linear"}
    assert "the learning rate is 0 from the first to the last update (1)" in told(
        tmp_path, train__num_steps=1, **few
    )
    assert told(tmp_path, train__num_steps=100, **few) == ""


def test_a_text_that_is_read_more_often_than_the_papers_is_told(tmp_path: Path) -> None:
    steps = {"train__num_steps": 1000, "train__batch_size": 8, "model__context_length": 16}
    assert told(tmp_path, tokens=1280, **steps) == ""
    assert "reads the text of 500 tokens 256 times" in told(tmp_path, tokens=500, **steps)
    assert told(tmp_path, tokens=None, **steps) == ""


def test_a_rate_of_zero_that_was_asked_for_is_nobodys_mistake(tmp_path: Path) -> None:
    assert told(tmp_path, optimizer__learning_rate=0.0, train__num_steps=1) == ""


@pytest.mark.parametrize(("total", "expected"), [(0, True), (4, False)])
def test_a_longer_run_whose_rate_jumps_is_told(tmp_path: Path, total: int, expected: bool) -> None:
    before = tiny_config(**{"optimizer.total_steps": total})
    run = Run(str(tmp_path))
    run.record(before, {})
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    longer = tiny_config(**{"optimizer.total_steps": total, "train.num_steps": 8})
    said = "\n".join(look_ahead(longer.optimizer, longer.train.num_steps, run))
    assert ("train.num_steps=8 instead of 4 makes another schedule" in said) == expected
    assert ("optimizer.total_steps=4 keeps" in said) == expected
