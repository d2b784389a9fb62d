"""Answers questions about a finished or running pre-training: what it read, when, and whether it comes out again."""

from collections.abc import Iterator
from typing import NotRequired, TypedDict

import numpy as np

from gpt1_jax.arguments import check_text
from gpt1_jax.config import Config
from gpt1_jax.data.batches import PretrainingBatches
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.left_out import Document, hash_text, walk_documents
from gpt1_jax.data.text_batches import TrainingBatches, training_batches
from gpt1_jax.data.visits import Visit, documents_in, find_text, find_visits
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.entries import read_entries
from gpt1_jax.training.kept import kept_left_out
from gpt1_jax.training.replay import Comparison, replay
from gpt1_jax.usage.bar import bar
from gpt1_jax.usage.evaluating import own_corpus

# So much of a document is shown.
_SHOWN = 60


class Part(TypedDict):
    """A document of which a row has something.

    Attributes:
        document: its number, from 0.
        position: the position in the row, from 0, of its first token there.
        hash: the SHA-256 of its text.
        left_out: whether its tokens count for nothing (`data.without`).
    """

    document: int
    position: int
    hash: str
    left_out: bool


class RowText(TypedDict):
    """What a row of a step's batch was.

    Attributes:
        step: the step, from 1, as the log counts.
        row: the row, from 0.
        text: what stands in the text there.
        token_ids: what was read. Of a model that predicts the next token, each was also the target of the one before
            it; one that fills masks read [CLS], the text with pieces hidden, and [SEP].
        document: the number, from 0, of the training document in which the row begins; None if the tokenizer does not
            mark where documents end.
        documents: all documents of the row; none if the tokenizer does not mark them.
        weight: the share of the row's loss that counts: 1, or less where documents are left out.
        hidden: of a model that fills masks, the positions in `token_ids` that were to be found, each with the id of
            the text.
    """

    step: int
    row: int
    text: str
    token_ids: list[int]
    document: int | None
    documents: list[Part]
    weight: float
    hidden: NotRequired[list[tuple[int, int]]]


class DocumentText(TypedDict):
    """A training document: its number, from 0, the SHA-256 of its text, its tokens, and how the text begins."""

    document: int
    hash: str
    tokens: int
    text: str


class Audit:
    """A pre-trained run and the text that it was trained on, `corpus`."""

    def __init__(self, workdir: str) -> None:
        """Opens the run and its text.

        Raises:
            UserError: there is no run, it was fine-tuned, or its text is not there any more.
        """
        self._run = Run(workdir)
        self._config: Config = self._run.config()
        if self._config.finetune is not None:
            raise UserError(
                f"{workdir} was fine-tuned, and only pre-training can be audited; name the run that it began with, "
                f"{self._config.init_from}."
            )
        self.corpus: Corpus = own_corpus(self._config.data, self._run, self._config.init_from)
        self._left_out = kept_left_out(self._run, self.corpus)
        self._batches: TrainingBatches = training_batches(
            self._config, self.corpus.tokenizer, self.corpus.train, self._left_out
        )
        batches = self._batches
        self._windows: PretrainingBatches = (
            batches if isinstance(batches, PretrainingBatches) else batches.windows
        )
        # What is before the text in a row: nothing, or [CLS].
        self._before = 0 if self._config.model.causal else 1

    def rows(self, step: int) -> Iterator[RowText]:
        """Yields what each row of a step's batch was; a step that has not come yet will read what is told.

        Raises:
            UserError: no run has such a step.
        """
        last = self._config.train.num_steps
        if not 1 <= step <= last:
            raise UserError(f"--step={step} is no step of this run; name one from 1 to {last}.")
        size, tokenizer = self._batches.batch_size, self.corpus.tokenizer
        batch = self._batches.rows(step - 1, 0, size)
        starts = self._windows.starts(step - 1, 0, size)
        stops = starts + self._windows.context_length
        documents: list[list[Document]] = [[] for _ in starts]
        if tokenizer.end_id is not None:
            # An end piece at the beginning is all that is left of a document of which nothing was to be found.
            documents = documents_in(self.corpus.train, tokenizer.end_id, np.stack([starts + 1, stops], 1))
        for row, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
            ids, parts = self.corpus.train.read(start, stop).tolist(), self._parts(start, documents[row])
            found: RowText = {
                "step": step,
                "row": row,
                "text": tokenizer.decode(ids),
                "token_ids": batch.tokens[row, 0].tolist(),
                "document": parts[0]["document"] if parts else None,
                "documents": parts,
                "weight": float(batch.weights[row].sum(dtype=np.float64)) * size,
            }
            if not self._config.model.causal:
                tokens, targets = batch.tokens[row, 0], batch.targets[row, 0]
                chosen = np.flatnonzero((batch.weights[row, 0] > 0) | (tokens != targets))
                found["hidden"] = list(zip(chosen.tolist(), targets[chosen].tolist(), strict=True))
            yield found

    def _parts(self, start: int, documents: list[Document]) -> list[Part]:
        """Returns what a row that begins at a place of the text has of its documents."""
        left_out = frozenset(self._left_out.numbers)
        return [
            {
                "document": document.number,
                "position": max(0, document.start - start) + self._before,
                "hash": hash_text(document.text(self.corpus.train, self.corpus.tokenizer)),
                "left_out": document.number in left_out,
            }
            for document in documents
        ]

    def find(self, text: str) -> Iterator[Visit]:
        """Returns where a text was read in the steps that were made so far, one after the other.

        A text that lies in two windows was read in two places.

        Raises:
            UserError: the text is empty, or the training text does not have it.
        """
        ranges = self._places(text)
        visits = find_visits(self._windows, ranges, self._done())
        return (visit._replace(position=visit.position + self._before) for visit in visits)

    def documents(self, text: str | None = None) -> Iterator[DocumentText]:
        """Yields the training documents, or those that have a text.

        Raises:
            UserError: the tokenizer does not mark where documents end; or as in `find`.
        """
        train, tokenizer = self.corpus.train, self.corpus.tokenizer
        if tokenizer.end_id is None:
            raise UserError(
                f"--documents: data.tokenizer={self._config.data.tokenizer} has no piece that ends a document, so they "
                "cannot be told apart."
            )
        places = None if text is None else iter([*self._places(text), (len(train), 0)])
        place = next(places)[0] if places else 0
        for document in walk_documents(train, tokenizer.end_id):
            if places is not None and place >= document.stop:
                continue
            while places is not None and place < document.stop:
                place = next(places)[0]
            whole = document.text(train, tokenizer)
            yield {
                "document": document.number,
                "hash": hash_text(whole),
                "tokens": document.stop - document.start - 1,
                "text": whole[:_SHOWN],
            }

    def _places(self, text: str) -> list[tuple[int, int]]:
        """Returns where in the training text a text stands."""
        if not check_text(text, "--find"):
            raise UserError("--find is empty; give a text, such as --find='In the beginning'.")
        ranges = [*find_text(self.corpus.train, self.corpus.tokenizer, text)]
        if not ranges:
            held_out = next(find_text(self.corpus.validation, self.corpus.tokenizer, text), None)
            where = "the training text; the held-out part has it" if held_out else "the text of the run"
            raise UserError(f"--find={text:.60} does not occur in {where}; name another, letter by letter.")
        return ranges

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
        with bar("replaying") as watch:
            return replay(self._run, self.corpus, int(first), int(last), watch)

    def _done(self) -> int:
        """Returns how many steps were made."""
        entries, _ = read_entries(self._run.directory / "metrics.jsonl", 2**31)
        steps = [0, *Checkpoints(self._run.checkpoints).steps(), *(entry.values["step"] for entry in entries)]
        return min(max(steps), self._config.train.num_steps)
