"""Our training step and parameters, as the benchmarks use them: float32, one device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.devices.mesh import batch_sharding, make_mesh, use
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.model.kernels.choice import choose_attention
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.optimizers import make_optimizer, make_schedule
from gpt1_jax.training.step import abstract_state, compile_step, initial_state, make_train_step


class Trainer:
    """The step that pre-training takes, with dropout where the config has any.

    Fields:
        bytes: what the compiled step holds at once: state, batch, and all between.
    """

    def __init__(self, config: Config) -> None:
        mesh = make_mesh(MeshConfig(1, 1, 1))
        dropout = config.model.residual_dropout > 0
        form = choose_attention(config.model, mesh.devices.flat[0].platform, dropout)
        model = Transformer(dataclasses.replace(config.model, attention=form), config.data.vocab_size)
        schedule = make_schedule(config.optimizer, config.train.num_steps)
        optimizer = make_optimizer(config.optimizer, schedule)
        objective = language_model_loss(model, dropout)
        shape = (config.train.batch_size, config.model.context_length)
        self._taken = 0
        with use(mesh):
            abstract = abstract_state(model, optimizer, mesh)
            step = make_train_step(objective, optimizer, schedule, mesh, abstract, config.train.accumulation)
            batch = jax.device_put(self._batch(np.zeros(shape), np.zeros(shape)), batch_sharding(mesh))
            self._state = initial_state(model, optimizer, mesh, config.seed)
            self._step = compile_step(step, abstract, batch)
        memory: Any = self._step.memory_analysis()
        self.bytes = memory.argument_size_in_bytes + memory.temp_size_in_bytes

    def __call__(self, ids: np.ndarray, targets: np.ndarray) -> float:
        """Takes a step on inputs and targets, int [B, T]; returns the loss before the update."""
        self._state, metrics = self._step(self._state, self._batch(ids, targets))
        self._taken += 1
        return float(metrics["loss"])

    def _batch(self, ids: np.ndarray, targets: np.ndarray) -> Batch:
        noise = hash_numbers(0, self._taken, np.arange(len(ids))[:, None], np.arange(1))
        weights = np.full((len(ids), 1, ids.shape[1]), 1 / ids.size, np.float32)
        return Batch(ids[:, None].astype(np.int32), targets[:, None].astype(np.int32), weights, noise)


def initial_weights(config: Config) -> dict[str, np.ndarray]:
    """The parameters that a `Trainer` begins with, under their published names."""
    from gpt1_jax.interop.runs import published_weights  # late: no step needs what comes with it

    model = Transformer(config.model, config.data.vocab_size)
    with use(make_mesh(MeshConfig(1, 1, 1))):
        start = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]))
        params = jax.device_get(start(jax.random.key(config.seed)))
    return published_weights(config.model, params, config.data.vocab_size)
