"""Zero-shot scores: which tokens are scored after which, which answer is chosen, and CoLA's threshold."""

from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from gpt1_jax.errors import UserError
from gpt1_jax.tasks.batches import assemble
from gpt1_jax.tasks.catalog import find_task
from gpt1_jax.tasks.task import Example, Task
from gpt1_jax.tasks.zero_shot import best_threshold, check_plain, choose_answers, encode_queries, plain_ask

CHOICES = Task("choices", "choice", ("accuracy",), choices=2)


class Characters:
    """A tokenizer of one piece a character, and a piece 0 that ends a document."""

    vocab_size = 256
    end_id: int | None = 0

    def encode_batch(self, texts: Sequence[str], threads: int) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("latin-1"), np.uint8).astype(np.int32) for text in texts]


def queries(task: Task, example: Example, length: int = 100, end: bool = True) -> list[tuple[str, str]]:
    """Each sequence as (what is given, what is scored); "|" is the end piece."""
    tokenizer = Characters()
    tokenizer.end_id = 0 if end else None
    encoded = encode_queries([plain_ask(task, example)], tokenizer, length)  # pyright: ignore[reportArgumentType]
    found = []
    bounds = encoded.offsets.tolist()
    for start, stop, count in zip(bounds[:-1], bounds[1:], encoded.labels[0], strict=True):
        text = "".join(chr(id) if id else "|" for id in encoded.tokens[start:stop])
        found.append((text[: len(text) - int(count)], text[len(text) - int(count) :]))
    return found


# ── What is scored after what ────────────────────────────────────────────────────────────────────────────────


def test_cola_scores_the_whole_sentence() -> None:
    assert queries(find_task("cola"), Example(("It rains.",), 1)) == [("|", "It rains.")]


def test_the_first_token_has_nothing_before_it_where_documents_have_no_end_piece() -> None:
    assert queries(find_task("cola"), Example(("It rains.",), 1), end=False) == [("I", "t rains.")]


def test_sst2_scores_the_word_behind_very() -> None:
    found = queries(find_task("sst2"), Example(("a fine film",), 1))
    assert found == [("|a fine film very", " negative"), ("|a fine film very", " positive")]


def test_choices_are_scored_after_context_and_question() -> None:
    example = Example(("It rained.", "Why?", "Clouds.", "Sun."), 0)
    assert queries(CHOICES, example) == [("|It rained. Why?", " Clouds."), ("|It rained. Why?", " Sun.")]
    example = Example(("It rained.", "", "Wet.", "Dry."), 0)
    assert queries(CHOICES, example) == [("|It rained.", " Wet."), ("|It rained.", " Dry.")]


def test_dprd_scores_what_follows_the_candidate_in_the_pronouns_place() -> None:
    example = Example(
        ("The bee left the flower since it had pollen; it bit.", "it", "the bee", "the flower"), 1
    )
    assert queries(find_task("dprd"), example) == [
        ("|The bee left the flower since the bee", " had pollen; it bit."),
        ("|The bee left the flower since the flower", " had pollen; it bit."),
    ]


def test_a_pronoun_that_does_not_occur_is_told() -> None:
    with pytest.raises(UserError, match="pronoun 'they' does not occur"):
        queries(find_task("dprd"), Example(("He left.", "they", "a", "b"), 0))


def test_what_is_too_long_loses_its_beginning() -> None:
    example = Example(("It rained.", "Why?", "Clouds.", "Sun."), 0)
    assert queries(CHOICES, example, length=12) == [("Why?", " Clouds."), ("d. Why?", " Sun.")]
    assert queries(CHOICES, example, length=5) == [("o", "uds."), (" ", "Sun.")]


def test_an_answer_of_which_no_token_can_be_scored_is_told() -> None:
    with pytest.raises(UserError, match="The answer '' after 'I say' has no token"):
        encode_queries([[("I say", ""), ("I say", "")]], Characters(), 100)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="The answer 'I' after '' has no token"):
        queries(find_task("cola"), Example(("I",), 1), end=False)


def test_an_empty_answer_is_never_the_likeliest() -> None:
    encoded = encode_queries([[("I", ""), ("I", " y"), ("", "y")]], Characters(), 9)  # pyright: ignore
    assert encoded.labels.tolist() == [[0, 2, 1]]
    assert choose_answers(CHOICES, np.array([[0.0, -5.0, -2.6]]), encoded.labels) == [1]
    assert assemble(encoded, np.arange(1), 1, 8, np.arange(1)).weights[0, 0].sum() == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["rte", "mrpc", "stsb"])
def test_a_task_without_a_zero_shot_form_is_told(name: str) -> None:
    with pytest.raises(UserError, match=f"--zero_shot={name} has no zero-shot form"):
        check_plain(find_task(name))


# ── What is chosen ───────────────────────────────────────────────────────────────────────────────────────────


def test_answers_are_compared_by_their_mean_and_sentiments_by_their_sum() -> None:
    sums, counts = np.array([[-4.0, -6.0]]), np.array([[2.0, 6.0]])
    assert choose_answers(CHOICES, sums, counts).tolist() == [1]
    assert choose_answers(find_task("sst2"), sums, counts).tolist() == [0]


def test_the_threshold_is_the_best_by_matthews() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 200)
    scores = labels + generator.normal(0, 1.5, 200)
    found = matthews_corrcoef(labels, scores > best_threshold(scores, labels))
    middles = np.sort(scores)[:-1] / 2 + np.sort(scores)[1:] / 2
    assert found == pytest.approx(max(matthews_corrcoef(labels, scores > middle) for middle in middles))


def test_a_threshold_separates_what_can_be_separated() -> None:
    scores, labels = np.array([-3.0, -1.0, -2.0, -4.0]), np.array([0, 1, 1, 0])
    assert -3 < best_threshold(scores, labels) < -2
