"""The decoder: GPT-1 number by number, the paper's size and start, and every setting the same function."""

import dataclasses
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from support import tiny_model, use_mesh
from torch_support import torch_names

from gpt1_jax.config import ModelConfig
from gpt1_jax.devices.mesh import batch_sharding
from gpt1_jax.model import attention
from gpt1_jax.model.dropout import keep_mask
from gpt1_jax.model.embedding import lookup, table_rows
from gpt1_jax.model.layers import layer_norm
from gpt1_jax.model.losses import tied_cross_entropy
from gpt1_jax.model.transformer import Transformer, parameter_count
from gpt1_jax.training.state import abstract_params, initial_state

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB = 150
MESHES = [(1, 1, 1), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)]
NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
GAINS = ("norm_1_scale", "norm_2_scale")


@cache
def parameter_shapes(config: ModelConfig, vocab_size: int = VOCAB) -> Any:
    with use_mesh():
        return jax.eval_shape(
            lambda: nn.unbox(
                Transformer(config, vocab_size).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))[
                    "params"
                ]
            )
        )


def random_params(config: ModelConfig) -> Any:
    """Parameters without a zero or a one among them, large enough that attention is far from uniform."""
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        center = 1.0 if path[-1].key in GAINS else 0.0
        return generator.normal(center, 0.2, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(fill, parameter_shapes(config))


def random_tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB, (rows, length), np.int32)


def states(config: ModelConfig, params: Any, tokens: jax.Array, noise: jax.Array | None = None) -> jax.Array:
    hidden = Transformer(config, VOCAB).apply({"params": params}, tokens, noise)
    assert isinstance(hidden, jax.Array)
    return hidden


def loss_and_states(
    config: ModelConfig, params: Any, tokens: jax.Array, noise: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The mean next-token loss of each sequence's positions but the last, and the states."""
    hidden, targets = states(config, params, tokens, noise), jnp.roll(tokens, -1, 1)
    weights = jnp.ones(tokens.shape).at[:, -1].set(0) / (tokens.shape[0] * (tokens.shape[1] - 1))
    return tied_cross_entropy(hidden, params["tokens"], targets, weights, VOCAB), hidden


jitted_states = jax.jit(states, static_argnums=0)
loss_states_and_gradients = jax.jit(
    jax.value_and_grad(loss_and_states, argnums=1, has_aux=True), static_argnums=0
)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Every array within `tolerance` of the greatest of its expected values."""
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=str(path))


# ── Against transformers' OpenAIGPTLMHeadModel ───────────────────────────────────────────────────────────────


def install_masks(reference: Any, config: ModelConfig, noise: jax.Array) -> None:
    """Puts our masks where the reference draws its own."""
    import torch

    def fixed(site: int, rate: float, strides: tuple[int, ...]) -> torch.nn.Module:
        class Fixed(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                coordinates = np.indices(x.shape[1:])
                index = sum(c * stride for c, stride in zip(coordinates, strides, strict=True))
                keep = keep_mask(noise, site, jnp.asarray(index, jnp.uint32), rate)
                return x * torch.from_numpy(np.array(keep, np.float32)) / (1 - rate)

        return Fixed()

    width, context = config.d_model, config.context_length
    trunk, flat, square = reference.transformer, (width, 1), (context * context, context, 1)
    trunk.drop = fixed(0, config.embedding_dropout, flat)
    for layer, block in enumerate(trunk.h):
        block.attn.attn_dropout = fixed(3 * layer + 1, config.attention_dropout, square)
        block.attn.resid_dropout = fixed(3 * layer + 2, config.residual_dropout, flat)
        block.mlp.dropout = fixed(3 * layer + 3, config.residual_dropout, flat)


@pytest.mark.parametrize(
    ("layers", "heads", "width", "context", "length", "dropout"),
    [
        (2, 4, 32, 16, 16, False),
        (3, 3, 48, 24, 11, True),
        (1, 1, 16, 8, 2, False),
        (2, 2, 32, 300, 300, True),
        pytest.param(2, 2, 32, 300, 129, False, marks=pytest.mark.slow),
    ],
)
def test_states_logits_loss_and_gradients_are_those_of_transformers(
    layers: int, heads: int, width: int, context: int, length: int, dropout: bool
) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    config = tiny_model(
        num_layers=layers,
        num_heads=heads,
        d_model=width,
        d_ff=4 * width,
        context_length=context,
        embedding_dropout=0.1,
        attention_dropout=0.2,
        residual_dropout=0.3,
        unroll=1,
    )
    reference = transformers.OpenAIGPTLMHeadModel(
        transformers.OpenAIGPTConfig(
            vocab_size=VOCAB, n_positions=context, n_embd=width, n_layer=layers, n_head=heads
        )
    ).eval()
    tokens, noise = random_tokens(2, length), jnp.array([5, 6], jnp.uint32) if dropout else None
    params = random_params(config)
    weights = {name: torch.from_numpy(array) for name, array in torch_names(params, VOCAB).items()}
    missing = reference.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys == ["lm_head.weight"]
    if noise is not None:
        install_masks(reference, config, noise)
    with use_mesh():
        (loss, hidden), gradients = loss_states_and_gradients(config, params, tokens, noise)

    ids = torch.from_numpy(tokens).long()
    expected_hidden = reference.transformer(ids)[0]
    expected = reference(ids, labels=ids)
    expected.loss.backward()
    np.testing.assert_allclose(hidden, expected_hidden.detach(), atol=2e-5)
    np.testing.assert_allclose(hidden @ params["tokens"][:VOCAB].T, expected.logits.detach(), atol=5e-5)
    assert float(loss) == pytest.approx(float(expected.loss.detach()), rel=1e-5)
    expected_gradients = {
        name.replace("lm_head.weight", "transformer.tokens_embed.weight"): parameter.grad.numpy()
        for name, parameter in reference.named_parameters()
    }
    ours = torch_names(gradients, VOCAB)
    assert_close(ours, {name: expected_gradients[name] for name in ours}, 1e-4)
    assert len(ours) == len(expected_gradients)


# ── Size and start ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_paper_has_116534784_parameters() -> None:
    paper = tiny_model(num_layers=12, num_heads=12, d_model=768, d_ff=3072, context_length=512)
    vocab_size = 40_478
    params = parameter_shapes(paper, vocab_size)
    assert parameter_count(params, vocab_size) == 116_534_784
    assert sum(leaf.size for leaf in jax.tree.leaves(params["blocks"])) == 85_054_464


@pytest.mark.parametrize("vocab_size", [1, 125, 126, 380, 40_478])
def test_the_table_has_room_for_three_specials_and_divides(vocab_size: int) -> None:
    rows = table_rows(vocab_size)
    assert rows % 128 == 0
    assert vocab_size + 3 <= rows < vocab_size + 3 + 128


def fresh_params(axes: tuple[int, int, int], seed: int = 0) -> Any:
    with use_mesh(*axes) as mesh:
        config = tiny_model(d_model=64, d_ff=256)
        state = initial_state(Transformer(config, VOCAB), optax.identity(), mesh, seed)
        return jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def fresh() -> Any:
    return fresh_params((1, 1, 1))


def test_weights_start_normal_with_deviation_two_hundredths(fresh: Any) -> None:
    weights = {name: array for name, array in fresh["blocks"].items() if name.endswith("kernel")}
    weights |= {"positions": fresh["positions"], "tokens": fresh["tokens"][:VOCAB]}
    assert len(weights) == 6
    for name, array in weights.items():
        assert array.dtype == np.float32
        assert abs(array.mean()) < 5 * 0.02 / np.sqrt(array.size), name
        assert abs(array.std() - 0.02) < 5 * 0.02 / np.sqrt(2 * array.size), name
        assert scipy.stats.kstest(array.ravel() / 0.02, "norm").pvalue > 1e-3, name
    together = np.concatenate([array.ravel() for array in weights.values()])
    assert abs(together.std() - 0.02) < 0.01 * 0.02


def test_biases_start_at_zero_and_gains_at_one(fresh: Any) -> None:
    rest = {name: array for name, array in fresh["blocks"].items() if not name.endswith("kernel")}
    assert len(rest) == 8
    for name, array in rest.items():
        assert (array == (1 if name in GAINS else 0)).all(), name


def test_padding_rows_start_at_exactly_zero(fresh: Any) -> None:
    assert len(fresh["tokens"]) == table_rows(VOCAB)
    assert (fresh["tokens"][VOCAB:] == 0).all()
    assert (fresh["tokens"][:VOCAB] != 0).any(1).all()


def test_no_two_weights_start_alike(fresh: Any) -> None:
    values = np.concatenate([array.ravel() for name, array in fresh["blocks"].items() if "kernel" in name])
    values = np.concatenate([values, fresh["positions"].ravel(), fresh["tokens"][:VOCAB].ravel()])
    assert len(np.unique(values)) > 0.99 * len(values)


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 2, 4)])
def test_the_start_is_the_same_on_every_mesh(fresh: Any, axes: tuple[int, int, int]) -> None:
    jax.tree.map(np.testing.assert_array_equal, fresh_params(axes), fresh)


def test_another_seed_is_another_start(fresh: Any) -> None:
    assert (fresh_params((1, 1, 1), seed=1)["tokens"][:VOCAB] != fresh["tokens"][:VOCAB]).mean() > 0.99


# ── Parts ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_layer_norm_is_the_formula(dtype: jnp.dtype) -> None:
    """This holds far from zero, and for a constant vector."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(5, 7, 96)) * [[[1]], [[1e-3]], [[1e3]], [[1]], [[0]]] + [
        [[0]], [[0]], [[0]], [[50]], [[3]],
    ]  # fmt: skip
    x = jnp.asarray(x, dtype)
    scale, bias = (jnp.asarray(generator.normal(size=96), jnp.float32) for _ in range(2))
    exact = np.asarray(x, np.float64)
    centered = exact - exact.mean(-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5)
    expected = centered / deviation * np.asarray(scale) + np.asarray(bias)
    output = layer_norm(1e-5)(x, scale, bias)
    assert output.dtype == dtype
    tolerance = 1e-4 if dtype == jnp.float32 else 0.03
    np.testing.assert_allclose(np.asarray(output, np.float64), expected, atol=tolerance)


@pytest.mark.parametrize("axes", MESHES)
def test_lookup_is_indexing_with_its_gradient(axes: tuple[int, int, int]) -> None:
    table = jax.random.normal(jax.random.key(0), (128, 16))
    tokens = jax.random.randint(jax.random.key(1), (8, 5), 0, 128).at[0].set(127).at[1].set(0)
    cotangent = jax.random.normal(jax.random.key(2), (8, 5, 16))
    expected = np.asarray(table)[np.asarray(tokens)]
    expected_gradient = np.zeros(table.shape)
    np.add.at(expected_gradient, np.asarray(tokens), np.asarray(cotangent))
    with use_mesh(*axes) as mesh:
        split = jax.device_put(table, NamedSharding(mesh, PartitionSpec("tensor", "fsdp")))
        value, gradient = jax.jit(
            lambda table: (
                lookup(table, tokens),
                jax.grad(lambda t: (lookup(t, tokens) * cotangent).sum())(table),
            )
        )(split)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


# ── Behaviour ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", ["plain", "chunked"])
def test_no_state_depends_on_a_later_position(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient by later positions' embeddings is exactly 0, by its own and earlier ones' it is not."""
    monkeypatch.setattr(attention, "CHUNK", 4)
    config = tiny_model(context_length=12, attention=form, unroll=1)
    length = 10
    params, tokens = random_params(config), random_tokens(1, length)

    def projected(positions: jax.Array) -> jax.Array:
        hidden = states(config, params | {"positions": positions}, tokens)
        return hidden[0] @ jnp.arange(1.0, config.d_model + 1)

    with use_mesh():
        jacobian = np.abs(jax.jit(jax.jacrev(projected))(params["positions"])).max(-1)  # [T, C]
    later = np.arange(12) > np.arange(length)[:, None]
    assert (jacobian[later] == 0).all()
    assert (jacobian[~later] > 1e-4).all()


def test_what_follows_changes_nothing_not_even_the_masks() -> None:
    config, noise = tiny_model(unroll=1), np.array([1, 2], np.uint32)
    params, tokens = random_params(config), random_tokens(2, 16)
    with use_mesh():
        whole = jitted_states(config, params, tokens, noise)
        short = jitted_states(config, params, tokens[:, :5], noise)
    np.testing.assert_allclose(short, whole[:, :5], atol=1e-5)


@pytest.mark.parametrize(
    ("rate", "silent"),
    [
        ("embedding_dropout", ()),
        ("attention_dropout", ("mlp_out_kernel", "mlp_out_bias")),
        ("residual_dropout", ("mlp_out_kernel", "mlp_out_bias")),  # which leaves the attention's output
        ("residual_dropout", ("out_kernel", "out_bias")),  # which leaves the MLP's
    ],
)
def test_every_rate_drops_where_it_says(rate: str, silent: tuple[str, ...]) -> None:
    """One rate alone changes the states; with every rate 0, noise changes nothing; noises differ."""
    no_rate = tiny_model(**NO_DROPOUT, unroll=1)
    config = dataclasses.replace(no_rate, **{rate: 0.3})
    params, noise = random_params(config), np.array([1, 1, 2], np.uint32)
    for name in silent:
        params["blocks"][name][:] = 0
    tokens = np.tile(random_tokens(1, 16), (3, 1))
    with use_mesh():
        dropped = jitted_states(config, params, tokens, noise)
        without = jitted_states(config, params, tokens, None)
        zero_rate = jitted_states(no_rate, params, tokens, noise)
    np.testing.assert_array_equal(zero_rate, without)
    assert np.abs(dropped - without).max() > 0.05
    np.testing.assert_array_equal(dropped[0], dropped[1])
    assert np.abs(dropped[0] - dropped[2]).max() > 0.05


@pytest.fixture(scope="module")
def baseline() -> Any:
    """Parameters, tokens and noise; then loss, states and gradients of a scan of one layer at a time."""
    config = tiny_model(num_layers=3, unroll=1)
    inputs = random_params(config), random_tokens(8, 16), np.arange(100, 108, dtype=np.uint32)
    with use_mesh():
        return inputs, jax.device_get(loss_states_and_gradients(config, *inputs))


@pytest.mark.parametrize(
    ("unroll", "remat"),
    [
        (2, "none"),
        (0, "full"),
        (2, "dots"),
        *(pytest.param(*x, marks=pytest.mark.slow) for x in ((0, "none"), (1, "full"))),
    ],
)
def test_how_layers_run_changes_nothing(baseline: Any, unroll: int, remat: str) -> None:
    inputs, expected = baseline
    config = tiny_model(num_layers=3, unroll=unroll, remat=remat)
    with use_mesh():
        assert_close(loss_states_and_gradients(config, *inputs), expected)


# An axis alone does what it does beside others.
@pytest.mark.parametrize(
    "axes", [pytest.param(axes, marks=[pytest.mark.slow] * (8 in axes)) for axes in MESHES[1:]]
)
def test_the_mesh_changes_nothing(baseline: Any, axes: tuple[int, int, int]) -> None:
    """Parameters, rows and heads are split, and dropout is on."""
    (params, tokens, noise), expected = baseline
    config = tiny_model(num_layers=3, unroll=1)
    with use_mesh(*axes) as mesh:
        abstract = abstract_params(Transformer(config, VOCAB), mesh)
        params = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))
        tokens, noise = jax.device_put((tokens, noise), batch_sharding(mesh))
        actual = jax.device_get(loss_states_and_gradients(config, params, tokens, noise))
    assert_close(actual, expected)


@pytest.mark.parametrize("unroll", [0, 1])
def test_remat_keeps_less(unroll: int) -> None:
    """The forward pass leaves fewer bytes to the backward pass with "dots" than with "none", "full" least."""
    sizes = {}
    for remat in ("none", "dots", "full"):
        config = tiny_model(num_layers=4, unroll=unroll, remat=remat, context_length=64)
        tokens, noise = random_tokens(8, 64), np.zeros(8, np.uint32)
        pullback = partial(jax.vjp, lambda params, *rest, config=config: states(config, params, *rest).sum())
        with use_mesh():
            left = jax.eval_shape(pullback, parameter_shapes(config), tokens, noise)
        sizes[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(left))
    assert sizes["full"] < 0.8 * sizes["dots"]
    assert sizes["dots"] < 0.8 * sizes["none"]


def test_bfloat16_is_close_to_float32(baseline: Any) -> None:
    inputs, ((expected_loss, _), expected) = baseline
    config = tiny_model(num_layers=3, unroll=1, dtype="bfloat16")
    with use_mesh():
        (loss, hidden), gradients = loss_states_and_gradients(config, *inputs)
    assert hidden.dtype == jnp.bfloat16
    assert loss.dtype == jnp.float32
    assert float(loss) == pytest.approx(float(expected_loss), rel=0.01)
    for (path, one), other in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(np.asarray(one) - other) < 0.05 * np.linalg.norm(other), path
