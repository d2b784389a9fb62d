"""The common form of all formats: a language model's parameters under our names, a layer at a time.

Letters: D width, N outputs of a head.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gpt1_jax.config import Config, ModelConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.families import family_of
from gpt1_jax.interop.family import Family, TensorPlace
from gpt1_jax.run import Run
from gpt1_jax.tasks.task import Task
from gpt1_jax.training.entries import read_entries
from gpt1_jax.wording import counted


@dataclass(frozen=True, eq=False)
class TaskHead:
    """What fine-tuning added to the language model.

    Attributes:
        task: the task, whose labels the outputs stand for.
        specials: float32 [3, D], the embeddings of start, delimiter and extract; [0, D] of a model that reads both
            ways, around whose texts stand pieces of its tokenizer.
        kernel, bias: float32 [D, N] and [N]; N is 0 for completion, which has no head but its specials.
        dropout_rate: the rate of dropout on the state that the head reads.
    """

    task: Task
    specials: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    dropout_rate: float


@dataclass(frozen=True)
class Origin:
    """Where a model was read from.

    Attributes:
        run: the run directory.
        step: the step of the checkpoint.
    """

    run: Run
    step: int

    @cached_property
    def config(self) -> Config:
        """The run's config."""
        return self.run.config()

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return Path(self.run.directory).resolve().name

    @property
    def data(self) -> str:
        """What the run was trained on: the name of its task, or its source."""
        task = None if self.config.finetune is None else self.config.finetune.task
        return self.config.data.source if task in (None, "custom") else task

    def scores(self) -> dict[str, Any]:
        """Returns what the run's evaluation of the step says, with the "interval" if there is one; maybe nothing."""
        entries, _ = read_entries(self.run.directory / "metrics.jsonl", self.step)
        found: dict[str, Any] = {}
        for entry in entries:
            if entry.values["kind"] == "eval" and entry.values["step"] == self.step:
                found = {
                    name: value
                    for name, value in entry.values.items()
                    if name != "step" and isinstance(value, int | float)
                }
        predictions = self.run.results().get("predictions")
        if found and isinstance(predictions, dict) and predictions.get("step") == self.step:
            found |= {name: predictions[name] for name in ("interval",) if name in predictions}
        return found


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A language model, whatever it was read from.

    Attributes:
        config: the sizes and dropout rates.
        weights: float32, our parameters by the keys of `family.TensorPlace`, without the padding of a trunk.
        tokenizer: says what the rows of the token table mean; a NoTokenizer if the files came without one.
        head: the head of a fine-tuned run.
        added: the names of added tokens, whose rows of the token table come after those of the tokenizer's pieces.
        origin: the run that it was read from; None for files of other programs.
    """

    config: ModelConfig
    weights: Mapping[str, np.ndarray]
    tokenizer: Tokenizer
    head: TaskHead | None = None
    added: Sequence[str] = ()
    origin: Origin | None = None

    @property
    def family(self) -> Family:
        """The family that the model belongs to."""
        return family_of(self.config)

    @property
    def rows(self) -> int:
        """The rows of the token table."""
        return len(self.weights["tokens"])

    def published(self) -> Iterator[tuple[TensorPlace, np.ndarray]]:
        """Yields the tensors as the family publishes them, in its order."""
        for place in self.family.places(self.config, self.rows):
            yield place, place.weight.published(self.weights[place.key])


def imported(config: ModelConfig) -> ModelConfig:
    """Returns the config of another program's model as a run has it: it computes in float32, like its weights.

    Raises:
        UserError: the width is not a multiple of the number of heads.
    """
    if config.d_model % config.num_heads:
        raise UserError(
            f"The width {config.d_model} does not divide into {counted(config.num_heads, 'head')}; set the number "
            "of heads that the model was trained with."
        )
    return dataclasses.replace(config, dtype="float32")


def check_finite(model: LanguageModel) -> None:
    """Checks that all tensors are finite.

    Raises:
        UserError: one holds infinity or NaN.
    """
    arrays, head = {place.name: array for place, array in model.published()}, model.head
    if head is not None:
        arrays |= {
            "the head's kernel": head.kernel,
            "the head's bias": head.bias,
            "a special token": head.specials,
        }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} holds numbers that are not finite; convert weights that were not damaged or diverged."
            )
