"""What a stage of training puts into the loop."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any

from gpt1_jax.training.state import State


@dataclass(frozen=True)
class Stage:
    """What a stage of training gives to the loop, besides the trainer.

    Attributes:
        kind: "pretrain" or "finetune", and `task` a task's name: both go into results.json.
        start: returns the state of a new run.
        rows: (step, start, stop) → those rows of the step's global batch, as NumPy.
        sample_rows: step → some rows with the shape of that step's batch.
        evaluate: parameters → held-out metrics.
        score: the metric of `evaluate` that decides the best: a loss, or one where higher is better.
        record: step → writes into the run directory what the steps after it are trained with.
        parameters: the number of parameters in use.
        tokens_per_step, flops_per_token: the mean costs of a step, for the speed figures.
        data, model, weights: words on what is read, on what learns, and on where a new run's parameters come from.
        loss: words on the parts of the loss, if there are any.
        seconds_per_step: what a step is expected to take, if that is known.
        early: steps that are evaluated besides those of `train.eval_every`.
        lines: printed before the first step.
        positive_label: the class whose F1 is reported, if there is one.
        sample: parameters → a prompt and its continuation, to look at after each evaluation, or None.
    """

    kind: str
    task: str | None
    start: Callable[[], State]
    rows: Callable[[int, int, int], Any]
    sample_rows: Callable[[int], Any]
    evaluate: Callable[[Any], dict[str, float]]
    score: str
    parameters: int
    tokens_per_step: float
    flops_per_token: float
    record: Callable[[int], None] = lambda step: None
    data: str = ""
    model: str = ""
    weights: str = ""
    loss: str = ""
    seconds_per_step: float | None = None
    early: Set[int] = frozenset()
    lines: Sequence[str] = ()
    positive_label: str | None = None
    sample: Callable[[Any], tuple[str, str]] | None = None
