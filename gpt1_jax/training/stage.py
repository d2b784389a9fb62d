"""What a stage of training puts into the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpt1_jax.training.state import State


@dataclass(frozen=True)
class Stage:
    """What a stage puts into the loop, beside the trainer.

    Attributes:
        kind: "pretrain" or "finetune", and `task` a task's name: told in results.json.
        start: → the state that a new run begins with.
        rows: (step, start, stop) → those rows of the step's global batch, as NumPy.
        samples: some rows of each shape in which batches come.
        evaluate: parameters → held-out metrics.
        score: the metric of `evaluate` by which the best is told: a loss, or else the higher the better.
        record: step → writes into the run directory what the steps behind it are trained with.
        parameters: how many are in use.
        tokens_per_step, flops_per_token: what a step costs on average, for the speed figures.
        lines: told before the first step.
        positive_label: the class whose F1 is reported, where there is one.
        sample: parameters → a text to look at after each evaluation; None for none.
    """

    kind: str
    task: str | None
    start: Callable[[], State]
    rows: Callable[[int, int, int], Any]
    samples: Sequence[Any]
    evaluate: Callable[[Any], dict[str, float]]
    score: str
    record: Callable[[int], None]
    parameters: int
    tokens_per_step: float
    flops_per_token: float
    lines: Sequence[str] = ()
    positive_label: str | None = None
    sample: Callable[[Any], str] | None = None
