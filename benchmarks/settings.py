"""What the training benchmarks run: presets as every side can take them, and tokens to train on.

Without jax or torch, so that no side of a comparison is charged with another's libraries.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from configs.pretrain import PRESETS
from gpt1_jax.config import Config
from gpt1_jax.errors import UserError


def settings(preset: str, batch: int) -> Config:
    """A preset in float32 with AdamW at a constant rate, which all sides have.

    Raises UserError where there is no such preset.
    """
    if preset not in PRESETS:
        raise UserError(f"--preset={preset} is none of tiny, small, or empty for the paper's.")
    config = PRESETS[preset]()
    steady = dataclasses.replace(
        config.optimizer, name="adamw", warmup_steps=0, warmup_fraction=0.0, total_steps=10**9
    )
    rows = batch or (config.train.batch_size if preset else 2)
    train = dataclasses.replace(config.train, batch_size=rows, num_steps=10**9)
    model = dataclasses.replace(config.model, dtype="float32")
    return dataclasses.replace(config, model=model, train=train, optimizer=steady)


def batches(config: Config) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Made-up inputs and targets, [B, T] each, of few different tokens, so that there is something to learn."""
    generator = np.random.default_rng(0)
    while True:
        shape = (config.train.batch_size, config.model.context_length + 1)
        tokens = generator.integers(0, min(64, config.data.vocab_size), shape)
        yield tokens[:, :-1], tokens[:, 1:]
