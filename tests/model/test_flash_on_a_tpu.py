"""The kernels of attention in Pallas' model of a TPU, the nearest to a chip that a CPU has.

Memory starts as NaN there, reads beyond an array are refused, programs of several cores run in random order, and two
cores that touch the same memory without waiting for each other are a race.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu
from support import tiny_config, use_mesh
from training_support import make_batch, make_parts, to_host

from gpt1_jax import tpu as sums
from gpt1_jax.model.dropout import Dropout
from gpt1_jax.model.kernels import choice, flash_tpu
from gpt1_jax.model.kernels.choice import FORMS
from gpt1_jax.model.kernels.flash_tpu import flash_attention

pytestmark = pytest.mark.usefixtures("quick_compilation")
SITE = 4


def tpu(cores: int = 1) -> Any:
    return pltpu.InterpretParams(
        detect_races=True, uninitialized_memory="nan", num_cores_or_threads=cores, random_seed=1
    )


@pytest.fixture(autouse=True)
def no_race(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """The interpreter prints the races that it finds."""
    pltpu.reset_tpu_interpret_mode_state()
    yield
    pltpu.reset_tpu_interpret_mode_state()
    assert "RACE DETECTED" not in capfd.readouterr().out


def with_gradients(form: str, inputs: Any, rate: float, cores: int = 1) -> list[np.ndarray]:
    """The output, and the gradients of query, key and value, float32."""
    query, key, value, cotangent = inputs
    dropout = Dropout(3 + jnp.arange(len(query), dtype=jnp.uint32), SITE, rate, query.shape[1])
    attend = partial(flash_attention, interpret=tpu(cores)) if form == "flash" else FORMS[form]

    def run(query, key, value, cotangent):
        output, pull = jax.vjp(partial(attend, dropout=dropout), query, key, value)
        return output, *pull(cotangent)

    return [np.asarray(x, np.float32) for x in jax.jit(run)(query, key, value, cotangent)]


@pytest.mark.parametrize(
    ("batch", "length", "heads", "block", "cores", "rate", "dtype"),
    [
        pytest.param(2, 256, 2, 512, 1, 0.1, "float32", id="one block"),
        pytest.param(1, 300, 2, 128, 2, 0.1, "float32", id="ragged, three blocks, two cores"),
        pytest.param(1, 200, 2, 128, 1, 0.1, "bfloat16", id="bfloat16"),
        pytest.param(1, 512, 12, 512, 2, 0.1, "float32", marks=pytest.mark.slow, id="GPT-1's"),
        pytest.param(1, 512, 12, 512, 1, 0.1, "bfloat16", marks=pytest.mark.slow, id="GPT-1's in bfloat16"),
        pytest.param(1, 1000, 4, 512, 2, 0.0, "float32", marks=pytest.mark.slow, id="two blocks, no dropout"),
    ],
)
def test_the_kernels_are_plain_attention(
    batch: int, length: int, heads: int, block: int, cores: int, rate: float, dtype: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(flash_tpu, "BLOCK", block)
    inputs = jax.random.normal(jax.random.key(0), (4, batch, length, heads, 64)).astype(dtype)
    with use_mesh(1, 1, 1):
        found = with_gradients("flash", inputs, rate, cores)
        expected = with_gradients("plain", inputs.astype(jnp.float32), rate)
    tolerances = (5e-7, *(5e-6,) * 3) if dtype == "float32" else (2e-2, *(6e-2,) * 3)
    for name, ours, plain, tolerance in zip(
        ("output", "query", "key", "value"), found, expected, tolerances, strict=True
    ):
        assert np.isfinite(ours).all() and np.abs(plain).max() > 0.1, name
        np.testing.assert_allclose(ours, plain, rtol=0, atol=tolerance * np.abs(plain).max(), err_msg=name)


def train(form: str, **settings: Any) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """The losses and gradient norms of two steps on eight devices, with dropout, and the parameters behind them."""
    settings = {"model.attention_dropout": 0.2, "model.context_length": 64, "train.batch_size": 8} | settings
    config = tiny_config(**settings, **{"model.attention": form})
    with use_mesh(2, 2, 2) as mesh:
        trainer, state = make_parts(config, mesh)
        losses, norms = [], []
        for step in range(2):
            state, metrics = trainer.step(state, make_batch(config, mesh, step))
            losses.append(float(metrics["loss"]))
            norms.append(float(metrics["grad_norm"]))
        return losses, norms, to_host(state.params)


@pytest.mark.slow
def test_a_whole_training_step_on_eight_devices_is_that_of_plain_attention(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel is in the place of a form that runs here."""
    expected, _, params = train("plain")
    monkeypatch.setitem(choice.FORMS, "chunked", partial(flash_attention, interpret=tpu()))
    losses, _, found = train("chunked")
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for name, array in params.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_a_whole_step_in_bfloat16_as_on_a_tpu_is_nearly_that_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the kernel, and with the sums of `gpt1_jax.tpu`."""
    expected, expected_norms, _ = train("plain")
    monkeypatch.setitem(choice.FORMS, "chunked", partial(flash_attention, interpret=tpu()))
    monkeypatch.setattr(sums, "platform", lambda: "tpu")
    losses, norms, _ = train("chunked", **{"model.dtype": "bfloat16"})
    np.testing.assert_allclose(losses, expected, rtol=2e-3)
    np.testing.assert_allclose(norms, expected_norms, rtol=2e-2)
