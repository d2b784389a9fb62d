"""Answers questions about a finished or running pre-training: what it read, when, and whether it comes out again."""

from collections.abc import Iterator
from typing import Any, TypedDict

from gpt1_jax.arguments import check_text
from gpt1_jax.config import Config
from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.visits import Visit, count_documents, find_text, find_visits
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.entries import read_entries
from gpt1_jax.training.replay import Comparison, replay
from gpt1_jax.usage.evaluating import own_corpus


class RowText(TypedDict):
    """What a row of a step's batch was.

    Attributes:
        step: the step, from 1, as the log counts.
        row: the row, from 0.
        text, token_ids: what was read; each token was also the target of the one before it.
        document: the number, from 0, of the training document in which the row begins; None if the tokenizer does not
            mark where documents end.
    """

    step: int
    row: int
    text: str
    token_ids: list[int]
    document: int | None


class Audit:
    """A pre-trained run and the text that it was trained on, `corpus`."""

    def __init__(self, workdir: str) -> None:
        """Opens the run and its text.

        Raises:
            UserError: there is no run, it was fine-tuned or fills masks, or its text is not there any more.
        """
        self._run = Run(workdir)
        self._config: Config = self._run.config()
        if self._config.finetune is not None:
            raise UserError(
                f"{workdir} was fine-tuned, and only pre-training can be audited; name the run that it began with, "
                f"{self._config.init_from}."
            )
        if not self._config.model.causal:
            raise UserError(
                f"{workdir} fills masks (model.causal=False), and only runs that predict the next token can be "
                "audited; name one."
            )
        self.corpus: Corpus = own_corpus(self._config.data, self._run, self._config.init_from)
        self._batches = PretrainingBatches(
            self.corpus.train,
            seed=self._config.seed,
            batch_size=self._config.train.batch_size,
            context_length=self._config.model.context_length,
        )

    def rows(self, step: int) -> Iterator[RowText]:
        """Yields what each row of a step's batch was; a step that has not come yet will read what is told.

        Raises:
            UserError: no run has such a step.
        """
        last = self._config.train.num_steps
        if not 1 <= step <= last:
            raise UserError(f"--step={step} is no step of this run; name one from 1 to {last}.")
        size, tokenizer = self._batches.batch_size, self.corpus.tokenizer
        starts = self._batches.starts(step - 1, 0, size)
        documents: list[Any] = [None] * size
        if tokenizer.end_id is not None:
            documents = count_documents(self.corpus.train, tokenizer.end_id, starts).tolist()
        for row, (start, document) in enumerate(zip(starts.tolist(), documents, strict=True)):
            ids = self.corpus.train.read(start, start + self._batches.context_length).tolist()
            yield {
                "step": step,
                "row": row,
                "text": tokenizer.decode(ids),
                "token_ids": ids,
                "document": document,
            }

    def find(self, text: str) -> Iterator[Visit]:
        """Yields where a text was read in the steps that were made so far.

        A text that lies in two windows was read in two places.

        Raises:
            UserError: the text is empty, or the training text does not have it.
        """
        if not check_text(text, "--find"):
            raise UserError("--find is empty; give a text, such as --find='In the beginning'.")
        ranges = [*find_text(self.corpus.train, self.corpus.tokenizer, text)]
        if not ranges:
            held_out = next(find_text(self.corpus.validation, self.corpus.tokenizer, text), None)
            where = "only the held-out part has it" if held_out else "neither has the held-out part"
            raise UserError(f"--find={text:.60} is nowhere in the training text, and {where}; name another.")
        return find_visits(self._batches, ranges, self._done())

    def replay(self, span: str) -> Comparison:
        """Does the steps between two checkpoints again; `span` is such as 500:1000.

        Raises:
            UserError: the span is none, or as in `training.replay.replay`.
        """
        first, colon, last = span.partition(":")
        whole = colon and first.isdecimal() and last.isdecimal() and len(span) < 24
        if not whole or int(first) >= int(last):
            raise UserError(
                f"--replay={span:.60} is not a span of steps; write A:B with two checkpoints, such as 500:1000."
            )
        return replay(self._run, self.corpus, int(first), int(last))

    def _done(self) -> int:
        """Returns how many steps were made."""
        entries, _ = read_entries(self._run.directory / "metrics.jsonl", 2**31)
        steps = [0, *Checkpoints(self._run.checkpoints).steps(), *(entry.values["step"] for entry in entries)]
        return min(max(steps), self._config.train.num_steps)
