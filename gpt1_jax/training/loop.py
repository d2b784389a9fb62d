"""The one loop that runs every stage; stages differ in objective, batches and evaluation."""

import contextlib
import time
from functools import partial

import jax
from jax.sharding import Mesh

from gpt1_jax import signals
from gpt1_jax.config import TrainConfig
from gpt1_jax.devices import hosts
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import place_rows, use
from gpt1_jax.run import Run
from gpt1_jax.training import divergence, ledger, stopping
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.ending import describe_end
from gpt1_jax.training.entries import mend_results
from gpt1_jax.training.log import MetricsLog
from gpt1_jax.training.plan import introduce
from gpt1_jax.training.profiling import Profiler
from gpt1_jax.training.record import Record, lacks_evaluation
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Metrics, Step, Trainer


def train(stage: Stage, trainer: Trainer, config: TrainConfig, run: Run) -> State:
    """Trains a stage in its run directory, from the newest sound checkpoint or from the stage's start.

    Leaves metrics, results and checkpoints behind.

    Args:
        stage: what to train on, and how to evaluate it.
        trainer: the step, and where it runs.
        config: the settled settings.
        run: the run, begun and held by this process.

    Returns:
        The state at the end.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        Diverged, DivergedAgain: too many steps in a row were not finite.
        UserError: every checkpoint is damaged.
        Fault: a checkpoint cannot be saved, or the processes lost each other.
    """
    began = time.monotonic()
    with use(trainer.mesh):
        # ── Restore ──────────────────────────────────────────────────────────────────────────────────────────
        checkpoints = Checkpoints(run.checkpoints, config.keep_checkpoints)
        checkpoints.log_spaced = config.keep_log_spaced
        divergence.go_back(run, checkpoints, tell)
        # From here on the step compiles, for the batches that follow the newest checkpoint.
        newest = max(checkpoints.steps(), default=0)
        ahead = [newest] if newest < config.num_steps else []
        program = trainer.compile([stage.sample_rows(step) for step in ahead], config.batch_size)
        restored = checkpoints.restore_newest(trainer.abstract, tell)
        hosts.on_first(lambda: ledger.mend(run.directory, checkpoints.steps(), checkpoints.sums))
        state: State = stage.start() if restored is None else restored
        # A new state is still being computed while the step compiles; asking it for its step would wait for that.
        step, last = 0 if restored is None else int(state.step), config.num_steps
        hosts.on_first(lambda: mend_results(run, stage, step))
        # A disk may show outdated files to some hosts.
        unevaluated = hosts.any_of(lacks_evaluation(stage, run, config, step))
        if step > last or (step == last and not unevaluated):
            tell(
                f"{run.directory} is done: step {step} of {last}; raise train.num_steps or num_epochs to go on."
            )
            return state

        # ── Compile ──────────────────────────────────────────────────────────────────────────────────────────
        stage.record(step)
        with contextlib.closing(MetricsLog(run.directory, step, last, unevaluated, config.tracker)) as log:
            for line in introduce(stage, trainer, config, run, step):
                log.tell(line)
            with log.during("compiling"):
                program.prepare(stage.sample_rows(step), log.tell)

            # ── Train ────────────────────────────────────────────────────────────────────────────────────────
            # Some processes may compile faster than others.
            hosts.wait()
            with signals.something_to_save(), contextlib.closing(checkpoints):
                record = Record(stage, config, run, checkpoints, log, step)
                if unevaluated:
                    record.evaluate(step, state)
                state = _turn(stage, trainer.mesh, program, config, record, state)
        for line in describe_end(stage, run, last - step, time.monotonic() - began):
            tell(line)
    return state


def _turn(
    stage: Stage, mesh: Mesh, program: Step, config: TrainConfig, record: Record, state: State
) -> State:
    """Trains from state.step to config.num_steps; the metrics of a step are read while the next one runs."""
    first, last = int(state.step), config.num_steps
    profiler = Profiler(config.profile_steps, last, record.directory / "profile")
    pending: tuple[int, Metrics] | None = None
    for step in range(first + 1, last + 1):
        batch = place_rows(partial(stage.rows, step - 1), config.batch_size, mesh)
        if not program.knows(batch):
            with record.compiling() as tell_cost:
                program.prepare(batch, tell_cost)
                hosts.wait()
        profiler.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = program(state, batch)
        profiler.after(step, metrics)
        if pending is not None:
            record.read(*pending)
        pending = step, metrics

        due = record.due(step, stop=stopping.asked())
        if any(due):
            record.read(*pending)
            pending = None
            record.act(step, state, due)
    return state
