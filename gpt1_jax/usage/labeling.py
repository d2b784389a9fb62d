"""Labels examples with a fine-tuned run.

Letters: N examples, C outputs of the head.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpt1_jax.errors import UserError
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
from gpt1_jax.training.evaluation import Predict, make_generate, make_predict
from gpt1_jax.usage.bar import bar
from gpt1_jax.usage.given import unlabeled_records
from gpt1_jax.usage.notices import check_finite, warn_once

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun


def predict(trained: "TrainedRun", given: object) -> Prediction | list[Prediction]:
    """Labels new examples, see `TrainedRun.predict`."""
    task = trained.task
    if task is None:
        raise UserError(f"{trained.run.directory} was not fine-tuned on a task; name a run that was.")
    if isinstance(given, str):
        return _predict(trained, task, unlabeled_records(task.kind, [given], "examples"))[0]
    return _predict(trained, task, unlabeled_records(task.kind, given, "examples"))


def _predict(trained: "TrainedRun", task: Task, checked: list[Mapping[str, Any]]) -> list[Prediction]:
    examples, sentences = [], []
    columns = find_columns(task, checked)
    for number, record in enumerate(checked, start=1):
        try:
            examples.append(parse_example(task, record, columns))
            if task.kind == "tagging":
                sentences.append(read_sentence(record, columns))
        except ValueError as error:
            raise UserError(f"Line {number} is not an example of task {task.name}: {error}.") from error
    if task.whole:
        assert trained.config.finetune is not None
        scores = trained.config.finetune.scores
        return [describe_label(task, logits, scores) for logits in predict_logits(trained, examples)]
    found = predict_examples(trained, examples)
    if task.kind == "tagging":
        return [describe_tags(task, tags, sentence) for tags, sentence in zip(found, sentences, strict=True)]
    describe = describe_answer if task.kind == "span" else describe_completion
    return [describe(prediction) for prediction in found]


def predict_examples(trained: "TrainedRun", examples: Sequence[Example]) -> Predictions:
    """Returns the predictions of examples of the run's task, as `tasks.predictions.predict` does.

    Raises:
        UserError: an example is too long.
    """
    assert trained.task is not None and trained.config.finetune is not None
    if trained.task.kind == "completion":
        assert trained.classifier is not None
        generate = make_generate(trained.classifier, trained.mesh)
        frame, length = make_frame(trained.tokenizer, causal=True), trained.config.model.context_length
        with trained.on_mesh():
            return complete(examples, trained.tokenizer, frame, length, generate(trained.params))
    encoded, outputs = _head_outputs(trained, examples)
    scores = trained.config.finetune.scores
    return predict_outputs(trained.task, examples, encoded, outputs, trained.tokenizer, scores)


def predict_logits(trained: "TrainedRun", examples: Sequence[Example]) -> np.ndarray:
    """Returns the head's logits of examples of the run's task, of a whole kind, float32 [N, C].

    Raises:
        UserError: an example is too long.
    """
    encoded, outputs = _head_outputs(trained, examples)
    return np.reshape(outputs, encoded.labels.shape)


def _head_outputs(
    trained: "TrainedRun", examples: Sequence[Example]
) -> tuple[EncodedExamples, list[np.ndarray]]:
    assert trained.task is not None and trained.config.finetune is not None
    scores, length = trained.config.finetune.scores, trained.config.model.context_length
    causal = trained.config.model.causal
    encoded = encode_examples(trained.task, examples, trained.tokenizer, length, scores, causal)
    for line in encoded.describe_cut(length):
        warn_once(line)
    with trained.on_mesh(), bar("predicting") as watch:
        outputs = trained.compiled(_make_logits)(trained.params, encoded, None, watch)
    for logits in outputs:
        check_finite(logits)
    return encoded, outputs


def _make_logits(trained: "TrainedRun") -> Predict:
    assert trained.classifier is not None
    return make_predict(trained.classifier, trained.mesh)
