"""The kernels of attention for GPUs, in Triton's interpreter: they are the formula, and drop what the mask says.

What calls them there, jax_triton, needs a GPU; a callback takes its place.
"""

import sys
import threading
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_model, use_mesh

from gpt1_jax.model.attention import BEFORE, Sight, plain_attention
from gpt1_jax.model.dropout import Dropout, keep_mask
from gpt1_jax.model.kernels import choice, flash_gpu
from gpt1_jax.model.kernels.flash_gpu import flash_attention
from gpt1_jax.model.transformer import Transformer

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.7")

pytestmark = pytest.mark.usefixtures("quick_compilation")

SITE, CONTEXT = 4, 320
# The devices of a mesh call from threads, and the interpreter is for one.
_ONE_AT_A_TIME = threading.Lock()


def interpreted(
    *arrays: jax.Array, kernel: Any, out_type: Any, grid: tuple[int, ...], **settings: Any
) -> Any:
    """Takes the place of `jax_triton.triton_call`; outputs start as NaN."""
    constants = {name: settings[name] for name in settings if name in kernel.arg_names}
    assert set(settings) - set(constants) == {"name", "num_warps", "num_stages"}

    def run(*arrays: Any) -> Any:
        inputs = [torch.from_numpy(np.array(array)) for array in arrays]
        outputs = [torch.full(like.shape, torch.nan) for like in jax.tree.leaves(out_type)]
        with _ONE_AT_A_TIME:
            kernel[grid](*inputs, *outputs, **constants)
        return jax.tree.unflatten(jax.tree.structure(out_type), [output.numpy() for output in outputs])

    return jax.pure_callback(run, out_type, *arrays)


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In blocks of 32 and 16 positions."""
    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace(triton_call=interpreted))
    monkeypatch.setattr(flash_gpu, "OWN_BLOCK", 32)
    monkeypatch.setattr(flash_gpu, "OTHER_BLOCK", 16)
    with use_mesh(1, 1, 1):
        yield


def seeds(batch: int) -> jax.Array:
    return 3 + jnp.arange(batch, dtype=jnp.uint32)


def arrays(length: int, heads: int = 2, width: int = 16, batch: int = 2) -> list[np.ndarray]:
    """Query, key, value and a cotangent, [B, T, H, K]."""
    return list(np.asarray(jax.random.normal(jax.random.key(0), (4, batch, length, heads, width))))


def with_gradients(
    form: Any, inputs: Any, rate: float, context: int = CONTEXT, sight: Sight = BEFORE
) -> list[np.ndarray]:
    """The output, and the gradients of query, key and value."""
    attend = partial(form, dropout=Dropout(seeds(len(inputs[0])), SITE, rate, context), sight=sight)

    def run(query: Any, key: Any, value: Any, cotangent: Any) -> Any:
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(cotangent)

    return list(map(np.asarray, jax.jit(run)(*inputs)))


def assert_plain(inputs: Any, rate: float, tolerance: float = 1e-5, sight: Sight = BEFORE) -> None:
    found, expected = (
        with_gradients(form, inputs, rate, sight=sight) for form in (flash_attention, plain_attention)
    )
    for name, ours, right in zip(("output", "query", "key", "value"), found, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("length", "width", "rate"),
    [(1, 16, 0.3), (7, 64, 0.3), (64, 32, 0.3), (48, 32, 0.3), (50, 16, 0.3), (50, 16, 0.0)],
)
def test_the_kernels_are_plain_attention(length: int, width: int, rate: float) -> None:
    assert_plain(arrays(length, width=width), rate)


@pytest.mark.parametrize("length", [50, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("causal", "grouped"), [(True, True), (False, False), (False, True)])
def test_they_see_what_a_position_may_see(causal: bool, grouped: bool, length: int) -> None:
    """In one sequence three documents, in the other tokens and then padding, which begins within a block."""
    places = np.arange(length)
    groups = np.stack([np.digitize(places, [9, 40]), np.where(places < 37, 0, -1)]).astype(np.int32)
    assert_plain(arrays(length), 0.3, sight=Sight(jnp.asarray(groups) if grouped else None, causal))


@pytest.mark.slow
@pytest.mark.parametrize("length", [300, 256])
def test_so_they_are_in_the_blocks_of_a_gpu(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "jax_triton", SimpleNamespace(triton_call=interpreted))
    assert (flash_gpu.OWN_BLOCK, flash_gpu.OTHER_BLOCK) == (64, 32)
    assert_plain(arrays(length, width=64), 0.1)


def test_exactly_the_masked_weights_are_dropped() -> None:
    """With the identity as values, the output is the weights; with the identity as cotangent, the values' gradient is.

    The context is long enough for the index to pass 2³².
    """
    length, heads, context, rate = 64, 3, 60_000, 0.6
    query = np.zeros((2, length, heads, length), np.float32)
    identity = np.broadcast_to(np.eye(length, dtype=np.float32)[:, None], query.shape)
    output, _, _, d_value = with_gradients(flash_attention, (query, query, identity, identity), rate, context)
    head, row, column = np.indices((heads, length, length), np.int64)
    index = ((head * context + row) * context + column) % 2**32
    kept = np.asarray(keep_mask(seeds(2), SITE, jnp.asarray(index.astype(np.uint32)), rate))
    keep = kept & np.tril(np.ones((length, length), bool))
    np.testing.assert_array_equal(output.transpose(0, 2, 1, 3) > 0, keep)
    np.testing.assert_array_equal(d_value.transpose(0, 2, 3, 1) > 0, keep)


def test_a_running_softmax_survives_scores_that_rise_from_block_to_block() -> None:
    """Up to about 3,000 later than before, which no float32 exponential would."""
    query, key, value, cotangent = arrays(100)
    inputs = query, key * np.linspace(0.1, 300, 100, dtype=np.float32)[:, None, None], value, cotangent
    assert_plain(inputs, 0.0, tolerance=3e-3)


def test_what_lies_behind_the_end_is_not_seen_either_way() -> None:
    """Its scores are zero, far above all others."""
    query, key, value, cotangent = arrays(50)
    inputs = -20 * (np.abs(query) + 1), np.abs(key) + 1, value, cotangent
    assert_plain(inputs, 0.1, tolerance=1e-3, sight=Sight(None, False))


@pytest.mark.parametrize("grouped", [False, True])
def test_devices_share_sequences_and_heads(grouped: bool) -> None:
    inputs, groups = arrays(40, heads=4, batch=4), jnp.arange(160).reshape(4, 40) // 13
    sight = Sight(groups, causal=False) if grouped else BEFORE
    expected = with_gradients(plain_attention, inputs, 0.3, sight=sight)
    with use_mesh(2, 1, 2) as mesh:
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
        shared = [jax.device_put(x, place) for x in inputs]
        found = with_gradients(flash_attention, shared, 0.3, sight=sight)
    for ours, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, right, rtol=1e-5, atol=1e-5)


def test_the_model_runs_it_under_scan_and_remat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the kernel in the place of a form that runs here."""
    monkeypatch.setitem(choice.FORMS, "chunked", flash_attention)
    tokens, noise = np.arange(32).reshape(2, 16) * 7 % 380, np.asarray(seeds(2))

    def gradients(form: Any, params: Any) -> Any:
        config = tiny_model(attention=form, attention_dropout=0.4, remat="full", d_model=64)

        def loss(params: Any) -> jax.Array:
            hidden: Any = Transformer(config, 380).apply({"params": params}, tokens, noise)
            return jnp.sin(hidden).sum()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    model = Transformer(tiny_model(d_model=64), 380)
    params = jax.jit(model.init)(jax.random.key(1), tokens)["params"]
    for found, expected in zip(gradients("chunked", params), gradients("plain", params), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
