"""A training that is ready to begin: it is checked by --check, or made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices.hosts import tell
from gpt1_jax.run import Run
from gpt1_jax.training.loop import train
from gpt1_jax.training.plan import introduce
from gpt1_jax.training.session import check_run, open_run
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer


@dataclass(frozen=True)
class Prepared:
    """All that a training needs. Nothing is written yet but the tokens of its text.

    Attributes:
        run: the run directory.
        config: the settled config.
        stage, trainer: what is trained on, and what trains.
        plan: what `make_plan` returns.
        contents, tokenizer, files: what a new run begins with, see `open_run`.
    """

    run: Run
    config: Config
    stage: Stage
    trainer: Trainer
    plan: dict[str, Any]
    contents: Mapping[str, str]
    tokenizer: Tokenizer
    files: Mapping[str, Any]

    def check(self) -> None:
        """Says what the training would do, and writes nothing.

        Raises:
            UserError: the run in the directory cannot go on like this.
        """
        check_run(self.run, self.config, self.contents, self.tokenizer)
        for line in introduce(self.stage, self.trainer, self.config.train, self.run, self.plan["step"]):
            tell(line)

    def train(self) -> State:
        """Trains in the run directory, from its newest checkpoint if it has one; see `loop.train`."""
        opened = open_run(self.run, self.config, self.contents, self.tokenizer, self.files)
        stage = replace(self.stage, record=opened.record, lines=[*self.stage.lines, *opened.lines])
        return train(stage, self.trainer, self.config.train, self.run)
