"""Baselines: what they can see in an example, and that they are scored on the split that fine-tuning is scored on."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.baselines import baseline_scores
from gpt1_jax.tasks.task import Example, Task

ROOT = Path(__file__).parents[1]
WORDS = [f"word{i}" for i in range(20)]
CLASSES = Task("classes", "classification", ("accuracy",), labels=("a", "b", "c"))
PAIRS = Task("pairs", "similarity", ("accuracy", "f1"), labels=("different", "same"))
CHOICES = Task("choices", "choice", ("accuracy",), choices=3)


def scores(task: Task, train: list[Example], validation: list[Example]) -> dict[str, float]:
    """The first metric of each baseline."""
    found = baseline_scores(task, train, validation)
    return {name: values[task.metrics[0]] for name, values in found.items()}


# ── Majority ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_majority_is_of_the_training_part() -> None:
    train = [Example((f"word{i}",), label) for i, label in enumerate([2, 1, 1, 0, 2, 1])]
    validation = [Example(("word",), label) for label in [2, 2, 1, 0]]
    assert scores(CLASSES, train, validation)["majority"] == 1 / 4


def test_the_majority_of_choices_is_a_place() -> None:
    train = [Example(("story", "", "one", "two", "three"), label) for label in [0, 2, 2, 1]]
    validation = [Example(("story", "", "one", "two", "three"), label) for label in [2, 2, 2, 0]]
    assert scores(CHOICES, train, validation)["majority"] == 3 / 4


def test_each_word_has_its_most_frequent_tag_and_a_new_word_none() -> None:
    task = Task("names", "tagging", ("f1", "accuracy"), labels=("O", "B-NAME", "I-NAME"))
    sentences = [("lot went", (1, 0)), ("The lot", (0, 0)), ("lot the", (1, 0))]
    train = [Example(tuple(words.split()), tags) for words, tags in sentences]
    validation = [Example(("the", "Lot", "of", "moab"), (0, 1, 0, 1)), Example(("lot",), (0,))]
    (name, found), *more = baseline_scores(task, train, validation).items()
    # One of the two names is found, beside one that is none.
    assert (name, found["f1"], found["accuracy"], more) == ("word_majority", 1 / 2, 3 / 5, [])


def test_a_new_word_has_the_most_frequent_tag_if_there_is_no_o() -> None:
    task = Task("speech", "tagging", ("accuracy",), labels=("DET", "NOUN"))
    train = [Example(("the", "sun", "moon"), (0, 1, 1))]
    assert scores(task, train, [Example(("the", "star"), (0, 1))]) == {"word_majority": 1.0}


def test_an_answer_is_the_longest_run_of_words_of_question_and_context() -> None:
    task = Task("verses", "span", ("f1", "exact_match"))
    context = "The sun rose. And the MOON, it is said, was dark."
    answers = {"the moon, it is gone": "the MOON, it is", "stars": "the MOON"}
    validation = []
    for question, answer in answers.items():
        start = context.index(answer)
        validation.append(Example((question, context), ((start, start + len(answer)),)))
    assert baseline_scores(task, [], validation) == {
        "common_words": {"f1": 0.5, "exact_match": 0.5, "examples": 2}
    }


# ── What TF-IDF can see ──────────────────────────────────────────────────────────────────────────────────────


def test_tfidf_sees_words_and_pairs_of_words() -> None:
    texts = [("film", 0), ("not bad but good", 1), ("not good but bad", 2)]
    examples = [Example((text,), label) for text, label in texts] * 20
    assert scores(CLASSES, examples, examples) == {"majority": 1 / 3, "tfidf": 1.0}


def word_pairs(seed: int) -> list[Example]:
    """A word stands beside itself or beside another, and no single word says which."""
    chosen = random.Random(seed)
    examples = []
    for _ in range(100):
        a, b = chosen.sample(WORDS, 2)
        examples += [Example((x, y), int(x == y)) for x in (a, b) for y in (a, b)]
    return examples


def test_only_the_cosine_compares_the_texts_of_a_pair() -> None:
    found = scores(PAIRS, word_pairs(0), word_pairs(1))
    assert found == {"majority": 0.5, "tfidf": pytest.approx(0.5, abs=0.05), "tfidf+cosine": 1.0}


def test_tfidf_knows_which_text_of_a_pair_a_word_is_in() -> None:
    examples = [Example(("sun", "moon"), 1), Example(("moon", "sun"), 0)] * 20
    assert scores(PAIRS, examples, examples)["tfidf"] == 1


def test_a_choice_is_judged_by_its_words_and_compared_with_context_and_question() -> None:
    def examples(seed: int, role: int) -> list[Example]:
        """The right choice is in the context or in the question, or has the word "yes"."""
        chosen, found = random.Random(seed), []
        for _ in range(100):
            choices = chosen.sample(WORDS, 3)
            label = chosen.randrange(3)
            texts = ["story", "question", *choices]
            texts[role] = choices[label] if role < 2 else "story"
            if role == 2:
                texts[2:] = [f"{word} {'yes' if i == label else 'no'}" for i, word in enumerate(choices)]
            found.append(Example(tuple(texts), label))
        return found

    for role in (0, 1):
        found = scores(CHOICES, examples(0, role), examples(1, role))
        assert found["tfidf"] < 0.5 and found["tfidf+cosine"] == 1
    assert scores(CHOICES, examples(0, 2), examples(1, 2))["tfidf"] == 1


def test_scores_are_regressed() -> None:
    task = Task("scored", "similarity", ("pearson", "spearman"), score_range=(0, 5))

    def examples(seed: int) -> list[Example]:
        chosen, found = random.Random(seed), []
        for _ in range(200):
            words, shared = chosen.sample(WORDS, 8), chosen.randrange(5)
            found.append(
                Example((" ".join(words[:4]), " ".join(words[4 - shared : 8 - shared])), 1.25 * shared)
            )
        return found

    found = scores(task, examples(0), examples(1))
    assert found["majority"] == 0 and found["tfidf"] < 0.5 and found["tfidf+cosine"] > 0.95


# ── The split ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_headline_group_stands_for_the_task_and_unlabeled_examples_do_not_count() -> None:
    task = Task("grouped", "entailment", ("accuracy",), labels=("a", "b"), headline="matched")
    train = [Example(("sun", "moon"), 1), Example(("moon", "sun"), 0)] * 20
    validation = [
        Example(("sun", "moon"), 1, "matched"),
        Example(("moon", "sun"), 0, "matched"),
        Example(("sun", "moon"), None, "matched"),
        Example(("sun", "moon"), 0, "mismatched"),
    ]
    found = baseline_scores(task, train, validation)["tfidf"]
    assert (found["accuracy"], found["examples"], found["accuracy_mismatched"]) == (1, 2, 0)


def test_the_command_prints_a_table_and_a_line_of_json_for_each_result(tmp_path: Path) -> None:
    for name, count in (("train", 30), ("dev", 10)):
        lines = [
            f"{i}\tthe sun {word}\tthe moon\t{label}"
            for i in range(count)
            for word, label in (("is up", "entailment"), ("is down", "not_entailment"))
        ]
        (tmp_path / f"{name}.tsv").write_text(
            "\n".join(["index\tsentence1\tsentence2\tlabel", *lines]) + "\n"
        )
    command = [sys.executable, "-m", "benchmarks.baselines", "--tasks=rte", f"--source=files:{tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    table, facts = (part.splitlines() for part in done.stdout.split("\n\n"))
    assert [line.split() for line in table] == [
        ["rte", "majority", "accuracy", "0.500"],
        ["rte", "tfidf", "accuracy", "1.000"],
        ["rte", "tfidf+cosine", "accuracy", "1.000"],
    ]
    assert json.loads(facts[1]) == {
        "task": "rte",
        "baseline": "tfidf",
        "train": 60,
        "accuracy": 1.0,
        "examples": 20,
    }
