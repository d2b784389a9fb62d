"""On CPUs the backward pass computes again what it would otherwise keep, and changes no number."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support import tiny_model, use_mesh

from gpt1_jax import cpu
from gpt1_jax.cpu import after, product, recomputed
from gpt1_jax.data.batches import Batch
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.layers import activated_product, layer_norm
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss

KEYS = jax.random.split(jax.random.key(0), 4)
X, KERNEL = jax.random.normal(KEYS[0], (2, 16, 64)), jax.random.normal(KEYS[1], (64, 32))
NOISE = np.ones((4, 1), np.uint32)
SCALE, BIAS = jax.random.normal(KEYS[2], (64,)), jax.random.normal(KEYS[3], (64,))


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(layer_norm(1e-5), (X, SCALE, BIAS)), (activated_product("gelu_tanh"), (X, KERNEL))],
    ids=["norm", "mlp"],
)
def test_it_has_the_gradient_of_what_it_wraps(function: Any, arguments: tuple[jax.Array, ...]) -> None:
    def loss(of: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        return lambda *arguments: jnp.sin(of(*arguments)).sum()

    places = tuple(range(len(arguments)))
    found = jax.grad(loss(function), places)(*arguments)
    expected = jax.grad(loss(function.__wrapped__), places)(*arguments)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("quick_compilation")
def test_only_the_arguments_are_kept() -> None:
    """Sixteen functions one behind another, as XLA compiles them for a CPU."""

    def waves(x: jax.Array) -> jax.Array:
        return jnp.sin(jnp.exp(jnp.cos(jnp.tanh(x) * 2) / 3) + x)

    def memory(function: Any) -> int:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            for _ in range(16):
                x = function(x) @ kernel
            return x.sum()

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((512, 256)), jnp.ones((256, 256))).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    assert memory(recomputed(waves)) < 0.7 * memory(waves)


@pytest.mark.usefixtures("quick_compilation")
def test_parts_of_a_stack_are_cut_out_again() -> None:
    """The weights of layers are stacked; unrolled layers would keep a copy of each from the forward pass on."""

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.tanh(x) @ kernel

    def memory(function: Any) -> int:
        def loss(x: jax.Array, kernels: jax.Array) -> jax.Array:
            return jax.lax.scan(lambda x, kernel: (function(x, kernel), None), x, kernels, unroll=16)[0].sum()

        compiled = jax.jit(jax.grad(loss)).lower(jnp.ones((256, 256)), jnp.ones((16, 256, 256))).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    assert memory(recomputed(product)) < 0.75 * memory(product)


@pytest.mark.usefixtures("quick_compilation")
def test_no_zeros_wait_for_the_gradients_of_the_token_table(monkeypatch: pytest.MonkeyPatch) -> None:
    vocab_size = 20_000
    model = Transformer(tiny_model(num_layers=1), vocab_size)
    batch = Batch(
        *(np.ones((4, 1, 16), dtype) for dtype in (np.int32, np.int32, np.float32)),
        noise=NOISE,
        update=NOISE[:, 0],
    )

    def memory() -> int:
        jax.clear_caches()
        with use_mesh():
            tokens = jnp.ones((1, 1), jnp.int32)
            params = jax.eval_shape(
                lambda key: nn.unbox(model.init(key, tokens)["params"]), jax.random.key(0)
            )
            objective = language_model_loss(model, dropout=False)
            compiled = jax.jit(jax.grad(objective, has_aux=True)).lower(params, batch).compile()
        analysis: Any = compiled.memory_analysis()
        return analysis.temp_size_in_bytes

    found = memory()
    monkeypatch.setattr(cpu, "after", lambda x, _: x)
    table = 4 * table_rows(vocab_size) * model.config.d_model
    assert found < memory() - 0.9 * table


def test_other_devices_get_the_plain_function() -> None:
    """Their compilers see what a CPU's compiler does not; this compiles for a TPU that is not there."""
    gelu = recomputed(jax.nn.gelu)
    mesh = jax.sharding.AbstractMesh(
        (1,),
        ("data",),
        abstract_device=jax.sharding.AbstractDevice(device_kind="TPU v5 lite", platform="tpu", num_cores=1),
    )
    with jax.sharding.use_abstract_mesh(mesh):
        assert "custom_vjp" not in str(jax.make_jaxpr(gelu)(X))
        assert "select_n" not in str(jax.make_jaxpr(after)(X, X))
    assert "custom_vjp" in str(jax.make_jaxpr(gelu)(X))


def test_what_is_not_a_number_stays_so() -> None:
    x = jnp.arange(4.0)
    np.testing.assert_array_equal(after(x, jnp.array([0, jnp.nan, jnp.inf, 1])), [0, jnp.nan, 2, 3])
    np.testing.assert_array_equal(after(x.astype(jnp.bfloat16), jnp.ones(1)), x)
    assert after(x.astype(jnp.bfloat16), jnp.ones(1)).dtype == jnp.bfloat16


# ── Products with a matrix ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("shape", "kernel_shape", "axes"),
    [
        ((2, 5, 8), (8, 24), 1),
        ((2, 5, 24), (24, 8), 1),
        ((2, 5, 8), (8, 3, 2, 4), 1),
        ((2, 5, 2, 4), (2, 4, 6), 2),
    ],
    ids=["wider", "narrower", "queries, keys and values", "heads"],
)
def test_a_product_and_its_gradients_are_those_of_tensordot(
    shape: tuple[int, ...], kernel_shape: tuple[int, ...], axes: int, dtype: Any
) -> None:
    x = jax.random.normal(KEYS[0], shape).astype(dtype)
    kernel = jax.random.normal(KEYS[1], kernel_shape).astype(dtype)

    def found(of: Callable[..., jax.Array]) -> Any:
        return jax.jit(jax.value_and_grad(lambda x, kernel: jnp.sin(of(x, kernel, axes)).sum(), (0, 1)))(
            x, kernel
        )

    for one, other in zip(
        jax.tree.leaves(found(product)), jax.tree.leaves(found(jnp.tensordot)), strict=True
    ):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(
            one.astype(jnp.float32),
            other.astype(jnp.float32),
            rtol=1e-5 if dtype == jnp.float32 else 2e-2,
            atol=1e-5,
        )


@pytest.mark.parametrize("widths", [(64, 256), (256, 64)])
def test_no_gradient_of_a_kernel_is_multiplied_in_the_slow_form(widths: tuple[int, int]) -> None:
    """XLA for CPUs multiplies fast only where rows of the left side meet columns of the right one."""

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sin(product(x, kernel)).sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.ones((4, 32, widths[0])), jnp.ones(widths)).compile()
    assert "lhs_contracting_dims={1}" in program.as_text()
    assert "lhs_contracting_dims={0}" not in program.as_text()
