"""Does the steps between two checkpoints of a run again, and compares where they lead by checksums."""

from functools import partial
from typing import Any, TypedDict

import jax

from gpt1_jax.config import Config
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.text_batches import training_batches
from gpt1_jax.devices.mesh import check_divisible, make_mesh, place_rows, use
from gpt1_jax.errors import UserError
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.old_runs import fill_before
from gpt1_jax.overrides import from_dict
from gpt1_jax.run import Run
from gpt1_jax.training import ledger, stopping
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.checksums import checksums
from gpt1_jax.training.damage import Damaged
from gpt1_jax.training.evaluation import Watch, unwatched
from gpt1_jax.training.kept import kept_left_out
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer


class Comparison(TypedDict("Comparison", {"from": int, "to": int})):
    """Where steps led when they were done again.

    Attributes:
        from, to: the steps of the two checkpoints.
        equal: whether every array has the bits that it had at first.
        arrays: the number of arrays.
        differing: the names of those that differ.
    """

    equal: bool
    arrays: int
    differing: list[str]


def replay(run: Run, corpus: Corpus, first: int, last: int, watch: Watch = unwatched) -> Comparison:
    """Trains from one checkpoint to the step of a later one, and compares the two states.

    On the devices of the first time all bits are the same. Elsewhere sums are rounded otherwise, so that most arrays
    differ in their last bits.

    Args:
        run: a pre-trained run.
        corpus: the text that it was trained on.
        first: the step of a checkpoint that is still there, or 0 for the start of a run without init_from.
        last: the step of a later one; it may have been removed if the ledger has it.
        watch: is told how many steps are done, and of how many.

    Raises:
        UserError: there are no such checkpoints, or the config changed between them.
    """
    config = _config_between(run, first, last)
    _check_begin(run, config, first)
    expected = _expected(run, last)
    mesh = make_mesh(config.mesh)
    check_divisible(config.model, config.train.rows, mesh)
    model = make_trunk(config.model, corpus.tokenizer.vocab_size)
    loss = language_model_loss(model, dropout=True)
    trainer = Trainer.make(model, loss, mesh, config.optimizer, config.train)
    batches = training_batches(config, corpus.tokenizer, corpus.train, kept_left_out(run, corpus))
    with use(mesh):
        if first == 0 and config.init_from is None:
            state = trainer.init(config.seed)
        else:
            state = _restored(run, first, trainer.abstract)
        program = trainer.compile([batches.rows(0, 0, 1)], config.train.batch_size)
        for step in range(first, last):
            stopping.check()
            batch = place_rows(partial(batches.rows, step), config.train.batch_size, mesh)
            state, metrics = program(state, batch)
            # What is dispatched and not done could neither be told nor stopped.
            jax.block_until_ready(metrics)
            watch(step + 1 - first, last - first)
        found = checksums(state)
    differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
    return {"from": first, "to": last, "equal": not differing, "arrays": len(found), "differing": differing}


def _config_between(run: Run, first: int, last: int) -> Config:
    """Returns what the steps after `first` were trained with, up to `last`."""
    stretches = run.stretches()
    for stretch in stretches:
        if first < stretch.from_step < last:
            raise UserError(
                f"{run.directory} was resumed with another config at step {stretch.from_step}, between {first} and "
                f"{last}; name steps on one side of it."
            )
    before = [stretch for stretch in stretches if stretch.from_step <= first]
    return from_dict(fill_before(before[-1].config)) if before else run.config()


def _expected(run: Run, step: int) -> dict[str, int]:
    known = ledger.read(run.directory)
    if step in known:
        return known[step]
    try:
        return Checkpoints(run.checkpoints).sums(step)
    except Damaged as error:
        steps = ", ".join(map(str, sorted({*known, *Checkpoints(run.checkpoints).steps()}))) or "none"
        raise UserError(
            f"{run.directory} knows no checksums of step {step} ({error}); it has those of {steps}."
        ) from error


def _check_begin(run: Run, config: Config, step: int) -> None:
    """Checks that the state of a step is there to go on from."""
    known = Checkpoints(run.checkpoints).steps()
    if step not in known and (step or config.init_from is not None):
        raise UserError(
            f"{run.directory} has no checkpoint of step {step} to go on from; it has "
            f"{', '.join(map(str, known)) or 'none'}."
        )


def _restored(run: Run, step: int, abstract: Any) -> State:
    try:
        return Checkpoints(run.checkpoints).restore(step, abstract)
    except Damaged as error:
        raise UserError(
            f"Checkpoint {step} of {run.directory} is damaged ({error}); name another."
        ) from error
