"""What a GPU computes otherwise: products of matrices, a norm's gradient, the loss's sums in one pass.

Here a CPU takes the GPU's part, except for its kernels of attention, which are tested by themselves.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import gradients, tiny_model, use_mesh

from gpt1_jax import gpu
from gpt1_jax.model import layers, losses
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.state import abstract_params

pytestmark = pytest.mark.usefixtures("quick_compilation")


def be_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "platform", lambda: "gpu")


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    be_a_gpu(monkeypatch)


def draw(*shape: int, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.normal(jax.random.key(len(shape)), shape).astype(dtype)


def assert_same(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for ours, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=tolerance, atol=tolerance)


# ── Products ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 2, 1), (2, 1, 2)], ids=["one", "rows split", "heads split"])
@pytest.mark.parametrize(("summed", "kernel"), [(1, (12, 3, 4, 5)), (2, (4, 3, 7)), (1, (12, 7))])
def test_a_product_of_matrices_is_the_same(axes: Any, summed: int, kernel: tuple[int, ...]) -> None:
    inner, outer = kernel[:summed], kernel[summed:]
    x, weights, cotangent = draw(4, 6, *inner), draw(*kernel), draw(4, 6, *outer)
    expected = gradients(lambda x, y: jnp.tensordot(x, y, summed), x, weights, cotangent)
    with use_mesh(*axes) as mesh:
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        found = gradients(
            lambda x, y: gpu.product(x, y, summed),
            *jax.device_put((x, weights, cotangent), (place, None, place)),
        )
    assert_same(found, expected)


@pytest.mark.usefixtures("on_a_gpu")
@pytest.mark.parametrize("tensor", [1, 2])
def test_they_are_matrices_unless_heads_are_split(tensor: int) -> None:
    with use_mesh(1, 1, tensor):
        text = str(jax.make_jaxpr(lambda x, y: gpu.product(x, y, 1))(draw(4, 6, 12), draw(12, 3, 4, 5)))
    assert ("f32[24,60]" in text) == (tensor == 1)


@pytest.mark.usefixtures("on_a_gpu")
def test_a_bias_of_several_dimensions_is_added() -> None:
    x, bias, cotangent = (
        draw(2, 5, 3, 4, dtype=jnp.bfloat16),
        draw(3, 4),
        draw(2, 5, 3, 4, dtype=jnp.bfloat16),
    )
    expected = gradients(lambda x, bias: x + bias.astype(x.dtype), x, bias, cotangent)
    assert_same(gradients(gpu.add_bias, x, bias, cotangent), expected, tolerance=0.02)


@pytest.mark.usefixtures("on_a_gpu")
def test_parts_are_put_together_again() -> None:
    x, cotangents = draw(2, 5, 3, 4), draw(3, 2, 5, 4)
    parts, pull = jax.vjp(gpu.unstack, x)
    np.testing.assert_array_equal(jnp.stack(parts, 2), x)
    np.testing.assert_array_equal(pull(list(cotangents))[0], cotangents.transpose(1, 2, 0, 3))


# ── The norm ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("shape", "mean"), [((4, 30, 96), 0.0), ((7, 96), 0.0), ((4, 30, 96), 100.0)])
def test_a_norm_and_its_gradient_are_those_of_other_devices(
    shape: tuple[int, ...], mean: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = draw(*shape) + mean, draw(shape[-1]), 1 + draw(shape[-1]), draw(*shape) + 1
    expected = gradients(layers.layer_norm(1e-5), *arguments)
    be_a_gpu(monkeypatch)
    assert_same(gradients(layers.layer_norm(1e-5), *arguments), expected, tolerance=2e-4)


# ── The loss ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_one_pass_finds_the_sums_of_the_softmax(scale: float) -> None:
    logits = scale * draw(30, 501)
    logits = logits.at[:, 400:].set(losses.MASKED)
    target = jnp.arange(30) * 7
    top, total, chosen = jax.jit(gpu.softmax_sums)(logits, jnp.arange(501) == target[:, None])
    exact = np.asarray(logits, np.float64)
    np.testing.assert_array_equal(top, logits.max(1))
    np.testing.assert_allclose(total, np.exp(exact - exact.max(1, keepdims=True)).sum(1), rtol=1e-5)
    np.testing.assert_array_equal(chosen, logits[jnp.arange(30), target])


@pytest.mark.parametrize("axes", [(1, 1, 1), (1, 2, 4)])
def test_the_loss_is_that_of_other_devices(
    axes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, table = draw(4, 6, 16), draw(256, 16)
    targets, weights = jnp.arange(24).reshape(4, 6) * 9, jnp.linspace(0, 1, 24).reshape(4, 6)

    def found() -> Any:
        def loss(hidden: jax.Array, table: jax.Array) -> jax.Array:
            return losses.tied_cross_entropy(hidden, table, targets, weights, 230)

        with use_mesh(*axes):
            return jax.jit(jax.value_and_grad(loss, (0, 1)))(hidden, table)

    expected = found()
    monkeypatch.setattr(losses, "on_gpu", lambda: True)
    assert_same(jax.tree.leaves(found()), jax.tree.leaves(expected))


# ── All of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "settings", [{}, {"norm": "pre"}, {"causal": False, "token_types": 2}, {"remat": "full"}]
)
def test_the_model_learns_what_it_does_elsewhere(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Transformer(tiny_model(**settings), 380)
    tokens, noise = np.arange(64).reshape(4, 16) * 7 % 380, jnp.arange(4, dtype=jnp.uint32)

    def found(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            hidden: Any = model.apply({"params": params}, tokens, noise)
            return jnp.sin(hidden).sum()

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))

    with use_mesh(1, 1, 1):
        params = jax.jit(model.init)(jax.random.key(1), tokens)["params"]
        expected = found(params)
        be_a_gpu(monkeypatch)
        assert_same(found(params), expected, tolerance=1e-4)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_several_gpus_gather_no_more_than_other_devices(
    axes: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Transformer(tiny_model(attention="plain"), 380)

    def loss(params: Any, tokens: jax.Array, noise: jax.Array) -> jax.Array:
        hidden: Any = model.apply({"params": params}, tokens, noise)
        return jnp.sin(hidden).sum()

    with use_mesh(*axes) as mesh:
        rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
        batch = [
            jax.ShapeDtypeStruct(shape, kind, sharding=rows)
            for shape, kind in (((8, 16), jnp.int32), ((8,), jnp.uint32))
        ]

        def gathers() -> int:
            program = jax.jit(jax.value_and_grad(loss)).lower(abstract_params(model, mesh), *batch).compile()
            return (program.as_text() or "").count(" all-gather(")

        elsewhere = gathers()
        be_a_gpu(monkeypatch)
        assert gathers() <= elsewhere
