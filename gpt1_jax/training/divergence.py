"""What to do when steps are not finite: skip a few, and after many go back to parameters that were proven good.

A step's loss and gradient judge the parameters at its beginning, so the next step proves what an update made.
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

# This many steps in a row may fail to be finite.
PATIENCE = 10
# This many finite steps prove parameters good; a ruined model may have finite losses once or twice.
PROOF = 3


class Diverged(Fault):
    """Too many steps in a row were not finite; a restart goes back to good parameters."""


class DivergedAgain(UserError):
    """Steps diverged again from the same parameters, so another restart would not help."""


class Guard:
    """Watches whether the steps of a training are finite."""

    def __init__(self, first: int) -> None:
        """Begins after step `first`."""
        self._first = first
        self._last_finite = 0
        # The newest steps that failed in a row.
        self.failed: list[int] = []

    def look(self, step: int, values: Mapping[str, float]) -> bool:
        """Notes whether a step was finite, judging by its metrics."""
        finite = all(math.isfinite(values[name]) for name in ("loss", "grad_norm"))
        if finite:
            self._last_finite = step
            self.failed.clear()
        else:
            self.failed.append(step)
        return finite

    def lost(self, at_end: bool) -> bool:
        """Returns whether to give up; at the end of the run, no further step can prove its parameters good."""
        return len(self.failed) >= (PROOF if at_end else PATIENCE)

    @property
    def nearly_lost(self) -> bool:
        """Returns whether the step that has not been read yet decides this."""
        return len(self.failed) == PATIENCE - 1

    def proven(self, steps: Sequence[int]) -> int:
        """Returns the newest of some ascending steps after which enough steps were finite, or 0."""
        return max((step for step in steps if step <= self._last_finite - PROOF), default=0)

    def where_to_go_back(self, steps: Sequence[int]) -> int:
        """Returns the same; but if no step was finite since the run was resumed, the newest step before that."""
        if self._last_finite:
            return self.proven(steps)
        return max((step for step in steps if step < self._first), default=0)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def is_finite(state: State) -> bool:
    """Returns whether all parameters and moments are finite on every device; a step itself does not check this."""
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return bool(_all_finite(leaves))


def give_up(guard: Guard, step: int, run: Run, checkpoints: Checkpoints) -> Exception:
    """Notes in RUN/diverged.json where the next start begins; saves nothing and removes no checkpoint.

    Returns:
        The error to raise: Diverged, or DivergedAgain if the run had already gone back to that place.
    """
    checkpoints.wait()
    back = guard.where_to_go_back(checkpoints.steps())
    again = read(run).get("back_to") == back
    # All processes have read the note before it changes.
    hosts.wait()
    # The next try, with another rate, may not trust that checkpoint either.
    if again:
        back = max((other for other in checkpoints.steps() if other < back), default=0)
    # If no step failed, an update is the cause.
    lost = guard.lost(at_end=True)
    steps = [guard.failed[0], guard.failed[-1]] if lost else [step, step]
    hosts.on_first(lambda: write_json(_path(run), {"steps": steps, "back_to": back, "gone_back": False}))
    where = f"checkpoint {back}" if back else "the beginning"
    happened = (
        f"Steps {steps[0]} to {steps[1]} of {run.directory} were not finite, {len(guard.failed)} in a row"
        if lost
        else f"The update of step {step} of {run.directory} made parameters that are not finite"
    )
    if again:
        return DivergedAgain(
            f"{happened}, as before from the same checkpoint; set a lower optimizer.learning_rate or a longer "
            f"optimizer.warmup_steps, and run it again: it goes back to {where}."
        )
    proof = ", the newest after which steps were finite" if back else ""
    return Diverged(
        f"{happened}; run it again: it goes back to {where}{proof}. A lower "
        "optimizer.learning_rate or a longer optimizer.warmup_steps may help."
    )


def go_back(run: Run, checkpoints: Checkpoints, tell: Callable[[str], None]) -> None:
    """Moves aside, once, the checkpoints that a divergence made worthless."""
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
    """Returns the note of the last divergence, or nothing if there is no readable one."""
    try:
        found = json.loads(_path(run).read_text())
        steps = [int(step) for step in found["steps"]]
        return {"steps": steps, "back_to": int(found["back_to"]), "gone_back": bool(found["gone_back"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _path(run: Run) -> Any:
    return run.directory / "diverged.json"
