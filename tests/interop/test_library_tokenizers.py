"""Tokenizers of Hugging Face's library beside weights: AutoTokenizer's ids are the run's, and the files come back."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from interop_support import MODELS, TEXT, TOKENIZERS, bpe, files_of, make_run, refused

from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.interop.conversion import convert
from gpt1_jax.tasks.task import Task

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is the reference; it is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
pytestmark = pytest.mark.usefixtures("quick_compilation")

TEXTS = [
    *(
        "the quick brown fox",
        " Two  spaces\nand a line",
        "Größe, naïve café: 中文 😀",
        "",
        "it's <|endoftext|> here",
    ),
    *("[CLS] the [MASK] dog [SEP]", "x" * 120, "don't stop, THE dog!"),
]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyzTHE.,:!'"]
WORDS += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyzTHE"] + [
    "the",
    "quick",
    "dog",
    "##own",
    "é",
    "THE",
]


@cache
def byte_files() -> dict[str, bytes]:
    """GPT-2's two files of a small vocabulary, made by the library itself."""
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    library.train_from_iterator([TEXT] * 3, trainer)
    model = json.loads(library.to_str())["model"]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    return {"vocab.json": json.dumps(model["vocab"]).encode(), "merges.txt": "\n".join(lines).encode()}


def word_files(**settings: Any) -> dict[str, bytes]:
    files = {"vocab.txt": "".join(f"{word}\n" for word in WORDS).encode()}
    return files | ({"tokenizer_config.json": json.dumps(settings).encode()} if settings else {})


def export(tokenizer: Tokenizer, family: str, directory: Path, task: Task | None = None) -> Path:
    make_run(directory / "run", tokenizer, task, **MODELS.get(family, {}))
    convert("gpt1_jax", "huggingface", str(directory / "run"), str(directory / "hub"))
    return directory / "hub"


def back(hub: Path, directory: Path) -> Tokenizer:
    convert("huggingface", "gpt1_jax", str(hub), str(directory / "back"))
    return load_tokenizer(directory / "back" / "tokenizer")


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_pieces_of_bytes_go_to_transformers_and_come_back(family: str, tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(byte_files())
    hub = export(tokenizer, family, tmp_path)
    assert {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"} <= files_of(hub).keys()
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert auto(text)["input_ids"] == ids and auto.decode(ids) == text, text
    assert (auto.eos_token_id, auto.model_max_length, len(auto)) == (tokenizer.end_id, 16, 300)
    assert set(auto("a")) == {"input_ids", "attention_mask"}
    again = back(hub, tmp_path)
    assert again.fingerprint() == tokenizer.fingerprint()
    convert("gpt1_jax", "huggingface", str(tmp_path / "back"), str(tmp_path / "twice"))
    assert files_of(tmp_path / "twice") == files_of(hub)


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_a_vocabulary_for_models_of_either_kind_surrounds_no_text_of_a_gpt(
    family: str, tmp_path: Path
) -> None:
    """A trained byte BPE has [CLS] and [SEP] too, which only a BERT reads."""
    tokenizer = train_byte_bpe(iter([TEXT] * 3), 300)
    hub = export(tokenizer, family, tmp_path)
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    for text in TEXTS:
        assert auto(text)["input_ids"] == tokenizer.encode(text), text
    assert set(auto("a")) == {"input_ids", "attention_mask"}
    assert (auto.eos_token_id, auto.pad_token_id) == (tokenizer.end_id, tokenizer.special_ids["pad"])
    assert back(hub, tmp_path).fingerprint() == tokenizer.fingerprint()


def test_a_gpt2_begins_and_ends_with_the_end_piece_of_its_own_vocabulary(tmp_path: Path) -> None:
    hub = export(HuggingFaceTokenizer(byte_files()), "gpt2", tmp_path)
    config = transformers.AutoConfig.from_pretrained(hub)
    assert config.bos_token_id == config.eos_token_id == HuggingFaceTokenizer(byte_files()).end_id


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_pieces_of_words_go_to_transformers_and_come_back(settings: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(word_files(**settings))
    hub = export(tokenizer, "bert", tmp_path)
    assert {"vocab.txt", "tokenizer.json", "tokenizer_config.json"} <= files_of(hub).keys()
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    special = tokenizer.special_ids
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert auto(text)["input_ids"] == [special["cls"], *ids, special["sep"]], text
    pair = auto("the dog", "a quick", padding="max_length", max_length=12)
    assert pair["token_type_ids"][:8].count(1) == sum(pair["token_type_ids"]) > 1
    assert pair["input_ids"][-1] == auto.pad_token_id == special["pad"]
    assert auto.mask_token_id == special["mask"]
    assert back(hub, tmp_path).fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(("family", "files"), [("gpt2", byte_files), ("bert", word_files)])
def test_what_transformers_saved_is_read_and_comes_back(family: str, files: Any, tmp_path: Path) -> None:
    """tokenizer.json and tokenizer_config.json of transformers' own, byte by byte."""
    hub = export(HuggingFaceTokenizer(files()), family, tmp_path)
    for name in ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        (hub / name).unlink(missing_ok=True)
    for name, content in files().items():
        (hub / name).write_bytes(content)
    auto = transformers.AutoTokenizer.from_pretrained(hub)
    auto.save_pretrained(hub)
    for name in files():
        (hub / name).unlink()
    saved = files_of(hub)
    tokenizer = back(hub, tmp_path)
    for text in TEXTS:
        if "<|" not in text:
            assert auto(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text), text
    convert("gpt1_jax", "huggingface", str(tmp_path / "back"), str(tmp_path / "again"))
    again = files_of(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        assert again[name] == saved[name]


def test_gpt1_s_vocabulary_under_a_gpt2_is_not_taken_for_gpt2_s(tmp_path: Path) -> None:
    hub = export(bpe(), "gpt2", tmp_path)
    with pytest.raises(ValueError, match="Couldn't instantiate"):
        transformers.AutoTokenizer.from_pretrained(hub)
    assert back(hub, tmp_path).fingerprint() == bpe().fingerprint()


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "none"])
def test_other_tokenizers_come_back_under_a_gpt2_too(tokenizer: str, tmp_path: Path) -> None:
    pieces = TOKENIZERS[tokenizer]()
    assert back(export(pieces, "gpt2", tmp_path), tmp_path).fingerprint() == pieces.fingerprint()


def test_the_authors_format_keeps_it_too(tmp_path: Path) -> None:
    tokenizer = HuggingFaceTokenizer(byte_files())
    make_run(tmp_path / "run", tokenizer)
    convert("gpt1_jax", "openai", str(tmp_path / "run"), str(tmp_path / "out"))
    convert("openai", "gpt1_jax", str(tmp_path / "out"), str(tmp_path / "back"), num_heads=4)
    assert load_tokenizer(tmp_path / "back" / "tokenizer").fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("vocab.txt", b"a\nb\n", "has no vocabulary that can be read"),
        ("tokenizer.json", b"{", "has no vocabulary that can be read"),
        ("tokenizer.json", b'{"model": {}}', "has no vocabulary that can be read"),
        ("tokenizer_config.json", b"[]", "tokenizer_config.json"),
    ],
)
def test_damaged_files_are_a_sentence(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    hub = export(HuggingFaceTokenizer(word_files()), "bert", tmp_path / "in")
    if name == "vocab.txt":
        (hub / "tokenizer.json").unlink()
    (hub / name).write_bytes(content)
    assert told in refused("huggingface", hub, tmp_path / "out")


def test_a_named_tokenizer_replaces_it(tmp_path: Path) -> None:
    hub = export(TOKENIZERS["none"](), "bert", tmp_path)
    config = json.loads((hub / "config.json").read_text())
    (tmp_path / "named").mkdir()
    (tmp_path / "named" / "vocab.txt").write_bytes(
        "".join(f"{w}\n" for w in WORDS[: config["vocab_size"]]).encode()
    )
    convert(
        "huggingface", "gpt1_jax", str(hub), str(tmp_path / "back"), tokenizer=f"huggingface:{tmp_path}/named"
    )
    assert load_tokenizer(tmp_path / "back" / "tokenizer").encode("a dog") != []
