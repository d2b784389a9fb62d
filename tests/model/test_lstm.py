"""The LSTM: torch's number by number, its start, and the same function on every mesh and with every setting."""

import dataclasses
import re
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support import tiny_config, tiny_model, use_mesh
from training_support import VOCAB_SIZE, make_batch

from gpt1_jax.config import ModelConfig
from gpt1_jax.devices.mesh import batch_sharding
from gpt1_jax.model.dropout import keep_mask
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.losses import tied_cross_entropy
from gpt1_jax.model.lstm import LSTM
from gpt1_jax.model.transformer import Transformer, parameter_count
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import abstract_params, initial_state
from gpt1_jax.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB = 150
LSTM_CONFIG = {"kind": "lstm", "num_layers": 1, "d_model": 32, "d_ff": 48}


def lstm_config(**overrides: Any) -> ModelConfig:
    return tiny_model(**LSTM_CONFIG | {"embedding_dropout": 0.2, "residual_dropout": 0.3} | overrides)


@cache
def parameter_shapes(config: ModelConfig, vocab_size: int = VOCAB) -> Any:
    with use_mesh():
        model, tokens = LSTM(config, vocab_size), jnp.zeros((1, 1), jnp.int32)
        return jax.eval_shape(lambda key: nn.unbox(model.init(key, tokens))["params"], jax.random.key(0))


def random_params(config: ModelConfig) -> Any:
    """Parameters without a zero among them, large enough that the gates bend."""
    generator = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), parameter_shapes(config)
    )


def random_tokens(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, VOCAB, (rows, length), np.int32)


def states(config: ModelConfig, params: Any, tokens: Any, noise: jax.Array | None = None) -> jax.Array:
    hidden = LSTM(config, VOCAB).apply({"params": params}, tokens, noise)
    assert isinstance(hidden, jax.Array)
    return hidden


def loss_and_states(
    config: ModelConfig, params: Any, tokens: jax.Array, noise: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The mean next-token loss of each sequence's positions but the last, and the states."""
    hidden = states(config, params, tokens, noise)
    weights = jnp.ones(tokens.shape).at[:, -1].set(0) / (tokens.shape[0] * (tokens.shape[1] - 1))
    return tied_cross_entropy(hidden, params["tokens"], jnp.roll(tokens, -1, 1), weights, VOCAB), hidden


jitted_states = jax.jit(states, static_argnums=0)
loss_states_and_gradients = jax.jit(
    jax.value_and_grad(loss_and_states, argnums=1, has_aux=True), static_argnums=0
)


def assert_close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Every array within `tolerance` of the greatest of its expected values."""
    for (path, one), other in zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True):
        scale = max(np.abs(other).max(), 1e-3)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale, err_msg=str(path))


# ── Against torch.nn.LSTM ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("length", [3, 16])
@pytest.mark.parametrize("dropout", [False, True])
def test_states_loss_and_gradients_are_those_of_torch(length: int, dropout: bool) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    config = lstm_config()
    width, units = config.d_model, config.d_ff
    tokens, noise = random_tokens(3, length), jnp.array([5, 6, 7], jnp.uint32) if dropout else None
    params = random_params(config)
    with use_mesh():
        (loss, hidden), gradients = loss_states_and_gradients(config, params, tokens, noise)

    def dropped(x: Any, site: int, rate: float) -> Any:
        if noise is None:
            return x
        index = jnp.arange(length * width, dtype=jnp.uint32).reshape(length, width)
        return x * torch.from_numpy(np.array(keep_mask(noise, site, index, rate), np.float32)) / (1 - rate)

    leaves = jax.tree.map(lambda x: torch.from_numpy(x).requires_grad_(), params)
    table, blocks = leaves["tokens"], leaves["blocks"]
    weights = {  # ours has inputs first and tells the gates apart; torch has outputs, gate by gate, first
        "weight_ih_l0": blocks["input_kernel"][0].reshape(width, 4 * units).T,
        "weight_hh_l0": blocks["recurrent_kernel"][0].reshape(units, 4 * units).T,
        "bias_ih_l0": blocks["bias"].reshape(4 * units),
        "bias_hh_l0": torch.zeros(4 * units),
    }
    reference = torch.nn.LSTM(width, units, batch_first=True)
    ids = torch.from_numpy(tokens).long()
    x = dropped(table[ids], 0, config.embedding_dropout)
    outputs = torch.func.functional_call(reference, weights, (x,))[0]
    expected = dropped(outputs @ blocks["out_kernel"][0] + blocks["out_bias"][0], 3, config.residual_dropout)
    logits = (expected @ table[:VOCAB].T)[:, :-1]
    expected_loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
    expected_loss.backward()

    np.testing.assert_allclose(hidden, expected.detach(), atol=1e-5)
    assert float(loss) == pytest.approx(expected_loss.item(), rel=1e-5)
    assert_close(gradients, jax.tree.map(lambda leaf: leaf.grad.numpy(), leaves), 1e-4)
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradients))


# ── Size and start ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_paper_s_lstm_has_these_shapes_and_this_size() -> None:
    config, vocab_size = lstm_config(d_model=768, num_heads=12, d_ff=2048, context_length=512), 40_478
    params = parameter_shapes(config, vocab_size)
    assert jax.tree.map(lambda leaf: leaf.shape, params) == {
        "tokens": (table_rows(vocab_size), 768),
        "blocks": {
            "input_kernel": (1, 768, 4, 2048),
            "recurrent_kernel": (1, 2048, 4, 2048),
            "bias": (1, 4, 2048),
            "out_kernel": (1, 2048, 768),
            "out_bias": (1, 768),
        },
    }
    assert parameter_count(params, vocab_size) == 40_478 * 768 + 4 * 2048 * (768 + 2048 + 1) + 2049 * 768


def fresh_params(axes: tuple[int, int, int]) -> Any:
    with use_mesh(*axes) as mesh:
        config = lstm_config(d_model=64, d_ff=128)
        state = initial_state(LSTM(config, VOCAB, specials=2), optax.identity(), mesh, seed=0)
        return jax.tree.map(np.asarray, state.params)


@pytest.fixture(scope="module")
def fresh() -> Any:
    return fresh_params((1, 1, 1))


def test_matrices_start_as_large_as_their_inputs_ask(fresh: Any) -> None:
    blocks = fresh["blocks"]
    for array, deviation in (
        (fresh["tokens"][: VOCAB + 2], 0.02),
        (blocks["input_kernel"], 1 / (0.02 * 8)),
        (blocks["recurrent_kernel"], 1 / 128**0.5),
        (blocks["out_kernel"], 1 / 128**0.5),
    ):
        assert abs(array.std() / deviation - 1) < 5 / np.sqrt(2 * array.size)
        assert abs(array.mean()) < 5 * deviation / np.sqrt(array.size)


def test_only_the_forget_gate_is_open_at_the_start(fresh: Any) -> None:
    np.testing.assert_array_equal(
        fresh["blocks"]["bias"][0], [[0.0] * 128, [1.0] * 128, [0.0] * 128, [0.0] * 128]
    )
    assert (fresh["blocks"]["out_bias"] == 0).all()


def test_padding_rows_start_at_exactly_zero_specials_do_not(fresh: Any) -> None:
    assert len(fresh["tokens"]) == table_rows(VOCAB)
    assert (fresh["tokens"][VOCAB + 2 :] == 0).all()
    assert (fresh["tokens"][: VOCAB + 2] != 0).any(1).all()


@pytest.mark.parametrize("axes", [(2, 2, 2), (1, 8, 1)])
def test_the_start_is_the_same_on_every_mesh(fresh: Any, axes: tuple[int, int, int]) -> None:
    jax.tree.map(np.testing.assert_array_equal, fresh_params(axes), fresh)


def test_every_matrix_is_split_over_fsdp_and_tensor() -> None:
    with use_mesh(2, 2, 2) as mesh:
        params = abstract_params(LSTM(lstm_config(), VOCAB), mesh)
    kernels = [leaf for name, leaf in params["blocks"].items() if name.endswith("kernel")]
    for leaf in (params["tokens"], *kernels):
        assert np.prod(leaf.sharding.shard_shape(leaf.shape)) == leaf.size / 4


@pytest.mark.parametrize(("kind", "module"), [("lstm", LSTM), ("transformer", Transformer)])
def test_the_config_names_the_trunk(kind: str, module: type) -> None:
    config = tiny_model(kind=kind, num_layers=1)
    assert make_trunk(config, VOCAB, specials=3) == module(config, VOCAB, specials=3)
    assert make_trunk(config, VOCAB) == module(config, VOCAB, specials=0)


# ── Behaviour ────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_state_depends_on_a_later_position() -> None:
    """Its gradient by later positions' embeddings is exactly 0, by its own and earlier ones' it is not."""
    config, length = lstm_config(), 10
    params, tokens = random_params(config), np.arange(length, dtype=np.int32)[None]  # each its own row

    def projected(table: jax.Array) -> jax.Array:
        return states(config, params | {"tokens": table}, tokens)[0] @ jnp.arange(1.0, config.d_model + 1)

    with use_mesh():
        jacobian = np.abs(jax.jit(jax.jacrev(projected))(params["tokens"])).max(-1)[:, :length]  # [T, T]
    later = np.arange(length) > np.arange(length)[:, None]
    assert (jacobian[later] == 0).all()
    assert (jacobian[~later] > 1e-4).all()


def test_what_follows_changes_nothing_not_even_the_masks() -> None:
    config, noise = lstm_config(), np.array([1, 2], np.uint32)
    params, tokens = random_params(config), random_tokens(2, 16)
    with use_mesh():
        whole = jitted_states(config, params, tokens, noise)
        short = jitted_states(config, params, tokens[:, :5], noise)
    np.testing.assert_allclose(short, whole[:, :5], atol=1e-6)


@pytest.mark.parametrize("rate", ["embedding_dropout", "residual_dropout"])
def test_every_rate_drops(rate: str) -> None:
    """One rate alone changes the states; with every rate 0, noise changes nothing; noises differ."""
    no_rate = lstm_config(embedding_dropout=0.0, attention_dropout=0.5, residual_dropout=0.0)
    config = dataclasses.replace(no_rate, **{rate: 0.3})
    params, noise = random_params(config), np.array([1, 1, 2], np.uint32)
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
    """Parameters, tokens and noise; then loss, states and gradients on one device."""
    config = lstm_config()
    inputs = random_params(config), random_tokens(8, 16), np.arange(100, 108, dtype=np.uint32)
    with use_mesh():
        return inputs, jax.device_get(loss_states_and_gradients(config, *inputs))


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_the_mesh_changes_nothing(baseline: Any, axes: tuple[int, int, int]) -> None:
    """Parameters, rows and units are split, and dropout is on."""
    (params, tokens, noise), expected = baseline
    config = lstm_config()
    with use_mesh(*axes) as mesh:
        abstract = abstract_params(LSTM(config, VOCAB), mesh)
        params = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, abstract))
        tokens, noise = jax.device_put((tokens, noise), batch_sharding(mesh))
        actual = jax.device_get(loss_states_and_gradients(config, params, tokens, noise))
    assert_close(actual, expected)


def test_the_loops_over_positions_communicate_once_over_tensor_only() -> None:
    """Everything else, also the recurrent kernel and its gradient, is gathered or reduced outside of them."""
    config, tokens = lstm_config(), random_tokens(8, 16)
    with use_mesh(2, 2, 2) as mesh:
        params = abstract_params(LSTM(config, VOCAB), mesh)
        gradient = jax.jit(jax.grad(lambda params: states(config, params, tokens).sum()))
        text = gradient.lower(params).compile().as_text()
    loops = [part for part in text.split("\n\n") if "while/body" in part and "\nENTRY" not in f"\n{part}"]
    collective = r" (all-\w+|reduce-scatter|collective-permute)(?:-start)?\((.*)"
    (gather, groups), (scatter, other_groups) = (
        found for loop in loops for found in re.findall(collective, loop)
    )
    assert {gather, scatter} == {"all-gather", "reduce-scatter"}
    for line in (groups, other_groups):
        written = (r"\{\{0,1\},\{2,3\},\{4,5\},\{6,7\}\}", r"\[4,2\]<=\[8\]", r"mesh\[[^]]*\] \{'tensor'\}")
        assert re.search(rf"replica_groups=({'|'.join(written)})", line), line


@pytest.mark.parametrize("remat", ["full", "dots"])
def test_remat_changes_nothing(baseline: Any, remat: str) -> None:
    inputs, expected = baseline
    with use_mesh():
        assert_close(loss_states_and_gradients(lstm_config(remat=remat), *inputs), expected)


def test_remat_keeps_less() -> None:
    """The forward pass leaves fewer bytes to the backward pass with "dots" than with "none", "full" least."""
    sizes = {}
    for remat in ("none", "dots", "full"):
        config = lstm_config(remat=remat, dtype="bfloat16")
        pullback = partial(
            jax.vjp, lambda params, config=config: states(config, params, random_tokens(8, 128))
        )
        with use_mesh():
            left = jax.eval_shape(pullback, parameter_shapes(config))
        sizes[remat] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(left))
    assert sizes["full"] < 0.8 * sizes["dots"]
    assert sizes["dots"] < 0.8 * sizes["none"]


def test_bfloat16_is_close_to_float32(baseline: Any) -> None:
    inputs, ((expected_loss, _), expected) = baseline
    with use_mesh():
        (loss, hidden), gradients = loss_states_and_gradients(lstm_config(dtype="bfloat16"), *inputs)
    assert hidden.dtype == jnp.bfloat16
    assert float(loss) == pytest.approx(float(expected_loss), rel=0.01)
    for (path, one), other in zip(
        jax.tree.leaves_with_path(gradients), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == jnp.float32
        assert np.linalg.norm(np.asarray(one) - other) < 0.05 * np.linalg.norm(other), path


def test_it_learns_what_the_token_before_says() -> None:
    """Sixty updates of training's own step bring the loss from that of guessing to below single tokens' entropy."""
    config = tiny_config(
        **{f"model.{name}": value for name, value in LSTM_CONFIG.items()},
        **{"train.num_steps": 60, "optimizer.learning_rate": 1e-2},
    )
    losses = []
    with use_mesh(2, 2, 2) as mesh:
        model = make_trunk(config.model, VOCAB_SIZE)
        trainer = Trainer.make(
            model, language_model_loss(model, dropout=True), mesh, config.optimizer, config.train
        )
        state = trainer.init(seed=0)
        for step in range(config.train.num_steps):
            state, metrics = trainer.step(state, make_batch(config, mesh, step))
            losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(VOCAB_SIZE), abs=0.5)
    assert np.mean(losses[-5:]) < 0.6 * np.log(VOCAB_SIZE)
