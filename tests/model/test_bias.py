"""A bias and its gradient, as a TPU sums it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import use_mesh

from gpt1_jax.model.kernels import bias
from gpt1_jax.model.kernels.bias import add_bias


def gradients(x: Any, added: Any, cotangent: Any) -> Any:
    def run(x: Any, added: Any, cotangent: Any) -> Any:
        output, pull = jax.vjp(add_bias, x, added)
        return output, *pull(cotangent)

    return jax.jit(run)(x, added, cotangent)


def draw(*shape: int, dtype: Any = jnp.bfloat16) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape).astype(dtype)


@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 2)])
def test_on_a_tpu_its_gradient_is_the_sum_in_float32(
    axes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bias, "platform", lambda: "tpu")
    x, cotangent, added = draw(8, 40, 3, 4), draw(8, 40, 3, 4) + 1, draw(3, 4, dtype=jnp.float32)
    with use_mesh(*axes) as mesh:
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, None, "tensor"))
        output, d_x, d_bias = gradients(jax.device_put(x, place), added, jax.device_put(cotangent, place))
    np.testing.assert_array_equal(output, x + added.astype(jnp.bfloat16))
    np.testing.assert_array_equal(d_x, cotangent)
    assert d_bias.dtype == jnp.float32
    np.testing.assert_allclose(d_bias, np.asarray(cotangent, np.float64).sum((0, 1)), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_elsewhere_it_is_a_sum(dtype: str) -> None:
    x, cotangent, added = draw(2, 5, 3, dtype=dtype), draw(2, 5, 3, dtype=dtype), draw(3, dtype=jnp.float32)
    expected = jax.jit(lambda *x: jax.vjp(lambda a, b: a + b.astype(a.dtype), *x[:2])[1](x[2]))(
        x, added, cotangent
    )
    for found, right in zip(gradients(x, added, cotangent)[1:], expected, strict=True):
        np.testing.assert_array_equal(found, right)
