"""Stage one of the paper: text in, a run directory with a pre-trained language model out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.left_out import find_left_out
from gpt1_jax.data.text_batches import evaluation_batches, training_batches
from gpt1_jax.devices import hosts
from gpt1_jax.devices.hosts import tell
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.transformer import Transformer, parameter_count
from gpt1_jax.model.trunk import Trunk, make_trunk
from gpt1_jax.run import Run
from gpt1_jax.training import stopping
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.ending import next_after_pretraining
from gpt1_jax.training.evaluation import make_evaluate, score_text
from gpt1_jax.training.kept import open_corpus
from gpt1_jax.training.loop import train
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.outlook import count_readings, look_ahead
from gpt1_jax.training.plan import describe_model, expect_seconds, introduce, make_plan
from gpt1_jax.training.session import (
    check_run,
    check_table,
    early_evaluations,
    open_run,
    open_session,
    settle,
)
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.state import State
from gpt1_jax.training.trainer import Trainer
from gpt1_jax.training.transfer import check_start, load_trunk
from gpt1_jax.wording import counted


def pretrain(config: Config, workdir: str, check: bool = False) -> dict[str, Any]:
    """Pre-trains in the run directory `workdir`, resuming from its newest checkpoint if it has one.

    Args:
        config: the settings.
        workdir: the run directory.
        check: whether to end before the training begins; then nothing is written but the tokens of the text, into
            `data.cache_dir`.

    Returns:
        What `make_plan` returns.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        UserError: something is wrong with the config, the text or the directory.
        Diverged, DivergedAgain: too many steps in a row were not finite.
    """
    session = open_session(config, workdir)
    run, mesh = session.run, session.mesh

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    def read() -> Corpus:
        corpus = open_corpus(config.data, run, config.init_from, tell)
        if config.init_from is not None and not Checkpoints(run.checkpoints).steps():
            check_start(config, config.init_from, corpus.tokenizer)
        check_table(corpus.tokenizer, mesh)
        return corpus

    corpus = hosts.first_then_others(read)
    tokenizer, length = corpus.tokenizer, config.model.context_length
    left_out = hosts.together(lambda: find_left_out(config.data, corpus.train, tokenizer))
    batches = training_batches(config, tokenizer, corpus.train, left_out)
    steps_per_epoch = batches.examples_per_epoch / config.train.batch_size
    early = early_evaluations(config.train, steps_per_epoch)
    config = replace(config, train=settle(config.train, steps_per_epoch))

    # ── Model ────────────────────────────────────────────────────────────────────────────────────────────────
    model = make_trunk(config.model, tokenizer.vocab_size)
    memory = check_memory(model, config.model, config.train, mesh, length)
    warnings = [
        *look_ahead(config.optimizer, config.train.num_steps, run),
        *count_readings(config.train, length, len(corpus.train)),
    ]
    trainer = Trainer.make(
        model, language_model_loss(model, dropout=True), mesh, config.optimizer, config.train
    )

    def start() -> State:
        state = trainer.init(config.seed)
        if config.init_from is None:
            return state
        return state._replace(
            params=load_trunk(Run(config.init_from, "init_from"), trainer.abstract.params, tell)
        )

    parameters = parameter_count(trainer.abstract.params, tokenizer.vocab_size)
    tokens_per_step = config.train.batch_size * length
    flops_per_token = training_flops_per_token(config.model, tokenizer.vocab_size)
    stage = Stage(
        kind="pretrain",
        task=None,
        start=start,
        rows=batches.rows,
        sample_rows=lambda step: batches.rows(step, 0, 1),
        evaluate=_make_evaluate(model, corpus, config, mesh),
        score="loss",
        parameters=parameters,
        tokens_per_step=tokens_per_step,
        flops_per_token=flops_per_token,
        data=f"{config.data.source}, {counted(len(corpus.train), 'token')} to train on, "
        f"{len(corpus.validation):,} held out",
        model=describe_model(config.model, parameters, session.attention),
        weights=f"drawn at random, seed {config.seed}"
        if config.init_from is None
        else f"those of {config.init_from}",
        seconds_per_step=expect_seconds(run, config.model, mesh, tokens_per_step * flops_per_token),
        early=early,
        lines=warnings,
        sample=_make_sample(model, corpus, Documents.of(config.data, tokenizer), mesh)
        if isinstance(model, Transformer) and config.model.causal
        else None,
    )
    plan = make_plan(stage, trainer, config.train, run, memory, warnings)

    # ── Train ────────────────────────────────────────────────────────────────────────────────────────────────
    contents = {"text": corpus.fingerprint, **left_out.contents}
    if check:
        check_run(run, config, contents, tokenizer)
        for line in introduce(stage, trainer, config.train, run, plan["step"]):
            tell(line)
        return plan
    opened = open_run(run, config, contents, tokenizer, left_out.files)
    train(
        replace(stage, record=opened.record, lines=[*stage.lines, *opened.lines]), trainer, config.train, run
    )
    tell(next_after_pretraining(run, stage.sample is not None))
    return plan


def _make_evaluate(
    model: Trunk, corpus: Corpus, config: Config, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Returns a function from parameters to what `score_text` finds on the held-out text."""
    settings, split = config.train, corpus.validation
    measure = make_evaluate(
        language_model_loss(model, dropout=False),
        evaluation_batches(config, corpus.tokenizer, split, settings.rows),
        settings.eval_batches * settings.accumulation,
        mesh,
    )
    return lambda params: score_text(measure(params).loss, [split], config.model.causal)


def _make_sample(
    model: Transformer, corpus: Corpus, documents: Documents, mesh: Mesh
) -> Callable[[Any], tuple[str, str]]:
    """Returns a function from parameters to the held-out text's beginning and what follows, always with one seed."""
    given = min(16, model.config.context_length // 2)
    prompt = corpus.validation.read(0, given).tolist()
    settings = Generation(max_new_tokens=48, temperature=0.8)

    def sample(params: Any) -> tuple[str, str]:
        generator = Generator(model, mesh, params, documents.anew, documents.restart)
        ((found,),) = generator([prompt], settings, watch=lambda _: stopping.check(), every=8)
        decode = corpus.tokenizer.decode
        return decode(prompt), decode(found.tokens)

    return sample
