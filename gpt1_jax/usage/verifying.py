"""Verifies checkpoints that somebody has published, by the ledger of the run that saved them and by nothing else."""

from collections.abc import Iterator
from typing import TypedDict

from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError
from gpt1_jax.training import ledger
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.damage import Damaged


class Verified(TypedDict):
    """Whether a checkpoint is what the run saved.

    Attributes:
        step: the checkpoint.
        equal: whether every array has the bits that were saved; None if the ledger does not have this step.
        arrays: the number of arrays.
        differing: the names of those that differ or are missing; all if the checkpoint cannot be read.
    """

    step: int
    equal: bool | None
    arrays: int
    differing: list[str]


def verify(workdir: str) -> Iterator[Verified]:
    """Yields for each checkpoint in DIR/checkpoints whether it is what DIR/checksums.jsonl says; DIR needs no more.

    Raises:
        UserError: one of the two is not there.
    """
    directory = expand(workdir, "--workdir")
    known, checkpoints = ledger.read(directory), Checkpoints(directory / "checkpoints")
    if not known:
        raise UserError(
            f"--workdir={workdir} has no {ledger.NAME} to verify by; put the one that came with the checkpoints there."
        )
    steps = checkpoints.steps()
    if not steps:
        raise UserError(
            f"--workdir={workdir} has no checkpoint to verify; put each into its folder checkpoints, named by its step."
        )
    for step in steps:
        expected = known.get(step)
        try:
            found = checkpoints.sums_of_arrays(step)
        except Damaged:
            found = {}
        names = {*found, *(expected or ())}
        differing = sorted(name for name in names if found.get(name) != (expected or found).get(name))
        yield {
            "step": step,
            "equal": None if expected is None else not differing,
            "arrays": len(names),
            "differing": differing,
        }
