"""Labels examples with a fine-tuned run.

Letters: N examples, C outputs of the head.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt1_jax.errors import UserError
from gpt1_jax.model.decoding.generator import Generator
from gpt1_jax.tasks.completions import complete
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.examples import find_columns, parse_example
from gpt1_jax.tasks.frames import make_frame
from gpt1_jax.tasks.predictions import (
    Prediction,
    Predictions,
    describe_answer,
    describe_completion,
    describe_label,
    describe_tags,
)
from gpt1_jax.tasks.predictions import predict as predict_outputs
from gpt1_jax.tasks.structured import read_sentence
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.training.evaluation import Watch, make_generate, unwatched
from gpt1_jax.training.predicting import Predict, make_predict
from gpt1_jax.usage.bar import bar, within
from gpt1_jax.usage.given import unlabeled_records
from gpt1_jax.usage.notices import check_finite, warn_once
from gpt1_jax.usage.prediction_files import Records

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

# So many are in memory at once.
_RECORDS_AT_ONCE = 4096


def predict(trained: "TrainedRun", given: object) -> Prediction | list[Prediction]:
    """Labels new examples, see `TrainedRun.predict`."""
    kind, several = _task_of(trained).kind, not isinstance(given, str)
    records = unlabeled_records(kind, given if several else [given], "examples")
    fields = {field for record in records for field in record}
    found = [*predict_records(trained, Records(len(records), fields, lambda: iter(records)))]
    return found if several else found[0]


def predict_records(trained: "TrainedRun", records: Records) -> Iterator[Prediction]:
    """Yields a prediction for each record, with few of them in memory at once; all are checked before.

    Raises:
        UserError: the run was not fine-tuned, or a record is not an example of its task.
    """
    task = _task_of(trained)
    columns = find_columns(task, [records.fields])

    def parsed() -> Iterator[tuple[Example, Any]]:
        for number, record in enumerate(records.read(), start=1):
            try:
                sentence = read_sentence(record, columns) if task.kind == "tagging" else None
                yield parse_example(task, record, columns), sentence
            except ValueError as error:
                raise UserError(f"Line {number} is not an example of task {task.name}: {error}.") from error

    for _ in parsed():
        pass
    done = 0
    with bar("predicting") as watch:
        # An iterator, of which each group takes what the groups before have left.
        left = parsed()
        while some := [*itertools.islice(left, _RECORDS_AT_ONCE)]:
            yield from _describe(trained, task, some, within(watch, done, len(some), records.count))
            done += len(some)


def _task_of(trained: "TrainedRun") -> Task:
    if trained.task is None:
        raise UserError(f"{trained.run.directory} was not fine-tuned on a task; name a run that was.")
    return trained.task


def _describe(
    trained: "TrainedRun", task: Task, parsed: Sequence[tuple[Example, Any]], watch: Watch
) -> Iterator[Prediction]:
    """Yields the predictions of examples, which come with their sentence where words are tagged."""
    examples = [example for example, _ in parsed]
    if task.whole:
        assert trained.config.finetune is not None
        for logits in predict_logits(trained, examples, watch):
            yield describe_label(task, logits, trained.config.finetune.scores)
        return
    for found, (_, sentence) in zip(predict_examples(trained, examples, watch), parsed, strict=True):
        if task.kind == "tagging":
            yield describe_tags(task, found, sentence)
        else:
            yield describe_answer(found) if task.kind == "span" else describe_completion(found)


def predict_examples(
    trained: "TrainedRun", examples: Sequence[Example], watch: Watch = unwatched
) -> Predictions:
    """Returns the predictions of examples of the run's task, as `tasks.predictions.predict` does.

    Raises:
        UserError: an example is too long.
    """
    assert trained.task is not None and trained.config.finetune is not None
    if trained.task.kind == "completion":
        frame, length = make_frame(trained.tokenizer, causal=True), trained.config.model.context_length
        with trained.on_mesh():
            generator = trained.compiled(_make_generator)
            return complete(examples, trained.tokenizer, frame, length, generator)
    encoded, outputs = _head_outputs(trained, examples, watch)
    scores = trained.config.finetune.scores
    return predict_outputs(trained.task, examples, encoded, outputs, trained.tokenizer, scores)


def predict_logits(
    trained: "TrainedRun", examples: Sequence[Example], watch: Watch = unwatched
) -> np.ndarray:
    """Returns the head's logits of examples of the run's task, of a whole kind, float32 [N, C].

    Raises:
        UserError: an example is too long.
    """
    encoded, outputs = _head_outputs(trained, examples, watch)
    return np.reshape(outputs, encoded.labels.shape)


def _head_outputs(
    trained: "TrainedRun", examples: Sequence[Example], watch: Watch
) -> tuple[EncodedExamples, list[np.ndarray]]:
    assert trained.task is not None and trained.config.finetune is not None
    scores, length = trained.config.finetune.scores, trained.config.model.context_length
    causal = trained.config.model.causal
    encoded = encode_examples(trained.task, examples, trained.tokenizer, length, scores, causal)
    for line in encoded.describe_cut(length):
        warn_once(line)
    with trained.on_mesh():
        outputs = trained.compiled(_make_logits)(trained.params, encoded, None, watch)
    for logits in outputs:
        check_finite(logits)
    return encoded, outputs


def _make_logits(trained: "TrainedRun") -> Predict:
    assert trained.classifier is not None
    return make_predict(trained.classifier, trained.mesh)


def _make_generator(trained: "TrainedRun") -> Generator:
    assert trained.classifier is not None
    return make_generate(trained.classifier, trained.mesh)(trained.params)
