"""The parts of its data that a run keeps and reads again: its tokenizer, its text, its task."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from gpt1_jax.config import DataConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data import left_out
from gpt1_jax.data.left_out import NOTHING, LeftOut, left_out_of
from gpt1_jax.data.tokenizers.opening import TRAINED, Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Task

# Where a run keeps the examples that it was given in Python.
EXAMPLES = "examples"


def sound_tokenizer(run: Run) -> Tokenizer:
    """Loads the tokenizer of a run and checks that the run was begun with it.

    Raises:
        UserError: there is no run, or the tokenizer's files are missing, damaged or different.
    """
    run.config()
    found = load_tokenizer(run.tokenizer)
    known = run.identity().get("tokenizer")
    if known not in (None, found.fingerprint()):
        raise UserError(
            f"{run.tokenizer} is damaged: it is not the tokenizer that the run was begun with; restore it from a "
            "copy, or run the training command again, which restores it."
        )
    return found


def kept_tokenizer(run: Run, name: str) -> Tokenizer | None:
    """Loads a run's own copy of the tokenizer that `data.tokenizer` names, so that the original may change or vanish.

    The result is None if no run was begun yet, the config now names another tokenizer, or the copy is damaged.
    """
    if run.exists() and run.config().data.tokenizer == name:
        with suppress(UserError):
            return sound_tokenizer(run)
    return None


def open_corpus(
    data: DataConfig, run: Run, init_from: str | None, progress: Callable[[str], None] | None = None
) -> corpora.Corpus:
    """Returns the tokenized text that a run reads, made now or found in the cache.

    The run's own copy of its tokenizer is used, whatever became of the original or of the text it was trained on.

    Args:
        data: what the config names.
        run: the run, begun or not.
        init_from: the run that this one starts from.
        progress: receives lines on the work.

    Raises:
        UserError: as in `corpora.prepare`.
    """
    trained = data.tokenizer in TRAINED
    tokenizer = kept_tokenizer(run, data.tokenizer)
    if trained and init_from is not None:
        # The parameters fit no other tokenizer.
        tokenizer = tokenizer or sound_tokenizer(Run(init_from, "init_from"))
    elif trained and tokenizer is not None and corpora.is_prepared(data, tokenizer):
        # The corpus was made by training the tokenizer, not with one at hand, and is found under that name.
        tokenizer = None
    return corpora.prepare(data, tokenizer, progress)


def kept_examples(run: Run, data: DataConfig) -> DataConfig:
    """Returns the settings with the examples that a run was given in Python where they are now, if it was moved."""
    named = Path(data.source.removeprefix("files:"))
    tail = named.parts[named.parts.index(EXAMPLES) :] if EXAMPLES in named.parts else ()
    if not tail or named.exists() or not (run.directory.joinpath(*tail)).exists():
        return data
    return replace(data, source=f"files:{run.directory.joinpath(*tail)}")


def kept_left_out(run: Run, corpus: corpora.Corpus) -> LeftOut:
    """Returns the documents that a run leaves out, whatever became of the file that named them.

    Raises:
        UserError: the run's own file of their numbers is missing or damaged.
    """
    if "without" not in run.identity():
        return NOTHING
    end, found = corpus.tokenizer.end_id, run.read_file(left_out.NAME)
    if found is None or end is None:
        raise UserError(
            f"{run.directory / left_out.NAME} is missing or damaged; restore it from a copy, or run the training "
            "command again, which restores it."
        )
    return left_out_of(found["documents"], corpus.train, end)


def kept_task(run: Run) -> Task | None:
    """Returns the task of a resumed run, so that classes keep their numbers; None if it has to be found again."""
    try:
        return Task.from_dict(run.read_file("task.json") or {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def task_of(run: Run) -> Task | None:
    """Returns the task that a run was fine-tuned on; None for a pre-trained one.

    Raises:
        UserError: the file that describes the task is missing or damaged.
    """
    if run.config().finetune is None:
        return None
    task = kept_task(run)
    if task is None:
        raise UserError(
            f"{run.directory / 'task.json'} is missing or damaged; restore it from a copy, or run the fine-tuning "
            "command again, which restores it."
        )
    return task
