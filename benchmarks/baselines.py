"""What tasks score without a language model: python -m benchmarks.baselines [--tasks=demo_genre,demo_entailment].

    majority      the training part's most frequent class, or place of the right choice; for scores, their mean
    tfidf         logistic regression (ridge regression for scores) on TF-IDF of words and pairs of words; the two
                  texts of a pair stand side by side, and each choice stands beside what comes before it
    tfidf+cosine  the same with one feature more: the cosine of the two texts' TF-IDF

The split and the metrics are those of fine-tuning, and scikit-learn's defaults apply.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from absl import flags
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from configs.finetune import paper
from gpt1_jax.door import door
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.task import Example, Task

_MAX_ITERATIONS = 1000  # of logistic regression; the default of 100 is too few for some tasks


def main(_: list[str]) -> None:
    """Prints a table, then a line of JSON for each of its rows."""
    facts = []
    for name in flags.FLAGS.tasks:
        config = paper(name)
        assert config.finetune is not None
        source = replace(config.data, source=flags.FLAGS.source, tfds_dir=flags.FLAGS.tfds_dir)
        data = read_task(config.finetune, source)
        for baseline, scores in baseline_scores(data.task, data.train, data.validation).items():
            facts.append({"task": name, "baseline": baseline, "train": len(data.train), **scores})
            shown = "  ".join(f"{metric} {scores[metric]:.3f}" for metric in data.task.metrics)
            print(f"{name:16}  {baseline:12}  {shown}", flush=True)
    print()
    for fact in facts:
        print(json.dumps(fact))


def baseline_scores(
    task: Task, train: Sequence[Example], validation: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Returns the scores of `validation` by the name of the baseline, with the metrics of fine-tuning.

    Args:
        task: of any kind.
        train: labeled examples.
        validation: examples; those without a label are not counted.
    """
    labels = np.array([example.label for example in train])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(text for example in train for text in example.texts)
    known, new = (_vectors(task, vectorizer, examples) for examples in (train, validation))
    predictions = {
        "majority": _predict_majority(task, labels, len(validation)),
        "tfidf": _predict_linear(task, sparse.hstack(known), labels, sparse.hstack(new)),
    }
    if task.kind != "classification":
        known, new = [*known, _cosine(*known)], [*new, _cosine(*new)]
        predictions["tfidf+cosine"] = _predict_linear(task, sparse.hstack(known), labels, sparse.hstack(new))
    return {name: score_predictions(task, found, validation) for name, found in predictions.items()}


def _vectors(task: Task, vectorizer: TfidfVectorizer, examples: Sequence[Example]) -> list[Any]:
    """Returns TF-IDF of each text, [N, features]; of choices and what comes before them, [N · choices, features]."""
    if task.kind != "choice":
        return [vectorizer.transform(texts) for texts in zip(*(e.texts for e in examples), strict=True)]
    before = [" ".join(example.texts[:2]) for example in examples]
    choices = [choice for example in examples for choice in example.texts[2:]]
    repeated = np.repeat(np.arange(len(examples)), task.choices)
    return [vectorizer.transform(before)[repeated], vectorizer.transform(choices)]


def _cosine(first: Any, second: Any) -> np.ndarray:
    """Returns the cosines of the rows of two matrices, [N, 1]; TF-IDF vectors have length 1."""
    return np.asarray(first.multiply(second).sum(axis=1)).reshape(-1, 1)


def _predict_majority(task: Task, labels: np.ndarray, count: int) -> np.ndarray:
    if task.score_range:
        return np.full(count, labels.mean())
    return np.full(count, np.bincount(labels).argmax())


def _predict_linear(task: Task, features: Any, labels: np.ndarray, new: Any) -> np.ndarray:
    """Returns classes, scores or numbers of choices for the rows of `new`, by a model fitted to `features`."""
    if task.score_range:
        return Ridge().fit(features, labels).predict(new)
    model = LogisticRegression(max_iter=_MAX_ITERATIONS)
    if task.kind == "choice":  # of each choice it is learned whether it is right
        model.fit(features, (labels[:, None] == np.arange(task.choices)).ravel())
        return model.decision_function(new).reshape(-1, task.choices).argmax(axis=1)
    return model.fit(features, labels).predict(new)


if (
    __name__ == "__main__"
):  # only here, because benchmarks that import this module have flags of the same names
    flags.DEFINE_list("tasks", list(DEMO_TASKS), "names of tasks, as configs/finetune.py takes them")
    flags.DEFINE_string("source", "demo", "where the tasks are read from, as data.source of a config")
    flags.DEFINE_string("tfds_dir", None, "where TFDS sets are prepared, as data.tfds_dir")
    door(main)
