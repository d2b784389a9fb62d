"""Stage one of the paper: text in, a run directory with a pre-trained language model out."""

import dataclasses
import math
import time
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.tokenizers import load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import Transformer, parameter_count
from gpt1_jax.run import Run
from gpt1_jax.training import sharding
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import make_evaluate
from gpt1_jax.training.loop import Stage, train
from gpt1_jax.training.metrics import MetricsLog, peak_memory, training_flops_per_token
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.optimizers import make_optimizer, make_schedule
from gpt1_jax.training.step import State, abstract_state, initial_state, make_train_step
from gpt1_jax.training.stopping import StopRequest


def pretrain(config: Config, workdir: str) -> None:
    """Pre-trains in the run directory `workdir`, going on from its newest checkpoint where it has one.

    A signal to stop saves the state, and a line says how to go on.

    Raises:
        UserError: something in the config, the text or the directory is not as it must be.
        Diverged: the loss stayed without finite values.
    """
    # ── Mesh ─────────────────────────────────────────────────────────────────────────────────────────────────
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_divisible(config, mesh)
    run = Run(workdir)
    if run.exists():
        run.changes(config)  # refused now rather than after the text is read

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    data, tokenizer = config.data, config.data.tokenizer
    if (
        config.init_from is not None and tokenizer == "sentencepiece"
    ):  # read with the tokenizer it begins with
        tokenizer = load_tokenizer(Run(config.init_from).tokenizer)
    corpus = corpora.prepare(data.source, tokenizer, data.vocab_size, data.cache_dir, data.tfds_dir, tell)
    sizes = {"batch_size": config.train.batch_size, "context_length": config.model.context_length}
    batches = PretrainingBatches(corpus.train, seed=config.seed, **sizes)
    held_out = EvaluationBatches(corpus.validation, **sizes)
    config = _with_num_steps(config, batches)

    # ── Run directory ────────────────────────────────────────────────────────────────────────────────────────
    run.lock()
    changes = run.begin(config, {"text": corpus.fingerprint, "tokenizer": corpus.tokenizer.fingerprint()})
    run.tokenizer.mkdir(exist_ok=True)
    corpus.tokenizer.save(run.tokenizer)

    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES), StopRequest() as stop:
        # ── Model, optimizer, state ──────────────────────────────────────────────────────────────────────────
        model = Transformer(config.model, corpus.tokenizer.vocab_size)
        schedule = make_schedule(config.optimizer, config.train.num_steps)
        optimizer = make_optimizer(config.optimizer, schedule)
        abstract = abstract_state(model, optimizer, mesh)

        # ── Restore: this run's newest sound checkpoint, else init_from's parameters, else from scratch ──────
        checkpoints = Checkpoints(run.checkpoints, config.train.keep_checkpoints)
        restored = checkpoints.restore_newest(abstract, tell)
        if restored is not None:
            state = restored
        else:
            state = initial_state(model, optimizer, mesh, config.seed)
            if config.init_from is not None:
                state = state._replace(params=_parameters_of(config, corpus, abstract))
        step = int(state.step)
        if step >= config.train.num_steps:
            tell(
                f"{run.directory} is done: step {step} of {config.train.num_steps}; raise train.num_steps to go on."
            )
            return

        # ── Compile ──────────────────────────────────────────────────────────────────────────────────────────
        log = MetricsLog(run.directory, step, config.train.num_steps)
        count = parameter_count(state.params, model.vocab_size)
        log.tell(
            f"{count:,} parameters, {len(corpus.train):,} training tokens, mesh {dict(mesh.shape)} of "
            f"{jax.devices()[0].device_kind}; "
            + (f"resuming at step {step}" if step else "from the beginning")
        )
        for change in changes:
            log.tell(f"changed since the run was begun: {change}")
        objective = language_model_loss(model, dropout=True)
        train_step = make_train_step(
            objective, optimizer, schedule, mesh, abstract, config.train.accumulation
        )
        compiled = _compile(train_step, abstract, batches, mesh, log)

        # ── Train ────────────────────────────────────────────────────────────────────────────────────────────
        stage = Stage(
            kind="pretrain",
            train_step=compiled,
            rows=batches.rows,
            evaluate=make_evaluate(
                language_model_loss(model, dropout=False),
                held_out,
                config.train.eval_batches,
                corpus.validation.bytes / (len(corpus.validation) - 1),
                mesh,
            ),
            score="loss",
            tokens_per_step=config.train.batch_size * config.model.context_length,
            flops_per_token=training_flops_per_token(config.model, model.vocab_size),
        )
        try:
            done = train(stage, config.train, run, state, checkpoints, log, mesh, stop)
            log.tell(f"peak memory {peak_memory()}")
        finally:
            checkpoints.close()
            log.close()
        if not done:
            tell(
                f"Stopped at a signal, the state saved in {run.directory}; run the same command again to go on."
            )


def tell(sentence: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(sentence, flush=True)


def _with_num_steps(config: Config, batches: PretrainingBatches) -> Config:
    if not config.train.num_epochs:
        return config
    steps = math.ceil(config.train.num_epochs * batches.examples_per_epoch / config.train.batch_size)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=steps))


def _parameters_of(config: Config, corpus: corpora.Corpus, abstract: State) -> Any:
    """The parameters of the run that config.init_from names, refused where they do not fit."""
    assert config.init_from is not None
    other = Run(config.init_from)
    theirs = other.config()
    for name in ("num_layers", "num_heads", "d_model", "d_ff", "context_length"):
        mine, its = getattr(config.model, name), getattr(theirs.model, name)
        if mine != its:
            raise UserError(
                f"init_from={config.init_from} has model.{name}={its}, this config has {mine}; set model.{name}={its}."
            )
    if load_tokenizer(other.tokenizer).fingerprint() != corpus.tokenizer.fingerprint():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer} is not the tokenizer of init_from={config.init_from}; leave "
            "data.tokenizer=sentencepiece to read with that run's own."
        )
    restored = Checkpoints(other.checkpoints, 2).restore_newest({"params": abstract.params}, tell)
    if restored is None:
        raise UserError(f"init_from={config.init_from} has no checkpoint yet; name a run that has saved one.")
    return restored["params"]


def _compile(
    train_step: Any, abstract: State, batches: PretrainingBatches, mesh: Mesh, log: MetricsLog
) -> Any:
    """The train step, compiled ahead of the clock, with a line on its cost."""
    start = time.perf_counter()
    place = sharding.batch_sharding(mesh)
    batch = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((batches.batch_size, *x.shape[1:]), x.dtype, sharding=place),
        batches.rows(0, 0, 1),
    )
    compiled = train_step.lower(abstract, batch).compile()
    memory = compiled.memory_analysis()
    gigabytes = (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9
    log.tell(f"compiled in {time.perf_counter() - start:.1f} s; {gigabytes:.2f} GB a device")
    return compiled
