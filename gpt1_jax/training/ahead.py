"""Compiling the train step for a TPU slice that is not there, and what that tells: memory, traffic, time at best."""

import dataclasses
import itertools
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.experimental import topologies

from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.data.tokenizers import open_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.training import sharding
from gpt1_jax.training.chips import TPUS, Chip
from gpt1_jax.training.collectives import collectives
from gpt1_jax.training.metrics import training_flops_per_token
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.optimizers import make_optimizer, make_schedule
from gpt1_jax.training.session import fit_attention
from gpt1_jax.training.step import abstract_state, make_train_step

# libtpu compiles without a TPU, if it is told not to look for one.
_ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
}


def find_devices(topology: str, slices: int) -> list[Any]:
    """The devices of a TPU topology such as v5e:4x4, `slices` of them.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    generation = topology.partition(":")[0]
    if generation not in TPUS or not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise UserError(
            f"--topology={topology} is none that is known; write GENERATION:SHAPE such as v5e:4x4, v5p:2x2x1 or "
            f"v6e:16x16, of the generations {', '.join(TPUS)}."
        )
    os.environ.update({name: os.environ.get(name, value) for name, value in _ENVIRONMENT.items()})
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"
    if re.fullmatch(r"\w+:1x1(x1)?", topology):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    except Exception as error:  # jax and libtpu raise their own
        reason = " ".join(str(error).split())
        if "not installed" in reason:
            hint = "install the compiler with pip install 'gpt1_jax[tpu]'"
        else:
            hint = "name a shape that this generation has"
        raise UserError(f"--topology={topology} cannot be compiled for ({reason:.200}); {hint}.") from error


def compile_step(config: Config, topology: str, devices: list[Any]) -> dict[str, Any]:
    """Compiles the pre-training step of a config for devices, none of which need be there.

    Returns:
        "mesh", "remat"; "fits" and what is used of the memory a device, in bytes; "flops" a step; "collectives" by
        kind; "seconds" a step and "mfu" at best, with "bound", what that is bound by; "advice" where it does not fit.

    Raises:
        UserError: sizes do not divide over the mesh, or a fine-tuning's config.
    """
    if config.finetune is not None:
        raise UserError(
            "--config is a fine-tuning's, whose shapes depend on its data; name one of pre-training."
        )
    began = time.perf_counter()
    mesh = sharding.make_mesh(config.mesh, devices)
    sharding.check_divisible(config, mesh)
    tokenizer = open_tokenizer(config.data.tokenizer)
    vocab_size = config.data.vocab_size if tokenizer is None else tokenizer.vocab_size
    settings, _ = fit_attention(config.model, mesh)
    model, chip = make_trunk(settings, vocab_size), TPUS[topology.partition(":")[0]]
    rows, length = config.train.batch_size, config.model.context_length
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        schedule = make_schedule(config.optimizer, config.train.num_steps or 1)
        optimizer = make_optimizer(config.optimizer, schedule)
        abstract = abstract_state(model, optimizer, mesh)
        objective = language_model_loss(model, dropout=True)
        step = make_train_step(objective, optimizer, schedule, mesh, abstract, config.train.accumulation)
        place = sharding.batch_sharding(mesh)
        shapes = Batch(
            *(np.zeros((1, 1, length), dtype) for dtype in (np.int32, np.int32, np.float32)),
            noise=np.zeros((1, 1), np.uint32),
        )
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=place), shapes
        )
        lowered = step.lower(abstract, batch)
        shown = {
            "topology": topology,
            "devices": mesh.size,
            "mesh": dict(mesh.shape),
            "remat": config.model.remat,
            "batch_size": rows,
            "parameters": parameter_count(abstract.params, vocab_size),
        }
        flops = training_flops_per_token(config.model, vocab_size) * rows * length
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            memory = memory_wanted(str(error))
            if memory is None:
                raise
            return shown | {
                "fits": False,
                "memory": memory[0],
                "memory_limit": memory[1],
                "flops": flops,
                "compile_seconds": time.perf_counter() - began,
                "advice": _advise(config, mesh.size),
            }
    memory: Any = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    sent = collectives(compiled.as_text() or "")
    state = sum(int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * 4 for leaf in jax.tree.leaves(abstract))
    return (
        shown
        | {
            "fits": True,
            "memory": used,
            "memory_limit": chip.memory,
            "flops": flops,
            "compile_seconds": time.perf_counter() - began,
            "collectives": {kind: dataclasses.asdict(found) for kind, found in sent.items()},
        }
        | _roofline(
            chip, flops, mesh.size, state, memory.temp_size_in_bytes, sum(x.bytes for x in sent.values())
        )
    )


def _roofline(
    chip: Chip, flops: float, devices: int, state: int, temporary: int, sent: int
) -> dict[str, float | str]:
    """Seconds a step at best: whatever takes longest, the rest behind it.

    Memory is read and written at least so much: parameters and both moments once each way and parameters twice more,
    forward and backward; what is kept between the passes once each way.
    """
    seconds = {
        "compute": flops / devices / chip.flops,
        "memory": (2 * state + 2 * state / 3 + 2 * temporary) / chip.memory_speed,
        "links": sent / chip.link_speed,
    }
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "bound": bound,
        "seconds": seconds[bound],
        "mfu": seconds["compute"] / seconds[bound],
    }


def search(config: Config, topology: str, devices: list[Any]) -> Iterator[dict[str, Any]]:
    """What `compile_step` says of every mesh that divides the sizes, each with remat none, dots and full."""
    count = len(devices)
    shapes = [
        (count // (fsdp * tensor), fsdp, tensor)
        for fsdp, tensor in itertools.product((1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8, 16))
        if count % (fsdp * tensor) == 0
    ]
    for (data, fsdp, tensor), remat in itertools.product(shapes, ("none", "dots", "full")):
        unroll = config.model.unroll if remat == "none" else 1
        changed = dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, remat=remat, unroll=unroll),
            mesh=MeshConfig(data, fsdp, tensor, config.mesh.slices),
        )
        try:
            yield compile_step(changed, topology, devices)
        except UserError:  # does not divide
            continue


def _advise(config: Config, devices: int) -> str:
    """Which setting would make a step smaller that does not fit."""
    if config.model.remat == "none":
        return "set model.remat=dots or full, which computes activations again"
    if config.mesh.fsdp == 1 and devices > 1:
        return f"set mesh.fsdp={min(devices, 8)}, which splits parameters and moments"
    return "set train.accumulation higher or train.batch_size lower, or take more devices"


def memory_wanted(message: str) -> tuple[float, float] | None:
    """(bytes wanted, bytes there) of a chip, from what the TPU compiler says when memory does not suffice.

    None where the message is of something else. Two wordings are known: "Used 20G of 15G hbm" up to 2025, then "memory
    required for HLO temporaries (20G) exceeds available HBM (15G)".
    """
    size = r"\(?([\d.]+[KMGT])\)?"
    found = re.search(rf"{size} (?:of|exceeds available HBM) {size}", message)
    return (_bytes(found[1]), _bytes(found[2])) if found else None


def _bytes(text: str) -> float:
    return float(text[:-1]) * 1024.0 ** ("KMGT".index(text[-1]) + 1)
