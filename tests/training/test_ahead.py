"""Compiling for TPUs that are not there: collectives counted from real programs, the roofline by hand, errors."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_config, use_mesh

from gpt1_jax.errors import UserError
from gpt1_jax.training import ahead
from gpt1_jax.training.chips import PEAK_FLOPS, TPUS, Chip
from gpt1_jax.training.collectives import Sent, collectives

ROOT = Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


# ── Collectives ──────────────────────────────────────────────────────────────────────────────────────────────


def test_collectives_are_counted_with_their_bytes() -> None:
    with use_mesh(data=8) as mesh:
        split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
        x = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=split)
        sums = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile()
        gathered = jax.jit(lambda x: 2 * x, out_shardings=whole).lower(x).compile()
    assert collectives(sums.as_text()) == {"all-reduce": Sent(1, 128 * 4)}
    assert collectives(gathered.as_text()) == {"all-gather": Sent(1, 64 * 128 * 4)}


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
    assert collectives(looped.as_text()) == {"all-reduce": Sent(5, 5 * 16 * 4)}


ASYNC = """
ENTRY %main (p: f32[8]) -> f32[64] {
  %p = f32[8]{0} parameter(0)
  %start = (f32[8]{0}, f32[64]{0}) all-gather-start(%p), replica_groups={}, dimensions={0}
  ROOT %done = f32[64]{0} all-gather-done(%start)
}
"""


def test_a_pair_of_start_and_done_is_one_collective_of_what_comes_out() -> None:
    assert collectives(ASYNC) == {"all-gather": Sent(1, 64 * 4)}


# ── The estimate ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_takes_as_long_as_what_takes_longest() -> None:
    chip = Chip(flops=100.0, memory=1000.0, memory_speed=10.0, link_speed=5.0)
    found = ahead._roofline(chip, flops=4000.0, devices=4, state=6, temporary=12, sent=10)
    assert found == {"bound": "compute", "seconds": 10.0, "mfu": 1.0}
    found = ahead._roofline(chip, flops=400.0, devices=4, state=6, temporary=12, sent=10)
    assert found == {"bound": "memory", "seconds": pytest.approx(4.0), "mfu": pytest.approx(0.25)}
    found = ahead._roofline(chip, flops=400.0, devices=4, state=6, temporary=12, sent=50)
    assert found == {"bound": "links", "seconds": 10.0, "mfu": pytest.approx(0.1)}


def test_advice_goes_from_the_cheapest_setting_on() -> None:
    assert "model.remat" in ahead._advise(tiny_config(), 4)
    assert "mesh.fsdp" in ahead._advise(tiny_config(**{"model.remat": "full"}), 4)
    assert "train.accumulation" in ahead._advise(tiny_config(**{"model.remat": "full", "mesh.fsdp": 4}), 4)


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory in memory space hbm. Used 84.40G of 15.75G hbm. Exceeded hbm capacity by 68.65G.",
        "E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO temporaries "
        "(84.40G) exceeds available HBM (15.75G). HLO module: jit_train_step.",
    ],
)
def test_what_the_compiler_wants_is_read_in_both_its_wordings(message: str) -> None:
    assert ahead.memory_wanted(message) == (84.40 * 2**30, 15.75 * 2**30)
    assert ahead.memory_wanted("INTERNAL: Mosaic failed") is None


def test_peaks_of_one_chip_are_one_figure() -> None:
    assert PEAK_FLOPS["TPU v5 lite"] == TPUS["v5e"].flops == 197e12
    assert set(PEAK_FLOPS.values()) >= {chip.flops for chip in TPUS.values()}


# ── Errors ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("topology", ["v5p-8", "v9:2x2", "v5e", "v5e:4", "2x2"])
def test_an_unknown_topology_is_told(topology: str) -> None:
    with pytest.raises(
        UserError, match=f"--topology={topology} is none that is known; write GENERATION:SHAPE"
    ):
        ahead.find_devices(topology, 1)


@pytest.mark.skipif(HAS_LIBTPU, reason="libtpu is installed")
def test_a_missing_compiler_is_told() -> None:
    with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[tpu\]'"):
        ahead.find_devices("v5e:2x2", 1)


def test_finetuning_is_refused() -> None:
    config = tiny_config(**{"finetune.task": "cola"})
    with pytest.raises(UserError, match="name one of pre-training"):
        ahead.compile_step(config, "v5e:2x2", [])


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
