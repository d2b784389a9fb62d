"""The one loop that turns every stage; stages differ in their step, batches and evaluation."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from gpt1_jax.config import TrainConfig
from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.training import stopping
from gpt1_jax.training.profiling import Profiler
from gpt1_jax.training.record import Record
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.step import State

TrainStep = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


def train(
    stage: Stage, train_step: TrainStep, config: TrainConfig, state: State, record: Record, mesh: Mesh
) -> State:
    """Trains from state.step to config.num_steps, leaving metrics, results and checkpoints in the run.

    `train_step` takes (state, batch) to (state, metrics) and donates the state. Step n is dispatched before the
    metrics of step n − 1 are read, so that the devices never wait for the host.

    Returns:
        The state at the end.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        Diverged, DivergedAgain: too many steps in a row were not finite.
    """
    first, last = int(state.step), config.num_steps
    profiler = Profiler(config.profile_steps, last, record.directory / "profile")
    pending: tuple[int, dict[str, jax.Array]] | None = None
    for step in range(first + 1, last + 1):
        batch = place_rows(
            lambda start, end, step=step: stage.rows(step - 1, start, end), config.batch_size, mesh
        )
        profiler.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        profiler.after(step, metrics)
        if pending is not None:
            record.read(*pending)
        pending = step, metrics

        stop = stopping.asked()
        evaluating = step % config.eval_every == 0 or step == last
        saving = step % config.checkpoint_every == 0 or step == last
        if stop or evaluating or saving or record.guard.nearly_lost:
            record.read(*pending)
            pending = None
            record.act(step, state, stop=stop, saving=saving, evaluating=evaluating)
    return state
