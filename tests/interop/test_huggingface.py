"""transformers' layout: the same logits on both sides, every form of its files, and refusals in a sentence."""

import json
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from interop_support import TOKENIZERS, bpe, files_of, make_run, params_of, refused, sentencepiece
from safetensors.numpy import load_file, save_file

import gpt1_jax
from gpt1_jax.interop.conversion import convert

torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")

LAYERS, HEADS, WIDTH, CONTEXT, VOCAB = 2, 4, 32, 16, 61
SIZES = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "n_positions": CONTEXT, "vocab_size": VOCAB}
TOLERANCE = 1e-4


def make_reference(kind: str = "OpenAIGPTLMHeadModel", **sizes: int) -> Any:
    """A model of transformers whose every parameter is random, biases and gains too."""
    torch.manual_seed(0)
    config = transformers.OpenAIGPTConfig(**SIZES | sizes)
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if ".ln_" in name and name.endswith("weight") else 0.0, 0.2)
    return model


def reference_logits(model: Any, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def random_ids(vocab_size: int = VOCAB, length: int = CONTEXT) -> list[int]:
    return np.random.default_rng(1).integers(0, vocab_size, length).tolist()


@pytest.fixture(scope="module")
def model() -> Any:
    return make_reference()


@pytest.fixture(scope="module")
def imported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The parameters that `model` comes to."""
    directory = tmp_path_factory.mktemp("model")
    model.save_pretrained(directory / "hub")
    return params_of(run_of(directory / "hub", directory / "run"))


@pytest.fixture
def hub(model: Any, tmp_path: Path) -> Path:
    directory = tmp_path / "in" / "hub"
    model.save_pretrained(directory)
    return directory


def run_of(hub: Path, run: Path) -> Path:
    convert("huggingface", "gpt1_jax", str(hub), str(run))
    return run


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


# ── The same logits ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        pytest.param(
            {"n_layer": 3, "n_head": 2, "vocab_size": 128, "n_positions": 30}, marks=pytest.mark.slow
        ),
    ],
)
def test_an_imported_model_writes_what_transformers_writes(sizes: dict[str, int], tmp_path: Path) -> None:
    model = make_reference(**sizes)
    model.save_pretrained(tmp_path / "hub")
    run = gpt1_jax.load(str(run_of(tmp_path / "hub", tmp_path / "run")))
    context = model.config.n_positions
    for seed in range(4):
        ids = np.random.default_rng(seed).integers(0, model.config.vocab_size, 5).tolist()
        theirs = model.generate(
            torch.tensor([ids]), do_sample=False, max_length=context, pad_token_id=0, eos_token_id=None
        )
        ours = run.generate(ids, temperature=0.0, max_new_tokens=context - len(ids))
        assert ours["samples"][0]["token_ids"] == theirs[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"n_layer": 1, "n_head": 1, "n_embd": 16, "n_positions": 2, "vocab_size": 5},
        {"n_layer": 3, "n_head": 3, "n_embd": 48, "n_positions": 33, "vocab_size": 130},
        {"n_layer": 2, "n_head": 2, "n_embd": 128, "n_positions": 8, "vocab_size": 300},
        {"n_layer": 1, "afn": "relu"},
        {"n_layer": 1, "afn": "silu"},
    ],
)
def test_a_model_of_transformers_gives_its_logits_here(sizes: dict[str, Any], tmp_path: Path) -> None:
    reference = make_reference(**sizes)
    reference.save_pretrained(tmp_path / "hub")
    run = gpt1_jax.load(str(run_of(tmp_path / "hub", tmp_path / "run")))
    ids = random_ids(reference.config.vocab_size, reference.config.n_positions)
    np.testing.assert_allclose(run.logits(ids), reference_logits(reference, ids), atol=TOLERANCE)


# Sizes and tokenizers do not meet: each with the plainest of the other, and all pairs in the slow tests.
@pytest.mark.parametrize(
    ("sizes", "tokenizer"),
    [
        pytest.param(sizes, tokenizer, marks=[pytest.mark.slow] * bool(sizes and tokenizer != "none"))
        for sizes in (
            {},
            {"num_layers": 1, "num_heads": 1, "d_model": 16, "d_ff": 64, "context_length": 9},
            {"num_layers": 3, "d_model": 64, "d_ff": 100},  # transformers knows four times the width alone
            {"num_layers": 1, "activation": "relu"},
            {"num_layers": 1, "activation": "swish"},
        )
        for tokenizer in TOKENIZERS
    ],
)
def test_a_run_gives_its_logits_in_transformers(
    sizes: dict[str, Any], tokenizer: str, tmp_path: Path
) -> None:
    pieces = TOKENIZERS[tokenizer]()
    make_run(tmp_path / "run", pieces, **{f"model.{name}": size for name, size in sizes.items()})
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    reference, told = transformers.OpenAIGPTLMHeadModel.from_pretrained(
        tmp_path / "hub", output_loading_info=True
    )
    assert not any(told.values()), told
    run = gpt1_jax.load(str(tmp_path / "run"))
    ids = random_ids(pieces.vocab_size, run.config.model.context_length)
    np.testing.assert_allclose(run.logits(ids), reference_logits(reference.eval(), ids), atol=TOLERANCE)
    assert reference.config.architectures == ["OpenAIGPTLMHeadModel"]
    assert (reference.config.resid_pdrop, reference.config.attn_pdrop) == (0.1, 0.1)


def test_a_published_vocabulary_is_read_by_transformers(tmp_path: Path) -> None:
    """Its pieces and merges lie where its tokenizer looks for them."""
    make_run(tmp_path / "run", bpe())
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hub")
    assert theirs.convert_tokens_to_ids(["the</w>", "fox</w>"]) == [
        json.loads(bpe().encoder)[piece] for piece in ("the</w>", "fox</w>")
    ]


def test_dropout_rates_come_along_both_ways(tmp_path: Path) -> None:
    rates = {"embedding_dropout": 0.0, "attention_dropout": 0.25, "residual_dropout": 0.5}
    make_run(
        tmp_path / "run", TOKENIZERS["none"](), **{f"model.{name}": rate for name, rate in rates.items()}
    )
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    values = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (values["embd_pdrop"], values["attn_pdrop"], values["resid_pdrop"]) == (0.0, 0.25, 0.5)
    run_of(tmp_path / "hub", tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert {name: config["model"][name] for name in rates} == rates


# ── Forms of the files ───────────────────────────────────────────────────────────────────────────────────────


def rename(hub: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Replaces the tensors of model.safetensors."""
    tensors = {name: array.copy() for name, array in load_file(hub / "model.safetensors").items()}
    save_file(change(tensors), hub / "model.safetensors", metadata={"format": "pt"})


def without_prefix(hub: Path, model: Any) -> None:
    rename(hub, lambda tensors: {name.removeprefix("transformer."): x for name, x in tensors.items()})


def with_output(hub: Path, model: Any) -> None:
    rename(
        hub, lambda tensors: tensors | {"lm_head.weight": tensors["transformer.tokens_embed.weight"].copy()}
    )


def output_alone(hub: Path, model: Any) -> None:
    """transformers saves OpenAIGPTDoubleHeadsModel like this."""
    rename(
        hub,
        lambda tensors: {
            name.replace("transformer.tokens_embed", "lm_head"): array for name, array in tensors.items()
        },
    )


def with_buffers(hub: Path, model: Any) -> None:
    masks = {f"transformer.h.{layer}.attn.bias": np.ones((1, 1, 4, 4), np.uint8) for layer in range(LAYERS)}
    masks["transformer.h.0.attn.masked_bias"] = np.full((), -1e4, np.float32)
    masks["transformer.position_ids"] = np.arange(CONTEXT)
    rename(hub, lambda tensors: tensors | masks)


def in_shards(hub: Path, model: Any) -> None:
    (hub / "model.safetensors").unlink()
    model.save_pretrained(hub, max_shard_size="30KB")
    assert len(list(hub.glob("*.safetensors"))) > 2


def beside_an_older_copy(hub: Path, model: Any) -> None:
    """A later part has other numbers by the name of a tensor that the index takes from the first."""
    in_shards(hub, model)
    places = json.loads((hub / "model.safetensors.index.json").read_text())["weight_map"]
    name = min(places, key=lambda name: places[name])
    last = hub / max(places.values())
    assert places[name] != last.name
    tensors = load_file(last)
    save_file(
        tensors | {name: np.zeros_like(load_file(hub / places[name])[name])}, last, metadata={"format": "pt"}
    )


def in_pickled_shards(hub: Path, model: Any) -> None:
    """transformers saved large models like this before safetensors."""
    (hub / "model.safetensors").unlink()
    state, places = list(model.state_dict().items()), {}
    for number, part in enumerate((state[:9], state[9:]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(dict(part), hub / file)
        places |= {name: file for name, _ in part}
    (hub / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def compiled(hub: Path, model: Any) -> None:
    rename(hub, lambda tensors: {f"_orig_mod.{name}": array for name, array in tensors.items()})


def compiled_and_parallel(hub: Path, model: Any) -> None:
    rename(
        hub,
        lambda tensors: {
            f"module._orig_mod.{name.replace('h.1.', 'h.1._orig_mod.')}": array
            for name, array in tensors.items()
        },
    )


def as_pickle(hub: Path, model: Any) -> None:
    (hub / "model.safetensors").unlink()
    torch.save(model.state_dict(), hub / "pytorch_model.bin")


def as_old_pickle(hub: Path, model: Any) -> None:
    (hub / "model.safetensors").unlink()
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    del state["lm_head.weight"]
    torch.save(state, hub / "pytorch_model.bin", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(
    "form",
    [
        *(without_prefix, with_output, output_alone, with_buffers, compiled, compiled_and_parallel),
        *(in_shards, beside_an_older_copy, as_pickle, as_old_pickle, in_pickled_shards),
    ],
)
def test_the_weights_are_found_in_every_form(
    form: Callable[[Path, Any], None], hub: Path, model: Any, imported: Any, tmp_path: Path
) -> None:
    form(hub, model)
    assert_equal(params_of(run_of(hub, tmp_path / "run")), imported)


@pytest.mark.parametrize(
    "kind", ["OpenAIGPTModel", "OpenAIGPTDoubleHeadsModel", "OpenAIGPTForSequenceClassification"]
)
def test_other_models_of_transformers_give_their_language_model(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = make_reference(kind)
    reference.save_pretrained(tmp_path / "hub")
    params = params_of(run_of(tmp_path / "hub", tmp_path / "run"))
    trunk = getattr(reference, "transformer", reference)
    np.testing.assert_array_equal(params["tokens"][:VOCAB], trunk.tokens_embed.weight.detach())
    said = capsys.readouterr().out
    heads = [name for name in ("score.weight", "multiple_choice_head.summary.bias") if name in said]
    assert len(heads) == (kind != "OpenAIGPTModel")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("pickled", [False, True])
def test_half_precision_becomes_float32_and_is_told(
    dtype: str, pickled: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = make_reference().to(getattr(torch, dtype))
    reference.save_pretrained(tmp_path / "hub")
    if pickled:
        as_pickle(tmp_path / "hub", reference)
    params = params_of(run_of(tmp_path / "hub", tmp_path / "run"))
    assert f"The weights are {dtype}" in capsys.readouterr().out
    for layer in range(LAYERS):
        weight = reference.transformer.h[layer].mlp.c_fc.weight.detach()
        np.testing.assert_array_equal(params["blocks"]["mlp_in_kernel"][layer], weight.float().numpy())
    assert params["tokens"].dtype == np.float32


# ── Refused ──────────────────────────────────────────────────────────────────────────────────────────────────


def configured(**values: Any) -> Callable[[Path], None]:
    """Damage to config.json; DELETED takes a key out."""

    def damage(hub: Path) -> None:
        path = hub / "config.json"
        changed = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not DELETED}))

    return damage


DELETED = object()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda hub: (hub / name).write_bytes(content) and None


def tensors(**changes: np.ndarray | None) -> Callable[[Path], None]:
    """Damage to the tensors; None takes one out. Names are written with __ for a dot."""

    def damage(hub: Path) -> None:
        named = {name.replace("__", "."): array for name, array in changes.items()}
        rename(hub, lambda all: {name: array for name, array in (all | named).items() if array is not None})

    return damage


def safetensors_header(change: Callable[[dict[str, Any]], Any] | bytes, length: int | None = None) -> Any:
    """Damage to the header of model.safetensors; its data stays."""

    def damage(hub: Path) -> None:
        path = hub / "model.safetensors"
        content = path.read_bytes()
        (size,) = struct.unpack("<Q", content[:8])
        if isinstance(change, bytes):
            header = change
        else:
            values = json.loads(content[8 : 8 + size])
            change(values)
            header = json.dumps(values).encode()
        path.write_bytes(
            struct.pack("<Q", len(header) if length is None else length) + header + content[8 + size :]
        )

    return damage


NORM = "transformer.h.0.ln_1.bias"


def offsets(start: int, stop: int) -> Callable[[dict[str, Any]], None]:
    return lambda header: header[NORM].__setitem__("data_offsets", [start, stop])


def truncate(hub: Path) -> None:
    path = hub / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def no_weights(hub: Path) -> None:
    (hub / "model.safetensors").unlink()


def indexed(content: Any) -> Callable[[Path], None]:
    def damage(hub: Path) -> None:
        no_weights(hub)
        (hub / "model.safetensors.index.json").write_text(json.dumps(content))

    return damage


def pickled(state: Any) -> Callable[[Path], None]:
    def damage(hub: Path) -> None:
        no_weights(hub)
        torch.save(state, hub / "pytorch_model.bin")

    return damage


def pickle_bytes(content: bytes) -> Callable[[Path], None]:
    def damage(hub: Path) -> None:
        no_weights(hub)
        (hub / "pytorch_model.bin").write_bytes(content)

    return damage


def misplaced(hub: Path) -> None:
    """The index names a file that lacks the tensor."""
    names = list(load_file(hub / "model.safetensors"))
    (hub / "model.safetensors").rename(hub / "b.safetensors")
    save_file({"other": np.zeros(2, np.float32)}, hub / "a.safetensors")
    places = dict.fromkeys(names, "b.safetensors") | {NORM: "a.safetensors"}
    (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def other_vocabulary(hub: Path) -> None:
    (hub / "sentencepiece.model").write_bytes(sentencepiece().model)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda hub: (hub / "config.json").unlink(), ["config.json is missing"]),
        (write("config.json", b"nothing"), ["config.json is not readable JSON"]),
        (write("config.json", b'{"a":' * 50_000), ["config.json is not readable JSON"]),
        (write("config.json", b'{"n_embd":' + b"9" * 5000 + b"}"), ["config.json is not readable JSON"]),
        (write("config.json", b"[]"), ['"model_type": "openai-gpt"']),
        (configured(model_type="llama"), ['"model_type": "openai-gpt", "gpt2" or "bert"']),
        (configured(model_type="gpt2"), ["no wte.weight"]),
        (configured(afn="tanh"), ["afn='tanh'", "gelu or relu"]),
        (configured(layer_norm_epsilon=0), ["layer_norm_epsilon=0", "a number from 1e-30 to below 1"]),
        (configured(n_ctx=8), ["n_ctx=8", "16"]),
        (configured(tie_word_embeddings=False), ["tie_word_embeddings=False", "True"]),
        (configured(n_embd=DELETED), ["n_embd=None", "a whole number"]),
        (configured(n_embd=32.0), ["n_embd=32.0", "a whole number"]),
        (configured(n_embd="32"), ["n_embd='32'", "a whole number"]),
        (configured(n_layer=0), ["n_layer=0", "a whole number"]),
        (configured(n_layer=-1), ["n_layer=-1", "a whole number"]),
        (configured(n_layer=True), ["n_layer=True", "a whole number"]),
        (configured(n_embd=[1] * 1000), ["n_embd=[1, 1", "…"]),
        (configured(n_embd=10**4000), ["n_embd=1000", "…"]),
        (configured(n_layer=2**31 - 1), ["no h.2.attn.c_attn.weight", "[32, 96]"]),
        (configured(n_embd=2**31 - 4), ["positions_embed.weight of shape [16, 32], expected [16, 2147483644]"]),
        (configured(vocab_size=2**31 - 1), ["tokens_embed.weight of shape [61, 32], expected [2147483647, 32]"]),
        (configured(n_layer=1), ["h.1.", "does not belong to the model"]),
        (configured(n_head=5), ["width 32", "5 heads"]),
        (configured(n_inner=129), ["n_inner=129", "at most 128"]),
        (configured(n_inner=100), ["n_inner=100", "mlp.c_fc.weight has numbers beyond"]),
        (configured(resid_pdrop=1.0), ["resid_pdrop=1.0"]),
        (configured(attn_pdrop=-0.1), ["attn_pdrop=-0.1"]),
        (configured(embd_pdrop=float("nan")), ["embd_pdrop=nan"]),
        (configured(embd_pdrop="0.1"), ["embd_pdrop='0.1'"]),
        (no_weights, ["has none of model.safetensors"]),
        (tensors(**{NORM: None}), ["no h.0.ln_1.bias", "[32]"]),
        (tensors(**{NORM: np.zeros(33, np.float32)}), ["h.0.ln_1.bias of shape [33], expected [32]"]),
        (tensors(**{NORM: np.zeros((1, 32), np.float32)}), ["shape [1, 32], expected [32]"]),
        (tensors(**{NORM: np.zeros(32, np.float64)}), ["h.0.ln_1.bias in F64", "float32"]),
        (tensors(**{NORM: np.zeros(32, np.int32)}), ["h.0.ln_1.bias in I32", "float32"]),
        (tensors(**{NORM: np.full(32, np.inf, np.float32)}), ["h.0.ln_1.bias holds numbers that are not finite"]),
        (tensors(h__7__ln_1__bias=np.zeros(32, np.float32)), ["'h.7.ln_1.bias' of shape [32]", "does not belong"]),
        (tensors(**{"a\nb": np.zeros(3, np.float32)}), [r"'a\nb' of shape [3]"]),
        (tensors(h__0__ln_1__bias=np.zeros(32, np.float32)), ["'h.0.ln_1.bias' both with and without a prefix"]),
        (tensors(lm_head__weight=np.zeros((61, 32), np.float32)), ["lm_head.weight that differs from tokens_embed"]),
        (tensors(lm_head__weight=np.zeros((60, 32), np.float32)), ["lm_head.weight of shape [60, 32]"]),
        (truncate, ["model.safetensors cannot be read"]),
        (write("model.safetensors", b""), ["model.safetensors cannot be read"]),
        (write("model.safetensors", pickle.dumps({})), ["model.safetensors cannot be read"]),
        (safetensors_header(b"nothing"), ["model.safetensors cannot be read"]),
        (safetensors_header(b"{}", length=2**60), ["model.safetensors cannot be read"]),
        (safetensors_header(b"{}", length=10**8), ["model.safetensors cannot be read"]),
        (safetensors_header(offsets(0, 128)), ["model.safetensors cannot be read"]),
        (safetensors_header(offsets(10**9, 10**9 + 128)), ["model.safetensors cannot be read"]),
        (safetensors_header(offsets(-128, 0)), ["model.safetensors cannot be read"]),
        (safetensors_header(lambda header: header[NORM].__setitem__("shape", [64])), ["cannot be read"]),
        (safetensors_header(lambda header: header[NORM].__setitem__("shape", [2**40, 2**40])), ["cannot be read"]),
        (safetensors_header(lambda header: header[NORM].__setitem__("dtype", "F16")), ["cannot be read"]),
        (safetensors_header(lambda header: header[NORM].__setitem__("dtype", "I32")), ["h.0.ln_1.bias in I32"]),
        (safetensors_header(lambda header: header[NORM].__setitem__("dtype", "X1")), ["cannot be read"]),
        (indexed([]), ["no weight_map"]),
        (indexed({"weight_map": {"a": 3}}), ["no weight_map"]),
        (indexed({"weight_map": {"a": "absent.safetensors"}}), ["'absent.safetensors', which does not lie beside it"]),
        (indexed({"weight_map": {"a": "../hub/config.json"}}), ["'../hub/config.json', which does not lie beside"]),
        (indexed({"weight_map": {"a": "/etc/passwd"}}), ["'/etc/passwd', which does not lie beside"]),
        (indexed({"weight_map": {"a": "a\0b"}}), ["does not lie beside"]),
        (indexed({"weight_map": {}}), ["no positions_embed.weight"]),
        (misplaced, [f"places '{NORM}' in 'a.safetensors', which has no such tensor"]),
        (pickled([1, 2]), ["holds a list", "tensors by name"]),
        (pickled({"a": 3}), ["holds 'a', which is not a plain tensor"]),
        (pickled({3: torch.zeros(2)}), ["holds 3, which is not a plain tensor"]),
        (pickled({"a": torch.zeros(2, 2).to_sparse()}), ["holds 'a', which is not a plain tensor"]),
        (pickled({"a": torch.zeros(2, device="meta")}), ["holds 'a', which is not a plain tensor"]),
        (pickled({"a": torch.zeros(1).expand(10**6)}), ["'a' as a view that repeats"]),
        (pickled({"positions_embed.weight": torch.zeros(16, 32, dtype=torch.int64)}), ["in int64, expected"]),
        (pickle_bytes(b""), ["pytorch_model.bin is damaged"]),
        (pickle_bytes(b"PK\x03\x04" + bytes(50)), ["pytorch_model.bin is damaged"]),
        (write("vocab.json", b'{"a": 0, "b": 7}'), ["hub"]),
        (other_vocabulary, ["300 pieces", "61 rows", "--tokenizer"]),
    ],
)  # fmt: skip
def test_damage_is_told_in_a_sentence_and_leaves_nothing(
    damage: Callable[[Path], None], told: list[str], hub: Path, tmp_path: Path
) -> None:
    damage(hub)
    sentence = refused("huggingface", hub, tmp_path / "out")
    assert all(part in sentence for part in told), sentence


class Bomb:
    """What must never be unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_s_code_is_never_run(modern: bool, hub: Path, tmp_path: Path) -> None:
    no_weights(hub)
    trace = tmp_path / "in" / "trace"
    torch.save({"a": Bomb(trace)}, hub / "pytorch_model.bin", _use_new_zipfile_serialization=modern)
    assert "holds other things than tensors" in refused("huggingface", hub, tmp_path / "out")
    (hub / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    assert "holds other things than tensors" in refused("huggingface", hub, tmp_path / "out")
    assert not trace.exists()


def test_a_pickle_without_torch_is_a_sentence(
    hub: Path, model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_pickle(hub, model)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "torch is not installed" in refused("huggingface", hub, tmp_path / "out")


def test_more_hidden_units_than_transformers_makes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_run(tmp_path / "in" / "run", TOKENIZERS["none"](), **{"model.d_ff": 129})
    told = refused("gpt1_jax", tmp_path / "in" / "run", tmp_path / "out", to="huggingface")
    assert "model.d_ff=129 is more than 128" in told


def test_units_of_zero_are_taken_off_again(tmp_path: Path) -> None:
    make_run(tmp_path / "run", TOKENIZERS["none"](), **{"model.d_ff": 50})
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    widths = {
        array.shape[-1]
        for name, array in load_file(tmp_path / "hub" / "model.safetensors").items()
        if "c_fc" in name
    }
    assert widths == {128}
    assert_equal(params_of(run_of(tmp_path / "hub", tmp_path / "again")), params_of(tmp_path / "run"))
    convert("huggingface", "huggingface", str(tmp_path / "hub"), str(tmp_path / "copy"))
    assert files_of(tmp_path / "copy") == files_of(tmp_path / "hub")
