"""A run goes on when what it was begun from has moved, or is gone: content decides, and the run's own copies serve."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from support import tiny_config

from gpt1_jax.config import Config
from gpt1_jax.data import building
from gpt1_jax.data.corpus import Corpus, prepare
from gpt1_jax.data.tokenizers.sentencepiece import train_sentencepiece
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.kept import open_corpus
from gpt1_jax.training.labeled import _open_tokenizer
from gpt1_jax.usage.evaluating import own_corpus

WORDS = [f"Document {i} has a few lines like the others\n" * 9 for i in range(25)]


def config_of(place: Path, tokenizer: str = "sentencepiece", texts: str = "texts") -> Config:
    source = f"text:{place}/{texts}/*.txt"
    named = {"data.source": source, "data.tokenizer": tokenizer, "data.cache_dir": str(place / "cache")}
    return tiny_config(**named | {"data.vocab_size": 300})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "texts").mkdir()
    for number, text in enumerate(WORDS):
        (tmp_path / "texts" / f"{number:02}.txt").write_text(text)
    (tmp_path / "given.model").write_bytes(train_sentencepiece(iter(WORDS), 290).model)
    (tmp_path / "other.model").write_bytes(train_sentencepiece(iter(WORDS), 295).model)
    return tmp_path


def corpus_of(config: Config, place: Path) -> Corpus:
    """What the run there reads."""
    return open_corpus(config.data, Run(str(place / "run")), config.init_from)


def begin(config: Config, place: Path) -> tuple[Run, Corpus]:
    run = Run(str(place / "run"))
    corpus = corpus_of(config, place)
    run.record(config, {"text": corpus.fingerprint, "tokenizer": corpus.tokenizer.fingerprint()})
    corpus.tokenizer.save(run.tokenizer)
    return run, corpus


def go_on(config: Config, place: Path) -> list[str]:
    """Returns the lines about changes with which the run can go on."""
    run = Run(str(place / "run"))
    corpus = corpus_of(config, place)
    return run.check(config, {"text": corpus.fingerprint, "tokenizer": corpus.tokenizer.fingerprint()})


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "sentencepiece:{place}/given.model"])
def test_a_text_that_moved_is_the_same_and_told(place: Path, tokenizer: str) -> None:
    tokenizer = tokenizer.format(place=place)
    begin(config_of(place, tokenizer), place)
    (place / "texts").rename(place / "moved")
    shutil.rmtree(place / "cache")
    (change,) = go_on(config_of(place, tokenizer, "moved"), place)
    assert "begun: data.source: " in change and "/texts/" in change and "/moved/" in change
    (place / "moved" / "07.txt").write_text("another text\n" * 30)
    with pytest.raises(UserError, match="restore the text"):
        go_on(config_of(place, tokenizer, "moved"), place)


@pytest.mark.parametrize("fate", ["deleted", "replaced"])
def test_the_runs_own_copy_serves_whatever_became_of_the_tokenizers_file(place: Path, fate: str) -> None:
    config = config_of(place, f"sentencepiece:{place}/given.model")
    _, corpus = begin(config, place)
    if fate == "deleted":
        (place / "given.model").unlink()
    else:
        shutil.copy(place / "other.model", place / "given.model")
    assert go_on(config, place) == []
    shutil.rmtree(place / "cache")
    assert go_on(config, place) == []
    assert corpus_of(config, place).fingerprint == corpus.fingerprint


def test_another_tokenizer_named_on_purpose_is_refused_and_the_same_elsewhere_is_not(place: Path) -> None:
    begin(config_of(place, f"sentencepiece:{place}/given.model"), place)
    other = f"sentencepiece:{place}/other.model"
    with pytest.raises(
        UserError, match=rf"data\.tokenizer={other} differs from the tokenizer that .*given\.model"
    ):
        go_on(config_of(place, other), place)
    shutil.copy(place / "given.model", place / "other.model")
    (change,) = go_on(config_of(place, other), place)
    assert "begun: data.tokenizer: " in change


def test_a_tokenizer_that_was_trained_is_not_trained_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(place)
    _, corpus = begin(config, place)
    monkeypatch.setattr(building, "train_tokenizer", None)
    assert corpus_of(config, place).directory == corpus.directory  # the very same
    shutil.rmtree(place / "cache")
    assert corpus_of(config, place).fingerprint == corpus.fingerprint


def test_where_the_own_copy_is_damaged_the_named_one_serves(place: Path) -> None:
    config = config_of(place, f"sentencepiece:{place}/given.model")
    run, _ = begin(config, place)
    (run.tokenizer / "sentencepiece.model").write_bytes(b"damaged")
    assert go_on(config, place) == []
    shutil.copy(place / "other.model", run.tokenizer / "sentencepiece.model")
    assert go_on(config, place) == []


def test_fine_tuning_goes_on_without_the_run_it_began_from(place: Path) -> None:
    begun, _ = begin(config_of(place), place)
    config = tiny_config(**{"finetune.task": "cola", "init_from": str(begun.directory)})
    tuned = Run(str(place / "tuned"))
    tokenizer = _open_tokenizer(config.data.tokenizer, tuned, str(begun.directory))
    tuned.record(config, {"text": "x", "tokenizer": tokenizer.fingerprint()})
    tokenizer.save(tuned.tokenizer)
    shutil.rmtree(begun.directory)
    assert (
        _open_tokenizer(config.data.tokenizer, tuned, str(begun.directory)).fingerprint()
        == tokenizer.fingerprint()
    )
    moved = dataclasses.replace(config, init_from=str(place / "moved"))
    (change,) = tuned.check(moved, {"text": "x", "tokenizer": tokenizer.fingerprint()})
    assert "begun: init_from: " in change


def test_a_cache_knows_no_place_of_a_text_but_its_content(place: Path) -> None:
    config = config_of(place)
    first = prepare(config.data, progress=lambda line: None)
    shutil.copytree(place / "texts", place / "moved")
    moved = prepare(config_of(place, texts="moved").data, progress=lambda line: None)
    assert moved.fingerprint == first.fingerprint


def test_evaluation_finds_the_tokens_of_a_text_that_moved_or_changed(place: Path) -> None:
    config = config_of(place)
    run, corpus = begin(config, place)
    other = place / "cache" / "damaged"
    other.mkdir()
    (other / "manifest.json").write_text("[")
    (place / "texts" / "07.txt").write_text("another text\n" * 30)
    assert own_corpus(config.data, run, config.init_from).fingerprint == corpus.fingerprint
    (place / "texts").rename(place / "moved")
    assert own_corpus(config.data, run, config.init_from).fingerprint == corpus.fingerprint
    shutil.rmtree(place / "cache")
    with pytest.raises(UserError, match=r"cannot be read .*texts.* bring it back .* with --source"):
        own_corpus(config.data, run, config.init_from)
    with pytest.raises(UserError, match=r"is no longer what .* was trained on; bring it back"):
        own_corpus(config_of(place, texts="moved").data, run, None)
