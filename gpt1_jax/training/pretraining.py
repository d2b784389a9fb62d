"""Stage one of the paper: text in, a run directory with a pre-trained language model out."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from gpt1_jax.config import Config
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import EvaluationBatches, PretrainingBatches
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.devices import hosts
from gpt1_jax.devices.compile_cache import keep_compiled
from gpt1_jax.devices.hosts import tell
from gpt1_jax.devices.mesh import check_divisible, make_mesh, shapes_of, use
from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.model.embedding import table_rows
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.model.trunk import Trunk, make_trunk
from gpt1_jax.run import Run
from gpt1_jax.training import stopping
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import make_evaluate, score_text
from gpt1_jax.training.memory_plan import check_memory
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.outlook import look_ahead
from gpt1_jax.training.session import begin, check_processes, fit_attention, run_stage, settle
from gpt1_jax.training.speed import training_flops_per_token
from gpt1_jax.training.stage import Stage
from gpt1_jax.training.step import State
from gpt1_jax.training.transfer import check_start, kept_tokenizer, load_trunk, sound_tokenizer


def pretrain(config: Config, workdir: str) -> None:
    """Pre-trains in the run directory `workdir`, going on from its newest checkpoint where it has one.

    Raises:
        Stopped: a signal asked for it; the state is saved.
        UserError: something in the config, the text or the directory is not as it must be.
        Diverged, DivergedAgain: the loss stayed without finite values.
    """
    # ── Mesh ─────────────────────────────────────────────────────────────────────────────────────────────────
    keep_compiled(config.data.cache_dir)
    mesh = make_mesh(config.mesh)
    check_divisible(config, mesh)
    fitted, attention = fit_attention(config.model, mesh)
    run = Run(workdir)
    check_processes(config, run)

    # ── Data ─────────────────────────────────────────────────────────────────────────────────────────────────
    def read() -> corpora.Corpus:
        corpus = open_corpus(config, run, tell)
        if config.init_from is not None and not Checkpoints(run.checkpoints).steps():
            check_start(config, config.init_from, corpus.tokenizer)
        check_table(corpus.tokenizer, mesh)
        return corpus

    corpus = hosts.first_then_others(read)
    tokenizer, length = corpus.tokenizer, config.model.context_length
    batches = PretrainingBatches(
        corpus.train, seed=config.seed, batch_size=config.train.batch_size, context_length=length
    )
    config = settle(config, batches.examples_per_epoch / config.train.batch_size)

    # ── Run directory ────────────────────────────────────────────────────────────────────────────────────────
    model = make_trunk(fitted, tokenizer.vocab_size)
    check_memory(model, config, mesh, length)
    warnings = look_ahead(config, run, len(corpus.train))
    opened = begin(run, config, {"text": corpus.fingerprint}, tokenizer)

    with use(mesh):
        lines = [f"{len(corpus.train):,} training tokens", *attention, *warnings]

        def start(state: State) -> State:
            if config.init_from is None:
                return state
            return state._replace(params=load_trunk(Run(config.init_from), shapes_of(state.params), tell))

        # ── Train ────────────────────────────────────────────────────────────────────────────────────────────
        stage = Stage(
            kind="pretrain",
            task=None,
            rows=batches.rows,
            evaluate=_make_evaluate(model, corpus, config, mesh),
            score="loss",
            tokens_per_step=config.train.batch_size * length,
            flops_per_token=training_flops_per_token(config.model, tokenizer.vocab_size),
            sample=_make_sample(model, corpus, mesh) if isinstance(model, Transformer) else None,
        )
        objective = language_model_loss(model, dropout=True)
        samples = [batches.rows(0, 0, 1)]
        run_stage(
            stage,
            model,
            objective,
            config,
            run,
            mesh,
            vocab_size=tokenizer.vocab_size,
            start=start,
            samples=samples,
            opened=opened,
            lines=lines,
        )


def open_corpus(config: Config, run: Run, progress: Callable[[str], None] | None = None) -> corpora.Corpus:
    """The tokenized text a run reads, made now or found in the cache; raises as `corpora.prepare`.

    The run's own copy of its tokenizer serves, whatever became of the file, or of the text that it was trained on.
    """
    trained = config.data.tokenizer == "sentencepiece"
    tokenizer = kept_tokenizer(config, run)
    if trained and config.init_from is not None:
        tokenizer = tokenizer or sound_tokenizer(Run(config.init_from))  # the parameters know no other
    elif trained and tokenizer is not None and corpora.is_prepared(config.data, tokenizer):
        tokenizer = None  # found under the name it was made by: by training, not with a tokenizer at hand
    return corpora.prepare(config.data, tokenizer, progress)


def _make_evaluate(
    model: Trunk, corpus: corpora.Corpus, config: Config, mesh: Mesh
) -> Callable[[Any], dict[str, float]]:
    """Parameters → what `score_text` tells of the held-out text."""
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
    return lambda params: score_text(mean(params), [corpus.validation])


def _make_sample(model: Transformer, corpus: corpora.Corpus, mesh: Mesh) -> Callable[[Any], str]:
    """Parameters → how the model continues the beginning of the held-out text, each time with the same seed."""
    given = min(16, model.config.context_length // 2)
    prompt = corpus.validation.read(0, given).tolist()
    settings = Generation(max_new_tokens=48, temperature=0.8)

    def sample(params: Any) -> str:
        generator = Generator(model, mesh, params)
        ((found,),) = generator([prompt], settings, watch=lambda _: stopping.check(), every=8)
        decode = corpus.tokenizer.decode
        return f"{decode(prompt)} … {decode(found.tokens)}"

    return sample


def check_table(tokenizer: Tokenizer, mesh: Mesh) -> None:
    """Refuses, by UserError, a mesh over which the token table does not divide."""
    rows, parts = table_rows(tokenizer.vocab_size), mesh.shape["tensor"]
    if rows % parts:
        raise UserError(
            f"mesh.tensor={parts} does not divide the {rows} rows of the token table (a multiple of 128); set a power "
            "of two."
        )
