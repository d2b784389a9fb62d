"""What the tests of training share: made-up token streams, and all the parts of a tiny training at once."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data.batches import Batch, PretrainingBatches
from gpt1_jax.data.corpus import Split
from gpt1_jax.devices.mesh import place_rows
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.training.objectives import Objective, language_model_loss
from gpt1_jax.training.optimizers import Schedule, make_optimizer, make_schedule
from gpt1_jax.training.step import State, abstract_state, initial_state, make_train_step

VOCAB_SIZE = 101  # of a table of 128 rows


class Parts(NamedTuple):
    """A model and what trains it, on one mesh."""

    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: Schedule
    abstract: State
    state: State
    train_step: Any


def make_parts(config: Config, mesh: Mesh) -> Parts:
    """Builds it all as pre-training does; call it within `support.use_mesh`."""
    model = Transformer(config.model, VOCAB_SIZE)
    schedule = make_schedule(config.optimizer, config.train.num_steps)
    optimizer = make_optimizer(config.optimizer, schedule)
    abstract = abstract_state(model, optimizer, mesh)
    objective = language_model_loss(model, dropout=True)
    step = make_train_step(objective, optimizer, schedule, mesh, abstract, config.train.accumulation)
    if (config.model, config.seed, config.optimizer) not in _initial:  # compiled once, placed on any mesh
        _initial[config.model, config.seed, config.optimizer] = jax.device_get(
            initial_state(model, optimizer, mesh, config.seed)
        )
    state = place(_initial[config.model, config.seed, config.optimizer], abstract)
    return Parts(objective, optimizer, schedule, abstract, state, step)


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
