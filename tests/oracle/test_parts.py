"""The parts, against what the authors' program computed: float32, within what rounding allows."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from oracle_support import trace

from gpt1_jax.config import OptimizerConfig
from gpt1_jax.model.attention import chunked_attention, plain_attention
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.layers import layer_norm
from gpt1_jax.training.optimizers import make_optimizer, make_schedule

TRACE = trace(2)


def test_gelu_is_the_tanh_form() -> None:
    np.testing.assert_allclose(
        jax.nn.gelu(TRACE["gelu/x"], approximate=True), TRACE["gelu/y"], rtol=0, atol=1e-6
    )


def test_layer_norm() -> None:
    """A row that is constant becomes the bias."""
    found = layer_norm(1e-5)(jnp.asarray(TRACE["norm/x"]), TRACE["norm/g"], TRACE["norm/b"])
    np.testing.assert_allclose(found, TRACE["norm/y"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(found[2, 4], TRACE["norm/b"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("attend", [plain_attention, chunked_attention])
def test_attention_is_scaled_by_the_heads_width(attend: Any) -> None:
    part = {
        name.removeprefix("attn_scaled/"): x for name, x in TRACE.items() if name.startswith("attn_scaled/")
    }
    x, heads = part["x"], 3
    joined = x @ part["c_attn/w"][0] + part["c_attn/b"]
    query, key, value = np.split(joined.reshape(*x.shape[:2], 3 * heads, -1), 3, axis=2)
    attended = attend(*map(jnp.asarray, (query, key, value)), Dropout(None, 0, 0.0, x.shape[1]))
    found = np.asarray(attended).reshape(x.shape) @ part["c_proj/w"][0] + part["c_proj/b"]
    np.testing.assert_allclose(found, part["y"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("warmup", [0.002, 0.1])
@pytest.mark.parametrize("schedule", ["linear", "warmup_cosine", "warmup_constant"])
def test_schedules(schedule: str, warmup: float) -> None:
    """Beyond the last update, where none is asked for, the program's go on; ours stay where they ended."""
    x = TRACE["schedule/x"]
    total = 1_000_000
    config = OptimizerConfig(
        learning_rate=1.0, schedule=schedule, warmup_steps=0, warmup_fraction=warmup, total_steps=total
    )
    # Where the warm-up ends, the product may be rounded to behind it.
    updates = np.where(np.isclose(x, warmup, rtol=1e-6), warmup, x.astype(np.float64)) * total
    found = np.asarray(make_schedule(config, 0)(np.float32(updates)))
    name = "warmup_linear" if schedule == "linear" else schedule
    expected = TRACE[f"schedule/{name}/{warmup}"]
    np.testing.assert_allclose(found[x <= 1], expected[x <= 1], rtol=0, atol=2e-6)


CASES = {
    "l2_clip": (0.01, "matrices", 1.0),
    "l2_vector_clip": (0.01, "all", 1.0),
    "l2_noclip": (0.01, "matrices", 0.0),
    "plain": (0.0, "matrices", 0.0),
}


NAMES = {"matrix": "kernel", "vector": "bias", "scalar": "scale"}


def config_of(case: str, **changes: Any) -> OptimizerConfig:
    decay, decayed, clip = CASES[case]
    config = OptimizerConfig(
        learning_rate=0.05,
        schedule="linear",
        warmup_steps=0,
        warmup_fraction=0.1,
        total_steps=30,
        weight_decay=decay,
        decayed=decayed,
        clip_norm=clip,
    )
    return dataclasses.replace(config, **changes)


def thirty_updates(config: OptimizerConfig) -> Iterator[tuple[Any, Any]]:
    """Parameters and state after each update by the program's gradients."""
    optimizer = make_optimizer(config, make_schedule(config, 30))
    params: Any = {ours: jnp.asarray(TRACE[f"adam/initial/{theirs}"]) for theirs, ours in NAMES.items()}
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for number in range(30):
        gradients = {
            ours: jnp.asarray(TRACE[f"adam/grad/{theirs}"][number]) for theirs, ours in NAMES.items()
        }
        changes, state = update(gradients, state, params)
        params = optax.apply_updates(params, changes)
        yield params, state


@pytest.mark.parametrize("case", CASES)
def test_thirty_updates_of_the_optimizer_alone(case: str) -> None:
    """A matrix that decays, and a vector and a scalar that may; gradients clipped by their norm together."""
    for number, (params, state) in enumerate(thirty_updates(config_of(case))):
        find = optax.tree_utils.tree_get_all_with_path
        moments: Any = find(state, "mu"), find(state, "nu")
        for theirs, ours in NAMES.items():
            expected = {kind: TRACE[f"adam/{case}/{kind}/{theirs}"][number] for kind in "pmv"}
            np.testing.assert_allclose(params[ours], expected["p"], rtol=0, atol=5e-6)
            for ((_, found),), kind in zip(moments, "mv", strict=True):
                np.testing.assert_allclose(found[ours], expected[kind], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "moved",
    [
        {"name": "adamw"},
        {"decayed": "all"},
        {"weight_decay": 0.0},
        {"clip_norm": 0.0},
        {"schedule": "cosine"},
        {"schedule": "warmup_cosine"},
        {"schedule": "warmup_constant"},
        {"warmup_fraction": 0.0},
        {"beta2": 0.99},
    ],
    ids=str,
)
def test_a_switch_of_the_optimizer_that_is_moved_shows(moved: dict[str, Any]) -> None:
    *_, (params, _) = thirty_updates(config_of("l2_clip", **moved))
    away = [
        np.abs(params[ours] - TRACE[f"adam/l2_clip/p/{theirs}"][-1]).max() for theirs, ours in NAMES.items()
    ]
    assert max(away) > 1e-4
