"""Stage two of the paper: a pre-trained run and a labeled task in, a run directory with a scored classifier out."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gpt1_jax.config import Config
from gpt1_jax.data.tokenizers.opening import Tokenizer, open_tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.devices.compile_cache import keep_compiled
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import check_divisible, make_mesh, shapes_of, use
from gpt1_jax.model.heads import Classifier, Head, Pooling
from gpt1_jax.model.specials import SPECIALS, special_ids
from gpt1_jax.model.trunk import make_trunk
from gpt1_jax.run import Run
from gpt1_jax.tasks.batches import TaskBatches
from gpt1_jax.tasks.encoding import EncodedExamples, encode_examples, head_outputs
from gpt1_jax.tasks.predictions import predict_labels, write_predictions
from gpt1_jax.tasks.reading import TaskData, read_task
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.summary import describe_labels, describe_loss
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import make_predict
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import finetuning_loss
from gpt1_jax.training.outlook import look_ahead
from gpt1_jax.training.pretraining import check_table
from gpt1_jax.training.session import begin, check_processes, fit_attention, run_stage, settle
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.step import State
from gpt1_jax.training.transfer import check_start, kept_tokenizer, load_trunk, sound_tokenizer, transfer


def finetune(config: Config, workdir: str) -> None:
    """Fine-tunes in the run directory `workdir`, going on from its newest checkpoint where it has one.

    Leaves scores, predictions and checkpoints.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        UserError: something in the config, the task's data or the directories is not as it must be.
        Diverged, DivergedAgain: the loss stayed without finite values.
    """
    settings, init_from = config.finetune, config.init_from
    assert settings is not None and init_from is not None

    # ── Mesh ─────────────────────────────────────────────────────────────────────────────────────────────────
    keep_compiled(config.data.cache_dir)
    mesh = make_mesh(config.mesh)
    check_divisible(config, mesh)
    fitted, attention = fit_attention(config.model, mesh)
    run = Run(workdir)
    check_processes(config, run)

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    def read() -> tuple[Tokenizer, TaskData]:
        tokenizer = _open_tokenizer(config, run, init_from)
        if not Checkpoints(run.checkpoints).steps():
            check_start(config, init_from, tokenizer)
        check_table(tokenizer, mesh)
        return tokenizer, read_task(settings, config.data, begun_task(run))

    tokenizer, data = hosts.first_then_others(read)
    task, length = data.task, config.model.context_length
    training = draw_examples(data.train, settings.max_examples, config.seed)

    def encode(examples: Sequence[Example]) -> EncodedExamples:
        return encode_examples(task, examples, tokenizer, length, settings.scores)

    train, validation, test = hosts.together(
        lambda: (encode(training), encode(data.validation), encode(data.test))
    )
    batches = TaskBatches(train, seed=config.seed, batch_size=config.train.batch_size)
    config = settle(config, batches.steps_per_epoch)

    # ── Run directory ────────────────────────────────────────────────────────────────────────────────────────
    model = make_classifier(dataclasses.replace(config, model=fitted), task, tokenizer.vocab_size)
    check_memory(model, config, mesh, batches.widths[0])
    warnings = look_ahead(config, run)
    contents = {"text": _fingerprint(train), "validation": _fingerprint(validation)}
    opened = begin(run, config, contents, tokenizer, {"task.json": task.to_dict()})

    with use(mesh):
        predict = make_predict(model, mesh)
        rows = config.train.batch_size // config.train.accumulation

        def start(state: State) -> State:
            fresh = state.params["trunk"]
            if settings.num_transfer_layers == -1:
                return state
            trained = load_trunk(Run(init_from), shapes_of(fresh), tell)
            trunk = transfer(fresh, trained, tokenizer.vocab_size, settings.num_transfer_layers)
            places = jax.tree.map(lambda leaf: leaf.sharding, fresh)
            return state._replace(params={**state.params, "trunk": jax.device_put(trunk, places)})

        def evaluate(params: Any) -> dict[str, float]:
            predictions = predict_labels(task, predict(params, validation, rows), settings.scores)
            return score_predictions(task, predictions, data.validation)

        # ── Train ────────────────────────────────────────────────────────────────────────────────────────────
        objective = finetuning_loss(
            model,
            settings.auxiliary_weight,
            regression=task.score_range is not None and settings.scores == "regression",
        )
        stage = Stage(
            kind="finetune",
            task=task.name,
            rows=batches.rows,
            evaluate=evaluate,
            score=task.metrics[0],
            positive_label=task.labels[task.positive] if "f1" in task.metrics else None,
            tokens_per_step=train.tokens.size / batches.steps_per_epoch,
            flops_per_token=training_flops_per_token(config.model, tokenizer.vocab_size),
        )
        final = run_stage(
            stage,
            model,
            objective,
            config,
            run,
            mesh,
            vocab_size=tokenizer.vocab_size + SPECIALS,
            start=start,
            samples=[batches.sample(width) for width in batches.widths],
            opened=opened,
            lines=[
                f"{task.name}: {len(training):,} examples to learn from, {len(data.validation):,} to validate on, "
                f"{len(data.test):,} to test on",
                *(f"{task.name}: {line}" for line in describe_labels(task, training, data.validation)),
                *(f"{task.name}: {line}" for line in describe_loss(tokenizer, training)),
                *(
                    f"{split}: {line}"
                    for split, encoded in (("train", train), ("validation", validation), ("test", test))
                    for line in encoded.describe_cut(length)
                ),
                *attention,
                *warnings,
            ],
        )

        # ── Predictions ──────────────────────────────────────────────────────────────────────────────────────
        for split, examples, encoded in (
            ("validation", data.validation, validation),
            ("test", data.test, test),
        ):
            predictions = predict_labels(task, predict(final.params, encoded, rows), settings.scores)
            if hosts.first():
                write_predictions(run.directory / "predictions", split, task, predictions, examples)
    if hosts.first():
        scores = run.results().get("validation", {})  # none where it was stopped before, and is called done
        if scores:
            tell(f"{task.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))


def make_classifier(config: Config, task: Task, vocab_size: int) -> Classifier:
    """The trunk of a config with the head of a task."""
    assert config.finetune is not None
    pooling: dict[str, Pooling] = {"similarity": "sum", "choice": "each"}
    kind = pooling.get(task.kind, "one")
    outputs = 1 if kind == "each" else head_outputs(task, config.finetune.scores)
    return Classifier(
        make_trunk(config.model, vocab_size, specials=SPECIALS),
        Head(kind, outputs, config.finetune.classifier_dropout),
        special_ids(vocab_size).extract,
    )


def _open_tokenizer(config: Config, run: Run, init_from: str) -> Tokenizer:
    """The tokenizer of the run that goes on or is started from, unless the config names a file of its own."""
    if (kept := kept_tokenizer(config, run)) is not None:
        return kept
    start = Run(init_from)
    if config.data.tokenizer != start.config().data.tokenizer:
        named = open_tokenizer(config.data.tokenizer)
        if named is not None:
            return named
    return sound_tokenizer(start)


def begun_task(run: Run) -> Task | None:
    """The task of a run that goes on, whose classes keep their numbers; None where it has to be found again."""
    try:
        return Task.from_dict(run.read_file("task.json") or {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def draw_examples(examples: list[Example], count: int, seed: int) -> list[Example]:
    """`count` of the examples, in their order; all where it is 0 or not below their number."""
    if not 0 < count < len(examples):
        return examples
    chosen = np.random.default_rng(seed).permutation(len(examples))[:count]
    return [examples[i] for i in np.sort(chosen)]


def _fingerprint(examples: EncodedExamples) -> str:
    digest = hashlib.sha256()
    for part in (examples.tokens, examples.offsets, examples.labels):
        digest.update(part.tobytes())
    return digest.hexdigest()
