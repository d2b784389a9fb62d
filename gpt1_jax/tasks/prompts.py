"""Prompts: examples of a task as text, by a template of the user's, and solved ones before them.

A template is a text in which the names of the task's kind stand in braces, and {answer} where the answer goes. Lines
such as `entailment = yes` may come first, up to a line `---`: they say how a class is spelled.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpt1_jax.disk.inputs import read_text
from gpt1_jax.errors import UserError
from gpt1_jax.hashing import index_shuffle
from gpt1_jax.tasks.task import ROLES, Example, Task
from gpt1_jax.wording import counted

# Each answer of an example: the text that is given, and the text that is scored.
Ask = Callable[[Task, Example], list[tuple[str, str]]]

_FLAG = "--prompt_template"
_NAME = re.compile(r"\{(\w+)\}")
_ANSWER = "answer"


@dataclass(frozen=True)
class Template:
    """How an example and one of its answers become a text.

    Attributes:
        before: the text up to the answer, without white space at its end.
        after: that white space, the answer, and what follows.
        words: how classes are spelled, where that is not their name.
    """

    before: str
    after: str
    words: dict[str, str]

    def __call__(self, task: Task, example: Example) -> list[tuple[str, str]]:
        """Returns what is given and what is scored for each class or choice."""
        if task.kind == "choice":
            context, question, *answers = example.texts
            texts = {"context": context, "question": question, "choices": "\n".join(answers)}
        else:
            texts = dict(zip(ROLES[task.kind], example.texts, strict=True))
            answers = [self.words.get(label, label) for label in task.labels]
        return [
            (_fill(self.before, texts), _fill(self.after, texts | {_ANSWER: answer})) for answer in answers
        ]


def read_template(path: str, task: Task) -> Template:
    """Reads a template for a task.

    Raises:
        UserError: the file cannot be read, or is no template for the task.
    """
    if task.kind != "choice" and not task.labels:
        raise UserError(
            f"{_FLAG}={path} is for tasks with classes or choices, and {task.name} has neither; leave it out."
        )
    head, rule, text = read_text(Path(path), _FLAG).replace("\r\n", "\n").rpartition("\n---\n")
    words = dict(_read_word(line, task, path) for line in head.split("\n") if line.strip()) if rule else {}
    known = [*ROLES[task.kind], _ANSWER]
    names = _NAME.findall(text)
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"{_FLAG}={path} names {{{unknown[0]}}}, which {task.name} does not have; write one of "
            f"{', '.join(f'{{{name}}}' for name in known)}."
        )
    if names.count(_ANSWER) != 1:
        wrong = f"has {{{_ANSWER}}} more than once" if _ANSWER in names else f"has no {{{_ANSWER}}}"
        raise UserError(f"{_FLAG}={path} {wrong}; write it once, where the answer goes.")
    before, answer, rest = text.rstrip("\n").partition(f"{{{_ANSWER}}}")
    kept = before.rstrip()
    return Template(kept, before[len(kept) :] + answer + rest, words)


def with_shots(ask: Ask, task: Task, solved: Sequence[Example], count: int) -> Ask:
    """Returns a way to ask that puts solved examples before each question, always the same, an empty line between two.

    Args:
        ask: gives the text of one example.
        task: the task.
        solved: the training examples, of which some are drawn.
        count: how many.

    Raises:
        UserError: there are fewer.
    """
    if count > len(solved):
        raise UserError(
            f"--shots={count} is more than the {counted(len(solved), 'training example')} of {task.name}; lower it."
        )
    last = len(solved) - 1
    drawn = [
        solved[index_shuffle(number, max_index=last, seed=0, rounds=4) if last else 0]
        for number in range(count)
    ]
    shown = "".join("".join(ask(task, example)[_answer(example)]) + "\n\n" for example in drawn)
    return lambda task, example: [(shown + given, scored) for given, scored in ask(task, example)]


def _answer(example: Example) -> int:
    """Returns the number of the right answer of a training example, which always has one."""
    assert isinstance(example.label, int | float)
    return int(example.label)


def _read_word(line: str, task: Task, path: str) -> tuple[str, str]:
    label, equals, word = (part.strip() for part in line.partition("="))
    if not equals or not word or label not in task.labels:
        raise UserError(
            f"{_FLAG}={path} has the line {line[:60]!r} before ---; write CLASS = WORD, with a class of "
            f"{', '.join(task.labels) or 'none: this task has choices'}."
        )
    return label, word


def _fill(text: str, texts: dict[str, str]) -> str:
    return _NAME.sub(lambda match: texts[match[1]], text)
