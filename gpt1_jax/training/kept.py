"""What a run keeps of its data, and reads again: its tokenizer, its text, its task."""

from collections.abc import Callable
from contextlib import suppress

from gpt1_jax.config import DataConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.tokenizers.opening import Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Task


def sound_tokenizer(run: Run) -> Tokenizer:
    """The tokenizer of a run, which must be the one it was begun with.

    Raises:
        UserError: it is no run, or the tokenizer's files are missing, damaged or others.
    """
    run.config()
    found = load_tokenizer(run.tokenizer)
    known = run.identity().get("tokenizer")
    if known not in (None, found.fingerprint()):
        raise UserError(
            f"{run.tokenizer} is damaged: it is not the tokenizer that the run was begun with; restore it from a "
            "copy, or run the training command again, which makes it again."
        )
    return found


def kept_tokenizer(run: Run, name: str) -> Tokenizer | None:
    """A run's own copy of the tokenizer that `data.tokenizer` names, so that the original may be replaced or gone.

    None where no run was begun yet, another tokenizer is named now, or the copy is damaged.
    """
    if run.exists() and run.config().data.tokenizer == name:
        with suppress(UserError):
            return sound_tokenizer(run)
    return None


def open_corpus(
    data: DataConfig, run: Run, init_from: str | None, progress: Callable[[str], None] | None = None
) -> corpora.Corpus:
    """The tokenized text a run reads, made now or found in the cache.

    The run's own copy of its tokenizer serves, whatever became of the file, or of the text that it was trained on.

    Args:
        data: what the config names.
        run: begun or not.
        init_from: the run that this one starts from.
        progress: gets lines on the work.

    Raises:
        UserError: as `corpora.prepare`.
    """
    trained = data.tokenizer == "sentencepiece"
    tokenizer = kept_tokenizer(run, data.tokenizer)
    if trained and init_from is not None:
        # The parameters know no other.
        tokenizer = tokenizer or sound_tokenizer(Run(init_from, "init_from"))
    elif trained and tokenizer is not None and corpora.is_prepared(data, tokenizer):
        # It is found under the name it was made by: by training, not with a tokenizer at hand.
        tokenizer = None
    return corpora.prepare(data, tokenizer, progress)


def kept_task(run: Run) -> Task | None:
    """The task of a run that goes on, whose classes keep their numbers; None where it has to be found again."""
    try:
        return Task.from_dict(run.read_file("task.json") or {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
