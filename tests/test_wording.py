"""Sentences: "1 step" and "2 steps", wherever a number is said with what it counts; whole words on a terminal."""

import ast
import re
from pathlib import Path

import pytest
from terminal_support import run_in_terminal

from gpt1_jax.wording import counted, fitted

ROOT = Path(__file__).parents[1]
# The plural of a noun at the beginning of what follows a number, perhaps behind an adjective that ends likewise.
NOUNS = (
    "answer|alternative|array|batch|block|byte|chip|choice|class|character|checkpoint|column|device|document|epoch|"
    "evaluation|example|file|head|label|layer|line|member|parameter|part|piece|position|prediction|process|prompt|"
    "question|record|row|run|sample|score|seed|sequence|shard|step|tag|text|token|update|value|window|word"
)
PLURAL = re.compile(
    r" (?:[a-z]+(?:ing|ed|ent|er) )?(?:"
    + "|".join(counted(0, noun)[2:] for noun in NOUNS.split("|"))
    + r")\b(?![/'])"
)
# A value that cannot be 1: a constant, or a quantity with a fraction.
MANY = re.compile(r"[A-Z_\d]+$")


def test_a_count_agrees_with_its_noun() -> None:
    assert [counted(n, "step") for n in (0, 1, 2, 1500)] == ["0 steps", "1 step", "2 steps", "1,500 steps"]
    assert [counted(2, noun) for noun in ("batch", "class", "box", "choice")] == [
        "2 batches", "2 classes", "2 boxes", "2 choices",
    ]  # fmt: skip


def bare_counts(source: str) -> list[str]:
    """Returns the f-strings of a module in which a number that may be 1 stands before a plural."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, behind in zip(node.values, node.values[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(behind, ast.Constant):
                continue
            fraction = value.format_spec is not None and re.search(r"\d[fg]", ast.unparse(value.format_spec))
            if not fraction and not MANY.match(ast.unparse(value.value)) and PLURAL.match(str(behind.value)):
                found.append(ast.unparse(node))
    return found


def test_the_search_for_plurals_sees_what_it_is_to_find() -> None:
    assert bare_counts('f"{n} steps"') and bare_counts('f"{len(x):,} training examples of {y}"')
    assert not bare_counts('f"{n} stepson {_MOST:,} bytes {speed:,.0f} tokens/s {size:.1f} bits"')


@pytest.mark.parametrize("room", ("gpt1_jax", "benchmarks"))
def test_no_sentence_counts_without_the_one_function_that_knows_the_singular(room: str) -> None:
    bare = {
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in sorted((ROOT / room).rglob("*.py"))
        for sentence in bare_counts(path.read_text())
    }
    assert not bare, "\n".join(sorted(bare))


# ── Terminals ────────────────────────────────────────────────────────────────────────────────────────────────

SENTENCE = (
    "error: --input: line 1 of a-file-with-hyphens.txt is not JSON (a  b\t); write an object, such as {}."
)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_line_on_a_terminal_ends_between_words(columns: int) -> None:
    program = f"import sys; from gpt1_jax.wording import fitted; print(fitted({SENTENCE!r}), file=sys.stderr)"
    lines = run_in_terminal(program, columns).replace("\r\n", "\n").rstrip("\n").split("\n")
    assert all(len(line) <= columns for line in lines) and " ".join(lines).split() == SENTENCE.split()
    assert len(lines) == -(-len(SENTENCE) // columns)


def test_a_long_path_is_not_cut_and_a_file_gets_the_sentence_in_one_line() -> None:
    path = "/a" * 60
    program = f"import sys; from gpt1_jax.wording import fitted; print(fitted('at {path}.'), file=sys.stderr)"
    assert f"{path}." in run_in_terminal(program, 40)
    assert run_in_terminal(program, 0) == f"at {path}.\r\n"
    assert fitted(SENTENCE) == SENTENCE
