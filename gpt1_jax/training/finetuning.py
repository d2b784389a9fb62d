"""Stage two of the paper: a pre-trained run and a labeled task in, a run directory with a scored classifier out."""

from dataclasses import replace
from typing import Any

import jax

from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices.hosts import tell
from gpt1_jax.model.heads import Classifier
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.run import Run
from gpt1_jax.tasks.batches import TaskBatches
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.grouping import Grouping
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.training.answers import Answer, make_answer, select_answering, write_answers
from gpt1_jax.training.ending import next_after_finetuning
from gpt1_jax.training.labeled import Labeled, read_labeled
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.outlook import look_ahead
from gpt1_jax.training.plan import describe_model, expect_seconds, make_plan
from gpt1_jax.training.prepared import Prepared
from gpt1_jax.training.session import Session, early_evaluations, open_session, settle
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer
from gpt1_jax.training.transfer import load_trunk, transfer
from gpt1_jax.wording import counted


def finetune(config: Config, workdir: str, check: bool = False) -> dict[str, Any]:
    """Fine-tunes in the run directory `workdir`, resuming from its newest checkpoint if it has one.

    Leaves scores, predictions and checkpoints behind.

    Args:
        config: the settings.
        workdir: the run directory.
        check: whether to end before the training begins; then nothing is written.

    Returns:
        What `make_plan` returns.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        UserError: something is wrong with the config, the task's data or the directories.
        Diverged, DivergedAgain: too many steps in a row were not finite.
    """
    settings = config.finetune
    assert settings is not None

    session = open_session(config, workdir)
    run, mesh = session.run, session.mesh
    labeled = read_labeled(config, session)
    tokenizer, encoded = labeled.tokenizer, labeled.encoded["train"]
    grouping = Grouping(settings.batching, settings.remainder, config.train.batch_size)
    batches = TaskBatches(encoded, grouping, seed=config.seed, num_widths=settings.widths)
    early = early_evaluations(config.train, batches.steps_per_epoch)
    config = replace(config, train=settle(config.train, batches.steps_per_epoch))

    model = make_classifier(config.model, settings, labeled.task, tokenizer.vocab_size)
    memory = check_memory(model, config.model, config.train, mesh, batches.widths[-1] * encoded.sequences)
    warnings = look_ahead(config.optimizer, config.train.num_steps, run)
    regression = labeled.task.score_range is not None and settings.scores == "regression"
    objective = finetuning_loss(model, settings.auxiliary_weight, regression, settings.softmax)
    trainer = Trainer.make(model, objective, mesh, config.optimizer, config.train)
    answer = make_answer(model, mesh, labeled, config.train.rows)
    stage = replace(
        _make_stage(config, session, labeled, batches, trainer, answer),
        loss=_describe_loss(config, model),
        early=early,
        lines=[*labeled.describe(), *warnings],
    )

    plan = make_plan(stage, trainer, config.train, run, memory, warnings)
    files = {"task.json": labeled.task.to_dict()}
    prepared = Prepared(run, config, stage, trainer, plan, labeled.contents, tokenizer, files)
    if check:
        prepared.check()
        return plan
    final = prepared.train()
    write_answers(run, answer, labeled, mesh, *select_answering(run, settings, trainer, final))
    tell(next_after_finetuning(run))
    return plan


def _make_stage(
    config: Config, session: Session, labeled: Labeled, batches: TaskBatches, trainer: Trainer, answer: Answer
) -> Stage:
    """Returns what the loop trains."""
    task, pieces = labeled.task, labeled.tokenizer.vocab_size
    parameters = parameter_count(trainer.abstract.params, pieces + SPECIALS)
    tokens_per_step = labeled.encoded["train"].tokens.size / batches.steps_per_epoch
    flops_per_token = training_flops_per_token(config.model, pieces)
    flops = tokens_per_step * flops_per_token
    return Stage(
        kind="finetune",
        task=task.name,
        start=lambda: _start(config, trainer, labeled.tokenizer),
        rows=batches.rows,
        sample_rows=batches.sample,
        evaluate=lambda params: score_predictions(
            task, answer(params, "validation").predictions, labeled.data.validation
        ),
        score=task.metrics[0],
        parameters=parameters,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token,
        data=labeled.count(),
        model=describe_model(config.model, parameters, session.attention),
        weights=_describe_weights(config),
        seconds_per_step=expect_seconds(session.run, config.model, session.mesh, flops),
        positive_label=task.counted_class,
    )


def _start(config: Config, trainer: Trainer, tokenizer: Tokenizer) -> State:
    """Returns a new state whose trunk has what `num_transfer_layers` takes from another run."""
    assert config.finetune is not None and config.init_from is not None
    blocks = config.finetune.num_transfer_layers
    state = trainer.init(config.seed)
    if blocks == -1:
        return state
    fresh, like = state.params["trunk"], trainer.abstract.params["trunk"]
    trunk = transfer(
        fresh, load_trunk(Run(config.init_from, "init_from"), like, tell), tokenizer.vocab_size, blocks
    )
    trunk = jax.device_put(trunk, jax.tree.map(lambda leaf: leaf.sharding, like))
    return state._replace(params={**state.params, "trunk": trunk})


def _describe_weights(config: Config) -> str:
    """Returns words on where the parameters of a new run come from."""
    assert config.finetune is not None
    taken = config.finetune.num_transfer_layers
    if taken == -1:
        return f"drawn at random, seed {config.seed}"
    part = {None: "those", 0: "the embeddings"}.get(taken, f"the lowest {counted(taken or 0, 'layer')}")
    return f"{part} of {config.init_from}; what is new is drawn at random, seed {config.seed}"


def _describe_loss(config: Config, model: Classifier) -> str:
    """Returns words on the parts of the loss, or nothing if it has one."""
    assert config.finetune is not None
    weight = config.finetune.auxiliary_weight
    if not weight or not config.model.causal or model.head is None:
        return ""
    return f"L2 (the task's) + {weight:g} · L1 (the language model's)"
