"""What a TPU computes otherwise, in bfloat16: the norm's moments, and the gradient of a bias.

Its softmax of the loss is tested with the loss.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import gradients, use_mesh

from gpt1_jax import tpu
from gpt1_jax.devices.mesh import device_kind
from gpt1_jax.model import layers
from gpt1_jax.tpu import add_bias

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def on_a_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu, "platform", lambda: "tpu")


def draw(*shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape).astype(dtype)


# ── Norms ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("on_a_tpu")
@pytest.mark.parametrize(("mean", "tolerance"), [(0.0, 1e-5), (3.0, 2e-5), (100.0, 3e-3)])
def test_moments_from_one_pass_are_those_from_two(mean: float, tolerance: float) -> None:
    x = (draw(4, 30, 96) + mean).astype(jnp.bfloat16)
    exact = np.asarray(x, np.float64)
    found, variance = tpu.centered(x)
    np.testing.assert_allclose(
        found, exact - exact.mean(-1, keepdims=True), rtol=1e-5, atol=1e-5 * max(1, mean)
    )
    np.testing.assert_allclose(variance[..., 0], exact.var(-1), rtol=tolerance)


@pytest.mark.usefixtures("on_a_tpu")
def test_equal_numbers_have_no_variance_below_zero() -> None:
    _, variance = tpu.centered(jnp.full((3, 7, 96), 1.7, jnp.bfloat16))
    assert (variance >= 0).all() and (variance < 1e-5).all()


def test_the_gradient_of_a_norm_is_that_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    x, scale, bias, cotangent = (
        draw(4, 30, 96),
        draw(96, dtype=jnp.float32),
        draw(96, dtype=jnp.float32),
        draw(4, 30, 96),
    )
    norm = layers.layer_norm(1e-5)
    with jax.default_matmul_precision("highest"):
        exact = gradients(norm, x.astype(jnp.float32), scale, bias, cotangent.astype(jnp.float32))
    monkeypatch.setattr(tpu, "platform", lambda: "tpu")
    found = gradients(norm, x, scale, bias, cotangent)
    for ours, right in zip(found, exact, strict=True):
        assert np.linalg.norm(np.asarray(ours, np.float64) - right) < 0.004 * np.linalg.norm(right)


# ── Biases ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("on_a_tpu")
@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)])
def test_the_gradient_of_a_bias_is_the_sum_in_float32(axes: tuple[int, int, int]) -> None:
    x, cotangent, bias = draw(8, 40, 3, 4), draw(8, 40, 3, 4) + 1, draw(3, 4, dtype=jnp.float32)
    with use_mesh(*axes) as mesh:
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, None, "tensor"))
        split = jax.device_put((x, cotangent), place)
        output, d_x, d_bias = gradients(add_bias, split[0], bias, split[1])
    np.testing.assert_array_equal(output, x + bias.astype(jnp.bfloat16))
    np.testing.assert_array_equal(d_x, cotangent)
    assert d_bias.dtype == jnp.float32
    np.testing.assert_allclose(d_bias, np.asarray(cotangent, np.float64).sum((0, 1)), rtol=1e-6)


# ── Elsewhere ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("platform", "dtype"), [("tpu", "float32"), ("cpu", "bfloat16"), ("gpu", "bfloat16")]
)
def test_elsewhere_nothing_changes(platform: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpu, "platform", lambda: platform)
    x, bias = draw(2, 5, 3, dtype=dtype), draw(3, dtype=jnp.float32)

    def centered(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        return x, jnp.square(x).mean(-1, keepdims=True)

    assert str(jax.make_jaxpr(tpu.centered)(x)) == str(jax.make_jaxpr(centered)(x))
    added = jax.make_jaxpr(lambda x, bias: x + bias.astype(x.dtype))
    assert str(jax.make_jaxpr(add_bias)(x, bias)) == str(added(x, bias))


# ── The loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("kind", "rows"), [("TPU v5", 1024), ("TPU v5p", 1024), ("TPU v5 lite", 512), ("cpu", 512), ("", 512)]
)
def test_a_v5p_holds_twice_as_many_logits(monkeypatch: pytest.MonkeyPatch, kind: str, rows: int) -> None:
    monkeypatch.setattr(tpu, "device_kind", lambda: kind)
    assert tpu.logits_at_once(512) == rows


def test_the_kind_is_that_of_the_mesh() -> None:
    assert device_kind() == ""
    with use_mesh():
        assert device_kind() == jax.devices()[0].device_kind
