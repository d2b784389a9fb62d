"""Measuring a run that is done, on its own held-out text or on any other."""

import jax
import optax
from absl import logging
from flax import linen as nn

from gpt1_jax.config import MeshConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.batches import EvaluationBatches
from gpt1_jax.data.tokenizers import load_tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import Transformer
from gpt1_jax.run import Run
from gpt1_jax.training import sharding
from gpt1_jax.training.checkpoints import Checkpoints
from gpt1_jax.training.evaluation import bits_per_byte, make_evaluate, perplexity
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.training.pretraining import keep_compiled, open_corpus
from gpt1_jax.training.step import abstract_state


def evaluate_text(workdir: str, source: str | None) -> dict[str, float]:
    """The language-model loss of a run's newest checkpoint on a text.

    Args:
        workdir: the run directory.
        source: a text source, measured whole; None is the held-out part of the run's own.

    Returns:
        {"step" of the checkpoint, "loss" (nats a token), "perplexity", "bits_per_byte", "tokens", "bytes"}.

    Raises:
        UserError: no run or checkpoint there, or no text behind the source.
    """
    run = Run(workdir)
    config = run.config()
    keep_compiled(config.data.cache_dir)
    tokenizer = load_tokenizer(run.tokenizer)
    if source is None:
        corpus = open_corpus(config, run)
        splits = [corpus.validation]
    else:
        data = config.data
        corpus = corpora.prepare(source, tokenizer, tokenizer.vocab_size, data.cache_dir, data.tfds_dir)
        splits = [corpus.train, corpus.validation]
    changed = corpus.tokenizer.fingerprint() != tokenizer.fingerprint()
    if changed or (source is None and corpus.fingerprint != run.identity().get("text")):
        raise UserError(
            f"data.source={config.data.source} is no longer what {workdir} was trained on; bring it back as it was, "
            "or name another text with --source."
        )

    mesh = sharding.make_mesh(MeshConfig(data=-1, fsdp=1, tensor=1))
    rows = -(-config.train.batch_size // mesh.size) * mesh.size
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
        model = Transformer(config.model, tokenizer.vocab_size)
        abstract = abstract_state(model, optax.identity(), mesh)
        restored = Checkpoints(run.checkpoints).restore_newest(
            {"step": abstract.step, "params": abstract.params}, logging.warning
        )
        if restored is None:
            raise UserError(f"--workdir={workdir} has no checkpoint yet; train it first.")
        loss = language_model_loss(model, dropout=False)
        tokens, nats = 0, 0.0
        for split in splits:
            batches = EvaluationBatches(split, batch_size=rows, context_length=config.model.context_length)
            mean = make_evaluate(loss, batches, num_batches=0, mesh=mesh)(restored["params"])
            tokens += len(split) - 1
            nats += mean * (len(split) - 1)
    size = sum(split.bytes for split in splits)
    return {
        "step": int(restored["step"]),
        "loss": nats / tokens,
        "perplexity": perplexity(nats / tokens),
        "bits_per_byte": bits_per_byte(nats / tokens, size / tokens),
        "tokens": tokens,
        "bytes": size,
    }
