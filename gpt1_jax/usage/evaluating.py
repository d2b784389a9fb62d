"""Measures an opened run on its task or on text: on what it held out, on a source, or on what Python code gives."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from gpt1_jax.arguments import check_several, check_text
from gpt1_jax.config import DataConfig
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.shapes import windows_at_once
from gpt1_jax.data.shards import count_lost
from gpt1_jax.data.text_batches import evaluation_batches
from gpt1_jax.errors import UserError
from gpt1_jax.run import Run
from gpt1_jax.tasks.examples import make_examples
from gpt1_jax.tasks.reading import is_training_file, read_validation
from gpt1_jax.tasks.rows import Row
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.summary import describe_judged
from gpt1_jax.tasks.task import Example
from gpt1_jax.training.evaluation import Evaluate, make_evaluate, score_text
from gpt1_jax.training.kept import kept_examples, open_corpus
from gpt1_jax.training.objectives import language_model_loss
from gpt1_jax.usage.bar import bar
from gpt1_jax.usage.given import read_labeled
from gpt1_jax.usage.labeling import predict_examples
from gpt1_jax.usage.notices import warn_once

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

TEXT_SOURCES = ("text:", "tfds:")


def evaluate(trained: "TrainedRun", source: str | None = None) -> dict[str, float]:
    """Measures a run: on text if it was pre-trained or a text is named, otherwise on the task of its fine-tuning.

    Args:
        trained: the run.
        source: a text source, or for the task `tfds` or `files:DIR`; None means the run's own held-out part.

    Raises:
        UserError: the source has nothing suitable.
    """
    on_text = source is not None and (source == "demo" or source.startswith(TEXT_SOURCES))
    scored = trained.task is not None and not (on_text and source != trained.config.data.source)
    values = _on_task(trained, source) if scored else _on_text(trained, source)
    return {"step": trained.step, **values}


def evaluate_given(trained: "TrainedRun", given: object) -> dict[str, float]:
    """Measures a run on labeled examples if it was fine-tuned, and otherwise on a text or a list of texts.

    Raises:
        UserError: they are not such.
    """
    if trained.task is None:
        return {"step": trained.step, **_on_splits(trained, [_split_of(trained, given)])}
    task = trained.task
    labeled = read_labeled(task.kind, given, "examples", task.columns)
    rows = [Row(f"examples[{number}]", record) for number, record in enumerate(labeled.records)]
    try:
        examples = make_examples(task, rows, "validation", labeled.columns)
    except UserError as error:
        raise UserError(str(error).removeprefix("data.source: ")) from None
    return {"step": trained.step, **_score(trained, examples)}


def _on_task(trained: "TrainedRun", source: str | None) -> dict[str, float]:
    """Returns the scores on what was held out, or on another source, see `score_predictions`."""
    settings, data, task = trained.config.finetune, trained.config.data, trained.task
    assert settings is not None and task is not None
    examples = read_validation(task, settings, kept_examples(trained.run, data), source)
    if source is not None and is_training_file(data, source):
        warn_once(f"{source} is the file that the run was fine-tuned on: most of its rows were trained on.")
    return _score(trained, examples)


def _score(trained: "TrainedRun", examples: list[Example]) -> dict[str, float]:
    """Returns the scores on examples of the run's task, see `score_predictions`."""
    task = trained.task
    assert task is not None
    if task.counted_class is not None:
        warn_once(f"f1 is that of the class {task.counted_class!r}")
    for line in describe_judged(task, examples, "scored examples"):
        warn_once(line)
    with bar("measuring") as watch:
        predictions = predict_examples(trained, examples, watch)
    return score_predictions(task, predictions, examples)


def _on_text(trained: "TrainedRun", source: str | None) -> dict[str, float]:
    """Returns what `_on_splits` finds on a whole text."""
    run, config, tokenizer = trained.run, trained.config, trained.tokenizer
    if source is None:
        splits = [own_corpus(config.data, run, config.init_from).validation]
    else:
        corpus = corpora.prepare(dataclasses.replace(config.data, source=source), tokenizer)
        splits = [corpus.train, corpus.validation]
    return _on_splits(trained, splits)


def _on_splits(trained: "TrainedRun", splits: list[Split]) -> dict[str, float]:
    """Returns what `score_text` finds, with the "tokens" that were predicted and the "bytes" of the text."""
    config, tokenizer = trained.config, trained.tokenizer
    context = config.model.context_length
    tokens, nats = 0, 0.0
    measure: Evaluate = trained.compiled(_make_measure)
    with trained.on_mesh():
        for split in splits:
            rows = windows_at_once(-(-len(split) // context), trained.mesh, context)
            batches = evaluation_batches(config, tokenizer, split, rows)
            with bar("measuring") as watch:
                found = measure(trained.trunk_params, batches, watch=watch)
            tokens += found.targets
            nats += found.nats
    size = sum(split.bytes for split in splits)
    return score_text(nats / max(tokens, 1), splits, config.model.causal) | {"tokens": tokens, "bytes": size}


def _make_measure(trained: "TrainedRun") -> Evaluate:
    return make_evaluate(language_model_loss(trained.trunk, dropout=False), trained.mesh)


def _split_of(trained: "TrainedRun", given: object) -> Split:
    """Returns texts, each a document, as one stream of tokens."""
    members = (
        [given] if isinstance(given, str) else check_several(given, "texts", "a text or a list of texts")
    )
    texts = [check_text(member, f"texts[{number}]") for number, member in enumerate(members)]
    tokenizer = trained.tokenizer
    ids = tokenizer.encode_batch(texts, threads=1)
    end = np.array([] if tokenizer.end_id is None else [tokenizer.end_id], np.int32)
    stream = np.concatenate([end, *(part for document in ids for part in (document, end))])
    if len(stream) < 2:
        raise UserError("texts has no text to measure; give one with a token or more.")
    lost = sum(
        0 if tokenizer.exact else count_lost(text, tokenizer.decode(document.tolist()))
        for text, document in zip(texts, ids, strict=True)
    )
    return Split((stream,), len(texts), sum(len(text.encode()) for text in texts), sum(map(len, texts)), lost)


def own_corpus(data: DataConfig, run: Run, init_from: str | None) -> corpora.Corpus:
    """Returns the text that a run was trained on, from its cache or from its source.

    Raises:
        UserError: it is in neither place.
    """
    text = run.identity().get("text")
    if text and (cached := corpora.find_tokenized(data.cache_dir, text)):
        return cached
    mend = "bring it back as it was, or name another text, which is measured whole, with --source"
    try:
        corpus = open_corpus(data, run, init_from)
    except UserError as error:
        reason = str(error).removesuffix(".")
        raise UserError(
            f"The text that {run.directory} was trained on cannot be read ({reason}); {mend}."
        ) from error
    if corpus.fingerprint != text:
        raise UserError(
            f"data.source={data.source} is no longer what {run.directory} was trained on; {mend}."
        )
    return corpus
