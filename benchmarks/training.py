"""Training steps beside PyTorch: python -m benchmarks.training [--preset=tiny].

It needs torch and transformers. All sides have the same random weights, batches and AdamW, in float32 with dropout, and
a process each, since they would slow each other down by what they leave in memory. First, five steps without dropout
check that all have the same losses. Then the processes take turns.
"""

import contextlib
import dataclasses
from collections.abc import Callable

import numpy as np
from absl import flags

from benchmarks.apart import SERVE, Apart, compare_losses, serve
from benchmarks.settings import batches, settings
from gpt1_jax.config import Config
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.huge_pages import use_huge_pages

SIDES = ("gpt1_jax", "transformers", "torch")
_CHECKED_STEPS = 5
_TOLERANCE = 2e-3

_PRESET = flags.DEFINE_string("preset", "", "a preset of configs/pretrain.py; by default the paper's")
_BATCH = flags.DEFINE_integer(
    "batch", 0, "rows a batch; by default the preset's, and 2 for the paper's model", 0
)
_SIDES = flags.DEFINE_list("sides", list(SIDES), f"of {', '.join(SIDES)}, torch compiled")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "rounds of timing", 1)
_STEPS = flags.DEFINE_integer("steps", 1, "steps in a round", 1)

Step = Callable[[np.ndarray, np.ndarray], float]  # (inputs, targets), int [B, T] → the loss before the update


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    if unknown := set(_SIDES.value) - {*SIDES, "torch compiled"}:
        raise UserError(
            f"--sides={unknown.pop()} is not a side; choose of {', '.join(SIDES)}, torch compiled."
        )
    config = settings(_PRESET.value, _BATCH.value)
    if SERVE.value is not None:
        _serve(SERVE.value, config)
        return
    from benchmarks.timing import conclude, measure

    rows, length = config.train.batch_size, config.model.context_length
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(Apart("benchmarks.training", name)) for name in _SIDES.value}
        compare_losses({name: side.ready for name, side in sides.items()}, _TOLERANCE)
        found = measure(sides, _ROUNDS.value, rows * length * _STEPS.value, "tokens")
    for row in found:
        print(row)
    conclude(
        preset=_PRESET.value, batch=rows, context=length, rows=[dataclasses.asdict(row) for row in found]
    )


def _serve(name: str, config: Config) -> None:
    """Is the process of a side, which is ready with the losses of its first steps without dropout."""
    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    step = make_step(name, dataclasses.replace(config, model=dataclasses.replace(config.model, **dropouts)))
    losses = [step(*batch) for batch, _ in zip(batches(config), range(_CHECKED_STEPS), strict=False)]
    step, source = make_step(name, config), batches(config)
    serve(losses, lambda: [step(*next(source)) for _ in range(_STEPS.value)])


def make_step(name: str, config: Config, same: bool = True) -> Step:
    """Returns a side's training step; `same` gives it the weights that ours begins with."""
    if name == "gpt1_jax":
        from benchmarks.ours import Training  # each side late: none is charged with another's libraries

        return Training(config)
    from benchmarks import peers

    peers.check_devices()
    make = peers.make_transformers if name == "transformers" else peers.TorchGPT
    model = make(config.model, config.data.vocab_size)
    if same:
        from benchmarks.ours import initial_weights

        peers.load_named(model, initial_weights(config))
    return peers.make_torch_step(model.train(), config.optimizer, compiled=name == "torch compiled")


if __name__ == "__main__":
    use_huge_pages()
    door(main)
