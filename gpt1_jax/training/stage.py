"""What a stage puts into the loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """What a stage puts into the loop.

    Fields:
        kind: "pretrain" or "finetune", and `task` a task's name: told in results.json.
        rows: (step, start, stop) → those rows of the step's global batch, as NumPy.
        evaluate: parameters → held-out metrics.
        score: the metric of `evaluate` by which the best is told: a loss, or else the higher the better.
        tokens_per_step, flops_per_token: what a step costs on average, for the speed figures.
        positive_label: the class whose F1 is reported, where there is one.
        sample: parameters → a text to look at after each evaluation; None for none.
    """

    kind: str
    task: str | None
    rows: Callable[[int, int, int], Any]
    evaluate: Callable[[Any], dict[str, float]]
    score: str
    tokens_per_step: float
    flops_per_token: float
    positive_label: str | None = None
    sample: Callable[[Any], str] | None = None
