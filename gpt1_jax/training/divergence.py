"""What to do when steps are not finite: skip a few, and go back to parameters that were proven good after many.

A step's loss and gradient judge the parameters it began with, so what an update made is proven by the next step.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gpt1_jax.devices import hosts
from gpt1_jax.errors import Fault, UserError
from gpt1_jax.run import Run, write_json
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.state import State

PATIENCE = 10  # steps in a row that may fail to be finite
PROOF = 3  # finite steps that prove parameters good: a ruined model may have finite losses once or twice


class Diverged(Fault):
    """Too many steps in a row were not finite; a restart goes back to parameters that were good."""


class DivergedAgain(UserError):
    """The same, and from the same parameters as the last time: another restart would not help."""


class Guard:
    """Watches over the steps of a training."""

    def __init__(self, first: int) -> None:
        """Begins behind step `first`."""
        self._first = first
        self._last_finite = 0
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

    def lost(self, at_end: bool) -> bool:
        """Whether it is time to give up; at the run's end no further step can show that its parameters are good."""
        return len(self.failed) >= (PROOF if at_end else PATIENCE)

    @property
    def nearly_lost(self) -> bool:
        """Whether the step that is not read yet decides."""
        return len(self.failed) == PATIENCE - 1

    def proven(self, steps: Sequence[int]) -> int:
        """The newest of some ascending steps after which enough steps were finite; 0 where there is none."""
        return max((step for step in steps if step <= self._last_finite - PROOF), default=0)

    def where_to_go_back(self, steps: Sequence[int]) -> int:
        """The same, but where no step was finite since the run went on: the newest before that."""
        if self._last_finite:
            return self.proven(steps)
        return max((step for step in steps if step < self._first), default=0)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def is_finite(state: State) -> bool:
    """Whether all parameters and moments are, on every device; asked before each save, since a step does not look."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return bool(_all_finite(leaves))


def give_up(guard: Guard, step: int, run: Run, checkpoints: Checkpoints) -> Exception:
    """Notes in RUN/diverged.json where the next start is to begin; nothing is saved, and no checkpoint is removed.

    Returns:
        What to raise: Diverged, or DivergedAgain where the run had gone back to that very place.
    """
    checkpoints.wait()
    back = guard.where_to_go_back(checkpoints.steps())
    again = read(run).get("back_to") == back
    hosts.wait()  # all have read it
    if again:  # the next try, with another rate, may not trust it either
        back = max((other for other in checkpoints.steps() if other < back), default=0)
    lost = guard.lost(at_end=True)  # or else an update is the cause
    steps = [guard.failed[0], guard.failed[-1]] if lost else [step, step]
    hosts.on_first(lambda: write_json(_path(run), {"steps": steps, "back_to": back, "gone_back": False}))
    where = f"checkpoint {back}" if back else "the beginning"
    told = (
        f"Steps {steps[0]} to {steps[1]} of {run.directory} were not finite, {len(guard.failed)} in a row"
        if lost
        else f"The update of step {step} of {run.directory} made parameters that are not finite"
    )
    if again:
        return DivergedAgain(
            f"{told}, as before from the same checkpoint; set a lower optimizer.learning_rate or a longer "
            f"optimizer.warmup_steps, and run it again: it goes back to {where}."
        )
    proof = ", the newest after which steps were finite" if back else ""
    return Diverged(
        f"{told}; run it again: it goes back to {where}{proof}. A lower "
        "optimizer.learning_rate or a longer optimizer.warmup_steps may help."
    )


def go_back(run: Run, checkpoints: Checkpoints, tell: Callable[[str], None]) -> None:
    """Moves the checkpoints aside that a divergence made worthless, once."""
    found = read(run)
    if not found or found["gone_back"]:
        return
    first, last = found["steps"]
    where = f"checkpoint {found['back_to']}" if found["back_to"] else "the beginning"
    tell(f"steps {first} to {last} were not finite: going back to {where}")
    for step in checkpoints.go_back(found["back_to"]):
        tell(f"checkpoint {step} is moved to {run.directory}/diverged")
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
