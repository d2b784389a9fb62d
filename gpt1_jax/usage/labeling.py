"""Labels examples with a fine-tuned run.

Letters: N examples, C outputs of the head.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpt1_jax.arguments import check_records
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.examples import find_columns, parse_example
from gpt1_jax.tasks.predictions import Prediction, describe_prediction
from gpt1_jax.tasks.task import Example
from gpt1_jax.training.evaluation import Predict, make_predict
from gpt1_jax.usage.notices import check_finite, warn_once

if TYPE_CHECKING:
    from gpt1_jax.usage.trained import TrainedRun

EXAMPLES_AT_ONCE = 32


def predict(trained: "TrainedRun", records: Iterable[Mapping[str, object]]) -> list[Prediction]:
    """Labels new examples, see `TrainedRun.predict`."""
    task = trained.task
    if task is None:
        raise UserError(f"{trained.run.directory} was not fine-tuned on a task; name a run that was.")
    checked, examples = check_records(records, "examples"), []
    columns = find_columns(task, checked)
    for number, record in enumerate(checked, start=1):
        try:
            examples.append(parse_example(task, record, columns))
        except ValueError as error:
            raise UserError(f"Line {number} is not an example of task {task.name}: {error}.") from error
    assert trained.config.finetune is not None
    scores = trained.config.finetune.scores
    return [describe_prediction(task, logits, scores) for logits in predict_logits(trained, examples)]


def predict_logits(trained: "TrainedRun", examples: Sequence[Example]) -> np.ndarray:
    """Returns the head's logits of examples of the run's task, float32 [N, C].

    Raises:
        UserError: an example is too long.
    """
    assert trained.task is not None and trained.config.finetune is not None
    scores, length = trained.config.finetune.scores, trained.config.model.context_length
    encoded = encode_examples(trained.task, examples, trained.tokenizer, length, scores)
    for line in encoded.describe_cut(length):
        warn_once(line)
    with trained.on_mesh():
        found = trained.compiled(_make_logits)(trained.params, encoded, EXAMPLES_AT_ONCE)
    return check_finite(np.reshape(found, encoded.labels.shape))


def _make_logits(trained: "TrainedRun") -> Predict:
    assert trained.classifier is not None
    return make_predict(trained.classifier, trained.mesh)
