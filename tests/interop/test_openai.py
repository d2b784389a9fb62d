"""The authors' files: read by their rule, written as they were, and refused in a sentence where they are damaged."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import (
    bpe,
    files_of,
    params_of,
    published_shapes,
    refused,
    sentencepiece,
    write_published,
)
from large_data import LARGE, needs_large

import gpt1_jax
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.openai import read_openai

PUBLISHED = LARGE / "openai_bpe"
SIZES = {"layers": 2, "width": 32, "hidden": 96, "context": 16, "rows": bpe().vocab_size}
HEADS = 4


@pytest.fixture
def published(tmp_path: Path) -> Path:
    directory = tmp_path / "in" / "published"
    directory.parent.mkdir()
    write_published(directory, published_shapes(**SIZES), bpe())
    return directory


# ── By the authors' rule ─────────────────────────────────────────────────────────────────────────────────────


def authors_logits(arrays: list[np.ndarray], heads: int, ids: list[int]) -> np.ndarray:
    """The authors' `model` (train.py), in NumPy and float64, and the logits over its tokens."""
    positions, tokens, *rest = (array.astype(np.float64) for array in arrays)

    def convolve(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
        return x @ w.reshape(w.shape[-2:]) + b

    def norm(x: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
        u = x.mean(-1, keepdims=True)
        s = np.square(x - u).mean(-1, keepdims=True)
        return (x - u) / np.sqrt(s + 1e-5) * g + b

    def gelu(x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    h, length = tokens[ids] + positions[: len(ids)], len(ids)
    for start in range(0, len(rest), 12):
        w_attn, b_attn, w_proj, b_proj, g_1, b_1, w_fc, b_fc, w_out, b_out, g_2, b_2 = rest[
            start : start + 12
        ]
        q, k, v = (
            x.reshape(length, heads, -1).transpose(1, 0, 2)
            for x in np.split(convolve(h, w_attn, b_attn), 3, axis=-1)
        )
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        mask = np.tril(np.ones((length, length)))
        scores = scores * mask - 1e9 * (1 - mask)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        attended = (weights @ v).transpose(1, 0, 2).reshape(length, -1)
        n = norm(h + convolve(attended, w_proj, b_proj), g_1, b_1)
        h = norm(n + convolve(gelu(convolve(n, w_fc, b_fc)), w_out, b_out), g_2, b_2)
    return h @ tokens.T


@pytest.mark.parametrize(
    ("sizes", "heads"),
    [
        (SIZES, 4),
        ({"layers": 1, "width": 128, "hidden": 64, "context": 5, "rows": 200}, None),
        ({"layers": 3, "width": 12, "hidden": 48, "context": 9, "rows": 7}, 3),
    ],
)
def test_the_published_files_are_the_model_they_describe(
    sizes: dict[str, int], heads: int | None, tmp_path: Path
) -> None:
    arrays = write_published(tmp_path / "published", published_shapes(**sizes))
    convert("openai", "gpt1_jax", str(tmp_path / "published"), str(tmp_path / "run"), num_heads=heads)
    run = gpt1_jax.load(str(tmp_path / "run"))
    ids = np.random.default_rng(1).integers(0, sizes["rows"], sizes["context"]).tolist()
    expected = authors_logits(arrays, heads or sizes["width"] // 64, ids)
    assert run.logits(ids).shape == expected.shape
    np.testing.assert_allclose(run.logits(ids), expected, atol=1e-4)


def test_a_run_is_written_by_the_same_rule(published: Path, tmp_path: Path) -> None:
    """The very files that were read, the cut in ten included."""
    convert("openai", "gpt1_jax", str(published), str(tmp_path / "run"), num_heads=HEADS)
    convert("gpt1_jax", "openai", str(tmp_path / "run"), str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(published)


def test_rows_beyond_the_pieces_are_zero(published: Path, tmp_path: Path) -> None:
    convert("openai", "gpt1_jax", str(published), str(tmp_path / "run"), num_heads=HEADS)
    params = params_of(tmp_path / "run")
    assert params["tokens"].shape == (128, 32)
    assert (params["tokens"][: SIZES["rows"]] != 0).all() and (params["tokens"][SIZES["rows"] :] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "vocabulary", ["made up", pytest.param("published", marks=needs_large("openai_bpe"))]
)
def test_the_true_shapes_and_vocabulary_are_the_paper_s_model(
    vocabulary: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "published"
    if vocabulary == "published":
        shapes = json.loads((PUBLISHED / "params_shapes.json").read_text())
        write_published(directory, shapes)
        for name in ("params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"):
            (directory / name).write_bytes((PUBLISHED / name).read_bytes())
    else:
        shapes = published_shapes(layers=12, width=768, hidden=3072, context=512, rows=40_478)
        write_published(directory, shapes)
        pieces = ["<unk>", *(f"{number}</w>" for number in range(40_477))]
        encoder = json.dumps({piece: id for id, piece in enumerate(pieces)})
        (directory / "encoder_bpe_40000.json").write_text(encoder)
        (directory / "vocab_40000.bpe").write_text("#version: 0.2\n")
    model = read_openai(directory)
    sizes = (model.config.num_layers, model.config.num_heads, model.config.d_model, model.config.d_ff)
    assert sizes == (12, 12, 768, 3072) and model.config.context_length == 512
    assert model.tokenizer.vocab_size == 40_478
    assert sum(array.size for array in model.weights.values()) == 116_534_784
    convert("openai", "huggingface", str(directory), str(tmp_path / "hub"))
    convert("huggingface", "openai", str(tmp_path / "hub"), str(tmp_path / "again"))
    assert "116,534,784 parameters" in capsys.readouterr().out
    for path in directory.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


# ── Refused ──────────────────────────────────────────────────────────────────────────────────────────────────


class Bomb:
    """What must never be unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return Path.touch, (self.trace,)


def edit(change: Callable[[Any], None]) -> Callable[[Path], None]:
    """Damage to params_shapes.json."""

    def damage(directory: Path) -> None:
        path = directory / "params_shapes.json"
        shapes = json.loads(path.read_text())
        change(shapes)
        path.write_text(json.dumps(shapes))

    return damage


def save(array: np.ndarray) -> Callable[[Path], None]:
    return lambda directory: np.save(directory / "params_3.npy", array)


def header(shape: str, descr: str = "'<f4'") -> bytes:
    """A .npy header that may lie, and 4 bytes behind it."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(4)


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(content) and None


def truncate(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:-5]) and None


def unlink(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def put_nan(directory: Path) -> None:
    part = np.load(directory / "params_9.npy")
    part[-1] = np.nan
    np.save(directory / "params_9.npy", part)


def unpublished_vocabulary(directory: Path) -> None:
    pieces = json.loads((directory / "encoder_bpe_40000.json").read_text())
    pieces["a"] = 10**6
    (directory / "encoder_bpe_40000.json").write_text(json.dumps(pieces))


def smaller_vocabulary(directory: Path) -> None:
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe"):
        (directory / name).unlink()
    (directory / "sentencepiece.model").write_bytes(sentencepiece().model)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (unlink("params_shapes.json"), ["params_shapes.json is missing"]),
        (write("params_shapes.json", b"{"), ["params_shapes.json is not readable JSON"]),
        (write("params_shapes.json", b"\xff\xfe\xff"), ["params_shapes.json is not readable JSON"]),
        (write("params_shapes.json", b"[" * 100_000), ["params_shapes.json is not readable JSON"]),
        (write("params_shapes.json", b"{}"), ["is not a list of shapes"]),
        (write("params_shapes.json", b"[]"), ["lists 0 shapes"]),
        (edit(lambda shapes: shapes.pop()), ["lists 25 shapes", "12 for each block"]),
        (edit(lambda shapes: shapes.append([3])), ["lists 27 shapes"]),
        (edit(lambda shapes: shapes.__setitem__(0, [])), ["is not a list of shapes"]),
        (edit(lambda shapes: shapes.__setitem__(3, 96)), ["is not a list of shapes"]),
        (edit(lambda shapes: shapes[3].__setitem__(0, -96)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[3].__setitem__(0, 0)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[3].__setitem__(0, 96.0)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[3].__setitem__(0, True)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[3].__setitem__(0, 97)), ["shape [97] at place 3", "h.0.attn.c_attn.bias has [96]"]),
        (edit(lambda shapes: shapes[20].__setitem__(2, 95)), ["[1, 32, 95]", "h.1.mlp.c_fc.weight has [1, 32, 96]"]),
        (edit(lambda shapes: shapes[2].__setitem__(0, 2)), ["shape [2, 32, 96]", "[1, 32, 96]"]),
        (edit(lambda shapes: shapes[1].__setitem__(0, 10**15)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[1].__setitem__(0, 10**400)), ["whole numbers from 1"]),
        (edit(lambda shapes: shapes[1].__setitem__(0, 2**31 - 1)), ["describes 68,719,4"]),
        (unlink("params_7.npy"), ["params_7.npy is missing"]),
        (truncate("params_7.npy"), ["params_7.npy is damaged"]),
        (write("params_7.npy", b""), ["params_7.npy is damaged"]),
        (write("params_7.npy", header(f"({10**15},)")), ["params_7.npy is damaged"]),
        (write("params_7.npy", header(f"({10**40},)")), ["params_7.npy is damaged"]),
        (write("params_7.npy", header("(-1,)")), ["params_7.npy is damaged"]),
        (write("params_7.npy", header("(1,)", descr="'|O'")), ["params_7.npy is damaged"]),
        (write("params_7.npy", header("(" * 3000 + ")" * 3000)), ["params_7.npy is damaged"]),
        (write("params_7.npy", b"PK\x03\x04" + bytes(100)), ["params_7.npy is damaged"]),
        (save(np.zeros(3, np.float64)), ["params_3.npy holds float64 of shape [3]", "float32"]),
        (save(np.zeros(3, np.int32)), ["params_3.npy holds int32"]),
        (save(np.zeros(3, ">f4")), ["params_3.npy holds >f4"]),
        (save(np.zeros((3, 1), np.float32)), ["float32 of shape [3, 1]", "a vector"]),
        (save(np.zeros(3, np.float32)), ["numbers in params_0.npy to params_9.npy", "describes"]),
        (put_nan, ["h.1.ln_2.bias holds numbers that are not finite"]),
        (unlink("vocab_40000.bpe"), ["vocab_40000.bpe"]),
        (unpublished_vocabulary, ["published"]),
        (write("encoder_bpe_40000.json", b"nothing"), ["published"]),
        (smaller_vocabulary, ["300 pieces", "63 rows", "--tokenizer"]),
        (write("sentencepiece.model", b"nothing"), ["sentencepiece.model has no vocabulary that can be read"]),
    ],
)  # fmt: skip
def test_damage_is_told_in_a_sentence_and_leaves_nothing(
    damage: Callable[[Path], None], told: list[str], published: Path, tmp_path: Path
) -> None:
    damage(published)
    sentence = refused("openai", published, tmp_path / "out", num_heads=HEADS)
    assert all(part in sentence for part in told), sentence


def test_a_pickle_is_never_loaded(published: Path, tmp_path: Path) -> None:
    trace = tmp_path / "in" / "trace"
    np.save(published / "params_0.npy", np.array([Bomb(trace)]), allow_pickle=True)
    assert "params_0.npy is damaged" in refused("openai", published, tmp_path / "out", num_heads=HEADS)
    (published / "params_0.npy").write_bytes(pickle.dumps(Bomb(trace)))
    assert "params_0.npy is damaged" in refused("openai", published, tmp_path / "out", num_heads=HEADS)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()  # it would have been seen


def test_the_number_of_heads_is_asked_for_where_it_is_not_told(published: Path, tmp_path: Path) -> None:
    assert "--num_heads" in refused("openai", published, tmp_path / "out")
    told = refused("openai", published, tmp_path / "out", num_heads=5)
    assert "width 32" in told and "5 heads" in told
