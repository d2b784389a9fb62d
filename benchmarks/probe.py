"""What each layer of a run knows of a word: python -m benchmarks.probe --run=RUN [--tagging=TASK] [--picture=FILE].

A linear classifier for each layer reads the tag of a word from the state of one of its pieces: the last, or the first
in a model that reads both ways. It is ridge regression on states of mean 0 and deviation 1, with as much weight on each
tag in all. The score is the balanced accuracy on other sentences: the mean over the tags of the share that is found,
which is one divided by their number for whoever guesses. Tags that few words have are left out.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib
import numpy as np
from absl import flags
from matplotlib.figure import Figure
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import gpt1_jax
from configs.finetune import paper
from gpt1_jax.door import door
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.reading import read_task
from gpt1_jax.tasks.task import Example
from gpt1_jax.usage.states import inside, read_ids
from gpt1_jax.usage.trained import TrainedRun
from gpt1_jax.usage.words import find_words

# Tests import benchmarks that share names of flags into one process.
_SHARED: Any = {"allow_override": True}
_RUN = flags.DEFINE_string("run", None, "the run directory", **_SHARED)
_TAGGING = flags.DEFINE_string("tagging", "demo_names", "a task of tagging, whose tags are asked for")
_DATA = flags.DEFINE_string("data", "demo", "where its examples are: demo, tfds or files:DIR", **_SHARED)
_SENTENCES = flags.DEFINE_integer("sentences", 300, "how many sentences of each part are read", 2)
_PICTURE = flags.DEFINE_string(
    "picture", None, "the picture of the curve to write, such as probe.svg", **_SHARED
)
# Of the squared weights.
_PENALTY = 100.0
# A tag that fewer words have in either part is left out.
_FEWEST = 50


def main(_: list[str]) -> None:
    """Prints a line for each layer, then one of JSON, and draws the curve."""
    if _RUN.value is None:
        raise UserError("--run is missing; name the run directory to probe.")
    config = paper(_TAGGING.value)
    assert config.finetune is not None
    data = read_task(config.finetune, replace(config.data, source=_DATA.value))
    if data.task.kind != "tagging":
        raise UserError(f"--tagging={_TAGGING.value} is no task of tagging; name one, such as demo_names.")
    run = gpt1_jax.load(_RUN.value)
    train, tags = read_words(run, data.train[: _SENTENCES.value])
    new, new_tags = read_words(run, data.validation[: _SENTENCES.value])
    least = np.minimum(*(np.bincount(some, minlength=len(data.task.labels)) for some in (tags, new_tags)))
    asked = np.flatnonzero(least >= _FEWEST)
    if len(asked) < 2:
        raise UserError(f"--sentences={_SENTENCES.value} have too few words of each tag; read more of them.")
    known, new_known = np.isin(tags, asked), np.isin(new_tags, asked)
    scores = []
    for layer, (states, new_states) in enumerate(zip(train, new, strict=True)):
        scores.append(probe(states[known], tags[known], new_states[new_known], new_tags[new_known]))
        print(f"layer {layer:2}  {scores[-1]:.3f}", flush=True)
    guess = 1 / len(asked)
    print(json.dumps({"run": _RUN.value, "tagging": _TAGGING.value, "guess": guess, "layers": scores}))
    if _PICTURE.value is not None:
        # Text stays text, and neither the day nor the machine is written, so the same scores give the same file.
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "gpt1_jax"}):
            svg = _PICTURE.value.endswith(".svg")
            draw(scores, guess).savefig(_PICTURE.value, metadata={"Date": None} if svg else None)


def read_words(run: TrainedRun, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the states of words behind each layer, float32 [L + 1, words, D], and the numbers of their tags, [words].

    Sentences that do not fit the context are left out, and so are words without a piece.
    """
    model = run.config.model
    states, tags = [np.zeros((model.num_layers + 1, 0, model.d_model), np.float32)], []
    for example in examples:
        text, labels = " ".join(example.texts), example.label
        ids = run.encode(text)
        # Two pieces may stand around it.
        if not (ids and isinstance(labels, tuple) and len(ids) <= model.context_length - 2):
            continue
        read, _ = inside(run, read_ids(run, text))
        before = (read.shape[1] - len(ids)) // 2
        for word, tag in zip(find_words(run.tokenizer, text, ids), labels, strict=True):
            if word.last > word.first:
                place = before + (word.last - 1 if model.causal else word.first)
                states.append(read[:, place : place + 1])
                tags.append(tag)
    return np.concatenate(states, 1), np.array(tags)


def probe(states: np.ndarray, tags: np.ndarray, new_states: np.ndarray, new_tags: np.ndarray) -> float:
    """Returns the balanced accuracy on new states of a linear classifier of states."""
    ridge = RidgeClassifier(alpha=_PENALTY, class_weight="balanced")
    classifier = make_pipeline(StandardScaler(), ridge)
    classifier.fit(states, tags)
    return float(balanced_accuracy_score(new_tags, classifier.predict(new_states)))


def draw(scores: Sequence[float], guess: float) -> Figure:
    """Draws the score of each layer, the embeddings first, and a dashed line where a guess would be."""
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes: Any = figure.subplots()
    axes.plot(range(len(scores)), scores, "o-")
    axes.axhline(guess, linestyle="--", linewidth=1, color="gray")
    axes.annotate("a guess", (0, guess), ha="left", va="bottom", color="gray", fontsize=9)
    axes.set(xlabel="layer (0: the embeddings)", ylabel="balanced accuracy", xticks=range(len(scores)))
    return figure


if __name__ == "__main__":
    door(main)
