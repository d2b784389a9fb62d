"""Vocabularies beside other programs' weights: tokenizer.json alone, added tokens, files as Windows writes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import bpe, make_run, params_of, refused, sentencepiece
from safetensors.numpy import load_file, save_file

import gpt1_jax
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer, open_openai
from gpt1_jax.data.tokenizers.opening import load_tokenizer
from gpt1_jax.interop.conversion import convert

pytestmark = pytest.mark.usefixtures("quick_compilation")
TEXT = "The quick fox, the fox.\nAnd others"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the published BPE, and what it is exported to."""
    directory = tmp_path_factory.mktemp("exported")
    make_run(directory / "run", bpe())
    convert("gpt1_jax", "huggingface", str(directory / "run"), str(directory / "hub"))
    return directory


@pytest.fixture
def hub(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported / "hub", tmp_path / "in" / "hub")


def widen(hub: Path, rows: int) -> None:
    """Rows behind those of the pieces, as transformers makes for added tokens."""
    tensors = load_file(hub / "model.safetensors")
    table = tensors["transformer.tokens_embed.weight"]
    tensors["transformer.tokens_embed.weight"] = np.pad(table, [(0, rows), (0, 0)], constant_values=0.5)
    save_file(tensors, hub / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((hub / "config.json").read_text())
    (hub / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + rows}))


def resaved(hub: Path, *added: str) -> None:
    """What transformers 5 makes of the directory: tokenizer.json in place of the two files."""
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    tokenizer = transformers.AutoTokenizer.from_pretrained(hub)
    tokenizer.add_tokens(list(added))
    tokenizer.save_pretrained(hub)
    for name in ("vocab.json", "merges.txt"):
        (hub / name).unlink()
    assert (hub / "tokenizer.json").exists()


def imported(hub: Path, tmp_path: Path) -> tuple[Any, OpenAITokenizer]:
    convert("huggingface", "gpt1_jax", str(hub), str(tmp_path / "again"))
    tokenizer = load_tokenizer(tmp_path / "again" / "tokenizer")
    assert isinstance(tokenizer, OpenAITokenizer)
    return params_of(tmp_path / "again"), tokenizer


def test_a_lone_tokenizer_json_of_gpt1_is_its_vocabulary(hub: Path, exported: Path, tmp_path: Path) -> None:
    resaved(hub)
    params, tokenizer = imported(hub, tmp_path)
    assert tokenizer.encode(TEXT) == bpe().encode(TEXT)
    assert tokenizer.decode(range(tokenizer.vocab_size)) == bpe().decode(range(bpe().vocab_size))
    np.testing.assert_array_equal(params["tokens"], params_of(exported / "run")["tokens"])


def test_merges_of_older_files_are_lines(hub: Path, tmp_path: Path) -> None:
    resaved(hub)
    described = json.loads((hub / "tokenizer.json").read_text())
    described["model"]["merges"] = [" ".join(pair) for pair in described["model"]["merges"]]
    (hub / "tokenizer.json").write_text(json.dumps(described))
    assert imported(hub, tmp_path)[1].encode(TEXT) == bpe().encode(TEXT)


@pytest.mark.parametrize("names", [["[PAD]"], ["<a>", "<b>", "<c>"], ["<a>", "<b>", "<c>", "<d>"]])
@pytest.mark.parametrize("form", ["added_tokens.json", "tokenizer.json", "tokenizer_config.json"])
def test_added_tokens_are_left_out_by_their_names(
    names: list[str], form: str, hub: Path, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pieces = bpe().vocab_size
    widen(hub, len(names))
    if form == "tokenizer.json":
        resaved(hub, *names)
    elif form == "added_tokens.json":
        (hub / form).write_text(json.dumps({name: pieces + i for i, name in enumerate(names)}))
    else:
        decoder = {str(pieces + i): {"content": name} for i, name in enumerate(names)}
        (hub / form).write_text(json.dumps({"added_tokens_decoder": {"0": {"content": "<unk>"}} | decoder}))
    params, tokenizer = imported(hub, tmp_path)
    said = capsys.readouterr().out
    assert f"added tokens '{', '.join(names)}'" in said and "fine-tuning" not in said
    assert tokenizer.encode(TEXT) == bpe().encode(TEXT)
    np.testing.assert_array_equal(params["tokens"], params_of(exported / "run")["tokens"])


def described(*path: str, value: Any) -> Any:
    """Damage to tokenizer.json: a value somewhere in it."""

    def damage(hub: Path) -> None:
        resaved(hub)
        whole = part = json.loads((hub / "tokenizer.json").read_text())
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        (hub / "tokenizer.json").write_text(json.dumps(whole))

    return damage


def spelled(content: str, name: str = "added_tokens.json") -> Any:
    return lambda hub: (hub / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            described("model", "type", value="Unigram"),
            "not a tokenizer of GPT-1's kind: model.type is 'Unigram'",
        ),
        (described("model", "end_of_word_suffix", value=None), "model.end_of_word_suffix is None"),
        (described("normalizer", value=None), "normalizer.type is None, not 'BertNormalizer'"),
        (described("normalizer", "lowercase", value=False), "normalizer.lowercase is False"),
        (described("pre_tokenizer", value={"type": "ByteLevel"}), "pre_tokenizer.type is 'ByteLevel'"),
        (described("model", "vocab", value=["a"]), "no model.vocab"),
        (described("model", "merges", value=[["a"]]), "not pairs of pieces"),
        (described("model", "merges", value=[["a", "nothing"]]), "not two pieces"),
        (described("model", "vocab", value={"a": 1}), "not 0 to 0"),
        (spelled('{"<a>": 99}'), "ids are [99], expected those from 63 on"),
        (spelled('{"<a>": "63"}'), "added_tokens.json does not list added tokens"),
        (spelled("[1]"), "added_tokens.json does not list added tokens"),
        (
            spelled('{"added_tokens_decoder": {"x": 1}}', "tokenizer_config.json"),
            "does not list added tokens",
        ),
        (lambda hub: widen(hub, 1), "63 pieces and the model 64 rows"),
    ],
)
def test_what_shifts_ids_or_is_another_kind_is_refused(
    damage: Any, told: str, hub: Path, tmp_path: Path
) -> None:
    damage(hub)
    assert told in refused("huggingface", hub, tmp_path / "out")


def test_a_tokenizer_that_is_named_makes_up_for_one_of_another_kind(hub: Path, tmp_path: Path) -> None:
    described("model", "type", value="Unigram")(hub)
    bpe().save(tmp_path / "named")
    convert(
        "huggingface", "gpt1_jax", str(hub), str(tmp_path / "again"), tokenizer=f"openai:{tmp_path}/named"
    )
    assert gpt1_jax.load(str(tmp_path / "again")).encode(TEXT) == bpe().encode(TEXT)


@pytest.mark.parametrize(
    "change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n")]
)
def test_files_as_windows_writes_them_are_the_same_vocabulary(change: Any, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes(change(bpe().encoder))
    (tmp_path / "merges.txt").write_bytes(change(bpe().merges))
    assert open_openai(tmp_path).encode(TEXT) == bpe().encode(TEXT)


def test_a_sentencepiece_run_resaved_by_transformers_needs_its_model(tmp_path: Path) -> None:
    make_run(tmp_path / "run", sentencepiece())
    (tmp_path / "in").mkdir()
    hub = tmp_path / "in" / "hub"
    convert("gpt1_jax", "huggingface", str(tmp_path / "run"), str(hub))
    (hub / "sentencepiece.model").rename(tmp_path / "run" / "kept.model")
    assert "model.end_of_word_suffix is None" in refused("huggingface", hub, tmp_path / "out")
    named = f"sentencepiece:{tmp_path}/run/kept.model"
    convert("huggingface", "gpt1_jax", str(hub), str(tmp_path / "again"), tokenizer=named)
    assert gpt1_jax.load(str(tmp_path / "again")).encode(TEXT) == sentencepiece().encode(TEXT)
