"""Fine-tuning, stage two of "Improving Language Understanding by Generative Pre-Training" (Radford et al., 2018).

    python -m gpt1_jax.main --config=configs/finetune.py:TASK --config.init_from=RUN --workdir=RUN2

RUN is a pre-trained run, which supplies architecture and tokenizer. Any key can be set after these flags, as in
--config.data.source=files:DIR. TASK is one of

    classification: cola, sst2, demo_genre
    entailment: mnli, qnli, rte, wnli, snli, scitail, demo_entailment
    similarity: mrpc, qqp, stsb, demo_same_verse
    multiple choice: race, race_middle, race_high, story_cloze, demo_next_verse
    tagging: conll2003, wnut17, ud_pos, demo_names
    span: squad, squad2, demo_span
    custom: your own files of the kind that --config.finetune.kind names: classification, entailment, similarity,
        choice, tagging, span or completion
"""

import dataclasses
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from gpt1_jax.config import (
    Config,
    DataConfig,
    FinetuneConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    to_config_dict,
)
from gpt1_jax.tasks.catalog import find_task

# The value is that of the run that init_from names; if it is set here, the two must agree.
FROM_INIT: Any = None


def paper(task: str) -> Config:
    """The paper's section 4.1 and the authors' openai/finetune-transformer-lm, for every task alike.

    python -m gpt1_jax.main --config=configs/finetune.py:TASK --config.init_from=RUN --workdir=RUN2

    Nothing was fine-tuned here from a model of the paper's size; docs/measured.md has the scores from `small`.
    """
    return Config(
        model=replace(
            ModelConfig(**{field.name: FROM_INIT for field in dataclasses.fields(ModelConfig)}),
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
        ),
        data=DataConfig(source="tfds", tokenizer=FROM_INIT, vocab_size=FROM_INIT),
        train=TrainConfig(
            num_epochs=3.0,
            batch_size=32,
            log_every=50,
            eval_every=0,
            eval_batches=0,
            checkpoint_every=0,
            keep_checkpoints=2,
        ),
        optimizer=OptimizerConfig(
            learning_rate=6.25e-5, schedule="linear", warmup_steps=0, warmup_fraction=0.002
        ),
        finetune=FinetuneConfig(task),
    )


def demo(task: str) -> Config:
    """The setting for models of the pre-training presets `tiny` and `small`, which learn at a higher rate.

    python -m gpt1_jax.main --config=configs/finetune.py:demo_same_verse --config.init_from=runs/pretrain-tiny

    On CPUs. From `tiny` it gets 90 % of demo_same_verse right, 63 % of demo_entailment and 64 % of demo_genre.
    """
    config = paper(task)
    return replace(
        config,
        data=replace(config.data, source="demo"),
        train=replace(config.train, batch_size=16),
        optimizer=replace(config.optimizer, learning_rate=1e-3, warmup_fraction=0.1),
    )


def setting_of(task: str) -> Config:
    """The setting for a task: `demo` for those of the demo text, `paper` for all others."""
    return demo(task) if task.startswith("demo_") else paper(task)


def get_config(task: str = "") -> ConfigDict:
    """Returns the setting of a task.

    Raises:
        UserError: there is no task of that name.
    """
    find_task(task, named="--config=configs/finetune.py:")
    return to_config_dict(setting_of(task))
