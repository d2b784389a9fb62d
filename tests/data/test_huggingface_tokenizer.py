"""Tokenizers of Hugging Face's library: the published ids, text that comes back, and plain words on damage."""

import json
import random
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from data_support import prepare
from vocabulary_support import bert, golden, gpt2

from gpt1_jax.data.tokenizers import huggingface, word_memory
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer, open_huggingface
from gpt1_jax.data.tokenizers.library_training import train_byte_bpe, train_wordpiece
from gpt1_jax.data.tokenizers.opening import load_tokenizer, open_tokenizer
from gpt1_jax.errors import UserError


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("vocabularies")
    return {"gpt2": gpt2(base / "gpt2"), "bert": bert(base / "bert")}


@pytest.fixture(scope="module")
def published(directories: dict[str, Path]) -> dict[str, HuggingFaceTokenizer]:
    return {name: open_huggingface(path) for name, path in directories.items()}


# ── Ids ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_all_ids_are_the_published_ones(published: dict[str, HuggingFaceTokenizer], name: str) -> None:
    rows = golden()
    found = published[name].encode_batch([row["text"] for row in rows], threads=2)
    assert [ids.tolist() for ids in found] == [row[name] for row in rows]
    assert {ids.dtype for ids in found} == {np.dtype(np.int32)}
    assert published[name].encode(rows[0]["text"]) == rows[0][name]


def test_a_tokenizer_names_the_pieces_that_its_family_needs(
    published: dict[str, HuggingFaceTokenizer],
) -> None:
    assert published["gpt2"].special_ids == {} and published["gpt2"].end_id == 50256
    assert published["bert"].special_ids == {"pad": 0, "cls": 101, "sep": 102, "mask": 103}
    assert published["bert"].end_id == 102
    assert [published[name].vocab_size for name in ("gpt2", "bert")] == [50257, 30522]


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_cutting_long_texts_and_threads_change_no_id(
    published: dict[str, HuggingFaceTokenizer], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    texts = ["\n".join(row["text"] for row in golden()), "no line break " * 50, " \n\n\t\n" * 20, ""]
    library = published[name]._library
    whole = [library.encode(text, add_special_tokens=False).ids for text in texts]
    monkeypatch.setattr(huggingface, "_GROUP_CHARACTERS", 500)
    for size, remembering in product((1, 50, 1000), (0, 4)):
        monkeypatch.setattr(huggingface, "_CHUNK_CHARACTERS", size)
        monkeypatch.setattr(huggingface, "WORTH_REMEMBERING", remembering)
        assert [ids.tolist() for ids in published[name].encode_batch(texts, threads=4)] == whole


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_words_that_are_remembered_have_the_ids_of_whole_texts(
    published: dict[str, HuggingFaceTokenizer], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whatever stands beside a space; and a memory that is full begins anew."""
    monkeypatch.setattr(word_memory, "_MOST_CHARACTERS", 500)
    draw = random.Random(0)
    signs = [
        *" " * 12,
        *"ab1'.\t\n\r",
        *"\u0301\u00a0\u3000\u2028\x1c\x85\u200bÉß你🙂",
        "'s",
        "[MASK]",
        "[SEP]",
        "<|endoftext|>",
    ]
    for _ in range(400):
        text = "".join(draw.choices(signs, k=draw.randrange(40)))
        expected = published[name]._library.encode(text, add_special_tokens=False).ids
        assert published[name].encode(text) == expected, repr(text)


# ── Text ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_text_comes_back_from_bytes(published: dict[str, HuggingFaceTokenizer]) -> None:
    tokenizer = published["gpt2"]
    assert tokenizer.exact
    for row in golden():
        assert tokenizer.decode(row["gpt2"]) == row["text"]
    assert tokenizer.decode([*tokenizer.encode("a b"), 50256]) == "a b"
    assert tokenizer.decode(tokenizer.encode("😀")[:1]) == "\N{REPLACEMENT CHARACTER}"


def test_wordpiece_gives_back_what_it_can(published: dict[str, HuggingFaceTokenizer]) -> None:
    tokenizer = published["bert"]
    assert not tokenizer.exact
    ids = [101, *tokenizer.encode("Élan, unaffable [MASK]\n 漢\U0001d11e."), 102, 0]
    assert tokenizer.decode(ids) == "elan, unaffable [MASK] 漢 [UNK]."


# ── Kept and found ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_a_saved_tokenizer_is_the_same(
    published: dict[str, HuggingFaceTokenizer], tmp_path: Path, name: str
) -> None:
    published[name].save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint() == published[name].fingerprint()
    assert loaded.encode("A lazy dog") == published[name].encode("A lazy dog")


def test_a_tokenizer_is_opened_by_its_directory_or_any_of_its_files(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    for path in (directories["gpt2"], directories["gpt2"] / "vocab.bpe", directories["bert"] / "vocab.txt"):
        assert open_tokenizer(f"huggingface:{path}") is not None
    ours = open_huggingface(directories["bert"])
    (tmp_path / "any.json").write_text(ours._library.to_str())
    single = open_tokenizer(f"huggingface:{tmp_path / 'any.json'}")
    assert single is not None and single.special_ids == ours.special_ids
    assert single.encode("Élan [SEP]") == ours.encode("Élan [SEP]")


def test_case_and_accents_are_kept_where_the_config_says_so(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    for name, content in (("vocab.txt", (directories["bert"] / "vocab.txt").read_bytes()),):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    cased = open_huggingface(tmp_path)
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"), do_lower_case=False)
    for text in ("The Élan of ÅSA, naïve", "lower case"):
        assert cased.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert cased.fingerprint() != open_huggingface(directories["bert"]).fingerprint()


def test_what_a_tokenizer_json_cuts_and_pads_is_not_cut_and_padded(
    published: dict[str, HuggingFaceTokenizer],
) -> None:
    described = json.loads(published["bert"]._library.to_str())
    described["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    described["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    tokenizer = HuggingFaceTokenizer({"tokenizer.json": json.dumps(described).encode()})
    assert [len(tokenizer.encode("one " * count)) for count in (1, 9)] == [1, 9]


_DAMAGED = {
    "tokenizer.json": [
        "",
        "{}",
        "[]",
        '{"kind": "huggingface"}',
        '{"model": {"type": "BPE"}}',
        "[" * 100_000,
    ],
    "encoder.json": ["", "[]", '{"a": 0}', '{"a": "b"}', '{"a": -1}'],
    "vocab.bpe": ["one two three", "alone"],
    "vocab.txt": ["", "no unknown piece\n"],
    "tokenizer_config.json": ["[]", "{"],
}


@pytest.mark.parametrize(("name", "content"), [(n, c) for n, some in _DAMAGED.items() for c in some])
def test_damaged_files_are_told(
    directories: dict[str, Path], tmp_path: Path, name: str, content: str
) -> None:
    for family in ("gpt2", "bert"):
        for path in directories[family].iterdir():
            if (family == "gpt2") == (name not in ("vocab.txt", "tokenizer_config.json")):
                (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"data\.tokenizer.*cannot be read") as error:
        open_tokenizer(f"huggingface:{tmp_path}")
    assert len(str(error.value)) < 600 and "\n" not in str(error.value)


def test_a_directory_without_a_tokenizer_is_told_with_what_it_should_hold(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(UserError, match=r"data\.tokenizer.*tokenizer\.json.*merges\.txt.*vocab\.txt"):
            open_tokenizer(f"huggingface:{path}")


def test_gpt1s_files_are_not_taken_for_bytes(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"<unk>": 0, "a</w>": 1}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match="openai:DIR"):
        open_tokenizer(f"huggingface:{tmp_path}")


# ── Processes ────────────────────────────────────────────────────────────────────────────────────────────────

_FORK = """
import os, sys
from gpt1_jax.data.tokenizers import huggingface
huggingface.WORTH_REMEMBERING = 0
tokenizer = huggingface.open_huggingface(sys.argv[1])
texts = ["a line of words\\n" * 40_000] * 4
before = tokenizer.encode_batch(texts, threads=4)
child = os.fork()
if child == 0:
    same = all((a == b).all() for a, b in zip(before, tokenizer.encode_batch(texts, threads=4)))
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_encodes_too_and_nothing_is_said(directories: dict[str, Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FORK, str(directories["gpt2"])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# ── Trained ──────────────────────────────────────────────────────────────────────────────────────────────────

_TRAINED = {"byte_bpe": train_byte_bpe, "wordpiece": train_wordpiece}


def some_texts() -> list[str]:
    """Sentences of the golden texts, without their odd characters."""
    return ["\n".join(row["text"] for row in golden() if row["text"].isascii())]


@pytest.fixture(scope="module")
def trained() -> dict[str, HuggingFaceTokenizer]:
    return {kind: train(iter(some_texts()), 900) for kind, train in _TRAINED.items()}


@pytest.mark.parametrize("kind", _TRAINED)
def test_training_repeats_itself_and_follows_the_text(
    trained: dict[str, HuggingFaceTokenizer], kind: str
) -> None:
    again = [_TRAINED[kind](iter(some_texts()), 900).files for _ in range(3)]
    assert again == [trained[kind].files] * 3
    assert _TRAINED[kind](iter([text[:50_000] for text in some_texts()]), 900).files != trained[kind].files


@pytest.mark.parametrize("kind", _TRAINED)
def test_a_trained_tokenizer_serves_both_families(
    trained: dict[str, HuggingFaceTokenizer], tmp_path: Path, kind: str
) -> None:
    tokenizer = trained[kind]
    assert tokenizer.vocab_size == 900
    assert set(tokenizer.special_ids) == {"cls", "sep", "mask", "pad"} and tokenizer.end_id is not None
    assert tokenizer.special_ids["mask"] in tokenizer.encode("a [MASK] of a text")
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint() == tokenizer.fingerprint()
    assert open_tokenizer(kind) is None


def test_trained_bytes_give_back_every_text_and_read_no_special_piece_but_the_mask(
    trained: dict[str, HuggingFaceTokenizer],
) -> None:
    tokenizer = trained["byte_bpe"]
    assert tokenizer.exact
    odd = ["<|endoftext|>[CLS]", "a [MASK]\n\n b", "\x00\r\n\t ", "😀 漢字 \ufffd e\u0301", ""]
    for text in [row["text"] for row in golden()] + odd:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_id not in ids and tokenizer.special_ids["cls"] not in ids


def test_trained_wordpiece_is_what_transformers_reads(
    trained: dict[str, HuggingFaceTokenizer], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "vocab.txt").write_bytes(trained["wordpiece"].files["vocab.txt"])
    theirs = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    for row in golden():
        expected = theirs.encode(row["text"], add_special_tokens=False)
        assert trained["wordpiece"].encode(row["text"]) == expected


@pytest.mark.parametrize("kind", _TRAINED)
def test_a_vocabulary_that_does_not_suit_the_text_is_told_with_the_one_that_does(kind: str) -> None:
    for size, pattern in ((20, r"data\.vocab_size=20 is .*at least (\d+)"), (50_000, r"at most (\d+)")):
        with pytest.raises(UserError, match=pattern) as error:
            _TRAINED[kind](iter(some_texts()), size)
        suits = int(str(error.value).rstrip(".").split()[-1])
        assert _TRAINED[kind](iter(some_texts()), suits).vocab_size == suits
    with pytest.raises(UserError, match=r"data\.source has no text"):
        _TRAINED[kind](iter(["\n"]), 900)


def test_a_corpus_counts_what_wordpiece_loses_and_bytes_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(some_texts()[0])
    for kind in _TRAINED:
        corpus = prepare(f"text:{tmp_path}/a.txt", kind, 700, tmp_path / "cache")
        stream = corpus.validation.read(0, len(corpus.validation))
        assert stream[0] == stream[-1] == corpus.tokenizer.end_id
        assert (corpus.validation.lost > 0) == (kind == "wordpiece") == (corpus.loss() is not None)
