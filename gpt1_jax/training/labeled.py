"""The labeled examples that fine-tuning reads, and the tokenizer that it reads them with."""

import dataclasses
import hashlib
from dataclasses import dataclass

import numpy as np

from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.run import Run
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.encoding import ScoreForm, encode_examples
from gpt1_jax.tasks.reading import TaskData, read_task
from gpt1_jax.tasks.summary import describe_labels, describe_loss
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.kept import kept_task, kept_tokenizer, sound_tokenizer
from gpt1_jax.training.session import Session, check_table
from gpt1_jax.training.transfer import check_start
from gpt1_jax.wording import counted


@dataclass(frozen=True, eq=False)
class Labeled:
    """A task's examples, as texts and as tokens.

    Attributes:
        tokenizer: the run's.
        data: the task, and its examples by split.
        encoded: the same as tokens, by split.
        scores: how scores are learned.
        context_length: C of the model.
    """

    tokenizer: Tokenizer
    data: TaskData
    encoded: dict[str, EncodedExamples]
    scores: ScoreForm
    context_length: int

    @property
    def task(self) -> Task:
        """The task."""
        return self.data.task

    @property
    def contents(self) -> dict[str, str]:
        """What identifies the examples: a run goes on with no others."""
        names = {"text": "train", "validation": "validation"}
        return {name: _fingerprint(self.encoded[split]) for name, split in names.items()}

    def count(self) -> str:
        """Returns words on how many examples there are."""
        train, validation, test = (len(self.data.splits()[name]) for name in ("train", "validation", "test"))
        examples = counted(train, "example")
        return f"{self.task.name}, {examples} to train on, {validation:,} to validate on, {test:,} to test on"

    def describe(self) -> list[str]:
        """Returns sentences on the labels, and on what is lost of the examples."""
        data = self.data
        about = [
            *describe_labels(data.task, data.train, data.validation),
            *describe_loss(self.tokenizer, data.train),
        ]
        cut = [
            f"{split}: {line}"
            for split, examples in self.encoded.items()
            for line in examples.describe_cut(self.context_length)
        ]
        return [*(f"{data.task.name}: {line}" for line in about), *cut]


def read_labeled(config: Config, session: Session) -> Labeled:
    """Reads and tokenizes the examples of a fine-tuning, on all hosts.

    Raises:
        UserError: the data, or the run to start from, is missing or does not fit.
    """
    settings, init_from, model = config.finetune, config.init_from, config.model
    assert settings is not None and init_from is not None

    def read() -> tuple[Tokenizer, TaskData]:
        tokenizer = _open_tokenizer(config.data.tokenizer, session.run, init_from)
        if not Checkpoints(session.run.checkpoints).steps():
            check_start(config, init_from, tokenizer)
        check_table(tokenizer, session.mesh)
        return tokenizer, read_task(settings, config.data, kept_task(session.run))

    tokenizer, data = hosts.first_then_others(read)
    data = dataclasses.replace(data, train=draw_examples(data.train, settings.max_examples, config.seed))

    def encode() -> dict[str, EncodedExamples]:
        return {
            split: encode_examples(
                data.task, examples, tokenizer, model.context_length, settings.scores, model.causal
            )
            for split, examples in data.splits().items()
        }

    return Labeled(tokenizer, data, hosts.together(encode), settings.scores, model.context_length)


def draw_examples(examples: list[Example], count: int, seed: int) -> list[Example]:
    """Returns `count` of the examples, in their order; all of them if it is 0 or not below their number."""
    if not 0 < count < len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[i] for i in np.sort(chosen)]


def _open_tokenizer(name: str, run: Run, init_from: str) -> Tokenizer:
    """Opens the tokenizer of the run to resume or to start from, unless `data.tokenizer` names a file of its own."""
    if (kept := kept_tokenizer(run, name)) is not None:
        return kept
    start = Run(init_from, "init_from")
    if name != start.config().data.tokenizer:
        named = open_tokenizer(name)
        if named is not None:
            return named
    return sound_tokenizer(start)


def _fingerprint(examples: EncodedExamples) -> str:
    digest = hashlib.sha256()
    for part in (examples.tokens, examples.offsets, examples.labels):
        digest.update(part.tobytes())
    return digest.hexdigest()
