"""Results that display themselves are what they were, and show what they hold."""

import copy
import json
import pickle
from typing import Any

from gpt1_jax.usage.displays import Record, Records, display

PREDICTIONS = [
    {"label": "good", "probabilities": {"good": 0.75, "bad": 0.25}},
    {"label": "<b>", "probabilities": {"good": 0.5, "bad": 0.5}},
]
SCORE = {
    "text": "the old",
    "total": -12.5,
    "words": [
        {"text": "the", "start": 0, "end": 3, "bits": None},
        {"text": "o<d", "start": 4, "end": 7, "bits": 9.0},
    ],
}


def test_they_are_the_dictionaries_and_lists_that_they_were() -> None:
    for plain in (PREDICTIONS, SCORE, [], [[{"text": "fox", "probability": 0.5}]]):
        shown = display(plain)
        assert shown == plain and isinstance(shown, type(plain))
        assert json.dumps(shown) == json.dumps(plain)
        assert copy.deepcopy(shown) == pickle.loads(pickle.dumps(shown)) == plain


def test_a_console_shows_a_line_for_each_below_the_names_of_columns() -> None:
    assert repr(display(PREDICTIONS)).splitlines() == [
        "label  probabilities",
        "good   good 0.75, bad 0.25",
        "<b>    good 0.5, bad 0.5",
    ]
    assert repr(display({"step": 3, "accuracy": 2 / 3})).splitlines() == ["step      3", "accuracy  0.6667"]
    assert repr(display([[{"token_id": 3, "text": "fox", "probability": 0.5}]])).splitlines() == [
        "",
        "fox 0.500",
    ]
    assert (repr(Records()), repr(Record())) == ("[]", "{}")


def test_a_console_shows_the_most_probable_first_and_the_bits_of_words() -> None:
    shown = repr(display({"probabilities": {"history": 0.2, "letter": 0.5, "gospel": 0.3}}))
    assert shown == "probabilities  letter 0.5, gospel 0.3, history 0.2"
    assert repr(display(SCORE)).splitlines()[-1] == "words  the –, o<d 9.0"


def test_long_texts_and_long_lists_are_cut_on_a_console() -> None:
    lines = repr(display([{"text": "a\n" * 500}] * 60)).splitlines()
    assert len(lines) == 1 + 50 + 1 and max(map(len, lines)) == 60
    assert lines[-1] == "… and 10 more"


def test_a_notebook_shows_a_table_that_no_text_can_break() -> None:
    shown: Any = display(PREDICTIONS)
    page = shown._repr_html_()
    assert page.count("<tr>") == 3 and "&lt;b&gt;" in page and "<b>" not in page
    page = display(SCORE)._repr_html_()
    assert "title='9.0 bits'" in page and "title='not scored'" in page and "o&lt;d" in page
