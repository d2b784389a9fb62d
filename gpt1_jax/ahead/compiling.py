"""Compiles the training step for a TPU slice that need not exist, and reports its memory, traffic and time."""

import contextlib
import dataclasses
import itertools
import math
import os
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from gpt1_jax.ahead.hlo import SLICES, Program
from gpt1_jax.config import Config, MeshConfig, ModelConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.data.masked import most_chosen
from gpt1_jax.data.tokenizers.opening import open_tokenizer
from gpt1_jax.devices.chips import TPUS, Chip
from gpt1_jax.devices.mesh import check_divisible, make_mesh
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.model.trunk import Trunk, make_trunk
from gpt1_jax.training.memory_plan import advise, memory_needed
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.state import abstract_params
from gpt1_jax.training.trainer import Trainer
from gpt1_jax.wording import counted

# libtpu can compile without a TPU if it is told not to look for one.
_ENVIRONMENT = {
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LOG_DIR": "disabled",
    "TPU_SKIP_MDS_QUERY": "1",
}


def find_devices(topology: str, slices: int) -> list[Any]:
    """Returns the devices of `slices` times a TPU topology such as v5e:4x4.

    Raises:
        UserError: libtpu is not installed, or there is no such topology.
    """
    generation = topology.partition(":")[0]
    if generation not in TPUS or not re.fullmatch(r"\w+:\d+(x\d+)+", topology):
        raise UserError(
            f"--topology={topology} is unknown; write GENERATION:SHAPE such as v5e:4x4, v5p:2x2x1 or "
            f"v6e:16x16, of the generations {', '.join(TPUS)}."
        )
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if generation == "v4":
        options["chip_config_name"] = "megacore"
    if re.fullmatch(r"\w+:1x1(x1)?", topology):
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        with _no_tpu_expected():
            return topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices
    # jax and libtpu raise errors of their own.
    except Exception as error:
        reason = " ".join(str(error).split())
        if "not installed" in reason:
            hint = "install the compiler with pip install 'gpt1_jax[tpu]'"
        else:
            hint = "name a shape that this generation has"
        raise UserError(f"--topology={topology} cannot be compiled for ({reason:.200}); {hint}.") from error


@contextlib.contextmanager
def _no_tpu_expected() -> Iterator[None]:
    """Sets libtpu's variables while it is loaded; if they stayed, every process would count as that of a lone TPU."""
    before = dict(os.environ)
    os.environ.update(_ENVIRONMENT | before)
    try:
        yield
    finally:
        for name in _ENVIRONMENT.keys() - before.keys():
            del os.environ[name]


def compile_step(config: Config, topology: str, devices: list[Any]) -> dict[str, Any]:
    """Compiles the pre-training step of a config for devices that need not exist.

    Returns:
        "mesh", "remat", "batch_size", "parameters" and "flops" per step; "fits"; "memory" and "memory_limit" of a
        device, in bytes. If the step fits, also what `_estimate` returns; if not, also "advice".

    Raises:
        UserError: sizes do not divide over the mesh, or the config is for fine-tuning.
    """
    if config.finetune is not None:
        raise UserError(
            "--config is for fine-tuning, whose shapes depend on its data; name one for pre-training."
        )
    began = time.perf_counter()
    mesh = _make_mesh(config.mesh, devices)
    check_divisible(config.model, config.train.rows, mesh)
    tokenizer = open_tokenizer(config.data.tokenizer)
    vocab_size = config.data.vocab_size if tokenizer is None else tokenizer.vocab_size
    model, chip = config.model, TPUS[topology.partition(":")[0]]
    trunk = make_trunk(model, vocab_size)
    params = abstract_params(trunk, mesh)
    kept, passing = memory_needed(params, model, config.train, mesh, model.context_length)
    tokens = config.train.batch_size * model.context_length
    found = {
        "topology": topology,
        "devices": mesh.size,
        "mesh": dict(mesh.shape),
        "remat": model.remat,
        "batch_size": config.train.batch_size,
        "parameters": parameter_count(params, vocab_size),
        "flops": training_flops_per_token(model, vocab_size) * tokens,
    }
    if kept + passing > chip.memory:
        found |= {"fits": False, "memory": kept + passing, "memory_limit": chip.memory}
        return found | {"advice": advise(kept > chip.memory), "compile_seconds": 0.0}
    try:
        compiled = _lower(trunk, config, mesh).compile()
    except jax.errors.JaxRuntimeError as error:
        if (memory := memory_wanted(str(error))) is None:
            raise
        found |= {"fits": False, "memory": memory[0], "memory_limit": memory[1]}
        found["advice"] = _advise(config, mesh.size)
    else:
        memory = cast(Any, compiled.memory_analysis())
        used = memory.argument_size_in_bytes + memory.temp_size_in_bytes
        found |= {"fits": True, "memory": used, "memory_limit": chip.memory}
        found |= _estimate(_read(compiled, topology), chip, model, vocab_size, tokens / mesh.size)
    return found | {"compile_seconds": time.perf_counter() - began}


def _read(compiled: jax.stages.Compiled, topology: str) -> Program:
    """Compiles the program.

    Raises:
        UserError: libtpu is newer than jaxlib, which cannot read its result.
    """
    try:
        return Program(compiled.as_text() or "")
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"--topology={topology} was compiled, but jaxlib {version('jaxlib')} cannot read what the installed "
            "libtpu wrote; install the two that go together, as pip install 'jax[tpu]' does."
        ) from error


def _make_mesh(config: MeshConfig, devices: list[Any]) -> Mesh:
    """Returns the mesh of all devices.

    Raises:
        UserError: the mesh does not have as many places as there are devices.
    """
    axes = {name: size for name, size in dataclasses.asdict(config).items() if name != "slices"}
    places = math.prod(axes.values())
    # An axis of -1 takes what remains.
    if places > 0 and places != len(devices):
        raise UserError(
            f"mesh={axes} has {counted(places, 'place')} for the {counted(len(devices), 'device')} of --topology; set "
            "an axis to -1, which takes what remains, or name another topology."
        )
    return make_mesh(config, devices)


def _lower(model: Trunk, config: Config, mesh: Mesh) -> jax.stages.Lowered:
    """Lowers the training step for a mesh, ready to be compiled."""
    # A schedule needs the number of steps. If the text decides that, it is unknown here, and 1 serves as well.
    train = dataclasses.replace(config.train, num_steps=config.train.num_steps or 1)
    config = dataclasses.replace(config, train=train)
    trainer = Trainer.make(
        model, language_model_loss(model, dropout=True), mesh, config.optimizer, config.train
    )
    ids = np.zeros((1, 1, config.model.context_length), np.int32)
    noise = np.zeros((1, 1), np.uint32)
    alone = not (config.model.causal or config.data.whole_words)
    places = ids[..., : most_chosen(ids.shape[-1])] if alone else None
    batch = Batch(ids, ids, ids.astype(np.float32), noise, noise[0], places=places)
    if config.data.mask_documents:
        batch = batch._replace(groups=ids, positions=ids if config.data.restart_positions else None)
    return trainer.lower(batch, config.train.batch_size)


def _estimate(
    program: Program, chip: Chip, model: ModelConfig, vocab_size: int, tokens: float
) -> dict[str, Any]:
    """Returns what a step sends and the time it takes, mostly by the compiler's own estimate.

    That estimate is supplemented in three ways. Attention kernels are added; they also compute the masked half of the
    scores, on matrix units that a narrow head fills only in part. Collectives are added; what is sent while the device
    computes costs no time, and the rest goes at the links' full speed. And matrix products take at least as long as at
    the chip's peak, even where the estimate says less.

    Args:
        tokens: the tokens of a step on one device.

    Returns:
        "collectives" by kind; "parts", the seconds of each part, where "memory" is everything but matrix products;
        their sum "seconds"; "bound", the longest part; and "mfu".
    """
    flops = training_flops_per_token(model, vocab_size) * tokens
    # Per token, a layer's two kernels, forward and backward, take 6 · T · D of the model's FLOPs, or twice that if
    # nothing is masked.
    seen = 1 if model.causal else 2
    attention = program.kernels() * 3 * seen * model.context_length * model.d_model * tokens
    waste = 2 / seen * max(1, chip.matrix_unit * model.num_heads / model.d_model)
    cycles, sent = program.cycles(), program.collectives()
    parts = {
        "matmuls": max(cycles["matmuls"] / chip.clock, (flops - attention) / chip.flops),
        "memory": cycles["other"] / chip.clock,
        "attention": waste * attention / chip.flops,
        "links": sum(sent[kind].bytes - sent[kind].hidden for kind in sent if kind != SLICES)
        / chip.link_speed,
        SLICES: sent[SLICES].bytes / chip.network_speed if SLICES in sent else 0.0,
    }
    seconds = sum(parts.values())
    return {
        "collectives": {kind: dataclasses.asdict(found) for kind, found in sent.items()},
        "parts": parts,
        "seconds": seconds,
        "bound": max(parts, key=lambda part: parts[part]),
        "mfu": flops / chip.flops / seconds,
    }


def search(config: Config, topology: str, devices: list[Any]) -> Iterator[dict[str, Any]]:
    """Yields what `compile_step` returns for every mesh that divides the sizes, with the least remat that fits.

    Raises:
        UserError: no mesh divides the sizes; the error says what rules out the last one.
    """
    count, refused, tried = len(devices), None, False
    sizes = [2**power for power in range(count.bit_length()) if count % 2**power == 0]
    for fsdp, tensor in itertools.product(sizes, sizes):
        if count % (fsdp * tensor):
            continue
        mesh = MeshConfig(count // (fsdp * tensor), fsdp, tensor, config.mesh.slices)
        for remat in ("none", "dots", "full"):
            model = dataclasses.replace(config.model, remat=remat)
            try:
                found = compile_step(dataclasses.replace(config, model=model, mesh=mesh), topology, devices)
            # The sizes do not divide.
            except UserError as error:
                refused = error
                break
            tried = True
            yield found
            if found["fits"]:
                break
    if refused is not None and not tried:
        raise refused


def _advise(config: Config, devices: int) -> str:
    """Returns which setting would shrink a step that does not fit."""
    if config.model.remat == "none":
        return "set model.remat=dots or full, which computes activations again"
    if config.mesh.fsdp == 1 and devices > 1:
        return f"set mesh.fsdp={min(devices, 8)}, which splits parameters and moments"
    return "set train.accumulation higher or train.batch_size lower, or take more devices"


def memory_wanted(message: str) -> tuple[float, float] | None:
    """Returns (bytes needed, bytes available) of a chip, from the TPU compiler's message about a lack of memory.

    The result is None for any other message. Two wordings are known: "Used 20G of 15G hbm" until 2025, and later
    "memory required for HLO temporaries (20G) exceeds available HBM (15G)".
    """
    size = r"\(?([\d.]+[KMGT])\)?"
    found = re.search(rf"{size} (?:of|exceeds available HBM) {size}", message)
    return (_bytes(found[1]), _bytes(found[2])) if found else None


def _bytes(text: str) -> float:
    return float(text[:-1]) * 1024.0 ** ("KMGT".index(text[-1]) + 1)
