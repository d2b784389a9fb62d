"""Measures a finished run: on text, on its task, or on a task of which it saw no example."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gpt1_jax.arguments import Step
from gpt1_jax.config import DataConfig
from gpt1_jax.errors import UserError
from gpt1_jax.model.output import check_continues
from gpt1_jax.run import Run
from gpt1_jax.tasks import lambada
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.prompts import Ask, read_template, with_shots
from gpt1_jax.tasks.reading import read_split
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.summary import describe_judged
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.tasks.zero_shot import best_threshold, check_plain, choose_answers, encode_queries, plain_ask
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import perplexity
from gpt1_jax.training.predicting import make_guess, make_score
from gpt1_jax.usage import evaluating
from gpt1_jax.usage.bar import bar
from gpt1_jax.usage.labeling import predict_examples
from gpt1_jax.usage.notices import warn_once
from gpt1_jax.usage.trained import TrainedRun


def evaluate(workdir: str, source: str | None, step: Step | None) -> dict[str, float]:
    """Measures a run, see `evaluating.evaluate`.

    Args:
        workdir: the run directory.
        source: what to measure it on; None means its own held-out part.
        step: the checkpoint, as `load` takes it.

    Raises:
        UserError: there is no run or no checkpoint, or the source has nothing suitable.
    """
    return evaluating.evaluate(TrainedRun(workdir, step), source)


class Prompting(NamedTuple):
    """How the examples of a zero-shot task are asked.

    Attributes:
        template: the path of a template; None means the task's own form.
        shots: how many solved examples come before each.
    """

    template: str | None = None
    shots: int = 0


NO_PROMPTING = Prompting()


def zero_shot(
    workdir: str,
    task_name: str,
    source: str | None,
    step: Step | None,
    prompting: Prompting = NO_PROMPTING,
) -> dict[str, float]:
    """Scores a task whose labels the language model has never seen (the paper's section 5), or GLUE's diagnostics.

    Only the threshold of cola is fitted, on its training split, and only where there is no template.

    Args:
        workdir: the run directory.
        task_name: cola, sst2, dprd, lambada or a multiple-choice task; with a template any task with classes too; or
            ax, which the head of a run that was fine-tuned on mnli predicts.
        source: `tfds` or `files:DIR`; None means `tfds`, or `demo` for an embedded task.
        step: the checkpoint, as `load` takes it.
        prompting: how it is asked.

    Returns:
        "step", and what `score_predictions` returns for the validation split; for lambada `_last_words`.

    Raises:
        UserError: there is no run or no checkpoint, the task has no zero-shot form, or the source has no data.
    """
    trained = TrainedRun(workdir, step)
    data = dataclasses.replace(
        trained.config.data, source=source or ("demo" if task_name in DEMO_TASKS else "tfds")
    )
    if task_name == "ax" and prompting == NO_PROMPTING:
        return {"step": trained.step, **_diagnose(trained, data)}
    check_continues(trained.config.model, f"--zero_shot={task_name}")
    if task_name == lambada.NAME:
        if prompting != NO_PROMPTING:
            raise UserError(
                "--zero_shot=lambada continues passages as they are; leave out --prompt_template and --shots."
            )
        return {"step": trained.step, **_last_words(trained, data)}
    task = find_task(task_name, named="--zero_shot=")
    ask = _make_ask(task, data, prompting)
    rank = make_score(trained.trunk, trained.mesh)

    def measure(examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
        queries = _encode(trained, [ask(task, example) for example in examples])
        with trained.on_mesh(), bar("measuring") as watch:
            found = rank(trained.trunk_params, queries, None, watch)
        return np.concatenate(found), queries.labels

    validation = _read_judged(task, data)
    found, counts = measure(validation)
    if task.name == "cola" and prompting.template is None:
        train = read_split(task, data, "train")
        likelihoods, lengths = measure(train)
        threshold = best_threshold((likelihoods / lengths)[:, 0], np.array([x.label for x in train]))
        predictions = ((found / counts)[:, 0] > threshold).astype(int)
    else:
        predictions = choose_answers(task, found, counts)
    return {"step": trained.step, **score_predictions(task, predictions, validation)}


def _diagnose(trained: TrainedRun, data: DataConfig) -> dict[str, float]:
    """Returns the scores of GLUE's diagnostics, as the head of a run with mnli's classes predicts them."""
    task, own = find_task("ax"), trained.task
    if own is None or (own.kind, own.labels) != (task.kind, task.labels):
        of = "not fine-tuned" if own is None else f"fine-tuned on {own.name}"
        raise UserError(
            f"--zero_shot=ax is predicted by a run fine-tuned on mnli, and {trained.run.directory} was {of}; name "
            "another with --workdir."
        )
    examples = _read_judged(task, data)
    with bar("measuring") as watch:
        predictions = predict_examples(trained, examples, watch)
    return score_predictions(task, predictions, examples)


def _read_judged(task: Task, data: DataConfig) -> list[Example]:
    """Returns the validation split, and warns of what is odd about it."""
    examples = read_split(task, data, "validation")
    if not examples:
        raise UserError(
            f"--source={data.source} has no labeled example of {task.name} to score; name a source that has one."
        )
    for line in describe_judged(task, examples, "scored examples"):
        warn_once(line)
    return examples


def _make_ask(task: Task, data: DataConfig, prompting: Prompting) -> Ask:
    """Returns how the examples of a task are put into words."""
    ask: Ask = plain_ask
    if prompting.template is not None:
        ask = read_template(prompting.template, task)
    else:
        check_plain(task)
    if not prompting.shots:
        return ask
    if task.name == "cola" and prompting.template is None:
        raise UserError("--shots is for answers, and cola has none of its own; add --prompt_template=FILE.")
    return with_shots(ask, task, read_split(task, data, "train"), prompting.shots)


def _encode(trained: TrainedRun, queries: Sequence[Sequence[tuple[str, str]]]) -> EncodedExamples:
    length = trained.config.model.context_length
    encoded = encode_queries(queries, trained.tokenizer, length)
    for line in encoded.describe_cut(length):
        warn_once(line)
    return encoded


def _last_words(trained: TrainedRun, data: DataConfig) -> dict[str, float]:
    """Returns how the last words of LAMBADA are guessed.

    Returns:
        "accuracy": the share of words whose pieces are each the most probable; "accuracy_without_stop_words": the same
        if the first piece may not be a stop word; "perplexity" of the words; "examples" counted.
    """
    passages = lambada.read_passages(data)
    guess = make_guess(trained.trunk, trained.mesh, lambada.stop_pieces(trained.tokenizer))
    queries = _encode(trained, [[passage] for passage in passages])
    with trained.on_mesh():
        chances, right, filtered = guess(trained.trunk_params, queries).T
    return {
        "accuracy": float(right.mean()),
        "accuracy_without_stop_words": float(filtered.mean()),
        "perplexity": perplexity(-float(chances.mean(dtype=np.float64))),
        "examples": len(passages),
    }


def checkpoint_steps(workdir: str, steps: str) -> Sequence[Step | None]:
    """Returns what --steps names: "" is the run's own choice, "all" are all steps, numbers stand for themselves.

    Raises:
        UserError: --steps has another form.
    """
    run = Run(workdir)
    run.config()
    if not steps:
        return [None]
    if steps == "all":
        return Checkpoints(run.checkpoints).steps()
    try:
        return [int(step) for step in steps.split(",")]
    except ValueError:
        raise UserError(f"--steps={steps} is not a list of steps; write all, or such as 500,1000.") from None
