"""Attention by kernels: interpreted, it is the formula and drops what the mask says; lowered, it compiles for TPUs."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas.ops.tpu import splash_attention
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
)
from support import tiny_model, use_mesh

from gpt1_jax.errors import UserError
from gpt1_jax.model.attention import BEFORE, Sight
from gpt1_jax.model.dropout import Dropout, keep_mask
from gpt1_jax.model.kernels import choice, flash_gpu, flash_tpu
from gpt1_jax.model.kernels.choice import FORMS, choose_attention, explain_attention, keeps_apart, or_auto
from gpt1_jax.model.kernels.flash_tpu import flash_attention
from gpt1_jax.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("quick_compilation")

SITE, CONTEXT = 4, 320
AXES, AUTO = ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3
Attention = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@pytest.fixture(autouse=True)
def one_device() -> Iterator[None]:
    with use_mesh(1, 1, 1):
        yield


@pytest.fixture(autouse=True)
def with_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_gpu, "_installed", lambda: True)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_tpu, "BLOCK", 128)


def seeds(batch: int) -> jax.Array:
    return 3 + jnp.arange(batch, dtype=jnp.uint32)


def arrays(length: int, heads: int = 2, width: int = 16, batch: int = 2, dtype: Any = jnp.float32) -> Any:
    """Query, key, value and a cotangent, [B, T, H, K]."""
    return jax.random.normal(jax.random.key(0), (4, batch, length, heads, width)).astype(dtype)


def attention(
    form: str, rate: float, batch: int = 2, context: int = CONTEXT, sight: Sight = BEFORE
) -> Attention:
    attend: Any = partial(flash_attention, interpret=True) if form == "flash" else FORMS[form]
    return partial(attend, dropout=Dropout(seeds(batch), SITE, rate, context), sight=sight)


def with_gradients(attend: Attention, query: Any, key: Any, value: Any, cotangent: Any) -> list[jax.Array]:
    """The output, and the gradients of query, key and value."""

    def run(query, key, value, cotangent):
        output, pull = jax.vjp(attend, query, key, value)
        return output, *pull(cotangent)

    return jax.jit(run)(query, key, value, cotangent)


def keep_of(batch: int, heads: int, length: int, rate: float, context: int) -> np.ndarray:
    """Returns the kept weights [B, H, T, T], asked for one by one."""
    head, row, column = np.indices((heads, length, length))
    index = jnp.asarray((head * context + row) * context + column, jnp.uint32)
    return np.asarray(keep_mask(seeds(batch), SITE, index, rate))


def by_definition(query: Any, key: Any, value: Any, cotangent: Any, keep: Any, rate: float) -> list[Any]:
    """Output and gradients in float64, as the chain rule has them."""
    q, k, v, do = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (query, key, value, cotangent))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(q.shape[-1])
    scores = np.where(np.tril(np.ones(scores.shape[2:], bool)), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    dropped = weights * keep / (1 - rate)
    d_weights = do @ v.swapaxes(2, 3) * keep / (1 - rate)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    found = dropped @ v, d_scores @ k, d_scores.swapaxes(2, 3) @ q, dropped.swapaxes(2, 3) @ do
    return [x.swapaxes(1, 2) for x in found]


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for name, x, y in zip(("output", "query", "key", "value"), found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance, err_msg=name)


def assert_plain(form: str, inputs: Any, rate: float) -> None:
    expected = with_gradients(attention("plain", rate, len(inputs[0])), *inputs)
    assert_close(with_gradients(attention(form, rate, len(inputs[0])), *inputs), expected)
    assert len(inputs[0][0]) == 1 or min(np.abs(x).max() for x in expected) > 0.1


# ── It is attention, with dropout ────────────────────────────────────────────────────────────────────────────────────


# Without dropout in the slow tests, but once.
@pytest.mark.parametrize(
    ("length", "width", "rate"),
    [
        (130, 16, 0.0),
        *((length, width, 0.3) for length, width in ((1, 16), (7, 64), (128, 64), (130, 16), (300, 64))),
        *(pytest.param(*x, 0.0, marks=pytest.mark.slow) for x in ((1, 16), (7, 64), (128, 64), (300, 64))),
    ],
)
def test_the_kernels_are_plain_attention(length: int, width: int, rate: float) -> None:
    assert_plain("flash", arrays(length, width=width), rate)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_so_they_are_over_several_blocks(rate: float) -> None:
    assert_plain("flash", arrays(300), rate)


@pytest.mark.parametrize("form", ["flash", "plain"])
def test_it_is_the_definition_in_float64(form: str) -> None:
    inputs, rate = arrays(70, heads=3), 0.25
    expected = by_definition(*inputs, keep_of(2, 3, 70, rate, CONTEXT), rate)
    assert_close(with_gradients(attention(form, rate), *inputs), expected)


def test_bfloat16_is_as_near_to_the_definition_as_plain_attention_in_it() -> None:
    inputs, rate = arrays(200, width=64, dtype=jnp.bfloat16), 0.1
    expected = by_definition(*inputs, keep_of(2, 2, 200, rate, CONTEXT), rate)

    def errors(form: str) -> list[float]:
        found = with_gradients(attention(form, rate), *inputs)
        assert all(x.dtype == jnp.bfloat16 for x in found)
        off = zip(found, expected, strict=True)
        return [float(np.linalg.norm(np.asarray(x, np.float64) - y) / np.linalg.norm(y)) for x, y in off]

    for flash_error, plain_error in zip(errors("flash"), errors("plain"), strict=True):
        assert flash_error < min(0.01, 1.2 * plain_error)


def test_masked_scores_never_win() -> None:
    """However low the scores of the past, the future gets no weight."""
    key = jnp.full((1, 6, 1, 8), -1e4)
    query, value = jnp.full_like(key, 1e3), jnp.arange(6.0)[None, :, None, None] * jnp.ones((1, 6, 1, 8))
    output = flash_attention(query, key, value, Dropout(None, SITE, 0.1, 6), interpret=True)
    np.testing.assert_allclose(output[0, :, 0, 0], np.arange(6) / 2, atol=1e-5)


def test_a_running_softmax_survives_scores_that_rise_from_block_to_block(small_blocks: None) -> None:
    """Up to about 3,000 later than before, which no float32 exponential would."""
    query, key, value, cotangent = arrays(300)
    key = key * jnp.linspace(0.1, 300, 300)[:, None, None]
    inputs = query, key, value, cotangent
    expected = by_definition(*inputs, 1, 0)
    assert_close(with_gradients(attention("flash", 0.0), *inputs), expected, tolerance=3e-3)


# ── The mask ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("length", "block", "rate"), [(130, 512, 0.1), (260, 128, 0.6)])
def test_exactly_the_masked_weights_are_dropped(
    length: int, block: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the identity as values, the output is the weights; with the identity as cotangent, the values' gradient is.

    The context is long enough for the index to pass 2³¹.
    """
    monkeypatch.setattr(flash_tpu, "BLOCK", block)
    heads, context = 4, 30_000
    query = jnp.zeros((2, length, heads, length))
    identity = jnp.broadcast_to(jnp.eye(length)[:, None], query.shape)
    attend = attention("flash", rate, context=context)
    output, _, _, d_value = with_gradients(attend, query, query, identity, identity)
    keep = keep_of(2, heads, length, rate, context) & np.tril(np.ones((length, length), bool))
    np.testing.assert_array_equal(output.transpose(0, 2, 1, 3) > 0, keep)
    np.testing.assert_array_equal(d_value.transpose(0, 2, 3, 1) > 0, keep)


def test_dropped_weights_pass_no_gradient_to_scores() -> None:
    """Of two weights of a half, one is dropped, and the score of the other rises with the output."""
    length, rate = 2, 0.5
    keep = keep_of(16, 1, length, rate, CONTEXT)
    query, key = jnp.ones((16, length, 1, 1)), jnp.zeros((16, length, 1, 1))
    value = jnp.ones((16, length, 1, 1))
    _, _, d_key, _ = with_gradients(attention("flash", rate, 16), query, key, value, jnp.ones_like(query))
    last = keep[:, 0, 1].astype(float)  # of the second query, which sees both
    np.testing.assert_allclose(d_key[:, 0, 0, 0], (last[:, 0] - last[:, 1]) / 2, atol=1e-6)
    assert len(np.unique(last @ [1, 2])) == 4


def test_without_noise_nothing_is_dropped() -> None:
    inputs = arrays(40)
    attend = partial(flash_attention, dropout=Dropout(None, 0, 0.5, CONTEXT), interpret=True)
    assert_close(with_gradients(attend, *inputs), with_gradients(attention("plain", 0.0), *inputs))


# ── Meshes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_devices_share_sequences_and_heads() -> None:
    inputs = list(map(np.asarray, arrays(40, heads=4, batch=4)))
    expected = with_gradients(attention("plain", 0.3, 4), *inputs)
    with use_mesh(2, 2, 2) as mesh:
        place = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
        found = with_gradients(attention("flash", 0.3, 4), *(jax.device_put(x, place) for x in inputs))
        for x in found:
            assert x.sharding.shard_shape(x.shape) == place.shard_shape(x.shape)
    assert_close(found, expected)


def test_the_model_runs_it_under_scan_and_remat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts the kernel in the place of a form that runs here."""
    monkeypatch.setitem(choice.FORMS, "chunked", partial(flash_attention, interpret=True))
    tokens, noise = np.arange(64).reshape(4, 16) * 7 % 380, np.asarray(seeds(4))

    def model(form: Any) -> Transformer:
        return Transformer(tiny_model(attention=form, attention_dropout=0.4, remat="full"), 380)

    def gradients(form: Any, params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            hidden: Any = model(form).apply({"params": params}, tokens, noise)
            return jnp.sin(hidden).sum()

        return jax.tree.leaves(jax.jit(jax.grad(loss))(params))

    with use_mesh(1, 1, 2):
        params = jax.jit(model("plain").init)(jax.random.key(1), tokens)["params"]
        for found, expected in zip(gradients("chunked", params), gradients("plain", params), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ── Compiling for what is not here ───────────────────────────────────────────────────────────────────────────────────


def paper_attention(
    mesh: Mesh | AbstractMesh, form: str, rate: float, batch: int
) -> tuple[Callable[..., Any], list[Any]]:
    """Attention and its gradient in the paper's shapes, of one array as in the model, and what it is lowered for."""
    spec = PartitionSpec(("data", "fsdp"), None, "tensor")
    x = jax.ShapeDtypeStruct((batch, 512, 12, 64), jnp.bfloat16, sharding=NamedSharding(mesh, spec))
    parts = NamedSharding(mesh, PartitionSpec(spec[0], None, None, "tensor"))
    qkv = jax.ShapeDtypeStruct((batch, 512, 3, 12, 64), jnp.bfloat16, sharding=parts)
    noise = jax.ShapeDtypeStruct((batch,), jnp.uint32, sharding=NamedSharding(mesh, PartitionSpec(spec[0])))

    def run(qkv, cotangent, noise, site):
        attend = partial(FORMS[form], dropout=Dropout(noise, site, rate, 512))
        output, pull = jax.vjp(lambda qkv: attend(*(qkv[:, :, i] for i in range(3))), qkv)
        return output, pull(cotangent)

    return run, [qkv, x, noise, jax.ShapeDtypeStruct((), jnp.int32)]


@pytest.mark.parametrize("rate", [0.0, 0.1])
@pytest.mark.parametrize("axes", [(1, 1, 1), (2, 1, 4)])
def test_it_lowers_for_a_tpu_and_no_scores_are_stored(axes: tuple[int, int, int], rate: float) -> None:
    with use_mesh(*axes) as mesh:
        run, shapes = paper_attention(mesh, "flash", rate, batch=8)
        text = export.export(jax.jit(run), platforms=["tpu"])(*shapes).mlir_module()
    assert text.count("@tpu_custom_call") == 2
    assert "512x512" not in text
    assert "all_reduce" not in text and "all_gather" not in text


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["v5e:2x2", "v6e:2x2"])
def test_it_compiles_for_a_tpu_and_takes_no_memory(topology: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    for name, value in {
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_LOG_DIR": "disabled",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    mesh = Mesh(devices.reshape(1, 2, 2), AXES, axis_types=AUTO)
    with jax.set_mesh(mesh):
        run, shapes = paper_attention(mesh, "flash", 0.1, batch=16)
        memory = jax.jit(run).lower(*shapes).compile().memory_analysis()
    scores = 8 * 6 * 512 * 512 * 2  # of one device, in bfloat16
    assert memory is not None and memory.temp_size_in_bytes < scores / 4


# ── The kernels that come with JAX ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("grouped", [False, True], ids=["whole", "grouped"])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_splash_is_attention(causal: bool, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = jnp.asarray(np.where(np.arange(130) < [[50], [130]], 0, -1), jnp.int32)
    sight = Sight(groups if grouped else None, causal)
    make = partial(splash_attention.make_splash_mha_single_device, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha_single_device", make)
    inputs = list(map(np.asarray, arrays(130)))
    with use_mesh(1, 1, 2):
        found = with_gradients(attention("splash", 0.0, sight=sight), *inputs)
    assert_close(found, with_gradients(attention("plain", 0.0, sight=sight), *inputs), tolerance=2e-5)


def test_cudnn_is_asked_for_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of positions is even, because JAX has no gradient for an odd one."""
    by_xla = jax.nn.dot_product_attention

    def asked(query: jax.Array, *others: jax.Array, implementation: str, **settings: Any) -> jax.Array:
        assert implementation == "cudnn" and query.shape[1] == 42
        return by_xla(query, *others, **settings)

    monkeypatch.setattr(jax.nn, "dot_product_attention", asked)
    inputs = list(map(np.asarray, arrays(41)))
    for sight in (Sight(causal=True), Sight(causal=False)):
        with use_mesh(1, 1, 2):
            found = with_gradients(attention("cudnn", 0.0, sight=sight), *inputs)
        assert_close(found, with_gradients(attention("plain", 0.0, sight=sight), *inputs))


# ── The choice ───────────────────────────────────────────────────────────────────────────────────────────────────────

BFLOAT16: dict[str, Any] = {"dtype": "bfloat16"}
DRY = BFLOAT16 | {"attention_dropout": 0.0}
# Heads of 16.
WIDE = {"d_model": 64}
LONG = {"context_length": 32_768}
BOTH_WAYS = {"causal": False}


@pytest.mark.parametrize(
    ("platform", "setting", "chosen", "chosen_dry"),
    [
        ("cpu", {}, "chunked", "chunked"),
        ("cpu", DRY, "chunked", "chunked"),
        ("tpu", {}, "flash", "flash"),
        ("tpu", BFLOAT16, "flash", "flash"),
        ("tpu", DRY, "flash", "flash"),
        ("tpu", LONG | {"d_model": 256}, "chunked", "splash"),
        ("gpu", {}, "chunked", "chunked"),
        ("gpu", BFLOAT16, "chunked", "cudnn"),
        ("gpu", BFLOAT16 | WIDE, "flash", "flash"),
        ("gpu", DRY, "cudnn", "cudnn"),
        ("gpu", DRY | {"d_model": 36}, "chunked", "chunked"),
    ],
)
def test_auto_is_what_the_platform_runs_fastest(
    platform: str, setting: dict[str, Any], chosen: str, chosen_dry: str
) -> None:
    """`chosen_dry` is of evaluating a model that was trained with dropout."""
    config = tiny_model(**setting)
    assert choose_attention(config, platform, dropout=True) == chosen
    assert choose_attention(config, platform, dropout=False) == chosen_dry
    assert choose_attention(dataclasses.replace(config, attention="plain"), platform, dropout=True) == "plain"


@pytest.mark.parametrize(
    ("platform", "setting", "told"),
    [
        ("cpu", BOTH_WAYS, "chunked attention"),
        ("tpu", {}, "flash attention"),
        (
            "tpu",
            BOTH_WAYS,
            "chunked attention (flash attends to earlier positions only, and model.causal=False; "
            "splash knows no dropout, and model.attention_dropout=0.1)",
        ),
        (
            "tpu",
            DRY | BOTH_WAYS,
            "splash attention (flash attends to earlier positions only, and model.causal=False)",
        ),
        ("gpu", BFLOAT16 | WIDE, "flash attention"),
        (
            "gpu",
            BFLOAT16,
            "chunked attention (flash takes heads 16, 32, 64, 128 wide on GPUs, and model.d_model / model.num_heads "
            "is 8; cudnn knows no dropout, and model.attention_dropout=0.1)",
        ),
        ("gpu", BFLOAT16 | {"attention": "plain"}, "plain attention"),
    ],
)
def test_a_run_says_why_a_faster_form_is_not_taken(platform: str, setting: dict[str, Any], told: str) -> None:
    assert explain_attention(tiny_model(**setting), platform, dropout=True) == told


@pytest.mark.parametrize(
    ("form", "platform", "setting", "told"),
    [
        ("flash", "cpu", {}, ["TPU and GPU only", "CPU"]),
        ("flash", "tpu", LONG | {"d_model": 256}, ["model.context_length=32768", "64"]),
        ("flash", "gpu", {}, ["bfloat16", "model.dtype=float32"]),
        ("flash", "gpu", BFLOAT16, ["16, 32, 64, 128", "is 8"]),
        ("splash", "cpu", {}, ["TPU only", "CPU"]),
        ("splash", "gpu", DRY, ["TPU only", "GPU"]),
        ("splash", "tpu", {}, ["no dropout", "model.attention_dropout=0.1", "flash"]),
        ("cudnn", "cpu", DRY, ["GPU only", "CPU"]),
        ("cudnn", "tpu", DRY, ["GPU only", "TPU", "set auto, which is flash here"]),
        ("cudnn", "gpu", BFLOAT16, ["no dropout", "model.attention_dropout=0.1"]),
        ("cudnn", "gpu", {"attention_dropout": 0.0}, ["bfloat16", "model.dtype=float32"]),
        ("cudnn", "gpu", DRY | {"d_model": 36}, ["multiples of 8", "is 9"]),
        ("cudnn", "gpu", DRY | {"d_model": 1024}, ["up to 128", "is 256"]),
    ],
)
def test_a_form_that_does_not_fit_is_refused_in_a_sentence(
    form: Any, platform: str, setting: dict[str, Any], told: list[str]
) -> None:
    config = tiny_model(attention=form, **setting)
    with pytest.raises(UserError) as error:
        choose_attention(config, platform, dropout=True)
    sentence = str(error.value)
    assert sentence.startswith(f"model.attention={form} ") and sentence.endswith(" here.")
    assert "\n" not in sentence and all(part in sentence for part in told), sentence


def test_without_triton_a_gpu_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash_gpu, "_installed", lambda: False)
    told = explain_attention(tiny_model(**BFLOAT16, **WIDE), "gpu", dropout=True)
    assert told.startswith("chunked attention (flash needs jax-triton on GPUs (pip install 'gpt1_jax[cuda]'")


@pytest.mark.parametrize(
    ("capability", "told"),
    [
        ("7.5", "compute capability 8.0 or more, and this one has 7.5"),
        ("gfx942", "needs an NVIDIA GPU, and this one is a gfx942"),
        ("9.0", "flash attention"),
        ("12.0", "flash attention"),
    ],
)
def test_an_old_gpu_or_one_of_another_maker_has_no_flash(
    capability: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(compute_capability=capability)])
    assert told in explain_attention(tiny_model(**BFLOAT16, **WIDE), "gpu", dropout=True)


@pytest.mark.parametrize(
    ("platform", "groups", "setting", "chosen"),
    [
        ("cpu", True, {}, "chunked"),
        ("tpu", True, {}, "chunked"),
        ("tpu", True, DRY, "splash"),
        ("tpu", False, DRY | BOTH_WAYS, "splash"),
        ("tpu", False, BOTH_WAYS, "chunked"),
        ("gpu", True, DRY, "chunked"),
        ("gpu", False, DRY | BOTH_WAYS, "cudnn"),
        ("gpu", True, DRY | BOTH_WAYS, "chunked"),
        ("gpu", True, BFLOAT16 | WIDE | BOTH_WAYS, "flash"),
        ("gpu", True, BFLOAT16 | WIDE, "flash"),
    ],
)
def test_auto_sees_no_more_and_no_less_than_it_may(
    platform: str, groups: bool, setting: dict[str, Any], chosen: str
) -> None:
    assert choose_attention(tiny_model(**setting), platform, dropout=True, groups=groups) == chosen


@pytest.mark.parametrize(
    ("platform", "setting", "kept"),
    [
        ("cpu", {}, True),
        ("cpu", BOTH_WAYS, True),
        ("cpu", {"kind": "lstm", "num_layers": 1}, False),
        ("tpu", {}, False),
        ("tpu", {"attention": "flash"}, False),
        ("tpu", {"attention": "splash"}, True),
        ("tpu", BOTH_WAYS, True),
        ("gpu", {}, True),
        ("gpu", BFLOAT16, False),
        ("gpu", BFLOAT16 | WIDE, True),
        ("gpu", BFLOAT16 | {"attention": "cudnn"}, False),
        ("gpu", BFLOAT16 | BOTH_WAYS, True),
    ],
)
def test_rows_are_shared_where_that_costs_no_faster_form(
    platform: str, setting: dict[str, Any], kept: bool
) -> None:
    mesh: Any = SimpleNamespace(devices=np.array([SimpleNamespace(platform=platform)]))
    assert keeps_apart(tiny_model(**setting), mesh) == kept


@pytest.mark.parametrize(
    ("form", "platform", "groups", "setting", "told"),
    [
        ("flash", "tpu", False, DRY | BOTH_WAYS, ["model.causal=False", "set auto, which is splash here"]),
        ("flash", "tpu", True, {}, ["groups of positions", "set auto, which is chunked here"]),
        ("cudnn", "gpu", True, DRY, ["padding", "set auto, which is chunked here"]),
        # Its training could, but not its first evaluation, which has padding.
        ("cudnn", "gpu", False, DRY | BOTH_WAYS, ["padding", "set auto, which is cudnn here"]),
    ],
)
def test_a_form_that_would_see_too_much_or_too_little_is_refused(
    form: Any, platform: str, groups: bool, setting: dict[str, Any], told: list[str]
) -> None:
    config = tiny_model(attention=form, **setting)
    with pytest.raises(UserError, match=f"model.attention={form} ") as error:
        choose_attention(config, platform, dropout=True, groups=groups)
    assert all(part in str(error.value) for part in told)
    assert or_auto(config, platform).attention == ("auto" if setting.get("causal") is False else form)


@pytest.mark.parametrize(
    ("form", "platform", "setting"),
    [
        ("flash", "tpu", {}),
        ("splash", "tpu", DRY),
        ("cudnn", "gpu", DRY),
    ],
)
def test_a_form_that_fits_is_taken(form: Any, platform: str, setting: dict[str, Any]) -> None:
    assert choose_attention(tiny_model(attention=form, **setting), platform, dropout=True) == form


def test_a_model_asks_for_its_attention_wherever_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is not a form of its own, so it is the same for whoever builds a model."""
    taken = []

    def spied(name: str, form: Any) -> Any:
        return lambda *inputs: taken.append(name) or form(*inputs)

    for name, form in FORMS.items():
        monkeypatch.setitem(choice.FORMS, name, spied(name, form))

    def call(form: Any) -> Any:
        model = Transformer(tiny_model(attention=form), 380)
        return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 4), np.int32))

    call("auto")
    assert "auto" not in FORMS and set(taken) == {"chunked"}
    taken.clear()
    call("plain")
    assert set(taken) == {"plain"}
    with pytest.raises(
        UserError, match=r"model\.attention=flash runs on TPU and GPU only, and the devices are CPU"
    ):
        call("flash")


@pytest.mark.parametrize(
    ("form", "platform", "read_by"),
    [
        ("flash", "cpu", "auto"),
        ("cudnn", "tpu", "auto"),
        ("flash", "tpu", "flash"),
        ("plain", "gpu", "plain"),
    ],
)
def test_a_trained_model_is_read_where_its_attention_is_not_to_be_had(
    form: Any, platform: str, read_by: str
) -> None:
    assert or_auto(tiny_model(attention=form), platform) == tiny_model(attention=read_by)
