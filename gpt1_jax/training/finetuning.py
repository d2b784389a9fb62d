"""Stage two of the paper: a pre-trained run and a labeled task in, a run directory with a scored classifier out."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from gpt1_jax.config import Config, FinetuneConfig
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import use
from gpt1_jax.model.specials import SPECIALS
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.pages.page import write_page
from gpt1_jax.run import Run
from gpt1_jax.tasks.batches import TaskBatches
from gpt1_jax.tasks.classifier import make_classifier
from gpt1_jax.tasks.completions import complete
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.frames import make_frame
from gpt1_jax.tasks.grouping import Grouping
from gpt1_jax.tasks.intervals import score_interval
from gpt1_jax.tasks.predictions import predict, write_predictions
from gpt1_jax.tasks.reading import TaskData, read_task
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.summary import describe_labels, describe_loss
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.chosen import best_step, restore_chosen
from gpt1_jax.training.ending import next_after_finetuning
from gpt1_jax.training.evaluation import make_generate, make_predict
from gpt1_jax.training.judging import Outcome, judge
from gpt1_jax.training.kept import kept_task, kept_tokenizer, sound_tokenizer
from gpt1_jax.training.loop import train
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.outlook import look_ahead
from gpt1_jax.training.plan import describe_model, expect_seconds, introduce, make_plan
from gpt1_jax.training.session import (
    Session,
    check_run,
    check_table,
    early_evaluations,
    open_run,
    open_session,
    settle,
)
from gpt1_jax.training.showing import Showing
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer
from gpt1_jax.training.transfer import check_start, load_trunk, transfer


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
    settings, init_from = config.finetune, config.init_from
    assert settings is not None and init_from is not None

    session = open_session(config, workdir)
    run, mesh = session.run, session.mesh

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    tokenizer, data, encoded = _read(config, settings, init_from, session)
    task, length = data.task, config.model.context_length
    grouping = Grouping(settings.batching, settings.remainder, config.train.batch_size)
    batches = TaskBatches(encoded["train"], grouping, seed=config.seed, num_widths=settings.widths)
    early = early_evaluations(config.train, batches.steps_per_epoch)
    config = dataclasses.replace(config, train=settle(config.train, batches.steps_per_epoch))

    # ── Model ────────────────────────────────────────────────────────────────────────────────────────────────
    model = make_classifier(config.model, settings, task, tokenizer.vocab_size)
    positions = batches.widths[-1] * encoded["train"].sequences
    memory = check_memory(model, config.model, config.train, mesh, positions)
    warnings = look_ahead(config.optimizer, config.train.num_steps, run)
    contents = {"text": _fingerprint(encoded["train"]), "validation": _fingerprint(encoded["validation"])}
    regression = task.score_range is not None and settings.scores == "regression"
    objective = finetuning_loss(model, settings.auxiliary_weight, regression, settings.softmax)
    trainer = Trainer.make(model, objective, mesh, config.optimizer, config.train)

    def start() -> State:
        return _start(
            trainer, config.seed, settings.num_transfer_layers, Run(init_from, "init_from"), tokenizer
        )

    outputs, generate, rows = make_predict(model, mesh), make_generate(model, mesh), config.train.rows

    def answer(params: Any, split: str) -> Outcome:
        """Returns what the model says of a split."""
        examples = data.splits()[split]
        if task.kind == "completion":
            frame = make_frame(tokenizer, causal=True)
            return Outcome(complete(examples, tokenizer, frame, length, generate(params)), encoded[split], [])
        found = outputs(params, encoded[split], rows)
        predictions = predict(task, examples, encoded[split], found, tokenizer, settings.scores)
        return Outcome(predictions, encoded[split], found)

    parameters = parameter_count(trainer.abstract.params, tokenizer.vocab_size + SPECIALS)
    tokens_per_step = encoded["train"].tokens.size / batches.steps_per_epoch
    flops_per_token = training_flops_per_token(config.model, tokenizer.vocab_size)
    stage = Stage(
        kind="finetune",
        task=task.name,
        start=start,
        rows=batches.rows,
        sample_rows=batches.sample,
        evaluate=lambda params: score_predictions(
            task, answer(params, "validation").predictions, data.validation
        ),
        score=task.metrics[0],
        parameters=parameters,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token,
        data=f"{task.name}, {len(data.train):,} examples to train on, {len(data.validation):,} to validate on, "
        f"{len(data.test):,} to test on",
        model=describe_model(config.model, parameters, session.attention),
        weights=_describe_weights(config),
        loss=f"L2 (the task's) + {settings.auxiliary_weight:g} · L1 (the language model's)"
        if settings.auxiliary_weight and config.model.causal and model.head is not None
        else "",
        seconds_per_step=expect_seconds(run, config.model, mesh, tokens_per_step * flops_per_token),
        early=early,
        lines=[*_describe(data, encoded, tokenizer, length), *warnings],
        positive_label=task.counted_class,
    )
    plan = make_plan(stage, trainer, config.train, run, memory, warnings)

    # ── Train ────────────────────────────────────────────────────────────────────────────────────────────────
    if check:
        check_run(run, config, contents, tokenizer)
        for line in introduce(stage, trainer, config.train, run, plan["step"]):
            tell(line)
        return plan
    opened = open_run(run, config, contents, tokenizer, {"task.json": task.to_dict()})
    lines = [*stage.lines, *opened.lines]
    final = train(dataclasses.replace(stage, record=opened.record, lines=lines), trainer, config.train, run)

    # ── Predictions ──────────────────────────────────────────────────────────────────────────────────────────
    step, params = _selected(run, settings, trainer, final)
    # Those of validation come last: with their scores in results.json, everything is written.
    for split in ("test", "validation"):
        with use(mesh):
            outcome = answer(params, split)
        if hosts.first():
            write_predictions(
                run.directory / "predictions", split, task, outcome.predictions, data.splits()[split]
            )
            if split == "validation":
                _conclude(run, step, task, outcome.predictions, data.validation)
                judged = judge(step, task, settings.scores, outcome, data.validation)
                Showing("the page report.html")(lambda judged=judged: write_page(run, judged))
    tell(f"{'tables':8} {run.directory / 'predictions'}")
    tell(next_after_finetuning(run))
    return plan


def _read(
    config: Config, settings: FinetuneConfig, init_from: str, session: Session
) -> tuple[Tokenizer, TaskData, dict[str, EncodedExamples]]:
    """Returns the tokenizer, the task's examples and, by split, the same as tokens."""

    def read() -> tuple[Tokenizer, TaskData]:
        tokenizer = _open_tokenizer(config.data.tokenizer, session.run, init_from)
        if not Checkpoints(session.run.checkpoints).steps():
            check_start(config, init_from, tokenizer)
        check_table(tokenizer, session.mesh)
        return tokenizer, read_task(settings, config.data, kept_task(session.run))

    tokenizer, data = hosts.first_then_others(read)
    data = dataclasses.replace(data, train=draw_examples(data.train, settings.max_examples, config.seed))
    task, model = data.task, config.model

    def encode() -> dict[str, EncodedExamples]:
        return {
            split: encode_examples(
                task, examples, tokenizer, model.context_length, settings.scores, model.causal
            )
            for split, examples in data.splits().items()
        }

    return tokenizer, data, hosts.together(encode)


def _start(trainer: Trainer, seed: int, blocks: int | None, init_from: Run, tokenizer: Tokenizer) -> State:
    """Returns a new state whose trunk has the lowest `blocks` blocks of another run, see `num_transfer_layers`."""
    state = trainer.init(seed)
    if blocks == -1:
        return state
    fresh, like = state.params["trunk"], trainer.abstract.params["trunk"]
    trunk = transfer(fresh, load_trunk(init_from, like, tell), tokenizer.vocab_size, blocks)
    trunk = jax.device_put(trunk, jax.tree.map(lambda leaf: leaf.sharding, like))
    return state._replace(params={**state.params, "trunk": trunk})


def _conclude(run: Run, step: int, task: Task, predictions: Any, examples: list[Example]) -> None:
    """Tells the scores of the predictions, and adds them to results.json with the interval of the first metric."""
    scores = score_predictions(task, predictions, examples)
    found = {"step": step, **scores}
    told = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
    if (interval := score_interval(task, predictions, examples)) is not None:
        low, high = interval
        found["interval"] = [low, high]
        told += f"; {task.metrics[0]} of 95 % of resampled examples: {low:.4g} to {high:.4g}"
    # A run that was stopped before its last evaluation may count as done, without results.
    if results := run.results():
        run.write_results(results | {"predictions": found})
    tell(f"{'score':8} {task.name}, step {step}: {told}")


def _selected(run: Run, settings: FinetuneConfig, trainer: Trainer, final: State) -> tuple[int, Any]:
    """Returns the step and the parameters that predict, see `finetune.select`."""
    last = int(final.step)
    best = best_step(run) if settings.select == "best" else last
    if best in (None, last):
        return last, final.params
    parts = {"step": trainer.abstract.step, "params": trainer.abstract.params}
    with use(trainer.mesh):
        restored = restore_chosen(run, parts, "best", tell)
    return int(restored["step"]), restored["params"]


def _describe_weights(config: Config) -> str:
    """Returns words on where the parameters of a new run come from."""
    assert config.finetune is not None
    taken = config.finetune.num_transfer_layers
    if taken == -1:
        return f"drawn at random, seed {config.seed}"
    part = {None: "those", 0: "the embeddings"}.get(taken, f"the first {taken} layers")
    return f"{part} of {config.init_from}; what is new is drawn at random, seed {config.seed}"


def _describe(
    data: TaskData, encoded: Mapping[str, EncodedExamples], tokenizer: Tokenizer, length: int
) -> list[str]:
    """Returns sentences on the examples to train on, and on what is lost of them."""
    about = [
        *describe_labels(data.task, data.train, data.validation),
        *describe_loss(tokenizer, data.train),
    ]
    cut = [
        f"{split}: {line}" for split, examples in encoded.items() for line in examples.describe_cut(length)
    ]
    return [*(f"{data.task.name}: {line}" for line in about), *cut]


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


def draw_examples(examples: list[Example], count: int, seed: int) -> list[Example]:
    """Returns `count` of the examples, in their order; all of them if it is 0 or not below their number."""
    if not 0 < count < len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[i] for i in np.sort(chosen)]


def _fingerprint(examples: EncodedExamples) -> str:
    digest = hashlib.sha256()
    for part in (examples.tokens, examples.offsets, examples.labels):
        digest.update(part.tobytes())
    return digest.hexdigest()
