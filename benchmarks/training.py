"""Training steps beside PyTorch: python -m benchmarks.training [--preset=tiny].

It needs torch and transformers. All sides have the same random weights, batches and AdamW, in float32 with dropout, and
a process each, since they would slow each other down by what they leave in memory. First, five steps without dropout
check that all have the same losses. Then the processes take turns.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable

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
_SERVE = flags.DEFINE_string("serve", None, "be the process of this side, for the command itself")

Step = Callable[[np.ndarray, np.ndarray], float]  # (inputs, targets), int [B, T] → the loss before the update


def main(_: list[str]) -> None:
    """Prints a line for each side, then the same in JSON."""
    if unknown := set(_SIDES.value) - {*SIDES, "torch compiled"}:
        raise UserError(
            f"--sides={unknown.pop()} is not a side; choose of {', '.join(SIDES)}, torch compiled."
        )
    config = settings(_PRESET.value, _BATCH.value)
    if _SERVE.value is not None:
        _serve(_SERVE.value, config)
        return
    from benchmarks.timing import conclude, measure

    rows, length = config.train.batch_size, config.model.context_length
    sides = {name: _Side(name) for name in _SIDES.value}
    _compare_losses({name: side.losses for name, side in sides.items()})
    found = measure(sides, _ROUNDS.value, rows * length * _STEPS.value, "tokens")
    for side in sides.values():
        side.close()
    for row in found:
        print(row)
    conclude(
        preset=_PRESET.value, batch=rows, context=length, rows=[dataclasses.asdict(row) for row in found]
    )


class _Side:
    """A side in a process of its own; a call has it take the steps of a round.

    Attributes:
        losses: those of its first steps without dropout.
    """

    def __init__(self, name: str) -> None:
        """Starts the process.

        Raises:
            Fault: it ended.
        """
        command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], f"--serve={name}"]
        self._name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.losses: list[float] = json.loads(self._answer())

    def __call__(self) -> None:
        print(file=self._process.stdin)
        self._answer()

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        if not (answer := self._process.stdout.readline()):
            raise Fault(f"The process of {self._name} ended with {self._process.wait()}.")
        return answer


def _serve(name: str, config: Config) -> None:
    """Writes the losses of a side's first steps without dropout, then a line after each round; lines ask for these."""
    dropouts = {f"{place}_dropout": 0.0 for place in ("embedding", "attention", "residual")}
    step = make_step(name, dataclasses.replace(config, model=dataclasses.replace(config.model, **dropouts)))
    losses = [step(*batch) for batch, _ in zip(batches(config), range(_CHECKED_STEPS), strict=False)]
    step, source = make_step(name, config), batches(config)
    print(json.dumps(losses), flush=True)
    for _ in sys.stdin:
        for _ in range(_STEPS.value):
            step(*next(source))
        print(flush=True)


def _compare_losses(losses: dict[str, list[float]]) -> None:
    """Prints the losses of all sides.

    Raises:
        Fault: they differ.
    """
    first = next(iter(losses))
    for name, found in losses.items():
        print(f"{name:16} without dropout: loss {', '.join(f'{loss:.4f}' for loss in found)}", flush=True)
        if not np.allclose(found, losses[first], rtol=_TOLERANCE, atol=0):
            raise Fault(
                f"The sides {first} and {name} have different losses, so they are not the same model."
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


if __name__ == "__main__":
    use_huge_pages()
    door(main)
