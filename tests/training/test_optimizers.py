"""Update rules and schedules against the published formulas, written out in float64 NumPy."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support import tiny_config, use_mesh

from gpt1_jax.config import OptimizerConfig
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.optimizers import applied_updates, decay_mask, make_optimizer, make_schedule

STEPS = 100
SHAPES = {
    "tokens": (12, 8),
    "blocks": {"mlp_in_kernel": (2, 8, 16), "mlp_in_bias": (2, 16), "norm_1_scale": (2, 8)},
}
DECAYS = {"tokens", "blocks/mlp_in_kernel"}


def setting(**overrides: Any) -> OptimizerConfig:
    values = {"learning_rate": 1e-2, "warmup_steps": 10, "weight_decay": 0.1, "clip_norm": 0.0} | overrides
    return dataclasses.replace(tiny_config().optimizer, **values)


def make_tree(seed: int, scale: float = 1.0) -> dict[str, Any]:
    draws = np.random.default_rng(seed)
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(lambda s: (scale * draws.normal(size=s)).astype(np.float32), SHAPES, is_leaf=is_shape)


def gradients(step: int) -> dict[str, Any]:
    return make_tree(1000 + step, 10.0 ** -(step % 6))  # of many sizes, so that ε matters


def run(optimizer: optax.GradientTransformation, steps: int = STEPS) -> Any:
    params, state = make_tree(0), optimizer.init(make_tree(0))

    @jax.jit
    def update(params: Any, state: Any, gradient: Any) -> Any:
        changes, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, changes), state

    for step in range(steps):
        params, state = update(params, state, gradients(step))
    return params, state


def flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def published_rate(config: OptimizerConfig, update: int, total: int) -> float:
    """The schedules as the paper (cosine) and the authors' opt.py (linear) have them; update counts from 0."""
    warmup = config.warmup_steps
    if config.schedule == "linear":
        x, w = update / total, warmup / total
        return config.learning_rate * (x / w if x < w else 1) * (1 - x)
    if update < warmup:
        return config.learning_rate * update / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (update - warmup) / (total - warmup)))


def published_adam(config: OptimizerConfig) -> dict[str, np.ndarray]:
    """The authors' opt.py, "adam with weight decay fix", in float64; t counts from 1."""
    b1, b2 = config.beta1, config.beta2
    params = {name: np.array(value, np.float64) for name, value in flat(make_tree(0)).items()}
    m = {name: np.zeros_like(p) for name, p in params.items()}
    v = {name: np.zeros_like(p) for name, p in params.items()}
    for t in range(1, STEPS + 1):
        g = {name: np.array(value, np.float64) for name, value in flat(gradients(t - 1)).items()}
        norm = math.sqrt(sum((x * x).sum() for x in g.values()))
        shrink = min(1, config.clip_norm / norm) if config.clip_norm else 1
        rate = published_rate(config, t - 1, STEPS) * math.sqrt(1 - b2**t) / (1 - b1**t)
        for name, p in params.items():
            m[name] = b1 * m[name] + (1 - b1) * shrink * g[name]
            v[name] = b2 * v[name] + (1 - b2) * (shrink * g[name]) ** 2
            decay = config.weight_decay * p if name in DECAYS else 0
            params[name] = p - rate * (m[name] / (np.sqrt(v[name]) + config.epsilon) + decay)
    return params


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_openai_adam_is_the_published_formula(clip_norm: float, schedule: str, epsilon: float) -> None:
    config = setting(clip_norm=clip_norm, schedule=schedule, epsilon=epsilon)
    params, state = run(make_optimizer(config, make_schedule(config, STEPS)))
    expected = published_adam(config)
    assert flat(params).keys() == expected.keys()
    for name, found in flat(params).items():
        moved = np.abs(expected[name] - flat(make_tree(0))[name]).mean()
        assert moved > 1e-2
        error = np.abs(found - expected[name]).max()
        assert error < 1e-4 * moved + 4e-6, (name, error, moved)  # and a hundred roundings of numbers near 3
    assert int(applied_updates(state)) == STEPS


def test_adamw_is_optax_with_decay_on_the_weights_alone() -> None:
    config = setting(name="adamw", clip_norm=0.5)
    schedule = make_schedule(config, STEPS)
    mask = {"tokens": True, "blocks": {"mlp_in_kernel": True, "mlp_in_bias": False, "norm_1_scale": False}}
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(lambda n: schedule(n), 0.9, 0.999, 1e-8, weight_decay=0.1, mask=mask),
    )
    params, state = run(make_optimizer(config, schedule))
    for name, expected in flat(run(reference)[0]).items():
        np.testing.assert_allclose(flat(params)[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
    assert int(applied_updates(state)) == STEPS
    theirs = flat(run(make_optimizer(setting(clip_norm=0.5), schedule))[0])
    assert any(np.abs(theirs[name] - value).max() > 1e-5 for name, value in flat(params).items())


@pytest.mark.parametrize("name", ["openai_adam", "adamw"])
def test_the_first_update_under_a_warm_up_has_rate_0_but_fills_the_moments(name: str) -> None:
    config = setting(name=name)
    optimizer = make_optimizer(config, make_schedule(config, STEPS))
    params, state = run(optimizer, steps=1)
    for path, value in flat(params).items():
        np.testing.assert_array_equal(value, flat(make_tree(0))[path])
    np.testing.assert_allclose(
        optax.tree_utils.tree_get(state, "mu")["tokens"], 0.1 * gradients(0)["tokens"], rtol=1e-5
    )
    assert int(applied_updates(state)) == 1


@pytest.mark.parametrize("name", ["openai_adam", "adamw"])
def test_one_norm_over_all_gradients_is_clipped(name: str) -> None:
    """β₁ = 0 shows the clipped gradient itself in the first moment."""
    config = setting(name=name, clip_norm=1.0, beta1=0.0)
    optimizer = make_optimizer(config, make_schedule(config, STEPS))
    params = {"kernel": jnp.zeros(3), "bias": jnp.zeros(2)}

    def clipped(gradient: dict[str, Any]) -> Any:
        state = optimizer.update(gradient, optimizer.init(params), params)[1]
        return optax.tree_utils.tree_get(state, "mu")

    large = {
        "kernel": jnp.full(3, 4.0),
        "bias": jnp.array([6.0, 9.0]),
    }  # norm √165; clipped each, ratios change
    np.testing.assert_allclose(clipped(large)["kernel"], large["kernel"] / math.sqrt(165), rtol=1e-6)
    np.testing.assert_allclose(clipped(large)["bias"], large["bias"] / math.sqrt(165), rtol=1e-6)
    small = {"kernel": jnp.full(3, 0.4), "bias": jnp.array([0.4, 0.5])}  # norm 0.94
    np.testing.assert_allclose(clipped(small)["bias"], small["bias"], rtol=1e-6)


@pytest.mark.parametrize("name", ["openai_adam", "adamw"])
def test_a_run_may_go_on_with_another_clipping_and_schedule(name: str) -> None:
    """Its optimizer state keeps its form, so that the checkpoint still fits."""
    forms = set()
    for config in (
        setting(name=name),
        setting(name=name, clip_norm=1.0),
        setting(name=name, schedule="linear"),
    ):
        state = make_optimizer(config, make_schedule(config, STEPS)).init(make_tree(0))
        forms.add(jax.tree.structure(state))
    assert len(forms) == 1


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 50), (1, 50), (10, 50), (2000, 100_000), (49, 50)])
def test_schedules_are_the_published_ones(schedule: str, warmup: int, total: int) -> None:
    config = setting(schedule=schedule, warmup_steps=warmup, learning_rate=2.5e-4)
    rate = make_schedule(config, total)
    middle = (warmup + total) // 2
    for update in sorted({0, 1, warmup // 2, max(warmup - 1, 0), warmup, middle, total - 1, total}):
        expected = published_rate(config, update, total)
        # A few roundings of float32 of the peak, so that a run goes on with the rates it had under any other code.
        assert float(rate(update)) == pytest.approx(expected, rel=0, abs=2.5e-4 * 2**-22), update
    assert float(rate(total)) == pytest.approx(0, abs=1e-11)
    assert float(rate(10 * total)) == pytest.approx(0, abs=1e-11)  # and never below
    if warmup:
        assert float(rate(0)) == 0


def test_the_cosine_has_its_peak_at_the_end_of_warm_up_and_half_of_it_in_the_middle() -> None:
    rate = make_schedule(setting(schedule="cosine", learning_rate=2.5e-4, warmup_steps=2000), 10_000)
    rates = np.array(jax.vmap(rate)(np.arange(10_001)))
    assert rates.argmax() == 2000 and rates.max() == pytest.approx(2.5e-4)
    assert rates[1000] == pytest.approx(1.25e-4) and rates[6000] == pytest.approx(1.25e-4)
    assert (np.diff(rates[:2001]) > 0).all() and (np.diff(rates[2000::10]) < 0).all()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_a_warm_up_longer_than_the_run_just_warms_up(schedule: str) -> None:
    rate = make_schedule(setting(schedule=schedule, warmup_steps=100, learning_rate=1.0), 10)
    for update in range(11):
        decay = 1 - update / 10 if schedule == "linear" else 1
        assert float(rate(update)) == pytest.approx(update / 100 * decay, abs=1e-7)


def test_total_steps_fixes_the_schedule_of_a_run_that_stops_early() -> None:
    config = setting(total_steps=1000)
    for update in (0, 5, 10, 300, 999):
        assert float(make_schedule(config, 20)(update)) == float(make_schedule(setting(), 1000)(update))


def test_kernels_tokens_and_positions_decay_and_nothing_else() -> None:
    with use_mesh():
        model = Transformer(tiny_config().model, 101)
        params = jax.eval_shape(lambda: nn.unbox(model.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))))
    mask = flat(decay_mask(setting(), params["params"]))
    decaying = {name for name, decays in mask.items() if decays}
    kernels = {"qkv_kernel", "out_kernel", "mlp_in_kernel", "mlp_out_kernel"}
    assert decaying == {"tokens", "positions"} | {f"blocks/{name}" for name in kernels}
    assert len(mask) == 14  # and eight that do not: four biases, two gains and biases of the norms
    stacked = {name: leaf.ndim for name, leaf in flat(params["params"]).items() if name not in decaying}
    assert min(stacked.values()) >= 2  # so a rule by number of dimensions would have it wrong
