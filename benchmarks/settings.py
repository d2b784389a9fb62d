"""What the benchmarks run: presets as every side can take them, and tokens to train on.

This module imports neither jax nor torch, so no side of a comparison is charged with another's libraries.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from configs.pretrain import PRESETS
from gpt1_jax.config import Config
from gpt1_jax.errors import UserError


def find_preset(name: str) -> Config:
    """Returns the preset that --preset names.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        named = ", ".join(filter(None, PRESETS))
        raise UserError(
            f"--preset={name} is not a preset; choose one of {named}, or leave it out for the paper's."
        )
    return PRESETS[name]()


def settings(preset: str, batch: int) -> Config:
    """Returns a preset in float32 with AdamW at a constant rate, which all sides have.

    Raises:
        UserError: there is no such preset.
    """
    config = find_preset(preset)
    steady = dataclasses.replace(
        config.optimizer, name="adamw", warmup_steps=0, warmup_fraction=0.0, total_steps=10**9
    )
    rows = batch or (config.train.batch_size if preset else 2)
    train = dataclasses.replace(config.train, batch_size=rows, num_steps=10**9)
    model = dataclasses.replace(config.model, dtype="float32")
    return dataclasses.replace(config, model=model, train=train, optimizer=steady)


def batches(config: Config) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields made-up inputs and targets, [B, T] each, of few different tokens, so that there is something to learn."""
    generator = np.random.default_rng(0)
    while True:
        shape = (config.train.batch_size, config.model.context_length + 1)
        tokens = generator.integers(0, min(64, config.data.vocab_size), shape)
        yield tokens[:, :-1], tokens[:, 1:]
