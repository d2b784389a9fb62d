"""GPT-2 and BERT to and from transformers: the same numbers and gradients, every form of the files, bit by bit."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interop_support import MODELS, TOKENIZERS, make_run, params_of, refused
from safetensors.numpy import load_file, save_file
from support import use_mesh

import gpt1_jax
from gpt1_jax.config import ModelConfig
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.families import BERT, GPT2, family_of
from gpt1_jax.interop.run_directory import published_weights
from gpt1_jax.model import output
from gpt1_jax.model.trunk import make_trunk

torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")

VOCAB, CONTEXT, WIDTH = 61, 12, 32
SIZES = {
    "gpt2": {"n_layer": 2, "n_head": 4, "n_embd": WIDTH, "n_positions": CONTEXT, "n_inner": 48},
    "bert": {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "max_position_embeddings": CONTEXT,
    },
}
CLASSES = {"gpt2": "GPT2LMHeadModel", "bert": "BertForPreTraining"}
FAMILIES = pytest.mark.parametrize("family", SIZES)


def make_reference(family: str, name: str = "", **settings: Any) -> Any:
    """A model of transformers whose every parameter is random, biases and gains too."""
    torch.manual_seed(0)
    make = transformers.GPT2Config if family == "gpt2" else transformers.BertConfig
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None} if family == "gpt2" else {}
    model = getattr(transformers, name or CLASSES[family])(
        make(vocab_size=VOCAB, **SIZES[family] | ends | settings)
    ).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            gain = key.endswith("weight") and ("ln_" in key or "LayerNorm" in key)
            parameter.normal_(1.0 if gain else 0.0, 0.1)
    return model


@pytest.fixture(scope="module")
def references() -> dict[str, Any]:
    return {family: make_reference(family) for family in SIZES}


@pytest.fixture
def hub(family: str, references: dict[str, Any], tmp_path: Path) -> Path:
    directory = tmp_path / "in" / "hub"
    references[family].save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def imported(references: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The parameters that each reference comes to."""
    directory = tmp_path_factory.mktemp("references")
    for family, model in references.items():
        model.save_pretrained(directory / family)
    return {
        family: params_of(run_of(directory / family, directory / f"{family}-run")) for family in references
    }


def run_of(hub: Path, run: Path) -> Path:
    convert("huggingface", "gpt1_jax", str(hub), str(run))
    return run


def assert_equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def tensors_of(hub: Path) -> dict[str, np.ndarray]:
    return load_file(hub / "model.safetensors")


# ── The same numbers ─────────────────────────────────────────────────────────────────────────────────────────


def two_texts() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sequences, of which one is padded, and each position's type."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(0, VOCAB, (2, CONTEXT))
    real = np.arange(CONTEXT) < np.array([[CONTEXT], [CONTEXT - 5]])
    types = (np.arange(CONTEXT) >= 4) & real
    return tokens.astype(np.int32), real, types.astype(np.int32)


def assert_close(found: Any, expected: Any, name: str = "") -> None:
    """Within 1e-5 of the largest number."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gpt2", {}),
        ("gpt2", {"n_inner": None, "activation_function": "relu", "layer_norm_epsilon": 1e-3}),
        ("bert", {}),
        ("bert", {"hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    ],
)
def test_states_logits_and_gradients_are_transformers(
    family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Of a batch with padding and token types, for a random direction of the logits."""
    reference = make_reference(family, **settings)
    reference.save_pretrained(tmp_path / "hub")
    run = gpt1_jax.load(str(run_of(tmp_path / "hub", tmp_path / "run")))
    config, params = run.config.model, jax.device_get(run.params)
    trunk = make_trunk(config, VOCAB)
    tokens, real, types = two_texts()
    direction = np.random.default_rng(2).normal(size=(*tokens.shape, VOCAB)).astype(np.float32)
    direction *= real[..., None] / real.sum()

    def loss(params: Any) -> tuple[jax.Array, Any]:
        given = {} if family == "gpt2" else {"types": types, "groups": np.where(real, 0, -1).astype(np.int32)}
        states: Any = trunk.apply({"params": params}, tokens, **given)
        logits = output.logits(config, params, states, VOCAB)
        return (logits * direction).sum(), (states, logits)

    with use_mesh():
        (_, (states, logits)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    given = {"attention_mask": torch.tensor(real.astype(np.int64)), "output_hidden_states": True}
    if family == "bert":
        given["token_type_ids"] = torch.tensor(types.astype(np.int64))
    theirs = reference(torch.tensor(tokens.astype(np.int64)), **given)
    expected = theirs["logits" if family == "gpt2" else "prediction_logits"]
    (expected * torch.tensor(direction)).sum().backward()

    assert_close(states[real], theirs.hidden_states[-1].detach()[torch.tensor(real)], "states")
    assert_close(logits[real], expected.detach()[torch.tensor(real)], "logits")
    named = dict(reference.named_parameters())
    ours = published_weights(config, jax.device_get(gradients), VOCAB)
    for name, gradient in ours.items():
        if not name.startswith("pooler"):
            assert_close(gradient, named[family_of(config).full(name)].grad, name)


def test_a_bert_s_pooler_gives_transformers_state(
    references: dict[str, Any], imported: dict[str, Any]
) -> None:
    tokens, _, _ = two_texts()
    with torch.no_grad():
        theirs = references["bert"].bert(torch.tensor(tokens.astype(np.int64)))
    first = jnp.asarray(theirs.last_hidden_state.numpy()[:, 0])
    assert_close(output.pooled(imported["bert"], first), theirs.pooler_output.numpy())


def test_a_gpt2_writes_what_transformers_writes(tmp_path: Path) -> None:
    reference = make_reference("gpt2")
    reference.save_pretrained(tmp_path / "hub")
    run = gpt1_jax.load(str(run_of(tmp_path / "hub", tmp_path / "run")))
    for seed in range(4):
        ids = np.random.default_rng(seed).integers(1, VOCAB, 3).tolist()
        theirs = reference.generate(
            torch.tensor([ids]), do_sample=False, max_length=CONTEXT, pad_token_id=0, eos_token_id=None
        )
        ours = run.generate(ids, temperature=0.0, max_new_tokens=CONTEXT - len(ids))
        assert ours["samples"][0]["token_ids"] == theirs[0, len(ids) :].tolist()


@pytest.mark.parametrize(
    ("layers", "width", "heads", "parameters"),
    [
        (12, 768, 12, 124_439_808),
        (24, 1024, 16, 354_823_168),
        (36, 1280, 20, 774_030_080),
        (48, 1600, 25, 1_557_611_200),
    ],
)
def test_the_table_of_gpt2_has_the_tensors_of_every_size(
    layers: int, width: int, heads: int, parameters: int
) -> None:
    config = ModelConfig(
        num_layers=layers, num_heads=heads, d_model=width, d_ff=4 * width, context_length=1024
    )
    shapes = {GPT2.full(place.name): place.shape for place in GPT2.places(config, 50257)}
    assert sum(np.prod(shape) for shape in shapes.values()) == parameters
    with torch.device("meta"):
        theirs = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=layers, n_head=heads, n_embd=width)
        )
    assert shapes == {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}


@pytest.mark.parametrize(
    ("layers", "width", "heads", "parameters"),
    [(12, 768, 12, 109_482_240), (24, 1024, 16, 335_141_888)],
)
def test_the_table_of_bert_has_the_tensors_of_every_size(
    layers: int, width: int, heads: int, parameters: int
) -> None:
    config = ModelConfig(num_layers=layers, num_heads=heads, d_model=width, d_ff=4 * width)
    config = dataclasses.replace(config, causal=False, token_types=2)
    shapes = {BERT.full(place.name): place.shape for place in BERT.places(config, 30522)}
    encoder = [shape for name, shape in shapes.items() if name.startswith("bert.")]
    assert sum(np.prod(shape) for shape in encoder) == parameters
    with torch.device("meta"):
        theirs = transformers.BertForPreTraining(
            transformers.BertConfig(
                num_hidden_layers=layers,
                num_attention_heads=heads,
                hidden_size=width,
                intermediate_size=4 * width,
            )
        )
    named = {name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()}
    assert shapes == {name: shape for name, shape in named.items() if "seq_relationship" not in name}


# ── There and back ───────────────────────────────────────────────────────────────────────────────────────────


@FAMILIES
def test_transformers_files_come_back_bit_by_bit(family: str, hub: Path, tmp_path: Path) -> None:
    run_of(hub, tmp_path / "run")
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "again"))
    before, after = tensors_of(hub), tensors_of(tmp_path / "again")
    assert {name for name in before if "seq_relationship" not in name} == set(after)
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    kept = json.loads((hub / "config.json").read_text())
    written = json.loads((tmp_path / "again" / "config.json").read_text())
    names = set(written) - {"architectures", "n_ctx", "eos_token_id", "bos_token_id", "pad_token_id"}
    assert {name: written[name] for name in names} == {name: kept[name] for name in names}


@FAMILIES
def test_a_run_comes_back_bit_by_bit_and_transformers_opens_it(family: str, tmp_path: Path) -> None:
    """As a language model without a tensor missing or made up, and as the bare network."""
    make_run(tmp_path / "run", TOKENIZERS["none"](), **MODELS[family])
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    run_of(tmp_path / "hub", tmp_path / "again")
    assert_equal(params_of(tmp_path / "again"), params_of(tmp_path / "run"))
    for name in {"gpt2": ["GPT2LMHeadModel", "GPT2Model"], "bert": ["BertForMaskedLM", "BertModel"]}[family]:
        model, told = getattr(transformers, name).from_pretrained(tmp_path / "hub", output_loading_info=True)
        assert not told["missing_keys"] and not told["mismatched_keys"], told
        # A masked language model has no pooler, and a bare BERT no output.
        assert all("pooler" in key or "cls." in key for key in told["unexpected_keys"]), told
        assert model.config.architectures == [{"gpt2": "GPT2LMHeadModel", "bert": "BertForMaskedLM"}[family]]


def test_a_rate_that_bert_cannot_tell_apart_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates: dict[str, Any] = {
        "model.embedding_dropout": 0.0,
        "model.residual_dropout": 0.25,
        "model.attention_dropout": 0.5,
    }
    make_run(tmp_path / "run", TOKENIZERS["none"](), **MODELS["bert"] | rates)
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "hub"))
    values = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert (values["hidden_dropout_prob"], values["attention_probs_dropout_prob"]) == (0.25, 0.5)
    assert "hidden_dropout_prob is that of residual_dropout" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("gpt2", {"model.norm": "post", "model.token_types": 2, "model.activation": "relu"}, "model.token_types=2"),
        ("gpt2", {"model.norm": "post", "model.embedding_norm": True}, "model.embedding_norm=True"),
        ("gpt2", {"model.norm": "post", "model.activation": "gelu"}, "model.activation=gelu"),
        ("gpt2", {"model.token_types": 1}, "model.token_types=1"),
        ("bert", {"model.norm": "pre"}, "model.norm=pre"),
        ("bert", {"model.token_types": 0}, "model.token_types=0"),
        ("bert", {"model.embedding_norm": False}, "model.embedding_norm=False"),
    ],
)  # fmt: skip
def test_a_model_of_no_family_is_refused_by_its_key(
    family: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    make_run(tmp_path / "in" / "run", TOKENIZERS["none"](), **MODELS[family] | changes)
    sentence = refused("gpt1_jax", tmp_path / "in" / "run", tmp_path / "out", to="huggingface")
    assert told in sentence and "which no other format can hold" in sentence


@FAMILIES
def test_the_authors_format_of_gpt1_is_refused(family: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_run(tmp_path / "in" / "run", TOKENIZERS["none"](), **MODELS[family])
    sentence = refused("gpt1_jax", tmp_path / "in" / "run", tmp_path / "out", to="openai")
    assert {"gpt2": "model.norm=pre", "bert": "model.causal=False"}[family] in sentence


# ── Forms of the files ───────────────────────────────────────────────────────────────────────────────────────


def rename(hub: Path, change: Callable[[str], str]) -> None:
    save_file(
        {change(name): array.copy() for name, array in tensors_of(hub).items()},
        hub / "model.safetensors",
        metadata={"format": "pt"},
    )


def without_prefix(hub: Path, model: Any) -> None:
    rename(hub, lambda name: name.removeprefix("transformer.").removeprefix("bert."))


def with_the_output(hub: Path, model: Any) -> None:
    """As torch saves it, with the tied tensors under both names."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    assert "lm_head.weight" in state or "cls.predictions.decoder.bias" in state
    (hub / "model.safetensors").unlink()
    torch.save(state, hub / "pytorch_model.bin")


def with_the_output_alone(hub: Path, model: Any) -> None:
    repeated = {
        "transformer.wte.weight": "lm_head.weight",
        "cls.predictions.bias": "cls.predictions.decoder.bias",
    }
    rename(hub, lambda name: repeated.get(name, name))


def with_buffers(hub: Path, model: Any) -> None:
    masks: dict[str, np.ndarray] = {
        "bert.embeddings.position_ids": np.arange(CONTEXT)[None],
        "transformer.h.1.attn.bias": np.ones((1, 1, 4, 4), np.uint8),
        "transformer.h.0.attn.masked_bias": np.full((), -1e4, np.float32),
    }
    save_file(tensors_of(hub) | masks, hub / "model.safetensors", metadata={"format": "pt"})


def with_old_names(hub: Path, model: Any) -> None:
    rename(
        hub,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ),
    )


def in_shards(hub: Path, model: Any) -> None:
    (hub / "model.safetensors").unlink()
    model.save_pretrained(hub, max_shard_size="20KB")
    assert len(list(hub.glob("*.safetensors"))) > 2


def in_pickled_shards(hub: Path, model: Any) -> None:
    (hub / "model.safetensors").unlink()
    state, places = list(model.state_dict().items()), {}
    for number, part in enumerate((state[:9], state[9:]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save(dict(part), hub / file)
        places |= {name: file for name, _ in part}
    (hub / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize(
    "form",
    [
        *(without_prefix, with_the_output, with_the_output_alone, with_buffers, with_old_names),
        *(in_shards, in_pickled_shards),
    ],
)
@FAMILIES
def test_the_weights_are_found_in_every_form(
    family: str, form: Any, hub: Path, references: dict[str, Any], imported: dict[str, Any], tmp_path: Path
) -> None:
    form(hub, references[family])
    assert_equal(params_of(run_of(hub, tmp_path / "run")), imported[family])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@FAMILIES
def test_half_precision_is_read_exactly(
    family: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = make_reference(family).to(getattr(torch, dtype))
    reference.save_pretrained(tmp_path / "hub")
    run_of(tmp_path / "hub", tmp_path / "run")
    assert f"The weights are {dtype}" in capsys.readouterr().out
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(tmp_path / "again"))
    named = dict(reference.named_parameters())
    for name, array in tensors_of(tmp_path / "again").items():
        np.testing.assert_array_equal(array, named[name].detach().float().numpy(), err_msg=name)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("BertModel", ["output of the masked language model"]),
        ("BertForMaskedLM", ["pooler"]),
        ("BertForPreTraining", []),
    ],
)
def test_what_a_bert_lacks_is_told_and_starts_new(
    name: str,
    lacking: list[str],
    tmp_path: Path,
    imported: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    reference = make_reference("bert", name)
    reference.save_pretrained(tmp_path / "hub")
    params = params_of(run_of(tmp_path / "hub", tmp_path / "run"))
    said = capsys.readouterr().out
    for what in ("output of the masked language model", "pooler"):
        assert (f"has no {what}" in said) == (what in lacking)
    assert params.keys() == imported["bert"].keys()
    if "pooler" in lacking:
        assert 0.01 < params["pooler_kernel"].std() < 0.03 and not params["pooler_bias"].any()
    if name == "BertModel":
        assert (params["transform_norm_scale"] == 1).all() and not params["output_bias"].any()
        assert 0.01 < params["transform_kernel"].std() < 0.03
    table = getattr(reference, "bert", reference).embeddings.word_embeddings.weight
    np.testing.assert_array_equal(params["tokens"][:VOCAB], table.detach())
    run_of(tmp_path / "hub", tmp_path / "again")
    assert_equal(params_of(tmp_path / "again"), params)


# ── Refused ──────────────────────────────────────────────────────────────────────────────────────────────────

DELETED = object()


def configured(**values: Any) -> Callable[[Path], None]:
    """Damage to config.json; DELETED takes a key out."""

    def damage(hub: Path) -> None:
        path = hub / "config.json"
        changed = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not DELETED}))

    return damage


def damaged(name: str, array: np.ndarray | None) -> Callable[[Path], None]:
    """Damage to the tensors; None takes one out."""

    def damage(hub: Path) -> None:
        changed: dict[str, Any] = tensors_of(hub) | {name: array}
        save_file(
            {name: array for name, array in changed.items() if array is not None},
            hub / "model.safetensors",
            metadata={"format": "pt"},
        )

    return damage


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("family", "damage", "told"),
    [
        ("gpt2", configured(model_type="bert"), ["num_hidden_layers=None"]),
        ("bert", configured(model_type="roberta"), ['"model_type": "openai-gpt", "gpt2" or "bert"']),
        ("bert", configured(model_type=DELETED), ['"model_type"']),
        ("gpt2", configured(activation_function="gelu_10"), ["activation_function='gelu_10'", "gelu_new"]),
        ("bert", configured(hidden_act="quick_gelu"), ["hidden_act='quick_gelu'", "gelu"]),
        ("gpt2", configured(scale_attn_weights=False), ["scale_attn_weights=False", "True"]),
        ("gpt2", configured(scale_attn_by_inverse_layer_idx=True), ["scale_attn_by_inverse_layer_idx=True"]),
        ("gpt2", configured(reorder_and_upcast_attn=True), ["reorder_and_upcast_attn=True", "False"]),
        ("gpt2", configured(add_cross_attention=True), ["add_cross_attention=True"]),
        ("gpt2", configured(tie_word_embeddings=False), ["tie_word_embeddings=False", "True"]),
        ("gpt2", configured(n_ctx=99), ["n_ctx=99", "12"]),
        ("gpt2", configured(n_inner=47), ["h.0.mlp.c_fc.weight of shape [32, 48], expected [32, 47]"]),
        ("gpt2", configured(layer_norm_epsilon="1e-5"), ["layer_norm_epsilon='1e-5'"]),
        ("bert", configured(position_embedding_type="relative_key"), ["position_embedding_type='relative_key'"]),
        ("bert", configured(is_decoder=True), ["is_decoder=True", "False"]),
        ("bert", configured(add_cross_attention=True), ["add_cross_attention=True"]),
        ("bert", configured(tie_word_embeddings=False), ["tie_word_embeddings=False"]),
        ("bert", configured(pruned_heads={"0": [1]}), ["pruned_heads={'0': [1]}"]),
        ("bert", configured(quantization_config={"bits": 8}), ["quantization_config={'bits': 8}"]),
        ("bert", configured(type_vocab_size=0), ["type_vocab_size=0"]),
        ("bert", configured(type_vocab_size=3), ["token_type_embeddings.weight of shape [2, 32], expected [3, 32]"]),
        ("bert", configured(num_attention_heads=5), ["width 32", "5 heads"]),
        ("bert", configured(num_hidden_layers=3), ["no encoder.layer.2.attention.self.query.weight"]),
        ("bert", configured(num_hidden_layers=2**31 - 1), ["no encoder.layer.2.attention.self.query.weight"]),
        ("bert", configured(num_hidden_layers=1), ["encoder.layer.1.", "does not belong to the model"]),
        ("bert", configured(hidden_dropout_prob=1.5), ["hidden_dropout_prob=1.5"]),
        ("gpt2", damaged("transformer.ln_f.weight", None), ["no ln_f.weight", "[32]"]),
        ("gpt2", damaged("transformer.h.1.attn.c_attn.weight", zeros(96, 32)), ["shape [96, 32], expected [32, 96]"]),
        ("gpt2", damaged("lm_head.weight", zeros(61, 32)), ["lm_head.weight that differs from wte.weight"]),
        ("bert", damaged("bert.encoder.layer.1.attention.self.key.bias", None), ["self.key.bias", "[32]"]),
        ("bert", damaged("bert.encoder.layer.0.intermediate.dense.weight", zeros(32, 48)), ["expected [48, 32]"]),
        ("bert", damaged("cls.predictions.transform.dense.weight", None), ["no cls.predictions.transform"]),
        ("bert", damaged("bert.pooler.dense.bias", None), ["no pooler.dense.bias"]),
        (
            "bert",
            damaged("cls.predictions.decoder.weight", zeros(61, 32)),
            ["cls.predictions.decoder.weight that differs from embeddings.word_embeddings.weight"],
        ),
        ("bert", damaged("cls.predictions.decoder.bias", zeros(61)), ["decoder.bias that differs from cls"]),
        ("bert", damaged("bert.encoder.layer.0.crossattention.self.key.bias", zeros(32)), ["does not belong"]),
    ],
)  # fmt: skip
def test_what_would_change_the_numbers_is_refused_by_name(
    family: str, damage: Callable[[Path], None], told: list[str], hub: Path, tmp_path: Path
) -> None:
    damage(hub)
    sentence = refused("huggingface", hub, tmp_path / "out")
    assert all(part in sentence for part in told), sentence
