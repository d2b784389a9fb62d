"""Stage one of the paper: text in, a run directory with a pre-trained language model out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data.corpus import Corpus
from gpt1_jax.data.documents import Documents
from gpt1_jax.data.left_out import LeftOut, find_left_out
from gpt1_jax.data.text_batches import TrainingBatches, evaluation_batches, training_batches
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
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.outlook import count_readings, look_ahead
from gpt1_jax.training.plan import describe_model, expect_seconds, make_plan
from gpt1_jax.training.prepared import Prepared
from gpt1_jax.training.session import Session, check_table, early_evaluations, open_session, settle
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
    text = _read_text(config, session)
    corpus, length = text.corpus, config.model.context_length
    early = early_evaluations(config.train, text.steps_per_epoch)
    config = replace(config, train=settle(config.train, text.steps_per_epoch))

    model = make_trunk(config.model, corpus.tokenizer.vocab_size)
    memory = check_memory(model, config.model, config.train, mesh, length)
    warnings = [
        *look_ahead(config.optimizer, config.train.num_steps, run),
        *count_readings(config.train, length, len(corpus.train)),
    ]
    objective = language_model_loss(model, dropout=True)
    trainer = Trainer.make(model, objective, mesh, config.optimizer, config.train)
    stage = replace(_make_stage(config, session, text, model, trainer), early=early, lines=warnings)

    plan = make_plan(stage, trainer, config.train, run, memory, warnings)
    contents = {"text": corpus.fingerprint, **text.left_out.contents}
    prepared = Prepared(run, config, stage, trainer, plan, contents, corpus.tokenizer, text.left_out.files)
    if check:
        prepared.check()
    else:
        prepared.train()
        tell(next_after_pretraining(run, stage.sample is not None))
    return plan


# ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, eq=False)
class _Text:
    """What a run reads.

    Attributes:
        corpus: the tokens, and the tokenizer.
        left_out: the documents that weigh nothing.
        batches: a step's windows.
        steps_per_epoch: how many steps read the text once.
    """

    corpus: Corpus
    left_out: LeftOut
    batches: TrainingBatches
    steps_per_epoch: float


def _read_text(config: Config, session: Session) -> _Text:
    """Opens the text on all hosts; tokenizes it if that was not done before.

    Raises:
        UserError: the text, or the run to start from, is missing or does not fit.
    """

    def read() -> Corpus:
        corpus = open_corpus(config.data, session.run, config.init_from, tell)
        if config.init_from is not None and not Checkpoints(session.run.checkpoints).steps():
            check_start(config, config.init_from, corpus.tokenizer)
        check_table(corpus.tokenizer, session.mesh)
        return corpus

    corpus = hosts.first_then_others(read)
    left_out = hosts.together(lambda: find_left_out(config.data, corpus.train, corpus.tokenizer))
    batches = training_batches(config, corpus.tokenizer, corpus.train, left_out)
    return _Text(corpus, left_out, batches, batches.examples_per_epoch / config.train.batch_size)


# ── Model ────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_stage(config: Config, session: Session, text: _Text, model: Trunk, trainer: Trainer) -> Stage:
    """Returns what the loop trains."""
    mesh, init_from = session.mesh, config.init_from
    corpus, batches, pieces = text.corpus, text.batches, text.corpus.tokenizer.vocab_size

    def start() -> State:
        state = trainer.init(config.seed)
        if init_from is None:
            return state
        return state._replace(params=load_trunk(Run(init_from, "init_from"), trainer.abstract.params, tell))

    parameters = parameter_count(trainer.abstract.params, pieces)
    tokens_per_step = config.train.batch_size * config.model.context_length
    flops_per_token = training_flops_per_token(config.model, pieces)
    return Stage(
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
        weights=f"those of {init_from}" if init_from else f"drawn at random, seed {config.seed}",
        seconds_per_step=expect_seconds(session.run, config.model, mesh, tokens_per_step * flops_per_token),
        sample=_make_sample(model, corpus, Documents.of(config.data, corpus.tokenizer), mesh)
        if isinstance(model, Transformer) and config.model.causal
        else None,
    )


def _make_evaluate(
    model: Trunk, corpus: Corpus, config: Config, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Returns a function from parameters to what `score_text` finds on the held-out text."""
    settings, split = config.train, corpus.validation
    batches = evaluation_batches(config, corpus.tokenizer, split, settings.rows)
    count = settings.eval_batches * settings.accumulation
    measure = make_evaluate(language_model_loss(model, dropout=False), mesh)
    return lambda params: score_text(measure(params, batches, count).loss, [split], config.model.causal)


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
