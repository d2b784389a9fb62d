"""What a training is going to do: told in plain lines before it begins, and as a record by --check."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from gpt1_jax.config import ModelConfig, TrainConfig
from gpt1_jax.devices.chips import PEAK_FLOPS
from gpt1_jax.devices.mesh import placements
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.entries import read_end
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.trainer import Trainer
from gpt1_jax.wording import counted

# The side of the square matrices whose product measures a CPU.
_SIDE = 512
# What a training step reaches of the speed of such products, and of a chip's peak, by what compilers expect for TPUs.
_REACHED_ON_CPUS, _REACHED_OF_PEAK = 0.6, 0.35


def describe_model(model: ModelConfig, parameters: int, attention: str) -> str:
    """Returns a line on a model: its size, and what `explain_attention` says of one that has attention."""
    if model.kind == "lstm":
        shape = f"an LSTM of {counted(model.d_ff, 'unit')}"
    else:
        shape = f"{counted(model.num_layers, 'layer')} of width {model.d_model:,}, {attention}"
    return f"{counted(parameters, 'parameter')}, {shape}"


def introduce(stage: Stage, trainer: Trainer, config: TrainConfig, run: Run, step: int) -> list[str]:
    """Returns the lines that are told before the first step.

    Args:
        stage: what is trained.
        trainer: the step, and where it runs.
        config: the settled settings.
        run: the run directory.
        step: the step at which the training begins.
    """
    mesh, steps = trainer.mesh, max(config.num_steps - step, 0)
    device = mesh.devices.flat[0].device_kind
    begins = f"resuming at step {step}" if step else "a new run"
    lasts = "" if stage.seconds_per_step is None else spell_seconds(steps * stage.seconds_per_step)
    lines = {
        "run": f"{run.directory}, {begins}",
        "data": stage.data,
        "model": stage.model,
        "weights": "those of the checkpoint" if step else stage.weights,
        "loss": stage.loss,
        "steps": f"{steps:,} of {counted(round(stage.tokens_per_step), 'token')} on {device}"
        + (f"; {lasts} once compiled" if lasts else ""),
    }
    told = [f"{name:8} {line}" for name, line in lines.items() if line]
    if mesh.size > 1:
        told += [f"{'devices':8} mesh {dict(mesh.shape)} of {device}", *placements(trainer.abstract.params)]
    return told + list(stage.lines)


def make_plan(
    stage: Stage, trainer: Trainer, config: TrainConfig, run: Run, memory: int, warnings: Sequence[str]
) -> dict[str, Any]:
    """Returns what --check prints.

    Args:
        stage, trainer, config, run: as in `introduce`.
        memory: the bytes that a step is expected to need on each device.
        warnings: what a user should know.

    Returns:
        "workdir", "kind", "task"; "step", at which the training begins, and "steps" in all; "parameters", "batch_size",
        "tokens" and "flops" of the whole training; "devices"; "memory_gb" of each, and "seconds_estimated" from the
        beginning to the end, both roughly, the latter None if it is unknown; and "warnings".
    """
    step = max(Checkpoints(run.checkpoints).steps(), default=0)
    tokens, seconds = config.num_steps * stage.tokens_per_step, stage.seconds_per_step
    return {
        "workdir": str(run.directory),
        "kind": stage.kind,
        "task": stage.task,
        "step": step,
        "steps": config.num_steps,
        "parameters": stage.parameters,
        "batch_size": config.batch_size,
        "tokens": round(tokens),
        "flops": stage.flops_per_token * tokens,
        "devices": trainer.mesh.size,
        "memory_gb": round(memory / 1e9, 6),
        "seconds_estimated": None if seconds is None else round(max(config.num_steps - step, 0) * seconds, 3),
        "warnings": list(warnings),
    }


def expect_seconds(run: Run, model: ModelConfig, mesh: Mesh, flops: float) -> float | None:
    """Returns the seconds that a step is expected to take, roughly, or None if that is unknown.

    They are those of the last step in the run's log. For a new run they are a guess from the speed of a product of
    matrices on CPUs, and from the peak of chips for which that is known. An LSTM's steps wait for each other, so
    neither says much about it.

    Args:
        run: the run directory, begun or not.
        model: its network, which decides the type of the matrices.
        mesh: the devices.
        flops: the FLOPs of a step.
    """
    end = read_end(run.directory / "metrics.jsonl")
    logged = [entry.values.get("seconds_per_step") for _, entry in end if entry]
    known = [seconds for seconds in logged if isinstance(seconds, float)]
    if known:
        return known[-1]
    device = mesh.devices.flat[0]
    if model.kind == "lstm":
        return None
    if device.platform == "cpu":
        return flops / (mesh.size * _REACHED_ON_CPUS * _measure_cpu(model.dtype, mesh))
    if model.dtype == "bfloat16" and (peak := PEAK_FLOPS.get(device.device_kind)):
        return flops / (mesh.size * _REACHED_OF_PEAK * peak)
    return None


def _measure_cpu(dtype: str, mesh: Mesh) -> float:
    """Returns the FLOPs a second of a product of matrices on a device, of which those of a CPU share its cores."""
    shared = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    with jax.default_device(jax.local_devices()[0]):
        matrix = jnp.ones((_SIDE, _SIDE), dtype)
        product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
        product(matrix, matrix).block_until_ready()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            product(matrix, matrix).block_until_ready()
            times.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / min(times) / shared


def spell_seconds(seconds: float) -> str:
    """Returns a rough time in words: "about 40 seconds", "about 2.5 minutes", "about 30 hours"."""
    for unit, length, most in (("second", 1, 90), ("minute", 60, 90), ("hour", 3600, 48)):
        if seconds < most * length:
            amount = seconds / length
            fine = unit != "second" and amount < 10
            shown = f"{amount:.1f}" if fine else f"{max(math.ceil(amount), 1)}"
            return f"about {shown.removesuffix('.0')} {unit}{'' if shown in ('1', '1.0') else 's'}"
    return f"about {seconds / 86400:,.0f} days"
