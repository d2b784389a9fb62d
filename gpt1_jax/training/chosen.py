"""Which checkpoint of a run is opened: that of its best evaluation, the last one, or the one of a step."""

from collections.abc import Callable
from typing import Any

from gpt1_jax.arguments import Step, shown
from gpt1_jax.devices import hosts
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.damage import Damaged
from gpt1_jax.training.entries import make_results, read_entries
from gpt1_jax.training.kept import kept_task

_ALL_STEPS = 2**31


def restore_chosen(run: Run, abstract: Any, step: Step | None, tell: Callable[[str], None]) -> Any:
    """Returns the parts in `abstract` from the checkpoint that is chosen, see `Checkpoints.restore`.

    Left open, the choice is that of `finetune.select` in a fine-tuned run, and the last step in a pre-trained one. A
    damaged checkpoint that was not named by its step is passed over: the newest sound one takes its place, and a line
    says so.

    Args:
        run: the run directory.
        abstract: a dictionary or NamedTuple of the parts.
        step: "best", "last" or the step of a checkpoint; None leaves the choice to the run.
        tell: receives lines about checkpoints that are passed over.

    Raises:
        UserError: there is not a checkpoint yet, none of that step, no evaluation yet, or nothing sound.
        Fault: as in `Checkpoints.restore`.
    """
    checkpoints = Checkpoints(run.checkpoints)
    if isinstance(step, int):
        return _restore_step(run, checkpoints, abstract, step)
    settings = run.config().finetune
    wanted = step or ("last" if settings is None else settings.select)
    best = best_step(run) if wanted == "best" else None
    if step == "best" and best is None:
        raise UserError(
            f"{run.directory} has no evaluation yet, so no checkpoint is the best; name --step=last, or train further."
        )
    if best is not None and best not in checkpoints.steps():
        tell(f"the checkpoint of the best evaluation, step {best}, is gone; the newest takes its place")
    restored = checkpoints.restore_newest(abstract, tell, best)
    if restored is None:
        raise UserError(f"{run.directory} has no checkpoint yet; train it first, or name another run.")
    return restored


def best_step(run: Run) -> int | None:
    """Returns the step of the best evaluation so far, or None before the first; all processes must call this."""
    results = run.results()
    if not results:
        task = kept_task(run)
        entries, _ = read_entries(run.directory / "metrics.jsonl", _ALL_STEPS)
        results = make_results(entries, "loss" if task is None else task.metrics[0])
    best = results["best"]["step"] if results.get("best") else 0
    # A shared disk may show outdated files to other processes.
    return hosts.of_first(best) or None


def _restore_step(run: Run, checkpoints: Checkpoints, abstract: Any, step: int) -> Any:
    """Returns the parts from the checkpoint of a step."""
    if step not in checkpoints.steps():
        known = ", ".join(map(str, checkpoints.steps())) or "none"
        raise UserError(f"{run.directory} has no checkpoint of step {shown(step)}; it has {known}.")
    try:
        return checkpoints.restore(step, abstract)
    except Damaged as error:
        if step not in checkpoints.steps():
            raise UserError(
                f"Checkpoint {step} of {run.directory} was removed just now by a running training; name a newer "
                "one, or --step=last."
            ) from error
        raise UserError(
            f"Checkpoint {step} of {run.directory} is damaged ({error}); name another."
        ) from error
