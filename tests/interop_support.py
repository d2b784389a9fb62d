"""What the tests of other programs' formats share: models, tokenizers, run directories, and one refusal."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from support import tiny_config, use_mesh

import gpt1_jax
from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.absent import NoTokenizer
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from gpt1_jax.errors import UserError
from gpt1_jax.interop.conversion import convert
from gpt1_jax.interop.model_card import CARD
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run, write_json
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.state import State, abstract_state

MODEL = {"model.num_layers": 2, "model.num_heads": 4, "model.d_model": 32, "model.context_length": 16}
# What makes a model one of another family than GPT-1's.
MODELS = {
    "gpt2": {"model.norm": "pre", "model.d_ff": 48},
    "bert": {
        "model.causal": False,
        "model.token_types": 2,
        "model.embedding_norm": True,
        "model.norm_epsilon": 1e-12,
        "model.activation": "gelu",
    },
}
TEXT = "the quick brown fox jumps over the lazy dog and others follow it"


@cache
def sentencepiece() -> SentencePieceTokenizer:
    return train_sentencepiece(iter([TEXT] * 3), 300)


@cache
def bpe() -> OpenAITokenizer:
    """The letters, each also as the end of a word, and a few merges."""
    letters = "abcdefghijklmnopqrstuvwxyz.,"
    merges = [("t", "h"), ("th", "e</w>"), ("o", "x</w>"), ("f", "ox</w>"), ("q", "u")]
    pieces = ["<unk>", *letters, *(f"{letter}</w>" for letter in letters), "\n</w>"]
    pieces += [left + right for left, right in merges]
    encoder = json.dumps({piece: number for number, piece in enumerate(pieces)})
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges), ""]
    return OpenAITokenizer(encoder.encode(), "\n".join(lines).encode())


TOKENIZERS = {"sentencepiece": sentencepiece, "bpe": bpe, "none": lambda: NoTokenizer(61)}


def random_params(abstract: Any, rows: int) -> Any:
    """Parameters without a zero or a one among them, the padding behind `rows` pieces aside."""
    generator = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        center = 1.0 if path[-1].key.endswith("scale") else 0.0
        values = generator.normal(center, 0.2, leaf.shape).astype(np.float32)
        if path[-1].key in ("tokens", "output_bias"):
            values[rows:] = 0
        return values

    return jax.tree.map_with_path(fill, abstract)


def make_run(directory: Path, tokenizer: Tokenizer, task: Task | None = None, **overrides: Any) -> Config:
    """A run directory as training leaves it after 7 steps, moments and all, with random parameters."""
    finetuned = {} if task is None else {"finetune.task": task.name}
    values = MODEL | {"model.d_ff": 128, "data.vocab_size": tokenizer.vocab_size}
    config = tiny_config(
        **values | {"data.cache_dir": str(directory.parent / "cache")} | finetuned | overrides
    )
    run = Run(str(directory))
    run.record(config, {"text": "some", "tokenizer": tokenizer.fingerprint()})
    tokenizer.save(run.tokenizer)
    if task is None:
        model = make_trunk(config.model, tokenizer.vocab_size)
    else:
        model = make_classifier(config.model, config.finetune, task, tokenizer.vocab_size)
        write_json(run.directory / "task.json", task.to_dict())
    with use_mesh() as mesh:
        abstract = abstract_state(model, optax.adam(1e-3), mesh)
        params = random_params(abstract.params, tokenizer.vocab_size + (0 if task is None else 3))
        moments = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), abstract.optimizer)
        checkpoints = Checkpoints(run.checkpoints, keep=2)
        checkpoints.save(7, jax.device_put(State(np.int32(7), params, moments)))
        checkpoints.close()
    return config


def params_of(directory: Path) -> Any:
    """The parameters that a run directory opens with."""
    return jax.device_get(gpt1_jax.load(str(directory)).params)


def refused(source_format: str, source: Path, target: Path, to: str = "gpt1_jax", **flags: Any) -> str:
    """The one sentence that a conversion is refused with; nothing is left of it."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(UserError) as error:
        convert(source_format, to, str(source), str(target), **flags)
    assert sorted(target.parent.iterdir()) == before
    told = str(error.value)
    assert "\n" not in told and ". " not in told and len(told) < 600, told
    return told


def files_of(directory: Path) -> dict[str, bytes]:
    """The files of an exported model but its card, which says where that came from."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != CARD}


def published_shapes(layers: int, width: int, hidden: int, context: int, rows: int) -> list[list[int]]:
    """params_shapes.json, as the authors' code makes it: convolutions of width 1, gains before biases."""
    shapes = [[context, width], [rows, width]]
    for _ in range(layers):
        shapes += [[1, width, 3 * width], [3 * width], [1, width, width], [width], [width], [width]]
        shapes += [[1, width, hidden], [hidden], [1, hidden, width], [width], [width], [width]]
    return shapes


def write_published(
    directory: Path, shapes: list[list[int]], tokenizer: Tokenizer | None = None, seed: int = 0
) -> list[np.ndarray]:
    """The authors' files of a random model, made with NumPy alone; returns its arrays in their order."""
    directory.mkdir()
    generator = np.random.default_rng(seed)
    arrays = [generator.normal(len(shape) == 1, 0.2, shape).astype(np.float32) for shape in shapes]
    flat = np.concatenate([array.ravel() for array in arrays])
    for number, part in enumerate(np.array_split(flat, 10)):
        np.save(directory / f"params_{number}.npy", part)
    (directory / "params_shapes.json").write_text(json.dumps(shapes))
    if isinstance(tokenizer, OpenAITokenizer):
        (directory / "encoder_bpe_40000.json").write_bytes(tokenizer.encoder)
        (directory / "vocab_40000.bpe").write_bytes(tokenizer.merges)
    return arrays
