"""Completions: what is learned of a row, how long ones are cut, and what comes back in which order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from test_encoding import Letters

from gpt1_jax.model.decoding.samples import Sample
from gpt1_jax.model.decoding.settings import Generation
from gpt1_jax.tasks.batches import assemble
from gpt1_jax.tasks.completions import complete
from gpt1_jax.tasks.encoding import encode_examples
from gpt1_jax.tasks.frames import make_frame
from gpt1_jax.tasks.task import Example, Task

TASK = Task("any", "completion", ("exact_match",))
START, DELIMITER, END = 26, 27, 28


class Spelled(Letters):
    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(ord("a") + id) for id in ids)


def test_only_the_completion_and_the_end_are_learned() -> None:
    encoded = encode_examples(TASK, [Example(("abc",), "de"), Example(("a",), "d")], Letters(), 16, "classes")
    batch = assemble(encoded, np.arange(2), rows=2, width=8, batch=np.arange(2))
    assert batch.tokens[0, 0].tolist() == [START, 0, 1, 2, DELIMITER, 3, 4, END]
    learned = [batch.targets[row, 0][batch.weights[row, 0] > 0].tolist() for row in range(2)]
    assert learned == [[3, 4, END], [3, END]]
    assert batch.weights.sum(-1)[:, 0] == pytest.approx([0.5, 0.5])
    assert batch.labels.size == batch.label_weights.size == 0


@pytest.mark.parametrize(
    ("prompt", "completion", "row"),
    [
        ("abcde", "fgh", "abcde$fgh"),
        ("abcdefgh", "ijk", "defgh$ijk"),
        ("abcdefgh", "ijklmnop", "efgh$ijkl"),
        ("ab", "ijklmnop", "ab$ijklmn"),
    ],
)
def test_a_long_prompt_loses_its_beginning_and_then_a_long_completion_its_end(
    prompt: str, completion: str, row: str
) -> None:
    """A context of 11 has room for 8 letters."""
    encoded = encode_examples(TASK, [Example((prompt,), completion)], Letters(), 11, "classes")
    expected = [DELIMITER if letter == "$" else ord(letter) - ord("a") for letter in row]
    assert encoded.sequence(0, 0).tolist() == [START, *expected, END]
    assert encoded.cut.tolist() == [len(prompt) + len(completion) + 1 - len(row)]


def test_completions_come_back_in_order_without_special_tokens() -> None:
    asked: list[list[int]] = []

    def generate(prompts: Sequence[Sequence[int]], settings: Generation) -> list[list[Any]]:
        assert settings.temperature == 0 and settings.stop == (END,)
        asked.extend(map(list, prompts))
        return [[Sample([*prompt[1:-1], DELIMITER, START], [], "stop")] for prompt in prompts]

    frame = make_frame(Spelled(), causal=True)
    examples = [Example((prompt,), None) for prompt in ("abcd", "b", "cd", "abcdefghijklmnop")]
    assert complete(examples, Spelled(), frame, 16, generate) == ["abcd", "b", "cd", "ghijklmnop"]
    assert [len(prompt) for prompt in asked] == [3, 4, 6, 12]
    assert all(prompt[0] == START and prompt[-1] == DELIMITER for prompt in asked)
    assert complete([], Spelled(), frame, 16, generate) == []
