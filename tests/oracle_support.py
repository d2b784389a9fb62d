"""What the authors' published program computed, and its parameters as ours.

The arrays in tests/oracle/ come from openai/finetune-transformer-lm (commit a69b5c4), run under TensorFlow's compat.v1
on a CPU, on random numbers: the README there says what each of them is.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpt1_jax.config import Config, MeshConfig, ModelConfig, OptimizerConfig, TrainConfig
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.tasks.batches import TaskBatch

VOCAB_SIZE, SPECIALS, CONTEXT = 61, 3, 16
LAYERS, WIDTH, HEADS = 2, 24, 3
UPDATES = 12

# The program's settings; its learning rate is forty times the usual one, so that changes show.
CONFIG = Config(
    model=ModelConfig(
        num_layers=LAYERS,
        num_heads=HEADS,
        d_model=WIDTH,
        d_ff=4 * WIDTH,
        context_length=CONTEXT,
        embedding_dropout=0.0,
        attention_dropout=0.0,
        residual_dropout=0.0,
        dtype="float32",
        attention="plain",
    ),
    train=TrainConfig(num_steps=UPDATES, num_epochs=0.0, batch_size=4),
    optimizer=OptimizerConfig(
        learning_rate=6.25e-5 * 40,
        schedule="linear",
        warmup_steps=0,
        warmup_fraction=0.2,
        total_steps=UPDATES,
    ),
    mesh=MeshConfig(data=1),
)

# Our names of a block's parameters by the program's.
_BLOCK = {
    "attn/c_attn/w": "qkv_kernel",
    "attn/c_attn/b": "qkv_bias",
    "attn/c_proj/w": "out_kernel",
    "attn/c_proj/b": "out_bias",
    "ln_1/g": "norm_1_scale",
    "ln_1/b": "norm_1_bias",
    "mlp/c_fc/w": "mlp_in_kernel",
    "mlp/c_fc/b": "mlp_in_bias",
    "mlp/c_proj/w": "mlp_out_kernel",
    "mlp/c_proj/b": "mlp_out_bias",
    "ln_2/g": "norm_2_scale",
    "ln_2/b": "norm_2_bias",
}
_SHAPES = {
    "qkv_kernel": (WIDTH, 3, HEADS, WIDTH // HEADS),
    "qkv_bias": (3, HEADS, WIDTH // HEADS),
    "out_kernel": (HEADS, WIDTH // HEADS, WIDTH),
    "mlp_in_kernel": (WIDTH, 4 * WIDTH),
    "mlp_out_kernel": (4 * WIDTH, WIDTH),
}


@cache
def trace(number: int) -> dict[str, np.ndarray]:
    """The arrays of tests/oracle/trace_NUMBER.npz by their names."""
    with np.load(Path(__file__).parent / "oracle" / f"trace_{number}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def as_ours(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Arrays PREFIX/model/… of the program, such as parameters or gradients, as a classifier's parameters.

    Its one matrix `we` holds the tokens, the specials and the positions; our table has rows of zeros behind.
    """
    found = {
        name.removeprefix(f"{prefix}/model/"): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    used = VOCAB_SIZE + SPECIALS
    tokens = np.pad(found["we"][:used], [(0, table_rows(VOCAB_SIZE) - used), (0, 0)])
    blocks = {}
    for theirs, ours in _BLOCK.items():
        layers = [found[f"h{layer}/{theirs}"] for layer in range(LAYERS)]
        blocks[ours] = np.stack([layer.reshape(_SHAPES.get(ours, layer.shape)) for layer in layers])
    return {
        "trunk": {"tokens": tokens, "positions": found["we"][used:], "blocks": blocks},
        "head": {"kernel": found["clf/w"], "bias": found["clf/b"]},
    }


def as_batch(tokens: np.ndarray, mask: np.ndarray, label: np.ndarray) -> TaskBatch:
    """The program's X, M and Y of a batch as ours.

    Args:
        tokens: int32 [B, S, T, 2], ids of tokens and of positions.
        mask: float32 [B, S, T], 1 on real tokens.
        label: int32 [B], the right candidate.
    """
    count, candidates, length = mask.shape
    ids = np.concatenate([tokens[..., 0], np.zeros((count, candidates, 1), np.int32)], axis=-1)
    real = np.concatenate([mask[..., 1:], np.zeros((count, candidates, 1), np.float32)], axis=-1)
    return TaskBatch(
        tokens=ids[..., :length],
        targets=ids[..., 1:],
        weights=(real / real.sum(-1, keepdims=True) / (count * candidates)).astype(np.float32),
        noise=np.zeros((count, candidates), np.uint32),
        update=np.zeros(count, np.uint32),
        labels=np.eye(candidates, dtype=np.float32)[label][:, None],
        label_weights=np.full((count, 1), 1 / count, np.float32),
    )
