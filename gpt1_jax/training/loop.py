"""The one loop that turns every stage; stages differ in their step, batches and evaluation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from gpt1_jax.config import TrainConfig
from gpt1_jax.errors import Fault
from gpt1_jax.run import Run
from gpt1_jax.training import sharding
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import perplexity
from gpt1_jax.training.metrics import MetricsLog, Stopwatch, device_memory, model_flops_utilization
from gpt1_jax.training.profiling import Profiler
from gpt1_jax.training.step import State
from gpt1_jax.training.stopping import StopRequest

PATIENCE = 10  # steps in a row that may fail to be finite


class Diverged(Fault):
    """Too many steps in a row were not finite; the last good state is saved."""


@dataclass(frozen=True)
class Stage:
    """What a stage puts into the loop.

    Fields:
        kind: "pretrain" or "finetune", and `task` a task's name: told in results.json.
        rows: (step, start, stop) → those rows of the step's global batch, as NumPy.
        evaluate: parameters → held-out metrics.
        score: the metric of `evaluate` by which the best is told: a loss, or else the higher the better.
        tokens_per_step, flops_per_token: what a step costs on average, for the speed figures.
        positive_label: the class whose F1 is told, where there is one.
        sample: parameters → a text to look at after each evaluation; None for none.
    """

    kind: str
    task: str | None
    rows: Callable[[int, int, int], Any]
    evaluate: Callable[[Any], dict[str, float]]
    score: str
    tokens_per_step: float
    flops_per_token: float
    positive_label: str | None = None
    sample: Callable[[Any], str] | None = None


def train(
    stage: Stage,
    train_step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]],
    config: TrainConfig,
    run: Run,
    state: State,
    checkpoints: Checkpoints,
    log: MetricsLog,
    mesh: Mesh,
    stop: StopRequest,
) -> State | None:
    """Trains from state.step to config.num_steps, leaving metrics, results and checkpoints in the run.

    `train_step` takes (state, batch) to (state, metrics) and donates the state. A step that gives the best evaluation
    so far is saved, and stays when older ones go.

    Step n is dispatched before the metrics of step n − 1 are read, so that the devices never wait for the host;
    metrics and evaluation of step n are on disk before checkpoint n is, except at a stop: an evaluation that it leaves
    no time for is made up by the next start.

    Returns:
        The state at the end; None after SIGTERM or an interrupt before it, the state saved.

    Raises:
        Diverged: PATIENCE steps in a row were not finite.
    """
    first, last = int(state.step), config.num_steps
    best: dict[str, Any] | None = run.results().get("best")
    checkpoints.best = best["step"] if best else None
    devices = mesh.devices.size
    failed: list[int] = []
    watch = Stopwatch()
    due = first > 0 and (first % config.eval_every == 0 or first == last)
    if due and run.results().get("step", 0) < first:  # it was stopped between saving and evaluating
        best = _evaluate(stage, run, state, first, log, best)
        checkpoints.best = best["step"]

    def read(step: int, metrics: dict[str, jax.Array]) -> None:
        """Waits for a step that was dispatched, watches over it, logs it where that is due."""
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        watch.step()
        if math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]):
            failed.clear()
        else:
            failed.append(step)
            log.tell(
                f"step {step}: loss {values['loss']}, gradient norm {values['grad_norm']}; the update is skipped"
            )
        if step % config.log_every == 0 or step in (1, last):
            seconds = watch.lap()
            speed = stage.tokens_per_step / seconds
            utilization = model_flops_utilization(speed, stage.flops_per_token, devices)
            nats = values["loss"] if stage.task is None else values.get("lm_loss")
            shown = {"loss": values["loss"]} | ({} if nats is None else {"perplexity": perplexity(nats)})
            values = shown | values
            values |= {"tokens_per_second": speed, "seconds_per_step": seconds}
            told = {"mfu": utilization, "memory_gb": device_memory()}
            log.write(step, "train", values | {name: x for name, x in told.items() if x is not None})
        log.advance(step)

    profiler = Profiler(config.profile_steps, last, run.directory / "profile")
    pending: tuple[int, dict[str, jax.Array]] | None = None
    for step in range(first + 1, last + 1):
        batch = sharding.place_rows(
            lambda start, end, step=step: stage.rows(step - 1, start, end), config.batch_size, mesh
        )
        profiler.before(step)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            state, metrics = train_step(state, batch)
        profiler.after(step, metrics)
        if pending is not None:
            read(*pending)
        pending = (step, metrics)
        checkpoints.watch()

        stopping = stop.asked(step)
        evaluating = step % config.eval_every == 0 or step == last
        saving = step % config.checkpoint_every == 0 or step == last
        if evaluating or saving or stopping or len(failed) == PATIENCE - 1:
            read(*pending)
            pending = None
            watch.pause()
            if stopping:  # what stops us may not wait for an evaluation
                checkpoints.save(step, state)
                checkpoints.wait()
            if evaluating:
                best = _evaluate(stage, run, state, step, log, best)
                checkpoints.best = best["step"]
            if stopping:
                return state if step == last else None
            if saving or checkpoints.best == step or len(failed) >= PATIENCE:
                checkpoints.save(step, state)
            watch.resume()
        if len(failed) >= PATIENCE:
            checkpoints.wait()
            raise Diverged(
                f"Steps {failed[0]} to {failed[-1]} were not finite, {PATIENCE} in a row; the last good parameters "
                f"are saved as step {step} of {run.directory}. A lower optimizer.learning_rate or a longer "
                "warm-up may help."
            )
    checkpoints.wait()
    return state


def _evaluate(
    stage: Stage, run: Run, state: State, step: int, log: MetricsLog, best: dict[str, Any] | None
) -> dict[str, Any]:
    """Measures, logs and writes results.json; returns the best evaluation so far, with its step."""
    values = stage.evaluate(state.params)
    log.write(step, "eval", values)
    if stage.sample is not None:
        log.write_text(step, "sample", stage.sample(state.params))
    sign = 1 if stage.score == "loss" else -1
    if best is None or best["step"] >= step or sign * values[stage.score] < sign * best[stage.score]:
        best = {"step": step, **values}
    if jax.process_index() == 0:
        results = {"kind": stage.kind, "task": stage.task, "step": step, "validation": values, "best": best}
        if stage.positive_label is not None:
            results["positive_label"] = stage.positive_label
        run.write_results(results)
    return best
