"""Opens what a run left behind: the parameters of a checkpoint, and the task of a fine-tuning."""

from typing import Any

from absl import logging

from gpt1_jax.arguments import shown
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.checkpoints import Checkpoints, Damaged
from gpt1_jax.training.kept import kept_task


def restore(run: Run, abstract: Any, step: int | None) -> Any:
    """Returns the parts in `abstract` from the checkpoint of a step, or from the newest sound one.

    Raises:
        UserError: there is no checkpoint, none of that step, or no sound one.
    """
    checkpoints = Checkpoints(run.checkpoints)
    if step is None:
        restored = checkpoints.restore_newest(abstract, logging.warning)
        if restored is None:
            raise UserError(f"{run.directory} has no checkpoint yet; train it first.")
        return restored
    if step not in checkpoints.steps():
        known = ", ".join(map(str, checkpoints.steps())) or "none"
        raise UserError(f"{run.directory} has no checkpoint of step {shown(step)}; it has {known}.")
    try:
        return checkpoints.restore(step, abstract)
    except Damaged as error:
        if step not in checkpoints.steps():
            raise UserError(
                f"Checkpoint {step} of {run.directory} was removed just now by a running training; name "
                "a newer one, or none for the newest."
            ) from error
        raise UserError(
            f"Checkpoint {step} of {run.directory} is damaged ({error}); name another."
        ) from error


def task_of(run: Run) -> Task | None:
    """Returns the task that a run was fine-tuned on; None for a pre-trained one.

    Raises:
        UserError: the file that describes the task is missing or damaged.
    """
    if run.config().finetune is None:
        return None
    task = kept_task(run)
    if task is None:
        raise UserError(
            f"{run.directory / 'task.json'} is missing or damaged; restore it from a copy, or run the fine-tuning "
            "command again, which restores it."
        )
    return task
