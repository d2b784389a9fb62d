"""Files of tags, of questions on contexts and of completions: what is read, and one sentence on what is not."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs.finetune import paper
from gpt1_jax.config import FinetuneConfig
from gpt1_jax.errors import UserError
from gpt1_jax.tasks.custom import read_custom, read_custom_validation
from gpt1_jax.tasks.task import Example, Kind, Task

CONLL = "John B-PER\nruns O\n\nParis B-LOC\n"
SENTENCES = [Example(("John", "runs"), (1, 2)), Example(("Paris",), (0,))]
CONLLU = (
    "# text = Don't go\n"
    "1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tDo\tdo\tAUX\t_\t_\t_\t_\t_\t_\n"
    "2\tn't\tnot\tPART\t_\t_\t_\t_\t_\t_\n"
    "2.1\tx\tx\tX\t_\t_\t_\t_\t_\t_\n"
    "3\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_\n"
)


def settings(kind: Kind, columns: str = "") -> FinetuneConfig:
    finetune = paper("custom").finetune
    assert finetune
    return replace(finetune, kind=kind, columns=columns)


def read(
    directory: Path, kind: Kind, name: str, content: str | bytes, columns: str = ""
) -> tuple[Task, list[Example]]:
    """Reads a file as both parts, and returns what training has."""
    written = content.encode() if isinstance(content, str) else content
    suffix = name.partition(".")[2]
    for split in ("train", "validation"):
        (directory / f"{split}.{suffix}").write_bytes(written)
    task, examples = read_custom(settings(kind, columns), directory, 0)
    assert examples["train"] == examples["validation"]
    return task, examples["train"]


def refusal(directory: Path, kind: Kind, name: str, content: str, columns: str = "") -> str:
    """Returns the sentence that refuses a file: it names the file, and where, and says what to do."""
    with pytest.raises(UserError) as error:
        read(directory, kind, name, content, columns)
    (sentence,) = str(error.value).splitlines()
    assert sentence.startswith("data.source: ") and sentence.endswith(".") and "train" in sentence
    return sentence


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# ── Words with tags ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "content",
    [
        CONLL,
        CONLL.rstrip("\n"),
        "\ufeff" + CONLL,
        CONLL.replace("\n", "\r\n"),
        "\n\n" + CONLL.replace("\n\n", "\n \n\t\n\n") + "\n\n",
        CONLL.replace(" ", "\t"),
        "-DOCSTART- -X-\n\n" + CONLL,
        CONLL.replace(" ", " NNP   x "),
    ],
    ids=["plain", "no end", "BOM", "CRLF", "empty lines", "tabs", "documents", "four columns"],
)
def test_columns_are_read_however_they_are_written(tmp_path: Path, content: str) -> None:
    task, examples = read(tmp_path, "tagging", "x.conll", content)
    assert (task.labels, task.metrics) == (("B-LOC", "B-PER", "O"), ("f1", "accuracy"))
    assert examples == SENTENCES


def test_a_list_may_be_empty_and_a_cell_has_spaces(tmp_path: Path) -> None:
    rows = [{"words": ["John", "runs"], "tags": ["B-PER", "O"]}, {"words": [], "tags": []}]
    _, examples = read(tmp_path, "tagging", "x.jsonl", lines(*rows, {"words": "Paris", "tags": "B-LOC"}))
    assert examples == [SENTENCES[0], Example((), ()), SENTENCES[1]]


def test_universal_dependencies_have_the_words_and_not_the_surface(tmp_path: Path) -> None:
    task, examples = read(tmp_path, "tagging", "x.conllu", "\ufeff" + CONLLU.replace("\n", "\r\n"))
    assert task.labels == ("AUX", "PART", "VERB") and task.metrics == ("accuracy",)
    assert examples == [Example(("Do", "n't", "go"), (0, 1, 2))]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "x.conll",
            "John B-PER\nruns\n",
            "line 2 of .* has 1 column, expected the 2 of the first line.*; fix the line",
        ),
        ("x.conll", "a O\n\nb X O\n", "line 3 of .* has 3 columns, expected the 2"),
        ("x.tsv", "a\tO\n\tO\n", "line 2 of .* a word first"),
        (
            "x.conllu",
            "1\tDo\tAUX\n",
            "line 1 of .* has 3 columns, expected the ten of CoNLL-U.*; fix the line",
        ),
        ("x.conll", "a O\nb O\n", "'tags' has 1 different tag in training, expected 2 to"),
        (
            "x.jsonl",
            lines({"words": ["a"], "tags": ["O", "X"]}),
            "line 1 of .* 'tags' has 2 tags for 1 word;",
        ),
        ("x.jsonl", lines({"words": ["a", 3], "tags": ["O", "X"]}), "line 1 of .* expected a list of words"),
        (
            "x.jsonl",
            lines({"words": ["a", "b"], "tags": ["O", None]}),
            "line 1 of .* tag 2 of 'tags' is null",
        ),
        ("x.conll", "a\nb\n", "line 1 of .* has no column 'tags' but 'words'"),
        ("x.conll", "", "train.conll holds no examples"),
    ],
)
def test_a_wrong_file_of_tags_is_named_with_its_line(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    assert re.search(expected, refusal(tmp_path, "tagging", name, content))


def test_a_tag_that_training_lacks_is_named_with_its_word(tmp_path: Path) -> None:
    task, _ = read(tmp_path, "tagging", "x.conll", CONLL)
    other = tmp_path / "other.conll"
    other.write_text("Rome B-LOC\n\nin O\nMay B-DATE\n")
    with pytest.raises(UserError) as error:
        read_custom_validation(other, task)
    assert str(error.value) == (
        f"data.source: the sentence at line 3 of {other} is not an example of custom: the tag of word 2, 'May', is "
        "'B-DATE', expected one of 'B-LOC', 'B-PER', 'O'; write a tag that training has."
    )


# ── Questions on contexts ────────────────────────────────────────────────────────────────────────────────────


def squad(*asked: dict[str, Any], context: Any = "In  the café, Ann met Ann.") -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": context, "qas": list(asked)}]}]})


def test_the_official_layout_has_ids_and_impossible_questions(tmp_path: Path) -> None:
    content = squad(
        {"id": "q1", "question": "Who?", "answers": [{"text": "Ann", "answer_start": 22}]},
        {
            "id": "q2",
            "question": "Why?",
            "is_impossible": True,
            "plausible_answers": [{"text": "In"}],
            "answers": [],
        },
    )
    task, examples = read(tmp_path, "span", "x.json", "\ufeff" + content)
    assert task.no_answer and [(example.id, example.label) for example in examples] == [
        ("q1", ((22, 25),)),
        ("q2", ()),
    ]


@pytest.mark.parametrize(
    ("given", "label"),
    [
        ({"answers": "Ann"}, ((14, 17),)),
        ({"answer": "Ann", "answer_start": 22}, ((22, 25),)),
        ({"answers": ["café", "Ann"]}, ((8, 12), (14, 17))),
        ({"answers": {"text": ["Ann"], "answer_start": [20]}}, ((22, 25),)),
        ({"answers": [{"text": "café", "answer_start": -1}]}, ((8, 12),)),
        ({"answers": {"text": [], "answer_start": []}}, ()),
        ({"answers": []}, ()),
        ({"answers": None}, ()),
        ({"answers": ""}, ()),
    ],
)
def test_answers_may_be_written_in_several_ways(
    tmp_path: Path, given: dict[str, Any], label: tuple[tuple[int, int], ...]
) -> None:
    """A start that is wrong by a few characters means the nearest such text."""
    row = {"question": "?", "context": "In  the café, Ann met Ann."} | given
    task, (example,) = read(tmp_path, "span", "x.jsonl", lines(row).replace("\n", "\r\n"))
    assert example.label == label and task.no_answer == (label == ())


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "x.jsonl",
            lines({"question": "?", "context": "a b", "answers": "c"}),
            "line 1 of .*: the answer 'c' is not in",
        ),
        (
            "x.json",
            squad({"id": "q7", "question": "?", "answers": [{"text": "z"}]}),
            r"question 1 \(q7\) of .*: the answer 'z' is not in the context; write",
        ),
        ("x.json", squad({"id": "q", "question": 3, "answers": []}), "'question' is 3, expected a text"),
        (
            "x.json",
            squad({"id": "q", "question": "?", "answers": []}, context=None),
            "'context' is null, expected a text",
        ),
        (
            "x.json",
            json.dumps({"data": [3]}),
            r"\[3\] for 'data', expected a list of objects; write it as SQuAD does",
        ),
        ("x.json", "[]", "train.json"),
        ("x.json", '{"data": [', "train.json"),
        (
            "x.jsonl",
            lines({"question": "?", "context": "a", "answers": 3}),
            "'answers' is 3, expected a text or a list",
        ),
        (
            "x.jsonl",
            lines({"question": "?", "context": "a", "answers": {"text": ["a"], "answer_start": [1, 2]}}),
            "expected a start for each text",
        ),
        ("x.jsonl", lines({"question": "?", "context": "a"}), "line 1 of .* has no column 'answers'"),
        (
            "x.jsonl",
            lines({"question": "?", "context": "a", "answers": "a"}, {"question": "?", "context": "a"}),
            "line 2 of .*expected 'answers' among its columns",
        ),
    ],
)
def test_a_wrong_file_of_questions_is_named_with_its_place(
    tmp_path: Path, name: str, content: str, expected: str
) -> None:
    assert re.search(expected, refusal(tmp_path, "span", name, content))


# ── Completions ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_of_completions_may_have_a_mark_and_line_ends(tmp_path: Path) -> None:
    content = '\ufeffask,say\r\n"a, b",  c \r\nd,e\r\n'
    _, examples = read(tmp_path, "completion", "x.csv", content, "prompt=ask,completion=say")
    assert examples == [Example(("a, b",), "c"), Example(("d",), "e")]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "a", "completion": " "}, "line 1 of .*'completion' is \" \", expected a text"),
        ({"prompt": "a", "completion": ["b"]}, "line 1 of .*'completion' is .*, expected a text"),
        ({"prompt": None, "completion": "b"}, "line 1 of .*'prompt' is null, expected a text"),
        ({"prompt": "a"}, "line 1 of .* has no column 'completion' but 'prompt'"),
    ],
)
def test_a_wrong_completion_is_named_with_its_line(
    tmp_path: Path, row: dict[str, Any], expected: str
) -> None:
    assert re.search(expected, refusal(tmp_path, "completion", "x.jsonl", lines(row)))
