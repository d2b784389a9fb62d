"""Corpora: the stream is the documents; nothing is done twice, nothing half-written or damaged is read."""

import hashlib
import io
import json
import multiprocessing
import os
import re
import shutil
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from data_support import data_config, prepare
from large_data import LARGE, needs_large

from gpt1_jax.data import building, shards, text_files
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.corpus import Corpus, Split, load
from gpt1_jax.data.sources import open_source, read_documents
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """25 little documents, of which the 20th is held out."""
    directory = tmp_path / "texts"
    directory.mkdir()
    for i in range(25):
        words = f"Document {i} has a few lines,\n  like the others ü\n" * (i + 1)
        (directory / f"{i:02}.txt").write_text(words, encoding="utf-8")
    return directory


def prepare_texts(texts: Path, said: list[str] | None = None, tokenizer: str = "sentencepiece") -> Corpus:
    progress = (lambda line: None) if said is None else said.append
    return prepare(f"text:{texts}/*.txt", tokenizer, 320, str(texts.parent / "cache"), progress=progress)


def decode_documents(split: Split, corpus: Corpus) -> list[str]:
    """The documents of a stream that begins with the end piece and ends each document with it."""
    stream = split.read(0, len(split))
    ends = np.flatnonzero(stream == corpus.tokenizer.end_id)
    assert ends[0] == 0 and ends[-1] == len(stream) - 1
    return [corpus.tokenizer.decode(stream[a + 1 : b].tolist()) for a, b in pairwise(ends)]


def test_the_stream_is_the_documents_between_end_pieces(texts: Path) -> None:
    corpus = prepare_texts(texts)
    source = open_source(f"text:{texts}/*.txt")
    for split, documents in [
        (corpus.train, list(read_documents(source, "train", -1))),
        (corpus.validation, list(read_documents(source, "validation", -1))),
    ]:
        assert decode_documents(split, corpus) == documents
        assert split.documents == len(documents)
        assert split.bytes == sum(len(document.encode()) for document in documents)
    assert len(decode_documents(corpus.validation, corpus)) == 1
    assert {path.name for path in corpus.directory.iterdir()} == {
        "manifest.json", "tokenizer", "train-00000.bin", "validation-00000.bin",
    }  # fmt: skip
    assert (corpus.directory / "train-00000.bin").stat().st_size == 2 * len(corpus.train)


def test_without_an_end_piece_the_documents_are_joined(texts: Path) -> None:
    class Endless(SentencePieceTokenizer):
        def __init__(self, model: bytes) -> None:
            super().__init__(model)
            self.end_id = None

    source = f"text:{texts}/*.txt"
    trained = train_sentencepiece(read_documents(open_source(source), "train", -1), 320)
    corpus = prepare(
        source, Endless(trained.model), 0, str(texts.parent / "cache"), progress=lambda line: None
    )
    joined = "".join(read_documents(open_source(source), "train", -1))
    assert trained.decode(corpus.train.read(0, len(corpus.train)).tolist()) == joined


@pytest.mark.parametrize("part_bytes", [1, 1000, 4000])
def test_any_cut_into_parts_and_batches_gives_the_same_stream(
    texts: Path, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    whole = prepare_texts(texts)
    expected = whole.train.read(0, len(whole.train))
    held_out = whole.validation.read(0, len(whole.validation))
    shutil.rmtree(whole.directory)
    monkeypatch.setattr(text_files, "PART_BYTES", part_bytes)
    shards._open.cache_clear()
    monkeypatch.setattr(shards, "_GROUP_CHARACTERS", 300)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # all in this process
    corpus = prepare_texts(texts)
    train = corpus.train
    assert len(train.shards) > 2
    np.testing.assert_array_equal(corpus.validation.read(0, len(held_out) + 1), held_out)
    cut = len(train.shards[0])
    for start, stop in [
        (0, len(train)),
        (0, 1),
        (cut - 1, cut + 1),
        (cut, cut),
        (1, 999),
        (len(train) - 3, len(train) + 5),
    ]:
        tokens = train.read(start, stop)
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(tokens, expected[start:stop])


def test_a_vocabulary_beyond_16_bits_gets_32(texts: Path) -> None:
    class Large(SentencePieceTokenizer):
        def __init__(self, model: bytes) -> None:
            super().__init__(model)
            self.vocab_size = 70_000
            self.end_id = 69_999

    trained = train_sentencepiece(read_documents(open_source(f"text:{texts}/*.txt"), "train", -1), 320)
    corpus = prepare(
        f"text:{texts}/*.txt",
        Large(trained.model),
        0,
        str(texts.parent / "cache"),
        progress=lambda line: None,
    )
    assert corpus.train.shards[0].dtype == np.uint32
    assert corpus.train.read(0, 1).tolist() == [69_999]


# ── Reuse ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_corpus_is_reused_until_something_changes(texts: Path) -> None:
    said: list[str] = []
    first = prepare_texts(texts, said)
    assert not any("reusing" in line for line in said)
    assert "tokens/s" in said[-1]
    said.clear()
    again = prepare_texts(texts, said)
    assert len(said) == 1 and "reusing" in said[0]
    assert (again.directory, again.fingerprint) == (first.directory, first.fingerprint)

    (texts / "03.txt").write_text("Document 3 has other words\n", encoding="utf-8")
    changed = prepare_texts(texts)
    assert changed.directory != first.directory
    assert changed.fingerprint != first.fingerprint

    other_size = prepare(f"text:{texts}/*.txt", "sentencepiece", 310, str(texts.parent / "cache"))
    assert other_size.directory != changed.directory
    assert other_size.tokenizer.vocab_size == 310

    model = f"sentencepiece:{changed.directory}/tokenizer/sentencepiece.model"
    brought = prepare_texts(texts, tokenizer=model)
    assert brought.fingerprint == changed.fingerprint  # the same tokens, wherever they were made


def test_each_draw_of_what_is_held_out_is_a_corpus_of_its_own_and_minus_1_an_earlier_one(texts: Path) -> None:
    source, cache = f"text:{texts}/*.txt", texts.parent / "cache"

    def held_out(seed: int) -> tuple[str, list[str]]:
        corpus = corpora.prepare(data_config(source, cache, split_seed=seed), progress=lambda line: None)
        return corpus.directory.name, decode_documents(corpus.validation, corpus)

    # As the names of corpora were made when there was no other rule.
    text = open_source(source)
    made_from = {"format": 1, "source": text.name, "text": text.fingerprint(), "pieces": "sentencepiece 320"}
    earlier = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    assert held_out(-1) == (earlier, [(texts / "19.txt").read_text()])
    found = dict(held_out(seed) for seed in range(3))
    assert len(found) == 3 and earlier not in found
    for seed, held in enumerate(found.values()):
        assert held == list(read_documents(text, "validation", seed))


def test_a_corpus_moved_to_another_place_is_the_same(texts: Path) -> None:
    corpus = prepare_texts(texts)
    moved = load(shutil.move(corpus.directory, texts.parent / "moved"))
    assert moved.fingerprint == corpus.fingerprint
    assert decode_documents(moved.validation, moved)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("truncated", "has 900 bytes, expected"),
        ("flipped", "checksum of train-00000.bin"),
        ("deleted", "train-00000.bin"),
        ("no manifest", "manifest.json"),
        ("half a manifest", "holds no whole corpus"),
        ("no tokenizer", "tokenizer"),
        ("another tokenizer", "the tokenizer or manifest.json is damaged"),
    ],
)
def test_a_damaged_corpus_is_told_and_made_again(texts: Path, damage: str, told: str) -> None:
    whole = prepare_texts(texts)
    shard, manifest = whole.directory / "train-00000.bin", whole.directory / "manifest.json"
    content = shard.read_bytes()
    match damage:
        case "truncated":
            shard.write_bytes(content[:900])
        case "flipped":
            shard.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        case "deleted":
            shard.unlink()
        case "no manifest":
            manifest.unlink()
        case "half a manifest":
            manifest.write_text(manifest.read_text()[:100])
        case "no tokenizer":
            (whole.directory / "tokenizer" / "sentencepiece.model").unlink()
        case "another tokenizer":
            # A piece is spelled otherwise, so that ids would be decoded to other words than those that they are of.
            model = whole.directory / "tokenizer" / "sentencepiece.model"
            pieces = (whole.tokenizer.decode([id]) for id in range(whole.tokenizer.vocab_size))
            longest = max(pieces, key=len).strip().encode()
            model.write_bytes(model.read_bytes().replace(longest, longest[::-1]))
    with pytest.raises(UserError, match=f"{whole.directory}.*{told}"):
        load(whole.directory)
    said: list[str] = []
    again = prepare_texts(texts, said)
    assert "It is tokenized again" in said[1]
    assert again.fingerprint == whole.fingerprint
    assert shard.read_bytes() == content


def test_any_flipped_bit_of_a_manifest_is_noticed_or_harmless(texts: Path) -> None:
    whole = prepare_texts(texts)
    path = whole.directory / "manifest.json"
    content = path.read_bytes()
    splits = ((split.documents, split.bytes, len(split)) for split in (whole.train, whole.validation))
    facts = (whole.fingerprint, *splits)
    noticed = 0
    for position in range(len(content)):
        bit = 1 << (position % 8)
        path.write_bytes(content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :])
        try:
            found = load(whole.directory)
        except UserError:
            noticed += 1
            continue
        splits = ((split.documents, split.bytes, len(split)) for split in (found.train, found.validation))
        assert (found.fingerprint, *splits) == facts, position
        assert found.train.shards[0].dtype == np.dtype("<u2")
    assert noticed > 0.9 * len(content)


def unseal(corpus: Corpus, **changes: Any) -> Path:
    """Makes the manifest one of earlier days, with other values of the validation part."""
    path = corpus.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["seal"]
    for split in manifest["splits"].values():
        del split["compared"], split["lost"]
    manifest |= {name: changes.pop(name) for name in list(changes) if name in manifest}
    manifest["splits"]["validation"] |= changes
    path.write_text(json.dumps(manifest, indent=1) + "\n")
    return path


def test_a_corpus_of_earlier_days_has_no_seal_and_is_read(texts: Path) -> None:
    corpus = prepare_texts(texts)
    unseal(corpus)
    said: list[str] = []
    again = prepare_texts(texts, said)
    assert again.fingerprint == corpus.fingerprint and len(said) == 1 and "reusing" in said[0]


@pytest.mark.parametrize(
    "change", [{"bytes": 3}, {"documents": 9}, {"tokens": 5}, {"dtype": ">u2"}, {"vocab_size": 7}]
)
def test_one_that_does_not_fit_itself_is_made_again(texts: Path, change: dict[str, Any]) -> None:
    corpus = prepare_texts(texts)
    sealed = (corpus.directory / "manifest.json").read_text()
    path = unseal(corpus, **change)
    said: list[str] = []
    again = prepare_texts(texts, said)
    assert any("It is tokenized again" in line for line in said)
    assert again.fingerprint == corpus.fingerprint and path.read_text() == sealed


def test_another_format_is_refused(texts: Path) -> None:
    corpus = prepare_texts(texts)
    manifest = corpus.directory / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 999}))
    with pytest.raises(UserError, match="format is 999"):
        load(corpus.directory)


# ── What a tokenizer loses ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def plain_model(tmp_path: Path) -> str:
    """A model as a user may bring it, without bytes for what it does not know."""
    model = io.BytesIO()
    lines = [f"Document {i} has a few lines, like the others" for i in range(200)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=60, model_type="bpe", minloglevel=2
    )
    (tmp_path / "plain.model").write_bytes(model.getvalue())
    return f"sentencepiece:{tmp_path}/plain.model"


def test_text_that_a_tokenizer_loses_is_counted_and_told_each_time(tmp_path: Path, plain_model: str) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(20):
        text = "如果你不知道 " * 10 if i % 4 == 0 else "the others like a few lines"
        (tmp_path / "texts" / f"{i:02}.txt").write_text(text, encoding="utf-8")
    for _ in range(2):
        said: list[str] = []
        corpus = prepare_texts(tmp_path / "texts", said, tokenizer=plain_model)
        characters = 5 * 70 + 15 * 27
        assert corpus.train.compared + corpus.validation.compared == characters
        # Each is lost as such, and the space behind the last of each text.
        assert corpus.train.lost + corpus.validation.lost == pytest.approx(5 * 60, abs=5)
        assert re.search(r"loses \d\d\.\d\d% of the text's characters", said[-1])


def test_text_that_comes_back_is_not_lost_whatever_the_tokenizer(tmp_path: Path, plain_model: str) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(20):
        (tmp_path / "texts" / f"{i:02}.txt").write_text("the others like a few lines")
    said: list[str] = []
    corpus = prepare_texts(tmp_path / "texts", said, tokenizer=plain_model)
    assert (corpus.train.lost, corpus.train.compared) == (0, 19 * 27)
    assert not any("loses" in line for line in said)


def test_a_corpus_of_earlier_days_that_may_have_lost_text_is_made_again(
    texts: Path, plain_model: str
) -> None:
    corpus = prepare_texts(texts, tokenizer=plain_model)
    assert corpus.train.lost > 0  # "ü", and line breaks
    unseal(corpus)
    assert prepare_texts(texts, tokenizer=plain_model).train.lost == corpus.train.lost


def test_of_a_long_text_a_share_is_compared(
    texts: Path, plain_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_COMPARED_CHARACTERS", 1000)
    corpus = prepare_texts(texts, tokenizer=plain_model)
    assert 1000 < corpus.train.compared < corpus.train.bytes / 4
    assert corpus.validation.compared == len((texts / "19.txt").read_text())


# ── What can go wrong ────────────────────────────────────────────────────────────────────────────────────────


def test_a_text_with_parts_of_its_own_is_one_corpus_whatever_the_seed(tmp_path: Path) -> None:
    """The demo's tokens are found under the names that they had before there was a seed."""
    text = open_source("demo")
    made_from = {"format": 1, "source": "demo", "text": text.fingerprint(), "pieces": "sentencepiece 320"}
    earlier = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    (tmp_path / earlier).mkdir()
    for seed in (-1, 0, 7):
        assert str(building.trained_corpus(data_config("demo", tmp_path, split_seed=seed))) == str(
            tmp_path / earlier
        )


def test_work_that_a_crash_damaged_is_done_again(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare_texts(texts)
    expected = whole.train.read(0, len(whole.train))
    shutil.rmtree(whole.directory)
    work = texts.parent / "cache" / f".{whole.directory.name}" / "work"
    work.mkdir(parents=True)
    for name, content in [
        ("count-00000.json", b""),
        ("train-00000.json", b"\0" * 80),
        ("validation-00000.json", b"[1]"),
    ]:
        (work / name).write_bytes(content)
    again = prepare_texts(texts)
    np.testing.assert_array_equal(again.train.read(0, len(again.train)), expected)


def test_without_locks_whoever_is_second_takes_what_the_first_made(
    texts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both make the same corpus side by side, as on a disk that has no locks."""
    finish = building._rename

    def finish_after_another(building: Any, directory: Any) -> None:
        shutil.copytree(building, directory)
        finish(building, directory)

    monkeypatch.setattr(building, "_rename", finish_after_another)
    corpus = prepare_texts(texts)
    assert [path.name for path in (texts.parent / "cache").iterdir()] == [corpus.directory.name]


def test_a_failure_leaves_nothing_behind(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SentencePieceTokenizer, "encode_batch", fail)
        with pytest.raises(KeyboardInterrupt):
            prepare_texts(texts)
    assert list((texts.parent / "cache").iterdir()) == []
    (texts / "24.txt").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"24\.txt is not UTF-8"):
        prepare_texts(texts)
    assert list((texts.parent / "cache").iterdir()) == []


def test_two_processes_at_once_both_get_the_whole_corpus(texts: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        results = pool.map(prepare_in_process, [str(texts)] * 2, chunksize=1)
    assert results[0] == results[1]
    assert [path.name for path in (texts.parent / "cache").iterdir()] == [results[0][0]]


def prepare_in_process(texts: str) -> tuple[str, str, int]:
    corpus = prepare_texts(Path(texts))
    return corpus.directory.name, corpus.fingerprint, int(corpus.train.read(0, len(corpus.train)).sum())


def test_who_comes_second_waits_and_takes_what_is_there(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = building.train_tokenizer
    said: list[str] = []

    def train_while_another_waits(*args: Any) -> SentencePieceTokenizer:
        monkeypatch.setattr(building, "train_tokenizer", train)
        second.start()
        while not said:
            time.sleep(0.01)
        return train(*args)

    second = threading.Thread(target=lambda: prepare_texts(texts, said))
    monkeypatch.setattr(building, "train_tokenizer", train_while_another_waits)
    corpus = prepare_texts(texts)
    second.join()
    assert ["waiting" in line for line in said] == [True, False] and "reusing" in said[1]
    assert list((texts.parent / "cache").iterdir()) == [corpus.directory]


def test_a_source_without_text_or_with_too_little_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match=r"data\.source has no text"):
        prepare(f"text:{tmp_path}/a.txt", "sentencepiece", 320, str(tmp_path / "cache"))
    trained = train_sentencepiece(iter(["some words to train on"] * 50), 280)
    for text, missing in [("", "train"), ("a", "train")]:
        (tmp_path / "a.txt").write_text(text)
        with pytest.raises(UserError, match=rf"data\.source.*{missing} split"):
            prepare(f"text:{tmp_path}/a.txt", trained, 0, str(tmp_path / "cache"))
        assert list((tmp_path / "cache").iterdir()) == []


def test_progress_goes_to_standard_error(texts: Path, capfd: pytest.CaptureFixture[str]) -> None:
    prepare(f"text:{texts}/*.txt", "sentencepiece", 320, str(texts.parent / "cache"))
    out, err = capfd.readouterr()
    assert out == ""
    assert [line.split(":")[0].split()[0] for line in err.splitlines()] == ["training", "train", "validation"]


@pytest.mark.parametrize(
    "name", ["pages", pytest.param("play", marks=needs_large("lm/tinyshakespeare/input.txt"))]
)
def test_a_real_text_survives(name: str, tmp_path: Path) -> None:
    """This project's own pages, with tables, formulas and commands, and a play."""
    path = LARGE / "lm/tinyshakespeare/input.txt"
    if name == "pages":
        path = tmp_path / "pages.txt"
        pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
        path.write_text("".join(page.read_text(encoding="utf-8") for page in sorted(pages)), encoding="utf-8")
    corpus = prepare(f"text:{path}", "sentencepiece", 2000, str(tmp_path), progress=lambda line: None)
    text = path.read_text(encoding="utf-8")
    train, validation = (decode_documents(split, corpus) for split in (corpus.train, corpus.validation))
    assert train[0] + validation[0] == text
    assert corpus.train.bytes + corpus.validation.bytes == path.stat().st_size
