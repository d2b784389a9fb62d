"""What to do when steps are not finite: skip a few, and go back to parameters that were proven good after many.

A step's loss and gradient judge the parameters it began with, so what an update made is proven by the next step.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from gpt1_jax.errors import Fault, UserError
from gpt1_jax.run import Run, write_json
from gpt1_jax.training import hosts
from gpt1_jax.training.checkpoints import Checkpoints

PATIENCE = 10  # steps in a row that may fail to be finite


class Diverged(Fault):
    """Too many steps in a row were not finite; a restart goes back to parameters that were good."""


class DivergedAgain(UserError):
    """The same, and from the same parameters as the last time: another restart would not help."""


class Guard:
    """Watches over the steps of a training."""

    def __init__(self, first: int) -> None:
        """Begins behind step `first`."""
        self._first = first
        self._last_finite = first
        self.failed: list[int] = []  # the newest steps, in a row

    def look(self, step: int, values: Mapping[str, float]) -> bool:
        """Whether a step was finite, by its metrics."""
        finite = all(math.isfinite(values[name]) for name in ("loss", "grad_norm"))
        if finite:
            self._last_finite = step
            self.failed.clear()
        else:
            self.failed.append(step)
        return finite

    @property
    def lost(self) -> bool:
        """Whether it is time to give up."""
        return len(self.failed) >= PATIENCE

    @property
    def nearly_lost(self) -> bool:
        """Whether the step that is not read yet decides."""
        return len(self.failed) == PATIENCE - 1

    @property
    def proven(self) -> int:
        """The newest step whose parameters gave a finite step."""
        return self._last_finite - 1


def give_up(guard: Guard, run: Run, checkpoints: Checkpoints) -> Exception:
    """Notes in RUN/diverged.json where the next start is to begin; nothing is saved, and no checkpoint is removed.

    Returns:
        What to raise: Diverged, or DivergedAgain where the run had gone back to that very place.
    """
    checkpoints.wait()
    back = max((step for step in checkpoints.steps() if step <= guard.proven), default=0)
    again = read(run).get("back_to") == back
    hosts.wait()  # all have read it
    steps = [guard.failed[0], guard.failed[-1]]
    hosts.on_first(lambda: write_json(_path(run), {"steps": steps, "back_to": back, "gone_back": False}))
    where = f"step {back}, the newest checkpoint after which steps were finite" if back else "the beginning"
    told = f"Steps {steps[0]} to {steps[1]} of {run.directory} were not finite, {PATIENCE} in a row"
    if again:
        return DivergedAgain(
            f"{told}, as they were when it last went on from {where}; set a lower optimizer.learning_rate or a longer "
            "optimizer.warmup_steps, and run it again."
        )
    return Diverged(
        f"{told}; run again, it goes back to {where}. A lower optimizer.learning_rate or a longer "
        "optimizer.warmup_steps may help."
    )


def go_back(run: Run, checkpoints: Checkpoints, tell: Callable[[str], None]) -> None:
    """Moves the checkpoints aside that a divergence made worthless, once."""
    found = read(run)
    if not found or found["gone_back"]:
        return
    first, last = found["steps"]
    tell(
        f"steps {first} to {last} were not finite: going back to "
        + (f"step {found['back_to']}" if found["back_to"] else "the beginning")
    )
    for step in checkpoints.go_back(found["back_to"]):
        tell(f"checkpoint {step}, of parameters that gave none, is moved to {run.directory}/diverged")
    hosts.on_first(lambda: write_json(_path(run), found | {"gone_back": True}))


def read(run: Run) -> dict[str, Any]:
    """The note of the last divergence; empty where there is none, or none that can be read."""
    try:
        found = json.loads(_path(run).read_text())
        steps = [int(step) for step in found["steps"]]
        return {"steps": steps, "back_to": int(found["back_to"]), "gone_back": bool(found["gone_back"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _path(run: Run) -> Any:
    return run.directory / "diverged.json"
