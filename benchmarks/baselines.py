"""What tasks score without a language model: python -m benchmarks.baselines [--tasks=demo_genre,demo_entailment].

    majority       the training part's most frequent class, or place of the right choice; for scores, their mean
    tfidf          logistic regression (ridge regression for scores) on TF-IDF of words and pairs of words; the two
                   texts of a pair stand side by side, and each choice stands beside what comes before it
    tfidf+cosine   the same with one feature more: the cosine of the two texts' TF-IDF
    word_majority  for tagging alone: each word's most frequent tag in the training part; for a new word O, or the
                   most frequent tag if there is no O
    common_words   for spans alone: the longest run of words that question and context have in common

Words are compared in lower case. The split and the metrics are those of fine-tuning, and scikit-learn's defaults apply.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any, cast

import numpy as np
from absl import flags
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from configs.finetune import paper
from gpt1_jax.door import door
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS
from gpt1_jax.tasks.predictions import Predictions
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.scoring import score_predictions
from gpt1_jax.tasks.spans import Answer
from gpt1_jax.tasks.tagging import OUTSIDE
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.tasks.units import split_words

# All baselines, the strongest first.
BASELINES = ("tfidf+cosine", "tfidf", "majority", "word_majority", "common_words")

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
            print(f"{name:16}  {baseline:13}  {shown}", flush=True)
    print()
    for fact in facts:
        print(json.dumps(fact))


def baseline_scores(
    task: Task, train: Sequence[Example], validation: Sequence[Example]
) -> dict[str, dict[str, float]]:
    """Returns the scores of `validation` by the name of the baseline, with the metrics of fine-tuning.

    Args:
        task: of any kind but completion.
        train: labeled examples.
        validation: examples; those without a label are not counted.
    """
    predictions = _predict(task, train, validation)
    return {name: score_predictions(task, found, validation) for name, found in predictions.items()}


def _predict(task: Task, train: Sequence[Example], validation: Sequence[Example]) -> dict[str, Predictions]:
    if task.kind == "tagging":
        return {"word_majority": _predict_tags(task, train, validation)}
    if task.kind == "span":
        return {"common_words": [_find_common(*example.texts) for example in validation]}
    labels = np.array([example.label for example in train])
    vectorizer = TfidfVectorizer(ngram_range=(1, 2)).fit(text for example in train for text in example.texts)
    known, new = (_vectors(task, vectorizer, examples) for examples in (train, validation))
    predictions: dict[str, Predictions] = {
        "majority": _predict_majority(task, labels, len(validation)),
        "tfidf": _predict_linear(task, sparse.hstack(known), labels, sparse.hstack(new)),
    }
    if task.kind != "classification":
        known, new = [*known, _cosine(*known)], [*new, _cosine(*new)]
        predictions["tfidf+cosine"] = _predict_linear(task, sparse.hstack(known), labels, sparse.hstack(new))
    return predictions


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


def _predict_tags(
    task: Task, train: Sequence[Example], validation: Sequence[Example]
) -> list[tuple[int, ...]]:
    """Returns each word's most frequent tag; of equally frequent ones, the one that comes first in training."""
    counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for example in train:
        assert isinstance(example.label, tuple)
        for word, tag in zip(example.texts, cast(tuple[int, ...], example.label), strict=True):
            counts[word.lower()][tag] += 1
    usual = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
    # Parts of speech have no O.
    frequent = sum(counts.values(), Counter()).most_common(1)[0][0]
    other = task.labels.index(OUTSIDE) if OUTSIDE in task.labels else frequent
    return [tuple(usual.get(word.lower(), other) for word in example.texts) for example in validation]


def _find_common(question: str, context: str) -> Answer:
    """Returns the first of the longest runs of words, with the signs between them, that a context shares."""
    places = split_words(context)
    asked, told = ([word.text.lower() for word in words] for words in (split_words(question), places))
    match = SequenceMatcher(None, asked, told, autojunk=False).find_longest_match()
    if not match.size:
        return Answer("", 0, 0, 1.0)
    start, end = places[match.b].start, places[match.b + match.size - 1].end
    return Answer(context[start:end], start, end, 1.0)


if (
    __name__ == "__main__"
):  # only here, because benchmarks that import this module have flags of the same names
    flags.DEFINE_list("tasks", list(DEMO_TASKS), "names of tasks, as configs/finetune.py takes them")
    flags.DEFINE_string("source", "demo", "where the tasks are read from, as data.source of a config")
    flags.DEFINE_string("tfds_dir", None, "where TFDS sets are prepared, as data.tfds_dir")
    door(main)
