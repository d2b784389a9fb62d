"""The page of an explained text: all of it is there, no text of it is markup, and no script runs but its own."""

import base64
import dataclasses
import hashlib
import json
import re
from typing import Any

import numpy as np
import pytest
from pages_support import HOSTILE, make_reading
from test_pages import Reader, read

from gpt1_jax.pages.explorer import make_explorer
from gpt1_jax.pages.pieces import find_direction, label_piece

PIECES = ["a", " b", HOSTILE, "\n"]


def data_of(page: str) -> Any:
    found = re.search(r'<script type="application/json" class="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_only_its_own_script_may_run_and_no_text_is_markup() -> None:
    page = make_explorer(HOSTILE, [make_reading(PIECES, run=HOSTILE), make_reading(PIECES)])
    reader: Reader = read(page)
    kinds = [attrs.get("type") for tag, attrs in reader.seen if tag == "script"]
    assert kinds == ["application/json"] * 2 + [None]
    assert not any(tag in ("img", "link", "iframe") for tag, _ in reader.seen)
    assert not any(name.startswith("on") for _, attrs in reader.seen for name in attrs)
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert not re.search(
        r"url\(|@import|src=|href=|https?://", make_explorer("a", [make_reading(["a", "b"])])
    )


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_packed_so_that_it_comes_back(causal: bool) -> None:
    reading = make_reading(PIECES, causal=causal)
    data = data_of(make_explorer("a b", [reading]))
    packed = (np.frombuffer(base64.b64decode(data["attention"]), np.uint8) / 255) ** 2
    places = np.tril_indices(4) if causal else np.indices((4, 4)).reshape(2, -1)
    np.testing.assert_allclose(packed.reshape(2, 3, -1), reading.attention[:, :, *places], atol=0.004)
    assert data["heads"] == 3 and data["pieces"][1] == "␣b" and data["names"]["0"] == "␣other"


def test_without_scripts_the_text_its_surprisal_predictions_and_layers_are_there() -> None:
    reading = make_reading(PIECES)
    page = read(make_explorer("a b", [reading]))
    titles = [attrs["title"] for tag, attrs in page.seen if tag == "button"]
    assert titles == ["", *(f"{bits:.2f} bits" for bits in reading.bits[1:] if bits is not None)]
    assert "Without scripts the page has" in page.text and "layer 2" in page.text
    assert page.text.count("50 %") == 1 and "runs/books, step 1,500." in page.text
    assert "The text has 1,004 tokens, and the page shows the first 4 of them." in page.text


def test_a_blank_is_looked_at_first() -> None:
    reading = make_reading(["[CLS]", "a", "[MASK]", "b"], causal=False)
    reading = dataclasses.replace(
        reading, bits=[None, 2.0, None, 3.0], guesses=[[], *reading.guesses[1:3], [(0, 0.5)]]
    )
    assert data_of(make_explorer("a [MASK] b", [reading]))["start"] == 2
    assert data_of(make_explorer("a b", [make_reading(PIECES)]))["start"] == 3


def test_two_runs_with_the_same_tokens_are_compared_token_by_token() -> None:
    one, other = make_reading(PIECES, run="one"), make_reading(PIECES, run="two", seed=1)
    reader = read(make_explorer("a b", [one, other]))
    page = reader.text
    assert "The difference, token by token" in page
    colors = {
        attrs["title"]: attrs["class"] for _, attrs in reader.seen if "class" in attrs and "title" in attrs
    }
    for place in (1, 2, 3):
        first, second = one.bits[place], other.bits[place]
        assert first is not None and second is not None
        assert f"{first:.2f}\n{second:.2f}\n{first - second:+.2f}\n" in page
        # The second model gives more where it is surprised less.
        color = "more" if second < first else "less"
        assert colors[f"{first:.2f} and {second:.2f} bits"] == f"word {color}"
    sums = [sum(bits for bits in reading.bits if bits is not None) for reading in (one, other)]
    assert f"all 3\n{sums[0]:.2f}\n{sums[1]:.2f}\n{sums[0] - sums[1]:+.2f}" in page


def test_two_runs_with_other_tokens_are_compared_by_the_words_that_both_know() -> None:
    one, other = make_reading(PIECES, run="one"), make_reading([*PIECES, "c"], run="two", seed=1)
    page = read(make_explorer("u vvv w", [one, other])).text
    assert "The difference, word by word" in page and "all 2\n7.00\n8.00\n-1.00" in page
    assert "w\n4.00\n5.00\n-1.00" in page and "vvv\n" not in page[page.index("The largest") :]
    none = dataclasses.replace(other, words=[])
    assert "No word has a probability in both models." in make_explorer("u vvv w", [one, none])


def test_runs_of_one_name_are_told_apart() -> None:
    one, other = make_reading(PIECES, run="a/run"), make_reading(PIECES, run="b/run")
    assert "<title>a b · a/run and b/run</title>" in make_explorer("a b", [one, other])
    later = dataclasses.replace(one, step=2000)
    assert "run, step 1,500 and run, step 2,000" in make_explorer("a b", [one, later])


def test_all_of_a_piece_can_be_seen() -> None:
    assert label_piece(" the") == "␣the" and label_piece(" the", spaces=False) == " the"
    assert label_piece("  ", spaces=False) == "␣␣" and label_piece("\n\t") == "↵⇥"
    assert label_piece("\u200b") == "⟨U+200B⟩" and label_piece("a\u202eb") == "a⟨U+202E⟩b"
    assert label_piece("👩\u200d🔬") == "👩\u200d🔬" and label_piece("") == "⋯"
    assert [find_direction(text) for text in ("12 שלום a", "a שלום", "…")] == ["rtl", "ltr", "ltr"]
