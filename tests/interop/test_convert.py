"""Conversion as a whole: every direction bit by bit, whole or not at all, and the command's exit codes."""

import json
import os
import pickle
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from interop_support import (
    TOKENIZERS,
    bpe,
    files_of,
    make_run,
    params_of,
    published_shapes,
    refused,
    sentencepiece,
    write_published,
)

import gpt1_jax
from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.opening import load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop import conversion, huggingface
from gpt1_jax.interop.conversion import convert
from gpt1_jax.run import Run

pytestmark = pytest.mark.usefixtures("quick_compilation")
ROOT = Path(__file__).parents[2]
FORMATS = ("openai", "huggingface", "gpt1_jax")


def tokenizer_files(directory: Path) -> list[bytes]:
    """The bytes of a run's tokenizer."""
    tokenizer = load_tokenizer(directory / "tokenizer")
    if isinstance(tokenizer, OpenAITokenizer):
        return [tokenizer.encoder, tokenizer.merges]
    return [getattr(tokenizer, "model", b"none")]


# ── Every direction ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_direction_keeps_every_bit(tokenizer: str, tmp_path: Path) -> None:
    """Weights and tokenizer come back equal, both ways around."""
    start = tmp_path / "gpt1_jax-0"
    make_run(start, TOKENIZERS[tokenizer](), **{"model.d_ff": 96})
    around = ["gpt1_jax", "openai", "huggingface", "gpt1_jax", "huggingface", "openai", "gpt1_jax"]
    here = start
    for number, (before, after) in enumerate(pairwise(around), start=1):
        there = tmp_path / f"{after}-{number}"
        convert(before, after, str(here), str(there), num_heads=4 if before == "openai" else None)
        here = there
    expected = params_of(start)
    for run in ("gpt1_jax-3", "gpt1_jax-6"):
        jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / run), expected)
        assert tokenizer_files(tmp_path / run) == tokenizer_files(start)
        assert load_tokenizer(tmp_path / run / "tokenizer").vocab_size == TOKENIZERS[tokenizer]().vocab_size
    assert files_of(tmp_path / "openai-1") == files_of(tmp_path / "openai-5")
    assert files_of(tmp_path / "huggingface-2") == files_of(tmp_path / "huggingface-4")
    run = gpt1_jax.load(str(tmp_path / "gpt1_jax-6"))
    assert run.step == 0
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    np.testing.assert_array_equal(run.logits(ids), gpt1_jax.load(str(start)).logits(ids))


def test_the_tokenizer_lies_beside_the_weights_under_each_format_s_names(tmp_path: Path) -> None:
    names = {
        ("sentencepiece", "openai"): {"sentencepiece.model"},
        ("sentencepiece", "huggingface"): {"sentencepiece.model", "tokenizer.json", "tokenizer_config.json"},
        ("bpe", "openai"): {"encoder_bpe_40000.json", "vocab_40000.bpe"},
        ("bpe", "huggingface"): {"vocab.json", "merges.txt"},
        ("none", "openai"): set(),
        ("none", "huggingface"): {"tokenizer_config.json"},
    }
    weights = {
        "openai": {"params_shapes.json", *(f"params_{i}.npy" for i in range(10))},
        "huggingface": {"config.json", "model.safetensors"},
    }
    for (tokenizer, target), expected in names.items():
        run, out = tmp_path / tokenizer, tmp_path / f"{tokenizer}-{target}"
        if not run.exists():
            make_run(run, TOKENIZERS[tokenizer]())
        convert("gpt1_jax", target, str(run), str(out))
        assert set(files_of(out)) == expected | weights[target]
    assert files_of(tmp_path / "bpe-huggingface")["vocab.json"] == bpe().encoder
    assert files_of(tmp_path / "bpe-openai")["vocab_40000.bpe"] == bpe().merges
    assert files_of(tmp_path / "sentencepiece-openai")["sentencepiece.model"] == sentencepiece().model


def test_a_run_s_newest_checkpoint_is_converted(tmp_path: Path) -> None:
    make_run(tmp_path / "run", TOKENIZERS["none"]())
    newest = tmp_path / "run" / "checkpoints" / "7"
    (newest.parent / "9").mkdir()  # one that was damaged is passed over
    convert("gpt1_jax", "openai", str(tmp_path / "run"), str(tmp_path / "out"))
    flat = np.concatenate([np.load(tmp_path / "out" / f"params_{i}.npy") for i in range(10)])
    np.testing.assert_array_equal(flat[: 16 * 32], params_of(tmp_path / "run")["positions"].ravel())


# ── A converted run ──────────────────────────────────────────────────────────────────────────────────────────


def test_a_converted_run_is_one_that_others_can_start_from(tmp_path: Path) -> None:
    write_published(tmp_path / "published", published_shapes(1, 64, 80, 8, bpe().vocab_size), bpe())
    convert("openai", "gpt1_jax", str(tmp_path / "published"), str(tmp_path / "run"))
    run = Run(str(tmp_path / "run"))
    config = run.config()
    assert config.finetune is None and config.init_from is None
    assert (config.model.num_layers, config.model.num_heads, config.model.d_model) == (1, 1, 64)
    assert (config.model.d_ff, config.model.context_length, config.model.dtype) == (80, 8, "float32")
    assert config.data.vocab_size == bpe().vocab_size
    assert run.identity() == {"tokenizer": bpe().fingerprint()}
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["0"]
    assert tokenizer_files(tmp_path / "run") == [bpe().encoder, bpe().merges]


def test_its_settings_are_the_schema_s_which_are_the_paper_s(tmp_path: Path) -> None:
    write_published(tmp_path / "published", published_shapes(1, 64, 80, 8, 20))
    convert("openai", "gpt1_jax", str(tmp_path / "published"), str(tmp_path / "run"))
    config, paper = Run(str(tmp_path / "run")).config(), Config()
    assert (config.train, config.optimizer, config.mesh) == (paper.train, paper.optimizer, paper.mesh)
    assert (config.seed, config.data.cache_dir) == (paper.seed, paper.data.cache_dir)


def test_without_a_tokenizer_texts_are_refused_and_ids_are_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_published(tmp_path / "published", published_shapes(1, 64, 80, 8, 20))
    convert("openai", "gpt1_jax", str(tmp_path / "published"), str(tmp_path / "run"))
    assert "has no tokenizer" in capsys.readouterr().out
    run = gpt1_jax.load(str(tmp_path / "run"))
    assert run.logits([0, 19]).shape == (2, 20)
    (sample,) = run.generate([0, 19], max_new_tokens=3)["samples"]
    assert len(sample["token_ids"]) == 3 and sample["text"] == ""
    for call in (
        lambda: run.encode("a"),
        lambda: run.decode([1]),
        lambda: run.generate("a"),
        lambda: run.tokenizer.encode_batch(["a"], 1),
    ):
        with pytest.raises(UserError, match="--tokenizer=openai:DIR"):
            call()
    assert run.tokenizer.end_id is None
    assert run.tokenizer.fingerprint() == NoTokenizer(20).fingerprint() != NoTokenizer(21).fingerprint()


@pytest.mark.parametrize(
    "content",
    ['{"kind": "none"}', '{"kind": "none", "vocab_size": 0}', '{"kind": "none", "vocab_size": "9"}'],
)
def test_its_description_must_be_whole(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


# ── The tokenizer by name ────────────────────────────────────────────────────────────────────────────────────


def test_a_tokenizer_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It serves a model without a tokenizer, and replaces another with as many pieces."""
    vocabulary, model = tmp_path / "vocabulary", tmp_path / "mine.model"
    write_published(vocabulary, published_shapes(1, 64, 80, 8, 2), bpe())
    model.write_bytes(sentencepiece().model)
    write_published(tmp_path / "a", published_shapes(1, 64, 80, 8, bpe().vocab_size))
    convert("openai", "gpt1_jax", str(tmp_path / "a"), str(tmp_path / "b"), tokenizer=f"openai:{vocabulary}")
    assert tokenizer_files(tmp_path / "b") == [bpe().encoder, bpe().merges]
    write_published(tmp_path / "c", published_shapes(1, 64, 80, 8, 300))
    convert(
        "openai", "huggingface", str(tmp_path / "c"), str(tmp_path / "d"), tokenizer=f"sentencepiece:{model}"
    )
    assert files_of(tmp_path / "d")["sentencepiece.model"] == sentencepiece().model
    assert "has no tokenizer" not in capsys.readouterr().out
    convert("openai", "gpt1_jax", str(tmp_path / "c"), str(tmp_path / "e"))
    convert(
        "gpt1_jax", "gpt1_jax", str(tmp_path / "e"), str(tmp_path / "f"), tokenizer=f"sentencepiece:{model}"
    )
    assert tokenizer_files(tmp_path / "f") == [sentencepiece().model]
    jax.tree.map(np.testing.assert_array_equal, params_of(tmp_path / "f"), params_of(tmp_path / "e"))


@pytest.mark.parametrize(
    ("rows", "flags", "told"),
    [
        (301, {}, ["300 pieces", "301 rows", "--tokenizer"]),
        (299, {}, ["300 pieces", "299 rows"]),
        (304, {}, ["300 pieces", "304 rows"]),
        (300, {"tokenizer": "sentencepiece"}, ["--tokenizer=sentencepiece names no files"]),
        (300, {"tokenizer": "spacy"}, ["'spacy'"]),
        (300, {"tokenizer": "sentencepiece:absent.model"}, ["absent.model"]),
        (300, {"tokenizer": "openai:absent"}, ["absent"]),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(
    rows: int, flags: dict[str, str], told: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "in" / "published"
    source.parent.mkdir()
    write_published(source, published_shapes(1, 64, 80, 8, rows))
    (source / "sentencepiece.model").write_bytes(sentencepiece().model)
    sentence = refused("openai", source, tmp_path / "out", **flags)
    assert all(part in sentence for part in told), sentence


def test_three_rows_more_are_specials_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = write_published(tmp_path / "a", published_shapes(1, 64, 80, 8, 303))
    (tmp_path / "a" / "sentencepiece.model").write_bytes(sentencepiece().model)
    convert("openai", "gpt1_jax", str(tmp_path / "a"), str(tmp_path / "b"))
    assert "The last 3 rows" in capsys.readouterr().out
    tokens = params_of(tmp_path / "b")["tokens"]
    np.testing.assert_array_equal(tokens[:300], arrays[1][:300])
    assert (tokens[300:] == 0).all()


# ── Whole or not at all ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "in" / "published"
    directory.parent.mkdir()
    write_published(directory, published_shapes(1, 64, 80, 8, 20))
    return directory


def test_an_empty_directory_is_filled_and_parents_are_made(published: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "c"):
        convert("openai", "huggingface", str(published), str(target))
        assert set(files_of(target)) == {"config.json", "model.safetensors", "tokenizer_config.json"}
        assert target.stat().st_mode & 0o777 == published.stat().st_mode & 0o777
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty", "in"]


def test_what_is_there_is_not_touched(published: Path, tmp_path: Path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").write_text("mine")
    file.write_text("mine")
    for target in (full, file):
        assert "exists already" in refused("openai", published, target)
    assert (full / "mine").read_text() == file.read_text() == "mine"
    assert "exists already" in refused("openai", published, published)


@pytest.mark.parametrize("source_format", FORMATS)
def test_a_source_that_is_not_there_is_a_sentence(source_format: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("")
    for name in ("absent", "file"):
        told = refused(source_format, tmp_path / "in" / name, tmp_path / "out")
        assert f"{name} is not a directory" in told and source_format in told
    assert "in" in refused(source_format, tmp_path / "in", tmp_path / "out")


def test_a_failure_in_the_midst_of_writing_leaves_nothing(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface, "write_tokenizer", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="No space"):
        convert("openai", "huggingface", str(published), str(tmp_path / "a" / "out"))
    assert sorted(tmp_path.iterdir()) == before


def test_an_lstm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_run(tmp_path / "in" / "run", TOKENIZERS["none"](), **{"model.kind": "lstm", "model.num_layers": 1})
    for target_format in FORMATS:
        told = refused("gpt1_jax", tmp_path / "in" / "run", tmp_path / "out", to=target_format)
        assert "model.kind=lstm" in told


def test_weights_that_are_not_finite_are_refused_of_a_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    make_run(tmp_path / "in" / "run", TOKENIZERS["none"]())
    read = conversion.read_run

    def diverged(*arguments: Any) -> Any:
        model = read(*arguments)
        weights = dict(model.weights)
        weights["blocks.1.mlp_in_bias"] = np.full_like(weights["blocks.1.mlp_in_bias"], np.nan)
        return conversion.dataclasses.replace(model, weights=weights)

    monkeypatch.setattr(conversion, "read_run", diverged)
    told = refused("gpt1_jax", tmp_path / "in" / "run", tmp_path / "out", to="openai")
    assert "h.1.mlp.c_fc.bias holds numbers that are not finite" in told


def test_a_size_that_no_run_can_have_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in" / "published"
    source.parent.mkdir()
    write_published(source, published_shapes(1, 64, 80, 1, 20))
    assert "context_length=1" in refused("openai", source, tmp_path / "out")


# ── The command ──────────────────────────────────────────────────────────────────────────────────────────────


def command(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "gpt1_jax.convert", *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_the_command_converts_and_tells_what_it_must(published: Path, tmp_path: Path) -> None:
    done = command(tmp_path, "--from=openai", "--to=huggingface", "in/published", "out")
    assert done.returncode == 0, done.stderr
    assert "written: out, " in done.stdout and "has no tokenizer" in done.stdout
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (values["n_head"], values["n_embd"], values["vocab_size"]) == (1, 64, 20)
    done = command(tmp_path, "out", "--from", "huggingface", "again", "--to", "openai")
    assert done.returncode == 0 and files_of(tmp_path / "again") == files_of(published), done.stderr


def test_the_number_of_heads_is_told_where_the_format_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "run", TOKENIZERS["none"]())
    convert("gpt1_jax", "openai", str(tmp_path / "run"), str(tmp_path / "out"))
    assert "--num_heads=4" in capsys.readouterr().out


def pickled(published: Path) -> None:
    (published / "params_0.npy").write_bytes(pickle.dumps([1]))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["IN", "OUT"]),
        (["--from=openai", "--to=gpt1_jax", "in/published"], ["OUT is missing", "IN OUT"]),
        (["--from=openai", "--to=gpt1_jax", "in/published", "out", "more"], ["'more'"]),
        (["in/published", "out"], ["--from=FORMAT", "openai", "huggingface", "gpt1_jax"]),
        (["--from=openai", "in/published", "out"], ["--to=FORMAT"]),
        (
            ["--from=openai", "--to=pytorch", "in/published", "out"],
            ["pytorch", "openai, huggingface, gpt1_jax"],
        ),
        (["--from=tensorflow", "--to=openai", "in/published", "out"], ["openai, huggingface, gpt1_jax"]),
        (["--from=openai", "--to=gpt1_jax", "--num_heads=0", "in/published", "out"], ["num_heads"]),
        (["--from=huggingface", "--to=openai", "--num_heads=2", "in/published", "out"], ["--num_heads=2"]),
        (["--from=openai", "--to=gpt1_jax", "in/published", "in"], ["in exists already"]),
        (["--from=openai", "--to=gpt1_jax", "in/published", "out"], ["params_0.npy is damaged"]),
    ],
)
def test_wrong_input_is_a_sentence_and_exit_code_2(
    arguments: list[str], named: list[str], published: Path, tmp_path: Path
) -> None:
    pickled(published)
    before = sorted(tmp_path.rglob("*"))
    done = command(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and all(name in line for name in named), line
    assert sorted(tmp_path.rglob("*")) == before
