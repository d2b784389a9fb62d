"""What the tests of training share: made-up token streams, and a tiny training's trainer and state."""

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data.batches import Batch, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer

VOCAB_SIZE = 101  # of a table of 128 rows


class Parts(NamedTuple):
    """A trainer and the state that it begins with."""

    trainer: Trainer
    state: State


def make_parts(config: Config, mesh: Mesh) -> Parts:
    """A trainer as pre-training makes it; its first state is compiled once, and placed on any mesh."""
    model = Transformer(config.model, VOCAB_SIZE)
    trainer = Trainer.make(
        model, language_model_loss(model, dropout=True), mesh, config.optimizer, config.train
    )
    key = config.model, config.seed, config.optimizer
    if key not in _initial:
        _initial[key] = jax.device_get(trainer.init(config.seed))
    return Parts(trainer, place(_initial[key], trainer.abstract))


_initial: dict[Any, State] = {}


def place(tree: Any, abstract: Any) -> Any:
    """NumPy arrays as jax arrays with the shardings of `abstract`."""
    return jax.tree.map(
        lambda x, like: jax.make_array_from_callback(x.shape, like.sharding, lambda index: x[index].copy()),
        tree,
        abstract,
    )


def make_split(tokens: int = 2000, size: int = VOCAB_SIZE) -> Split:
    """A stream of tokens that lean on the one before, so that there is something to learn."""
    steps = np.random.default_rng(7).integers(0, 5, tokens)
    return Split((np.cumsum(steps).astype(np.uint16) % size,), documents=1, bytes=3 * tokens)


def make_batch(config: Config, mesh: Mesh, step: int) -> Batch:
    """The placed batch of a step, of `make_split`'s stream."""
    sizes = {"batch_size": config.train.batch_size, "context_length": config.model.context_length}
    batches = PretrainingBatches(make_split(), seed=config.seed, **sizes)
    return place_rows(lambda start, stop: batches.rows(step, start, stop), batches.batch_size, mesh)


def to_host(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their paths, copied to NumPy."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.array(leaf) for path, leaf in leaves}


def assert_bit_equal(one: Any, other: Any) -> None:
    """Both trees hold the same paths, dtypes and bits."""
    one, other = to_host(one), to_host(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        assert value.dtype == other[path].dtype and value.tobytes() == other[path].tobytes(), path
