"""The object that trains: a model, its objective and its update rule on a mesh, and the one compiled step."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import OptimizerConfig, TrainConfig
from gpt1_jax.cpu import after, give_back_memory
from gpt1_jax.devices.compiler_options import compiler_options
from gpt1_jax.devices.mesh import batch_sharding, replicated, use
from gpt1_jax.training.objectives import Objective
from gpt1_jax.training.optimizers import applied_updates, make_optimizer, make_schedule
from gpt1_jax.training.state import State, abstract_state, initial_state

Metrics = dict[str, jax.Array]


class _Program(NamedTuple):
    compiled: jax.stages.Compiled
    seconds: float


class Step:
    """The compiled step, (state, batch) → (state, metrics), with a program for each shape that batches have.

    The state is donated. The metrics are "loss", the objective's parts, "grad_norm" and "learning_rate".
    """

    def __init__(self, lower: Callable[[Any], jax.stages.Lowered], batch_size: int) -> None:
        """Takes a function that lowers the step for batches like some rows, and B of the batches."""
        self._lower, self._batch_size = lower, batch_size
        # By the shape [S, T] of a row's tokens.
        self._programs: dict[tuple[int, ...], Future[_Program]] = {}
        self._thread = ThreadPoolExecutor(1, "compile")

    def begin(self, rows: Any) -> None:
        """Begins to compile the program for batches like some rows, unless that was begun before.

        A thread does it, so that data and state can be made ready in the meantime.
        """
        shape = rows.tokens.shape[1:]
        if shape in self._programs:
            return
        began = time.perf_counter()
        # Settings of jax that the caller has made in a context hold in the caller's thread alone.
        lowered = self._lower(rows)

        def compile() -> _Program:
            compiled = lowered.compile()
            give_back_memory()
            return _Program(compiled, time.perf_counter() - began)

        self._programs[shape] = self._thread.submit(compile)

    def knows(self, rows: Any) -> bool:
        """Returns whether there is a program for batches like some rows."""
        shape = rows.tokens.shape[1:]
        return shape in self._programs and self._programs[shape].done()

    def prepare(self, rows: Any, tell: Callable[[str], None]) -> None:
        """Waits for the program for batches like some rows; tells a line before, and one on what it cost."""
        sequences, length = rows.tokens.shape[1:]
        sizes = (self._batch_size, length) if sequences == 1 else (self._batch_size, sequences, length)
        tokens = " × ".join(map(str, sizes)) + " tokens"
        tell(f"compiling for {tokens} …")
        program = self._program(rows)
        tell(f"compiled for {tokens} in {program.seconds:.1f} s; {_bytes(program) / 1e9:.3g} GB per device")

    def __call__(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """Dispatches the step without waiting for its results."""
        return self._program(batch).compiled(state, batch)

    def _program(self, rows: Any) -> _Program:
        self.begin(rows)
        return self._programs[rows.tokens.shape[1:]].result()

    @property
    def bytes(self) -> int:
        """The most bytes that a program holds on a device at once: state, batch, and everything between."""
        return max(_bytes(program.result()) for program in self._programs.values())


@dataclass(frozen=True)
class Trainer:
    """A model, its objective and its update rule on a mesh: all that a step needs, and nothing of data or disk.

    Attributes:
        mesh, model: where training happens, and what is trained.
        objective: (parameters, batch) → (loss, its parts).
        optimizer, schedule: the update rule, and the learning rate of each update for the log.
        accumulation: the number of micro-batches in an update.
    """

    mesh: Mesh
    model: nn.Module
    objective: Objective
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    accumulation: int = 1

    @classmethod
    def make(
        cls, model: nn.Module, objective: Objective, mesh: Mesh, rule: OptimizerConfig, train: TrainConfig
    ) -> Self:
        """Makes the trainer of a model by an update rule; `train` is settled, so that it has a number of steps."""
        schedule = make_schedule(rule, train.num_steps)
        return cls(mesh, model, objective, make_optimizer(rule, schedule), schedule, train.accumulation)

    @cached_property
    def abstract(self) -> State:
        """The shapes, dtypes and shardings of the state."""
        return abstract_state(self.model, self.optimizer, self.mesh)

    def init(self, seed: int) -> State:
        """Returns a fresh state, the same on every mesh."""
        return initial_state(self.model, self.optimizer, self.mesh, seed)

    def lower(self, sample: Any, batch_size: int) -> jax.stages.Lowered:
        """Lowers the step for batches of `batch_size` rows like those of `sample`, ready to be compiled."""
        place = batch_sharding(self.mesh)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype, sharding=place), sample
        )
        with use(self.mesh):
            return self.step.lower(self.abstract, batch)

    def compile(self, samples: Iterable[Any], batch_size: int) -> Step:
        """Begins to compile the step for some shapes of batches; that of any other is compiled when it is first needed.

        Args:
            samples: some rows of each shape.
            batch_size: B of the batches.
        """
        step = Step(lambda rows: self.lower(rows, batch_size), batch_size)
        for rows in samples:
            step.begin(rows)
        return step

    @cached_property
    def step(self) -> Any:
        """Returns the jitted step, which is compiled when it is called; see `Step`.

        The weights of a batch sum to 1, so its loss and gradient are the sums over its micro-batches. A step whose
        loss or gradient norm is not finite leaves parameters and moments as they were.
        """
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        return jax.jit(
            self.train_step,
            in_shardings=(shardings, batch_sharding(self.mesh)),
            out_shardings=(shardings, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=compiler_options(self.mesh),
        )

    def train_step(self, state: State, batch: Any) -> tuple[State, Metrics]:
        """Makes the update, as a pure function; see `Step`."""
        (loss, parts), gradients = self._gradients(state.params, batch)
        norm = optax.tree.norm(gradients)
        updates, moments = self.optimizer.update(gradients, state.optimizer, state.params)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, moments = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (optax.apply_updates(state.params, updates), moments),
            (state.params, state.optimizer),
        )
        # The new moments wait for the new parameters, which read the old moments, so everything is updated in place.
        moments = optax.tree_map_params(self.optimizer, after, moments, params)
        rate = self.schedule(applied_updates(state.optimizer))
        metrics = {"loss": loss, **parts, "grad_norm": norm, "learning_rate": rate}
        return State(state.step + 1, params, moments), metrics

    def _gradients(self, params: Any, batch: Any) -> tuple[tuple[jax.Array, Metrics], Any]:
        """Returns (loss, its parts) and the gradients of a batch, summed over its micro-batches."""
        gradient = jax.value_and_grad(self.objective, has_aux=True)
        if self.accumulation == 1:
            return gradient(params, batch)

        # Interleaved splitting lets every device keep its own rows, so nothing moves.
        def split(x: jax.Array) -> jax.Array:
            # The labels of tasks without a head are empty, so no size can be left open.
            return x.reshape(len(x) // self.accumulation, self.accumulation, *x.shape[1:]).swapaxes(0, 1)

        def add(total: Any, micro_batch: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, gradient(params, micro_batch)), None

        micro_batches = jax.tree.map(split, batch)
        shapes = jax.eval_shape(gradient, params, jax.tree.map(lambda x: x[0], micro_batches))
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zero, micro_batches)[0]


def _bytes(program: _Program) -> int:
    memory: Any = program.compiled.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes
