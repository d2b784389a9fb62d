"""Training steps beside PyTorch: python -m benchmarks.training [--preset=tiny].

It needs torch and transformers. All sides have the same random weights, batches and AdamW, in float32 with dropout.
First, five steps without dropout check that all have the same losses. Rounds are interleaved, after one that warms up.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from benchmarks.settings import batches, settings
from gpt1_jax.config import Config
from gpt1_jax.door import door
from gpt1_jax.errors import Fault, UserError
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
    from benchmarks.timing import conclude, measure

    config = settings(_PRESET.value, _BATCH.value)
    rows, length = config.train.batch_size, config.model.context_length
    check(config, _SIDES.value)
    sides = {name: _many(make_step(name, config), config) for name in _SIDES.value}
    found = measure(sides, _ROUNDS.value, rows * length * _STEPS.value, "tokens")
    for row in found:
        print(row)
    conclude(
        preset=_PRESET.value, batch=rows, context=length, rows=[dataclasses.asdict(row) for row in found]
    )


def check(config: Config, names: list[str]) -> None:
    """Checks that all sides have the same losses in some steps without dropout.

    Raises:
        Fault: they differ.
    """
    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **dropouts))
    losses = {}
    for name in names:
        step = make_step(name, config)
        losses[name] = [
            step(*batch) for batch, _ in zip(batches(config), range(_CHECKED_STEPS), strict=False)
        ]
        print(f"{name:16} without dropout: loss {', '.join(f'{loss:.4f}' for loss in losses[name])}")
    for name, found in losses.items():
        if not np.allclose(found, losses[names[0]], rtol=_TOLERANCE, atol=0):
            raise Fault(
                f"The sides {names[0]} and {name} have different losses, so they are not the same model."
            )


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


def _many(step: Step, config: Config) -> Callable[[], Any]:
    source = batches(config)

    def steps() -> None:
        for _ in range(_STEPS.value):
            step(*next(source))

    return steps


if __name__ == "__main__":
    use_huge_pages()
    door(main)
