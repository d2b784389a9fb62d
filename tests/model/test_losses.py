"""The tied cross-entropy: the formula and its gradient on every mesh, and never all logits at once."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support import use_mesh

from gpt1_jax.model import losses
from gpt1_jax.model.losses import tied_cross_entropy, token_log_probabilities

VOCAB, ROWS, WIDTH, BATCH, LENGTH = 120, 128, 16, 8, 13
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]

Inputs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def make_inputs(length: int = LENGTH) -> Inputs:
    """Hidden states, table, targets, weights; the padding rows are not zero, a third of the weights are."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(BATCH, length, WIDTH)).astype(np.float32)
    table = generator.normal(size=(ROWS, WIDTH)).astype(np.float32)
    targets = generator.integers(0, VOCAB, (BATCH, length), np.int32)
    targets[0, :2] = 0, VOCAB - 1
    weights = generator.uniform(0, 1, targets.shape).astype(np.float32)
    weights *= generator.uniform(size=targets.shape) > 1 / 3
    return hidden, table, targets, weights / weights.sum()


def formula(hidden: np.ndarray, table: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Σ w · (log Σ exp logits − logit of the target), in float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(table[:VOCAB], np.float64).T
    top = logits.max(-1, keepdims=True)
    log_total = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    target_logits = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return float((weights * (log_total - target_logits)).sum())


def naive(hidden: jax.Array, table: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    log_probabilities = jax.nn.log_softmax(hidden @ table[:VOCAB].T)
    return -(weights * jnp.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0]).sum()


def placed(mesh: Mesh, inputs: Inputs) -> Any:
    """The inputs split over the mesh as in training."""
    rows = PartitionSpec(("data", "fsdp"))
    specs = (rows, PartitionSpec("tensor", "fsdp"), rows, rows)
    return jax.device_put(inputs, tuple(NamedSharding(mesh, spec) for spec in specs))


def on_mesh(axes: tuple[int, int, int], function: Callable, inputs: Inputs) -> Any:
    with use_mesh(*axes) as mesh:
        return jax.device_get(jax.jit(function)(*placed(mesh, inputs)))


def loss(hidden: jax.Array, table: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
    return tied_cross_entropy(hidden, table, targets, weights, VOCAB)


@pytest.fixture
def sums_from_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a TPU."""
    monkeypatch.setattr(losses, "on_tpu", lambda dtype: True)


@pytest.mark.parametrize("chunk", [1, 4, LENGTH])  # of 13 positions: in fours, the last chunk is padded
@pytest.mark.parametrize("axes", MESHES)
def test_loss_and_gradients_are_the_formula(
    axes: tuple[int, int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", chunk * BATCH // (axes[0] * axes[1]))
    inputs = make_inputs()
    assert on_mesh(axes, loss, inputs) == pytest.approx(formula(*inputs), rel=1e-6)
    value, (d_hidden, d_table) = on_mesh(axes, jax.value_and_grad(loss, (0, 1)), inputs)
    assert value == pytest.approx(formula(*inputs), rel=1e-6)
    expected_hidden, expected_table = jax.grad(naive, (0, 1))(*inputs)
    np.testing.assert_allclose(d_hidden, expected_hidden, atol=1e-6)
    np.testing.assert_allclose(d_table, expected_table, atol=1e-6)
    assert (d_table[VOCAB:] == 0).all()
    assert (d_hidden[inputs[3] == 0] == 0).all()


@pytest.mark.usefixtures("sums_from_products")
@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 2, 4)])
def test_so_they_are_to_four_digits_with_sums_of_rounded_exponentials(axes: tuple[int, int, int]) -> None:
    inputs = make_inputs()
    value, gradients = on_mesh(axes, jax.value_and_grad(loss, (0, 1)), inputs)
    assert value == pytest.approx(formula(*inputs), rel=1e-4)
    for found, expected in zip(gradients, jax.grad(naive, (0, 1))(*inputs), strict=True):
        assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    assert (gradients[1][VOCAB:] == 0).all()


def test_more_sequences_than_a_chunk_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", BATCH // 2)
    inputs = make_inputs()
    assert on_mesh((1, 1, 1), loss, inputs) == pytest.approx(formula(*inputs), rel=1e-6)


def test_gradients_scale_with_what_follows() -> None:
    inputs = make_inputs()
    function = jax.grad(lambda *x: jnp.square(loss(*x)), (0, 1))
    expected = jax.grad(lambda *x: jnp.square(naive(*x)), (0, 1))(*inputs)
    for one, other in zip(on_mesh((2, 2, 2), function, inputs), expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 2, 4)])
def test_great_logits_do_not_overflow(axes: tuple[int, int, int]) -> None:
    hidden, table, targets, weights = make_inputs()
    inputs = (1000 * hidden, table, targets, weights)
    value, gradients = on_mesh(axes, jax.value_and_grad(loss, (0, 1)), inputs)
    assert value == pytest.approx(formula(*inputs), rel=1e-5)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_bfloat16_states_give_nearly_the_same() -> None:
    inputs = make_inputs()
    rounded = (jnp.asarray(inputs[0], jnp.bfloat16), *inputs[1:])
    value, (d_hidden, d_table) = on_mesh((2, 2, 2), jax.value_and_grad(loss, (0, 1)), rounded)
    assert value.dtype == d_table.dtype == jnp.float32
    assert d_hidden.dtype == jnp.bfloat16
    assert value == pytest.approx(formula(*inputs), rel=0.01)
    expected_hidden, expected_table = jax.grad(naive, (0, 1))(*inputs)
    for one, other in ((d_hidden, expected_hidden), (d_table, expected_table)):
        assert np.linalg.norm(np.asarray(one, np.float32) - other) < 0.03 * np.linalg.norm(other)


@pytest.mark.usefixtures("sums_from_products")
def test_a_certain_token_has_no_loss_and_no_gradient() -> None:
    """The exponential of the greatest logit is 1, which bfloat16 has."""
    table = np.eye(ROWS, WIDTH, dtype=np.float32)
    targets = np.arange(BATCH * LENGTH, dtype=np.int32).reshape(BATCH, LENGTH) % WIDTH
    inputs = (
        jnp.asarray(1000 * table[targets], jnp.bfloat16),
        table,
        targets,
        np.ones(targets.shape, np.float32),
    )
    value, gradients = on_mesh((1, 1, 1), jax.value_and_grad(loss, (0, 1)), inputs)
    assert value == 0 and not any(np.asarray(x, np.float32).any() for x in gradients)


# ── With a bias, as masked language models have it ───────────────────────────────────────────────────────────

BIAS = np.random.default_rng(2).normal(size=ROWS).astype(np.float32)


def biased(function: Callable) -> Callable:
    """A loss of (hidden, table, bias, …) by one whose logits have no bias: a further column of both makes it."""

    def loss(hidden: jax.Array, table: jax.Array, bias: jax.Array, *rest: jax.Array) -> jax.Array:
        ones = jnp.ones((*hidden.shape[:2], 1), hidden.dtype)
        return function(
            jnp.concatenate([hidden, ones], -1), jnp.concatenate([table, bias[:, None]], -1), *rest
        )

    return loss


@pytest.mark.parametrize("axes", MESHES)
def test_a_bias_is_a_further_column_of_the_table(
    axes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_ROWS", 4 * BATCH // (axes[0] * axes[1]))
    hidden, table, targets, weights = make_inputs()

    def ours(hidden, table, targets, weights, bias):
        return tied_cross_entropy(hidden, table, targets, weights, VOCAB, bias)

    with use_mesh(*axes) as mesh:
        split = jax.device_put(BIAS, NamedSharding(mesh, PartitionSpec("tensor")))
        inputs = (*placed(mesh, (hidden, table, targets, weights)), split)
        assert jax.jit(ours)(*inputs) == pytest.approx(
            biased(formula)(hidden, table, BIAS, targets, weights), rel=1e-6
        )
        value, gradients = jax.jit(jax.value_and_grad(ours, (0, 1, 4)))(*inputs)
    expected = jax.value_and_grad(biased(naive), (0, 1, 2))(hidden, table, BIAS, targets, weights)
    assert value == pytest.approx(float(expected[0]), rel=1e-6)
    for one, other in zip(gradients, expected[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.asarray(gradients[2])[VOCAB:].any()


def test_log_probabilities_have_the_bias_too() -> None:
    hidden, table, targets, _ = make_inputs()
    found = token_log_probabilities(*map(jnp.asarray, (hidden, table, targets)), VOCAB, jnp.asarray(BIAS))
    one_each = np.eye(targets.size, dtype=np.float32).reshape(-1, *targets.shape)[:3]
    expected = [-biased(formula)(hidden, table, BIAS, targets, weights) for weights in one_each]
    np.testing.assert_allclose(found.ravel()[:3], expected, rtol=1e-5)


# ── What the compiler makes of it ────────────────────────────────────────────────────────────────────────────

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def compiled_text(axes: tuple[int, int, int], function: Callable, inputs: Inputs) -> str:
    with use_mesh(*axes) as mesh:
        return jax.jit(function).lower(*placed(mesh, inputs)).compile().as_text()


def collectives_of(text: str) -> dict[str, list[str]]:
    """The computations of an HLO module that communicate, with the lines that do; "ENTRY" is the outermost."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if opening := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = "ENTRY" if opening[1] else opening[2]
        if re.search(rf" ({'|'.join(COLLECTIVES)})(-start)?\(", line):
            found.setdefault(name, []).append(line)
    return found


def largest_array(text: str) -> int:
    """The elements of the largest array of an HLO module."""
    shapes = re.findall(r"(?:f32|bf16|s32|pred|u32)\[([\d,]+)\]", text)
    return max(int(np.prod([int(size) for size in shape.split(",")])) for shape in shapes)


def test_the_loop_over_positions_communicates_twice_over_tensor_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything else is gathered or reduced once, outside the loop."""
    monkeypatch.setattr(losses, "CHUNK_ROWS", 8)
    text = compiled_text((2, 2, 2), jax.value_and_grad(loss, (0, 1)), make_inputs(length=32))
    (body,) = re.findall(r" while\(.*body=%?([\w.\-]+)", text)
    found = collectives_of(text)
    assert set(found) == {body, "ENTRY"}
    assert len(found[body]) == 2
    for line in found[body]:
        assert " all-reduce" in line
        written = (r"\{\{0,1\},\{2,3\},\{4,5\},\{6,7\}\}", r"\[4,2\]<=\[8\]", r"mesh\[[^]]*\] \{'tensor'\}")
        assert re.search(rf"replica_groups=({'|'.join(written)})", line), line
    assert len(found["ENTRY"]) <= 5  # in: the table; out: the loss, d_hidden, d_table over data and over fsdp


@pytest.mark.parametrize("gradient", [True, False], ids=["gradient", "loss"])
@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)])
def test_all_logits_never_exist(
    axes: tuple[int, int, int], gradient: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No array of the program is half as large as a device's logits; the naive formula has one."""
    sequences, local_rows, length = BATCH // (axes[0] * axes[1]), ROWS // axes[2], 96
    monkeypatch.setattr(losses, "CHUNK_ROWS", 8 * sequences)
    inputs, logits = make_inputs(length=length), sequences * length * local_rows
    functions = [jax.value_and_grad(f, (0, 1)) if gradient else f for f in (loss, naive)]
    assert largest_array(compiled_text(axes, functions[0], inputs)) < logits / 2
    assert largest_array(compiled_text(axes, functions[1], inputs)) > logits / 2
