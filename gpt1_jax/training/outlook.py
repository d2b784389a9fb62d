"""Warnings before the first step: about schedules that do not get far, and texts that are read too often."""

import math

import jax
import numpy as np

from gpt1_jax.config import OptimizerConfig, TrainConfig
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.optimizers import make_schedule
from gpt1_jax.wording import counted

# The paper reads its text this often; beyond that, a model learns a text by heart.
MOST_EPOCHS = 100
# A schedule that stays below this share of its peak gets a warning.
REACHED = 0.8


def look_ahead(optimizer: OptimizerConfig, num_steps: int, run: Run) -> list[str]:
    """Returns warnings about the schedule of a run that begins or is resumed.

    Args:
        optimizer: the update rule with its schedule.
        num_steps: the number of steps of the run.
        run: the run, before its config is replaced.
    """
    found = _of_schedule(optimizer, num_steps)
    steps = Checkpoints(run.checkpoints).steps()
    if run.exists() and steps:
        before = run.config()
        if before.optimizer == optimizer:
            found += _of_longer_run(optimizer, before.train.num_steps, num_steps, steps[-1])
    return [f"warning: {line}" for line in found]


def count_readings(train: TrainConfig, context_length: int, tokens: int) -> list[str]:
    """Returns a warning if a settled run reads its text of `tokens` tokens too often."""
    epochs = train.num_steps * train.batch_size * context_length / tokens
    if epochs <= MOST_EPOCHS + 1:
        return []
    return [
        f"warning: train.num_steps={train.num_steps} reads the text of {counted(tokens, 'token')} {epochs:,.0f} "
        "times, and the model will know it by heart; name more text, or set a lower train.num_steps."
    ]


def _of_schedule(optimizer: OptimizerConfig, num_steps: int) -> list[str]:
    peak = optimizer.learning_rate
    if not peak:
        return []
    found = []
    total = optimizer.total_steps or num_steps
    warmup = optimizer.warmup_steps or optimizer.warmup_fraction * total
    # Where a rate can be highest: of the linear schedule within a warm-up too long for it, in its middle.
    updates = {
        0,
        math.floor(warmup),
        math.ceil(warmup),
        total // 2,
        (total + 1) // 2,
        total - 1,
        num_steps - 1,
    }
    rates = _rates(optimizer, num_steps, [x for x in updates if 0 <= x < num_steps])
    highest = max(rates)
    if not highest:
        found.append(
            f"the learning rate is 0 from the first to the last update ({num_steps}), so nothing is learned: there "
            "are too few for the schedule; raise train.num_steps or num_epochs, or take a smaller train.batch_size."
        )
    elif highest < REACHED * peak:
        name = "warmup_steps" if optimizer.warmup_steps else "warmup_fraction"
        found.append(
            f"the learning rate reaches {highest:.3g} at most, not optimizer.learning_rate={peak:g}: a run of "
            f"{counted(num_steps, 'update')} is too short for a warm-up of {warmup:g} in a schedule of {total}; "
            f"lower optimizer.{name}, or raise train.num_steps or num_epochs."
        )
    # The first update without a rate; a constant schedule has none.
    ends = {
        "linear": total,
        "cosine": max(total, math.ceil(warmup) + 1),
        "warmup_cosine": max(total, math.floor(warmup) + 1),
    }
    end = ends.get(optimizer.schedule, num_steps)
    if num_steps > end and highest:
        found.append(
            f"from step {end + 1} to {num_steps} the learning rate is 0, so these steps are lost, since "
            f"optimizer.total_steps={optimizer.total_steps} ends the schedule; set it to 0, which is the run's own "
            "length."
        )
    return found


def _of_longer_run(optimizer: OptimizerConfig, old: int, new: int, step: int) -> list[str]:
    """Returns a warning if another number of steps makes another schedule, so that the rate jumps on resuming."""
    if optimizer.total_steps or old == new:
        return []
    (was,), (is_now,) = (_rates(optimizer, steps, [step]) for steps in (old, new))
    if abs(was - is_now) < 0.01 * optimizer.learning_rate:
        return []
    return [
        f"train.num_steps={new} instead of {old} makes another schedule: at step {step} the learning rate goes on with "
        f"{is_now:.3g} instead of {was:.3g}; optimizer.total_steps={old} keeps the one that the run was begun with."
    ]


def _rates(optimizer: OptimizerConfig, num_steps: int, updates: list[int]) -> list[float]:
    # One program instead of one for each of its operations.
    schedule = jax.jit(make_schedule(optimizer, num_steps))
    return np.asarray(schedule(np.array(updates, np.float32))).tolist()
