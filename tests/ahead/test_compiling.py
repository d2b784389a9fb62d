"""Compiling for TPUs that are not there: what is read from programs, the estimate by hand, the search, errors."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_config, tiny_model, use_mesh

from gpt1_jax.ahead import compiling
from gpt1_jax.ahead.hlo import SLICES, Program, Sent
from gpt1_jax.config import Config
from gpt1_jax.devices.chips import PEAK_FLOPS, TPUS, Chip
from gpt1_jax.errors import UserError
from gpt1_jax.training.speed import training_flops_per_token

ROOT = Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


# ── Programs ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_collectives_are_counted_with_what_a_device_sends() -> None:
    with use_mesh(data=8) as mesh:
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=split)
        sums = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile()
        gathered = jax.jit(lambda x: 2 * x, out_shardings=whole).lower(x).compile()
    # Of an array in eight parts seven leave, once to be gathered, twice to be summed.
    assert Program(sums.as_text()).collectives() == {"all-reduce": Sent(1, 2 * 7 * 128 * 4 // 8)}
    assert Program(gathered.as_text()).collectives() == {"all-gather": Sent(1, 7 * 64 * 128 * 4 // 8)}


def test_collectives_in_a_loop_count_as_often_as_it_turns() -> None:
    with use_mesh(data=8) as mesh:

        def local(x: jax.Array) -> jax.Array:
            return jax.lax.scan(
                lambda carry, _: (jnp.tanh(jax.lax.psum(carry, "data")), None), x, None, length=5
            )[0]

        spec = PartitionSpec("data")
        x = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, spec))
        looped = (
            jax.jit(jax.shard_map(local, in_specs=spec, out_specs=spec, check_vma=False)).lower(x).compile()
        )
    assert Program(looped.as_text()).collectives() == {"all-reduce": Sent(5, 5 * 2 * 7 * 16 * 4 // 8)}


# As the TPU's compiler writes: a loop whose first turn stands before it, a gather beside a matmul in three parts, a
# reduce-scatter within a fusion, a sum over one of two axes, a transfer to the other slice.
TPU_PROGRAM = """
%turns (counted: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(4)
  %counted = (s32[]{:T(128)}, f32[8]{0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%counted), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%product (left: f32[8], right: f32[8]) -> f32[8] {
  ROOT %convolution = f32[8]{0} convolution(%left, %right), dim_labels=bf_io->bf
}

%begin (half: f32[4]) -> f32[8] {
  ROOT %gather.1 = f32[8]{0} all-gather(%half), replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
}

%async_collective_fusion.2 (half: f32[4]) -> f32[8] {
  %gather.2 = f32[8]{0} all-gather(%half), replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
  ROOT %nested = f32[8]{0} fusion(%left, %right), kind=kLoop, calls=%product
}

%end (half: f32[4]) -> f32[8] {
  ROOT %gather.3 = f32[8]{0} all-gather(%half), replica_groups=[4,2]<=[8], frontend_attributes={chain_id="0"}
}

%all-reduce-scatter.5 (whole: f32[8]) -> f32[4] {
  %summed = f32[8]{0} all-reduce(%whole), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  ROOT %slice = f32[4]{0} dynamic-slice(%summed, %place), dynamic_slice_sizes={4}
}

%turn (carried: (s32[], f32[8])) -> (s32[], f32[8]) {
  %start = f32[8]{0} fusion(%half), kind=kCustom, calls=%begin
  %both = f32[8]{0} fusion(%half), calls=%async_collective_fusion.2, backend_config={"estimated_cycles":"100"}
  %done = f32[8]{0} fusion(%half), kind=kCustom, calls=%end
  %norm = f32[8]{0} fusion(%done), kind=kLoop, calls=%normalize, backend_config={"estimated_cycles":"7"}
  %kernel = f32[8]{0} custom-call(%norm), custom_call_target="tpu_custom_call"
  %sum = f32[8]{0} all-reduce(%kernel), replica_groups=mesh['data'=2,'tensor'=4] {'tensor'}, to_apply=%add
  ROOT %next = (s32[]{:T(128)}, f32[8]{0}) tuple(%counter, %sum)
}

ENTRY %main (p: f32[8]) -> f32[4] {
  %one = s32[]{:T(128)} constant(1)
  %first = s32[]{:T(128)} copy(%one)
  %carried = (s32[]{:T(128)}, f32[8]{0}) tuple(%first, %p)
  %loop = (s32[]{:T(128)}, f32[8]{0}) while(%carried), condition=%turns, body=%turn
  %scattered = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.5
  %sent = (f32[4]{0}, u32[], token[]) send(%scattered, %token), channel_id=2, is_host_transfer=true
  ROOT %multiplied = f32[4]{0} convolution(%scattered, %p), backend_config={"estimated_cycles":"50"}
}
"""


def test_a_tpus_program_is_read() -> None:
    program = Program(TPU_PROGRAM)
    assert program.cycles() == {"matmuls": 3 * 100 + 50, "other": 3 * 7}
    assert program.kernels() == 3
    assert program.collectives() == {
        "all-reduce": Sent(3, 3 * 2 * 3 * 8),  # of four parts of 8 bytes three leave, twice
        "all-gather": Sent(3, 3 * 16, hidden=3 * 16),
        "reduce-scatter": Sent(1, 16),
        SLICES: Sent(1, 16),
    }


ASYNC = """
ENTRY %main (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[64]{0}) all-gather-start(%p), replica_groups={{0,1,2,3,4,5,6,7}}, dimensions={0}
  ROOT %done = f32[64]{0} all-gather-done(%start)
}
"""


def test_a_pair_of_start_and_done_is_one_collective_of_what_comes_out() -> None:
    assert Program(ASYNC).collectives() == {"all-gather": Sent(1, 7 * 8 * 4)}


# ── The estimate ─────────────────────────────────────────────────────────────────────────────────────────────

CHIP = Chip(flops=1e6, memory=1e9, link_speed=100.0, network_speed=10.0, clock=1e3, matrix_unit=128)


def estimate(matmuls: int) -> dict[str, Any]:
    """A program of two kernels for one of two layers sends 50 bytes, 20 of them while it computes, and 3."""
    program: Any = SimpleNamespace(
        cycles=lambda: {"matmuls": matmuls, "other": 500},
        kernels=lambda: 2,
        collectives=lambda: {"all-gather": Sent(2, 50, 20), SLICES: Sent(1, 3)},
    )
    return compiling._estimate(program, CHIP, tiny_model(), vocab_size=101, tokens=10)


def test_a_step_takes_the_sum_of_its_parts() -> None:
    found, model = estimate(matmuls=9000), tiny_model()
    kernels = (
        10 * 6 * model.context_length * model.d_model
    )  # FLOPs, twice for the mask, 16 times for heads of 8
    parts = {"matmuls": 9.0, "memory": 0.5, "attention": 2 * 16 * kernels / 1e6, "links": 0.3, SLICES: 0.3}
    assert found["parts"] == pytest.approx(parts)
    assert found["seconds"] == pytest.approx(sum(parts.values())) and found["bound"] == "matmuls"
    assert found["mfu"] == pytest.approx(10 * training_flops_per_token(model, 101) / 1e6 / found["seconds"])
    assert found["collectives"]["all-gather"] == {"count": 2, "bytes": 50, "hidden": 20}


def test_matmuls_take_at_least_the_peak() -> None:
    found, model = estimate(matmuls=0), tiny_model()
    flops = training_flops_per_token(model, 101) - 6 * model.context_length * model.d_model
    assert found["parts"]["matmuls"] == pytest.approx(10 * flops / 1e6)


def test_advice_goes_from_the_cheapest_setting_on() -> None:
    assert "model.remat" in compiling._advise(tiny_config(), 4)
    assert "mesh.fsdp" in compiling._advise(tiny_config(**{"model.remat": "full"}), 4)
    assert "train.accumulation" in compiling._advise(
        tiny_config(**{"model.remat": "full", "mesh.fsdp": 4}), 4
    )


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 84.40G of 15.75G hbm. Exceeded hbm capacity by 68.65G.",
        "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(84.40G) exceeds available HBM (15.75G). HLO module: jit_train_step.",
    ],
)
def test_what_the_compiler_wants_is_read_in_both_its_wordings(message: str) -> None:
    assert compiling.memory_wanted(message) == (84.40 * 2**30, 15.75 * 2**30)
    assert compiling.memory_wanted("INTERNAL: Mosaic failed") is None


def test_peaks_of_one_chip_are_one_figure() -> None:
    assert PEAK_FLOPS["TPU v5 lite"] == TPUS["v5e"].flops == 197e12
    assert set(PEAK_FLOPS.values()) >= {chip.flops for chip in TPUS.values()}


# ── The search ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_search_takes_each_mesh_that_divides_with_the_least_remat_that_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def compiled(config: Config, topology: str, devices: list[Any]) -> dict[str, Any]:
        mesh, remat = config.mesh, config.model.remat
        if mesh.tensor > 2:
            raise UserError("does not divide")
        fits = mesh.fsdp > 1 or remat == "full"
        return {"mesh": (mesh.data, mesh.fsdp, mesh.tensor), "remat": remat, "fits": fits}

    monkeypatch.setattr(compiling, "compile_step", compiled)
    found = [
        (*each["mesh"], each["remat"]) for each in compiling.search(tiny_config(), "v5e:2x2", [None] * 4)
    ]
    assert found == [
        *((4, 1, 1, remat) for remat in ("none", "dots", "full")),
        *((2, 1, 2, remat) for remat in ("none", "dots", "full")),
        (2, 2, 1, "none"),
        (1, 2, 2, "none"),
        (1, 4, 1, "none"),
    ]


def test_a_search_without_a_mesh_that_divides_says_why() -> None:
    config = tiny_config(**{"train.batch_size": 3, "model.num_heads": 1})
    with pytest.raises(UserError, match="does not divide over"):
        list(compiling.search(config, "v5e:2x2", jax.devices()[:4]))


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("topology", ["v5p-8", "v9:2x2", "v5e", "v5e:4", "2x2"])
def test_an_unknown_topology_is_told(topology: str) -> None:
    with pytest.raises(UserError, match=f"--topology={topology} is unknown; write GENERATION:SHAPE"):
        compiling.find_devices(topology, 1)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_a_missing_compiler_is_told() -> None:
    with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[tpu\]'"):
        compiling.find_devices("v5e:2x2", 1)


@pytest.mark.parametrize("own", [{}, {"TPU_WORKER_HOSTNAMES": "t1v-0,t1v-1"}])
def test_the_compiler_is_loaded_with_variables_that_do_not_stay(
    own: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands started later would take them for those of a lone TPU."""
    monkeypatch.delenv("TPU_WORKER_HOSTNAMES", raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    before, seen = dict(os.environ), {}

    def load(**_: Any) -> Any:
        seen.update(os.environ)
        raise RuntimeError("not installed")

    monkeypatch.setattr(compiling.topologies, "get_topology_desc", load)
    with pytest.raises(UserError):
        compiling.find_devices("v5e:2x2", 1)
    assert seen["TPU_WORKER_HOSTNAMES"] == own.get("TPU_WORKER_HOSTNAMES", "localhost")
    assert dict(os.environ) == before


def test_finetuning_is_refused() -> None:
    config = tiny_config(**{"finetune.task": "cola"})
    with pytest.raises(UserError, match="name one for pre-training"):
        compiling.compile_step(config, "v5e:2x2", [])


@pytest.mark.parametrize("mesh", [{"mesh.data": 3}, {"mesh.data": 2, "mesh.tensor": 4}], ids=str)
def test_a_mesh_that_does_not_take_the_slice_is_told(mesh: dict[str, int]) -> None:
    with pytest.raises(UserError, match="places for the 4 devices of --topology; set an axis to -1"):
        compiling.compile_step(tiny_config(**mesh), "v5e:2x2", jax.devices()[:4])


def test_a_program_that_jaxlib_cannot_read_is_told() -> None:
    """jaxlib 0.10.2 said this about a program for a v5p by libtpu 0.0.52."""

    class Compiled:
        def as_text(self) -> str:
            raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure proto.operand_ids_size() == *arity")

    with pytest.raises(
        UserError, match=r"v5p:2x2x1 was compiled, but jaxlib .* install the two that go together"
    ):
        compiling._read(cast(Any, Compiled()), "v5p:2x2x1")


# ── For real, where the compiler is ──────────────────────────────────────────────────────────────────────────


def compile_for(*flags: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "gpt1_jax.compile", "--config=configs/pretrain.py:tiny", *flags]
    return subprocess.run(line, cwd=ROOT, text=True, capture_output=True, timeout=300)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed; pip install 'gpt1_jax[tpu]'")
def test_a_tiny_model_compiles_for_a_tpu_slice() -> None:
    done = compile_for(
        "--topology=v5e:2x2", "--json", "--config.mesh.fsdp=2", "--config.model.dtype=bfloat16"
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["fits"] and found["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert found["memory"] < 1e9 and 0 < found["mfu"] < 1
    assert "all-reduce" in found["collectives"]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed; pip install 'gpt1_jax[tpu]'")
def test_what_does_not_fit_is_told_with_what_would_help() -> None:
    done = compile_for("--topology=v5e:2x2", "--config.train.batch_size=65536")
    assert done.returncode == 0, done.stderr
    assert "does not fit" in done.stdout and "set model.remat" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="libtpu is not installed; pip install 'gpt1_jax[tpu]'")
def test_an_axis_may_be_a_part_of_one_of_the_slice() -> None:
    """The slice has 16 × 16 chips, and the mesh is 64 × 4."""
    program = """
from gpt1_jax.config import MeshConfig
from gpt1_jax.ahead import compiling
from gpt1_jax.devices.mesh import make_mesh
devices = compiling.find_devices("v6e:16x16", 1)
print(make_mesh(MeshConfig(64, 1, 4), devices).devices.shape)
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=300)
    assert done.stdout == "(64, 1, 4)\n", done.stderr
