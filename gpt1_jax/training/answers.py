"""What a fine-tuned model answers: its predictions, their scores, and the files that keep them."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from gpt1_jax.config import FinetuneConfig
from gpt1_jax.devices import hosts
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import use
from gpt1_jax.model.heads import Classifier
from gpt1_jax.pages.page import write_page
from gpt1_jax.run import Run
from gpt1_jax.tasks.completions import complete
from gpt1_jax.tasks.frames import make_frame
from gpt1_jax.tasks.intervals import score_interval
from gpt1_jax.tasks.predictions import Predictions, predict, write_predictions
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.chosen import best_step, restore_chosen
from gpt1_jax.training.evaluation import make_generate
from gpt1_jax.training.judging import Outcome, judge
from gpt1_jax.training.labeled import Labeled
from gpt1_jax.training.predicting import make_predict
from gpt1_jax.training.showing import Showing
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer

# (parameters, split) → what the model says of the split.
Answer = Callable[[Any, str], Outcome]


def make_answer(model: Classifier, mesh: Mesh, labeled: Labeled, rows: int) -> Answer:
    """Returns the function that answers for a split, in batches of `rows` examples; call it under the mesh."""
    task, data = labeled.task, labeled.data
    outputs, generate = make_predict(model, mesh), make_generate(model, mesh)

    def answer(params: Any, split: str) -> Outcome:
        examples, encoded = data.splits()[split], labeled.encoded[split]
        if task.kind == "completion":
            frame = make_frame(labeled.tokenizer, causal=True)
            said = complete(examples, labeled.tokenizer, frame, labeled.context_length, generate(params))
            return Outcome(said, encoded, [])
        found = outputs(params, encoded, rows)
        predictions = predict(task, examples, encoded, found, labeled.tokenizer, labeled.scores)
        return Outcome(predictions, encoded, found)

    return answer


def write_answers(run: Run, answer: Answer, labeled: Labeled, mesh: Mesh, step: int, params: Any) -> None:
    """Writes what the parameters of a step predict: tables, scores and the page.

    Those of validation come last: with their scores in results.json, everything is written.
    """
    task, data = labeled.task, labeled.data
    directory = run.directory / "predictions"
    for split in ("test", "validation"):
        with use(mesh):
            outcome = answer(params, split)
        if hosts.first():
            write_predictions(directory, split, task, outcome.predictions, data.splits()[split])
            if split == "validation":
                _conclude(run, step, task, outcome.predictions, data.validation)
                judged = judge(step, task, labeled.scores, outcome, data.validation)
                Showing("the page report.html")(lambda judged=judged: write_page(run, judged))
    tell(f"{'tables':8} {directory}")


def select_answering(run: Run, settings: FinetuneConfig, trainer: Trainer, final: State) -> tuple[int, Any]:
    """Returns the step and the parameters that predict, see `finetune.select`."""
    last = int(final.step)
    best = best_step(run) if settings.select == "best" else last
    if best in (None, last):
        return last, final.params
    parts = {"step": trainer.abstract.step, "params": trainer.abstract.params}
    with use(trainer.mesh):
        restored = restore_chosen(run, parts, "best", tell)
    return int(restored["step"]), restored["params"]


def _conclude(run: Run, step: int, task: Task, predictions: Predictions, examples: list[Example]) -> None:
    """Tells the scores of the predictions, and adds them to results.json with the interval of the first metric."""
    scores = score_predictions(task, predictions, examples)
    found = {"step": step, **scores}
    told = {name: f"{name} {value:.4g}" for name, value in scores.items() if name != "examples"}
    if (interval := score_interval(task, predictions, examples)) is not None:
        low, high = interval
        found["interval"] = [low, high]
        told[task.metrics[0]] += f" (95 % interval: {low:.4g} to {high:.4g})"
    # A run that was stopped before its last evaluation may count as done, without results.
    if results := run.results():
        run.write_results(results | {"predictions": found})
    tell(f"{'score':8} {task.name}, step {step}: {', '.join(told.values())}")
