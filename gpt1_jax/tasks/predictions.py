"""Turns the head's outputs into predictions, and writes them as answers and as files name them.

A prediction is the number of a class or choice, a score, the numbers of a sentence's tags, an Answer, or a text.
"""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np
from etils import epath

from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.disk.whole_files import write_whole
from gpt1_jax.tasks.encoded import EncodedExamples
from gpt1_jax.tasks.encoding import ScoreForm, head_outputs
from gpt1_jax.tasks.spans import Answer, decode_spans
from gpt1_jax.tasks.structured import Sentence
from gpt1_jax.tasks.tagging import decode_tags, find_entities
from gpt1_jax.tasks.task import Example, Task

Predictions = np.ndarray | Sequence[Any]


class PredictedEntity(TypedDict):
    """An entity: its label, and where it lies in the text, in characters."""

    label: str
    text: str
    start: int
    end: int


class Prediction(TypedDict):
    """What a fine-tuned run says of an example, by the keys that its kind has.

    Attributes:
        label: of classes, choices and scores: a class's name; the number of a choice, from 0; a score.
        probabilities: of the classes or whole scores by their names, or of the choices in order; not of a score that
            was learned by regression.
        tags: of tagging: each word's tag.
        entities: of tagging: what the tags make up; where words came without a text, they have one space between them.
        answer: of span: the part of the context that answers the question, or "".
        start, end: of span: where it lies in the context, in characters.
        probability: of span: the probability of that answer.
        completion: of completion: the text that follows the prompt.
    """

    label: str | int | float
    probabilities: dict[str, float] | list[float]
    tags: list[str]
    entities: list[PredictedEntity]
    answer: str
    start: int
    end: int
    probability: float
    completion: str


def describe_label(task: Task, logits: np.ndarray, scores: ScoreForm) -> Prediction:
    """The prediction of one example of a whole kind from its logits [C]."""
    label = predict_labels(task, logits[None], scores)[0]
    chances = probabilities(logits).tolist()
    found: dict[str, Any] = {"label": task.labels[label] if task.labels else int(label)}
    if task.score_range:
        low, high = task.score_range
        found = {"label": float(label)}
        names = tuple(map(str, range(low, high + 1)))
    else:
        names = task.labels
    if not task.score_range or scores == "classes":
        found["probabilities"] = dict(zip(names, chances, strict=True)) if names else chances
    return cast(Prediction, found)


def describe_tags(task: Task, tags: Sequence[int], sentence: Sentence) -> Prediction:
    """The prediction of one sentence from the numbers of its tags."""
    names = [task.labels[tag] for tag in tags]
    entities = []
    for label, first, stop in find_entities(names):
        start, end = sentence.words[first].start, sentence.words[stop - 1].end
        entities.append({"label": label, "text": sentence.text[start:end], "start": start, "end": end})
    return cast(Prediction, {"tags": names, "entities": entities})


def describe_answer(answer: Answer) -> Prediction:
    """The prediction of one question."""
    found = {"answer": answer.text, "start": answer.start, "end": answer.end}
    return cast(Prediction, {**found, "probability": answer.probability})


def describe_completion(text: str) -> Prediction:
    """The prediction of one prompt."""
    return cast(Prediction, {"completion": text})


def predict(
    task: Task,
    examples: Sequence[Example],
    encoded: EncodedExamples,
    outputs: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    scores: ScoreForm,
) -> Predictions:
    """Returns what a head's outputs predict, for each example in order.

    Metrics, files and answers all use this function.

    Args:
        task: of any kind but completion, which has no head.
        examples: the examples.
        encoded: the same, tokenized.
        outputs: the logits of each of its rows, [P, C].
        tokenizer: the one that encoded them.
        scores: how scores were learned.
    """
    if task.kind == "tagging":
        return decode_tags(encoded, outputs, len(examples))
    if task.kind == "span":
        return decode_spans(examples, encoded, outputs, tokenizer, task.no_answer)
    return predict_labels(task, outputs, scores)


def predict_labels(task: Task, outputs: Sequence[np.ndarray] | np.ndarray, scores: ScoreForm) -> np.ndarray:
    """Returns what logits [N, 1, C] predict, [N]: the number of a class or choice, or a score in the task's range."""
    logits = np.reshape(outputs, (len(outputs), head_outputs(task, scores)))
    if task.score_range is None:
        return logits.argmax(-1)
    low, high = task.score_range
    if scores == "regression":
        found = logits[:, 0].astype(np.float64)
    else:
        found = probabilities(logits) @ np.arange(low, high + 1)
    # Adding 0.0 turns −0 into 0.
    return np.clip(found, low, high) + 0.0


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [N, C], in float64."""
    logits = logits.astype(np.float64)
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def write_predictions(
    directory: epath.Path, split: str, task: Task, predictions: Predictions, examples: Sequence[Example]
) -> None:
    """Writes SPLIT.tsv, or SPLIT_GROUP.tsv for each group, in the form that the kind's benchmarks take.

    By default that is an index and a prediction a line, as in GLUE; the name of a class is quoted if it has a quotation
    mark, as TSV readers expect. Tags are columns as conlleval reads them: a word a line, its right tag where that is
    known, and the tag predicted. Answers are SPLIT.json, an object of ids and texts, as SQuAD's script reads it. If
    there are no examples, no file is written.

    Args:
        directory: where to write; it is made if it does not exist.
        split: "validation" or "test".
        task: names the classes.
        predictions: as `predict` returns them.
        examples: the examples; each group is numbered from 0.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for group in sorted({example.group for example in examples}):
        chosen = [pair for pair in zip(predictions, examples, strict=True) if pair[1].group == group]
        name = directory / "_".join(filter(None, (split, group)))
        if task.kind == "tagging":
            write_whole(name.with_name(f"{name.name}.tsv"), _columns(task, chosen))
        elif task.kind == "span":
            named_answers = {
                example.id or str(number): answer.text for number, (answer, example) in enumerate(chosen)
            }
            write_whole(
                name.with_name(f"{name.name}.json"), json.dumps(named_answers, ensure_ascii=False) + "\n"
            )
        else:
            table = io.StringIO()
            lines = csv.writer(table, csv.excel_tab, lineterminator="\n")
            lines.writerow(("index", "prediction"))
            lines.writerows(
                (number, named(task, prediction)) for number, (prediction, _) in enumerate(chosen)
            )
            write_whole(name.with_name(f"{name.name}.tsv"), table.getvalue())


def _columns(task: Task, chosen: Sequence[tuple[Sequence[int], Example]]) -> str:
    sentences = []
    for tags, example in chosen:
        # Tabs and line breaks are what cells and words are told apart by.
        words = [" ".join(word.split()) or "_" for word in example.texts]
        columns = [words, [task.labels[tag] for tag in tags]]
        if isinstance(example.label, tuple):
            columns.insert(1, [task.labels[cast(int, tag)] for tag in example.label])
        sentences.append("".join("\t".join(cells) + "\n" for cells in zip(*columns, strict=True)))
    return "\n".join(sentences)


def named(task: Task, prediction: float | str) -> str:
    """Spells a prediction as files write it: the name of a class or choice, a score to 3 decimals, or a text."""
    if isinstance(prediction, str):
        return prediction
    if task.score_range:
        return f"{prediction:.3f}"
    names = task.labels or task.answers
    return names[int(prediction)] if names else str(int(prediction))
