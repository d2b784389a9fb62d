"""Fine-tuning as the authors' own program does it, openai/finetune-transformer-lm, to the letter.

    python -m gpt1_jax.main --config=configs/finetune_authors.py:TASK --config.init_from=RUN --workdir=RUN2

TASK is one of those of configs/finetune.py, whose setting this is but for the switches below. docs/fidelity.md has a
row for each, with the line of the program and what it is worth.
"""

import runpy
from dataclasses import replace
from pathlib import Path

from ml_collections import ConfigDict

from gpt1_jax.config import Config, to_config_dict
from gpt1_jax.tasks.catalog import find_task

# Found beside this file, which may lie in a package or in a directory of configs.
_FINETUNE = runpy.run_path(str(Path(__file__).with_name("finetune.py")))


def authors(task: str) -> Config:
    """The program's way where configs/finetune.py has another.

    python -m gpt1_jax.main --config=configs/finetune_authors.py:TASK --config.init_from=RUN --workdir=RUN2
    """
    config: Config = _FINETUNE["setting_of"](task)
    assert config.finetune is not None
    return replace(
        config,
        model=replace(config.model, embedding_dropout_form="matrix", dtype="float32"),
        train=replace(config.train, eval_every=-1),
        finetune=replace(
            config.finetune, select="best", batching="shuffled", remainder="dropped", softmax="authors"
        ),
    )


def get_config(task: str = "") -> ConfigDict:
    """Returns the setting of a task.

    Raises:
        UserError: there is no task of that name.
    """
    find_task(task, named="--config=configs/finetune_authors.py:")
    return to_config_dict(authors(task))
