"""The training step: the same numbers in any number of micro-batches, and no bad update."""

import contextlib
import ctypes
import platform
import re
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_config, use_mesh
from training_support import VOCAB_SIZE, assert_bit_equal, make_batch, make_parts, to_host

from gpt1_jax.data.batches import Batch
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.trainer import Step, Trainer

STEPS = 5

# With the usual ε, Adam turns rounding errors of gradients that are 0 by symmetry (those of the key biases)
# into whole steps of either sign; a large ε leaves them small, so that parameters can be compared.
SETTING = {
    "train.batch_size": 32,
    "train.num_steps": 10,
    "optimizer.epsilon": 1e-4,
    "optimizer.learning_rate": 1e-2,
    "optimizer.warmup_steps": 2,
}


@contextlib.contextmanager
def fast_compilation() -> Iterator[None]:
    """Compiles with few optimizations: the partitioning is the same, and the numbers to rounding."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def train(mesh_shape: tuple[int, int, int], **overrides: Any) -> tuple[list[float], dict[str, np.ndarray]]:
    """Five steps with dropout: their losses, and the parameters after them."""
    config = tiny_config(**SETTING | overrides)
    with fast_compilation(), use_mesh(*mesh_shape) as mesh:
        parts = make_parts(config, mesh)
        state, losses = parts.state, []
        for step in range(STEPS):
            state, metrics = parts.trainer.step(state, make_batch(config, mesh, step))
            losses.append(float(metrics["loss"]))
        return losses, to_host(state.params)


@pytest.fixture(scope="module")
def one_device() -> tuple[list[float], dict[str, np.ndarray]]:
    losses, params = train((1, 1, 1))
    assert losses[-1] < losses[0] - 0.1  # it learns
    return losses, params


@pytest.mark.parametrize(
    ("mesh_shape", "accumulation", "unroll"),
    [
        ((1, 1, 1), 4, 1),
        ((8, 1, 1), 4, 1),
        ((2, 2, 2), 2, 1),
        ((4, 1, 2), 2, 0),
        pytest.param((1, 8, 1), 2, 0, marks=pytest.mark.slow),
        pytest.param((2, 2, 2), 4, 0, marks=pytest.mark.slow),
    ],
)
def test_micro_batches_on_a_mesh_give_loss_and_parameters_of_one_batch_on_one_device(
    one_device: tuple[list[float], dict[str, np.ndarray]],
    mesh_shape: tuple[int, int, int],
    accumulation: int,
    unroll: int,
) -> None:
    losses, params = train(mesh_shape, **{"train.accumulation": accumulation, "model.unroll": unroll})
    np.testing.assert_allclose(losses, one_device[0], rtol=1e-5)
    assert params.keys() == one_device[1].keys()
    for name, expected in one_device[1].items():
        np.testing.assert_allclose(params[name], expected, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def accumulating():
    """A step of four micro-batches on one device, compiled once."""
    config = tiny_config(**{"train.accumulation": 4, "model.num_layers": 1})
    with fast_compilation(), use_mesh() as mesh:
        parts = make_parts(config, mesh)
        yield config, mesh, parts, lambda: jax.tree.map(jnp.copy, parts.state)


@pytest.mark.parametrize("row", [0, 3, 7])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e38])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(accumulating, row: int, bad: float) -> None:
    config, mesh, parts, state = accumulating
    good = make_batch(config, mesh, 0)
    state, _ = parts.trainer.step(state(), good)
    before = jax.tree.map(jnp.copy, state)
    weights = np.array(good.weights)
    weights[row] = bad
    after, metrics = parts.trainer.step(state, good._replace(weights=jax.device_put(weights)))
    assert not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"])
    assert int(after.step) == int(before.step) + 1
    assert_bit_equal(after.params, before.params)
    assert_bit_equal(after.optimizer, before.optimizer)
    _, metrics = parts.trainer.step(after, good)
    assert np.isfinite(metrics["loss"])
    assert float(metrics["learning_rate"]) == float(
        parts.trainer.schedule(1)
    )  # the schedule counts updates made


def test_the_state_is_donated(accumulating) -> None:
    config, mesh, parts, state = accumulating
    before = state()
    parts.trainer.step(before, make_batch(config, mesh, 0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))


@pytest.mark.parametrize("name", ["openai_adam", "adamw"])
def test_the_state_is_updated_in_place(name: str) -> None:
    config = tiny_config(**{"optimizer.name": name})
    with use_mesh() as mesh:
        parts = make_parts(config, mesh)
        text = parts.trainer.step.lower(parts.state, make_batch(config, mesh, 0)).compile().as_text()
    copied = re.findall(r"= (\w+\[\d\S*) copy\(%state", text)
    assert [shape for shape in copied if "," in shape] == []  # small ones do no harm


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_what_compiling_freed_is_given_back() -> None:
    config = tiny_config(**{"model.num_layers": 1})
    with use_mesh() as mesh:
        trainer, sample = make_parts(config, mesh).trainer, make_batch(config, mesh, 0)
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_void_p,)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    blocks = [libc.malloc(2**16) for _ in range(4_000)]
    for block in blocks:
        ctypes.memset(block, 1, 2**16)
    *freed, last = blocks  # behind them, so that their place is not the heap's end
    for block in freed:
        libc.free(block)
    before = resident()
    trainer.compile([sample], config.train.batch_size).prepare(sample, str)
    assert resident() < before - 200_000_000
    libc.free(last)


ROWS = SimpleNamespace(tokens=np.zeros((1, 1, 16), np.int32))


class FakeLowered:
    """A lowered step that takes as long to compile as its test wants."""

    def __init__(self, compile: Callable[[], Any]) -> None:
        self.compile = compile


def test_a_program_is_compiled_while_whoever_asked_for_it_goes_on() -> None:
    asked, told = threading.Event(), []

    def compile() -> Any:
        assert asked.wait(timeout=30), "the step waited for its program"
        return jax.jit(lambda state, rows: state).lower(1.0, 1.0).compile()

    step = Step(lambda rows: cast(Any, FakeLowered(compile)), batch_size=8)
    step.begin(ROWS)
    assert not step.knows(ROWS)
    asked.set()
    step.prepare(ROWS, told.append)
    assert step.knows(ROWS)
    first, second = told
    assert first == "compiling for 8 × 16 tokens …"
    assert re.fullmatch(r"compiled for 8 × 16 tokens in [\d.]+ s; 4e-09 GB per device", second)


def test_what_goes_wrong_while_a_program_is_compiled_is_raised_where_it_is_needed() -> None:
    def compile() -> Any:
        raise MemoryError("too large")

    step = Step(lambda rows: cast(Any, FakeLowered(compile)), batch_size=8)
    step.begin(ROWS)
    with pytest.raises(MemoryError, match="too large"):
        step.prepare(ROWS, str)


def test_a_program_is_lowered_with_the_settings_of_whoever_asked_for_it() -> None:
    config = tiny_config(**{"model.num_layers": 1})
    with use_mesh() as mesh, jax.default_matmul_precision("highest"):
        trainer, sample = make_parts(config, mesh).trainer, make_batch(config, mesh, 0)
        step = trainer.compile([sample], config.train.batch_size)
        text = step._program(sample).compiled.as_text()
    assert "highest" in text


def test_metrics_are_loss_gradient_norm_and_the_rate_applied(accumulating) -> None:
    config, mesh, parts, state = accumulating
    state = state()
    for step in range(4):
        batch = make_batch(config, mesh, step)
        (loss, _), gradients = jax.jit(jax.value_and_grad(parts.trainer.objective, has_aux=True))(
            state.params, batch
        )
        squares = sum(np.square(np.array(g, np.float64)).sum() for g in jax.tree.leaves(gradients))
        state, metrics = parts.trainer.step(state, batch)
        assert metrics.keys() == {"loss", "grad_norm", "learning_rate"}
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(squares), rtol=1e-4)
        np.testing.assert_allclose(metrics["learning_rate"], parts.trainer.schedule(step), rtol=1e-6)
    assert int(state.step) == 4


def test_the_first_update_under_a_warm_up_changes_no_parameter(accumulating) -> None:
    config, mesh, parts, state = accumulating
    after, _ = parts.trainer.step(state(), make_batch(config, mesh, 0))
    assert_bit_equal(after.params, parts.state.params)


def test_micro_batches_move_no_rows_between_devices() -> None:
    config = tiny_config(**{"train.batch_size": 32, "train.accumulation": 4, "model.num_layers": 1})
    with use_mesh(8) as mesh:
        parts = make_parts(config, mesh)
        text = (
            parts.trainer.step.lower(parts.trainer.abstract, make_batch(config, mesh, 0)).compile().as_text()
        )
    assert "all-reduce" in text  # of the gradients: the text does name collectives so
    for collective in ("all-to-all", "collective-permute"):
        assert collective not in text


def test_the_initial_state_is_the_same_on_every_mesh() -> None:
    config = tiny_config(**{"model.num_layers": 1})
    states = []
    for shape in [(1, 1, 1), (2, 2, 2)]:
        with use_mesh(*shape) as mesh:
            model = Transformer(config.model, VOCAB_SIZE)
            trainer = Trainer.make(
                model, language_model_loss(model, dropout=True), mesh, config.optimizer, config.train
            )
            states.append(to_host(trainer.init(seed=3)))
    assert_bit_equal(*states)


def test_a_batch_is_a_named_tuple_the_step_can_take_apart() -> None:
    config = tiny_config()
    with use_mesh(8) as mesh:
        batch = make_batch(config, mesh, 0)
    assert isinstance(batch, Batch) and batch.tokens.shape == (8, 1, 16)
    np.testing.assert_allclose(np.array(batch.weights).sum(), 1, rtol=1e-6)


def test_micro_batches_may_have_empty_labels_as_tasks_without_a_head_do() -> None:
    """The gradient of a mean is the same in one batch and in four."""
    rows = {"x": jnp.arange(8.0), "labels": jnp.zeros((8, 0, 0))}

    def objective(params: jax.Array, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        return (params * batch["x"]).sum() / 8, {}

    found = []
    for accumulation in (1, 4):
        trainer: Any = SimpleNamespace(objective=objective, accumulation=accumulation)
        (loss, _), gradient = Trainer._gradients(trainer, jnp.float32(2), rows)
        found.append((float(loss), float(gradient)))
    assert found == [(7.0, 3.5)] * 2
