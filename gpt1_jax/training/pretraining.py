"""Stage one of the paper: text in, a run directory with a pre-trained language model out."""

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from flax import linen as nn
from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.tokenizers import Tokenizer, load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import Transformer, parameter_count, table_rows
from gpt1_jax.run import Run
from gpt1_jax.training import sharding
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import bits_per_byte, make_evaluate, perplexity
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
    keep_compiled(config.data.cache_dir)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_divisible(config, mesh)
    run = Run(workdir)
    if run.exists():
        run.changes(config)  # refused now rather than after the text is read

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    corpus = open_corpus(config, run, tell)
    batches = PretrainingBatches(
        corpus.train,
        seed=config.seed,
        batch_size=config.train.batch_size,
        context_length=config.model.context_length,
    )
    config = _with_num_steps(config, batches)
    if config.init_from is not None and not Checkpoints(run.checkpoints).steps():
        _check_start(config, config.init_from, corpus.tokenizer)
    _check_table(corpus.tokenizer, mesh)

    # ── Run directory ────────────────────────────────────────────────────────────────────────────────────────
    run.lock()
    changes = run.begin(config, {"text": corpus.fingerprint, "tokenizer": corpus.tokenizer.fingerprint()})
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
                start = Checkpoints(Run(config.init_from).checkpoints)
                parts = start.restore_newest({"params": abstract.params}, tell) or {}
                state = state._replace(params=parts["params"])
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
            evaluate=_make_evaluate(model, corpus, config, mesh),
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


def open_corpus(config: Config, run: Run, progress: Callable[[str], None] | None = None) -> corpora.Corpus:
    """The tokenized text a run reads, made now or found in the cache; raises as `corpora.prepare`."""
    data, tokenizer = config.data, config.data.tokenizer
    if config.init_from is not None and tokenizer == "sentencepiece":
        begun = run if run.exists() else Run(config.init_from)
        tokenizer = load_tokenizer(begun.tokenizer)  # the parameters know no other
    return corpora.prepare(data.source, tokenizer, data.vocab_size, data.cache_dir, data.tfds_dir, progress)


def tell(sentence: str) -> None:
    """Prints a line, once for all processes."""
    if jax.process_index() == 0:
        print(sentence, flush=True)


def keep_compiled(cache_dir: str) -> None:
    """Keeps compiled programs in `cache_dir`, so that the next start finds them."""
    jax.config.update("jax_compilation_cache_dir", str(epath.Path(cache_dir).expanduser() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _make_evaluate(
    model: Transformer, corpus: corpora.Corpus, config: Config, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Parameters → {"loss" (nats a token), "perplexity", "bits_per_byte"} of the held-out text."""
    batches = EvaluationBatches(
        corpus.validation,
        batch_size=config.train.batch_size // config.train.accumulation,
        context_length=config.model.context_length,
    )
    mean = make_evaluate(
        language_model_loss(model, dropout=False),
        batches,
        config.train.eval_batches * config.train.accumulation,
        mesh,
    )
    bytes_per_token = corpus.validation.bytes / (len(corpus.validation) - 1)

    def evaluate(params: Any) -> dict[str, float]:
        loss = mean(params)
        return {
            "loss": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": bits_per_byte(loss, bytes_per_token),
        }

    return evaluate


def _with_num_steps(config: Config, batches: PretrainingBatches) -> Config:
    if not config.train.num_epochs:
        return config
    steps = math.ceil(config.train.num_epochs * batches.examples_per_epoch / config.train.batch_size)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=steps))


def _check_start(config: Config, init_from: str, tokenizer: Tokenizer) -> None:
    """Refuses a run to start from whose parameters do not fit."""
    start = Run(init_from)
    theirs = start.config().model
    for name in ("num_layers", "num_heads", "d_model", "d_ff", "context_length"):
        mine, its = getattr(config.model, name), getattr(theirs, name)
        if mine != its:
            raise UserError(
                f"init_from={init_from} has model.{name}={its}, this config has {mine}; set model.{name}={its}."
            )
    if load_tokenizer(start.tokenizer).fingerprint() != tokenizer.fingerprint():
        raise UserError(
            f"data.tokenizer={config.data.tokenizer} is not the tokenizer of init_from={init_from}; leave "
            "data.tokenizer=sentencepiece to read with that run's own."
        )
    if not Checkpoints(start.checkpoints).steps():
        raise UserError(f"init_from={init_from} has no checkpoint yet; name a run that has saved one.")


def _check_table(tokenizer: Tokenizer, mesh: Mesh) -> None:
    rows, parts = table_rows(tokenizer.vocab_size), mesh.shape["tensor"]
    if rows % parts:
        raise UserError(
            f"mesh.tensor={parts} does not divide the {rows} rows of the token table (a multiple of 128); set a power "
            "of two."
        )


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
