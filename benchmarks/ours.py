"""Our training step and parameters, as the benchmarks use them: in float32 on one device."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gpt1_jax.config import Config, MeshConfig
from gpt1_jax.data.batches import Batch
from gpt1_jax.devices.mesh import make_mesh, use
from gpt1_jax.hashing import hash_numbers
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.trainer import Trainer


class Training:
    """The step of pre-training, with the dropout of the config.

    Attributes:
        bytes: the memory of the compiled step: state, batch, and all between.
    """

    def __init__(self, config: Config) -> None:
        mesh = make_mesh(MeshConfig(1, 1, 1))
        dropout = config.model.residual_dropout > 0
        model = Transformer(config.model, config.data.vocab_size)
        trainer = Trainer.make(
            model, language_model_loss(model, dropout), mesh, config.optimizer, config.train
        )
        row = np.zeros((1, config.model.context_length))
        self._taken = 0
        self._state = trainer.init(config.seed)
        self._step = trainer.compile([self._batch(row, row)], config.train.batch_size)
        self.bytes = self._step.bytes

    def __call__(self, ids: np.ndarray, targets: np.ndarray) -> float:
        """Takes a step on inputs and targets, int [B, T]; returns the loss before the update."""
        self._state, metrics = self._step(self._state, self._batch(ids, targets))
        self._taken += 1
        return float(metrics["loss"])

    def _batch(self, ids: np.ndarray, targets: np.ndarray) -> Batch:
        noise = hash_numbers(0, self._taken, np.arange(len(ids))[:, None], np.arange(1))
        weights = np.full((len(ids), 1, ids.shape[1]), 1 / ids.size, np.float32)
        return Batch(
            ids[:, None].astype(np.int32), targets[:, None].astype(np.int32), weights, noise, noise[:, 0]
        )


def initial_weights(config: Config) -> dict[str, np.ndarray]:
    """Returns the parameters that a `Training` begins with, under their published names."""
    from gpt1_jax.interop.run_directory import published_weights  # late: no step needs what comes with it

    model = Transformer(config.model, config.data.vocab_size)
    with use(make_mesh(MeshConfig(1, 1, 1))):
        start = jax.jit(lambda key: nn.unbox(model.init(key, jnp.zeros((1, 1), jnp.int32))["params"]))
        params = jax.device_get(start(jax.random.key(config.seed)))
    return published_weights(config.model, params, config.data.vocab_size)
