"""What `run.explain` finds in a text: surprisal, predictions, attention, and what each layer would predict."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import MODELS, bpe, make_run, sentencepiece
from scipy.special import erf, log_softmax

import gpt1_jax
from gpt1_jax.data.tokenizers.huggingface import HuggingFaceTokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.usefixtures("quick_compilation")

TEXT = "the lazy dog"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "lazy", "dog", "fox", "##es", "quick"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedRun]:
    place = tmp_path_factory.mktemp("explained")
    wordpiece = HuggingFaceTokenizer({"vocab.txt": "\n".join(PIECES).encode()})
    make_run(place / "gpt1" / "run", bpe())
    make_run(place / "gpt2" / "run", sentencepiece(), **MODELS["gpt2"])
    make_run(place / "bert" / "run", wordpiece, **MODELS["bert"])
    return {name: gpt1_jax.load(place / name / "run") for name in ("gpt1", "gpt2", "bert")}


def layer_norm(x: np.ndarray, params: Any, name: str, epsilon: float) -> np.ndarray:
    scale, bias = (np.asarray(params[f"{name}_{part}"], np.float64) for part in ("scale", "bias"))
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * scale + bias


def expected_lens(run: TrainedRun, ids: list[int], layer: int) -> np.ndarray:
    """The log-probabilities that the states behind a layer give, [T, V], in float64 by their definition."""
    model, params = run.config.model, run.trunk_params
    x, last = run.states(ids, layer).astype(np.float64), layer == model.num_layers
    if model.norm == "pre" and not last:
        x = layer_norm(x, params, "final_norm", model.norm_epsilon)
    bias: Any = 0
    if not model.causal:
        x = x @ np.asarray(params["transform_kernel"]) + np.asarray(params["transform_bias"])
        x = x * (1 + erf(x / np.sqrt(2))) / 2
        x = layer_norm(x, params, "transform_norm", model.norm_epsilon)
        bias = np.asarray(params["output_bias"])
    pieces = run.tokenizer.vocab_size
    return log_softmax((x @ np.asarray(params["tokens"], np.float64).T + bias)[:, :pieces], -1)


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "bert"])
def test_a_layer_is_read_through_the_final_norm_and_the_token_table(
    runs: dict[str, TrainedRun], family: str
) -> None:
    run = runs[family]
    (reading,) = run.explain(TEXT).readings
    ids = [*reading.ids]
    np.testing.assert_allclose(reading.attention, run.attention(ids), atol=1e-6)
    assert len(reading.lens) == len(reading.follows) == 3
    asked = [*ids[1:], 0] if run.config.model.causal else ids
    for layer, (guesses, follows) in enumerate(zip(reading.lens, reading.follows, strict=True)):
        chances = np.exp(expected_lens(run, ids, layer))
        for place, pairs in enumerate(guesses):
            assert len(pairs) == 5
            np.testing.assert_allclose(
                [x for _, x in pairs], np.sort(chances[place])[: -1 - 5 : -1], rtol=1e-3
            )
            for id, chance in pairs:
                assert chances[place, id] == pytest.approx(chance, rel=1e-3)
            if (known := follows[place]) is not None:
                assert known == pytest.approx(chances[place, asked[place]], rel=1e-3)


@pytest.mark.parametrize("family", ["gpt1", "gpt2"])
def test_surprisal_is_that_of_score_and_guesses_are_the_next_tokens(
    runs: dict[str, TrainedRun], family: str
) -> None:
    run = runs[family]
    (reading,) = run.explain(TEXT).readings
    scored = run.score(TEXT)
    # A tokenizer with an end piece reads it before the text.
    begun = run.tokenizer.end_id is not None
    assert [*reading.ids] == [run.tokenizer.end_id] * begun + scored["token_ids"]
    assert reading.tokens == len(reading.ids) and reading.bits[0] is None
    expected = [-x / np.log(2) for x in scored["logprobs"] if x is not None]
    np.testing.assert_allclose(np.array(reading.bits[1:], float), expected, rtol=1e-4)
    assert [(w.start, w.end) for w in reading.words] == [(w["start"], w["end"]) for w in scored["words"]]
    for word, other in zip(reading.words, scored["words"], strict=True):
        assert word.bits == (None if other["bits"] is None else pytest.approx(other["bits"], rel=1e-4))
    for id, guess in zip(reading.guesses[-1], run.next_tokens(reading.ids, 10), strict=True):
        assert id == (guess["token_id"], pytest.approx(guess["probability"], rel=1e-3))


def test_a_bert_reads_each_token_where_it_alone_is_hidden_and_fills_blanks(
    runs: dict[str, TrainedRun],
) -> None:
    run = runs["bert"]
    (reading,) = run.explain("the [MASK] dog foxes").readings
    assert [*reading.pieces] == ["[CLS]", "the", "[MASK]", "dog", "fox", "##es", "[SEP]"]
    for place, id in enumerate(reading.ids):
        if id in (2, 3):
            assert reading.bits[place] is None and not reading.guesses[place]
            continue
        hidden = [4 if here == place else other for here, other in enumerate(reading.ids)]
        logprobs = log_softmax(run.logits(hidden)[place].astype(np.float64))
        if id == 4:
            assert reading.bits[place] is None
            (filled,) = run.fill("the [MASK] dog foxes", 10)
            assert [id for id, _ in reading.guesses[place]] == [guess["token_id"] for guess in filled]
        else:
            assert reading.bits[place] == pytest.approx(-logprobs[id] / np.log(2), rel=1e-3)
        assert [x for _, x in reading.guesses[place]] == pytest.approx(
            np.exp(np.sort(logprobs)[:-11:-1]).tolist(), rel=1e-3
        )
    assert [word.bits is None for word in reading.words] == [False, True, False, False]


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_of_a_long_text_the_first_tokens_are_shown_and_that_is_said(
    runs: dict[str, TrainedRun], family: str
) -> None:
    run = runs[family]
    explained = run.explain("the dog " * 300)
    (reading,) = explained.readings
    whole = len(run.encode("the dog " * 300)) + (1 if family == "gpt2" else 2)
    assert len(reading.ids) == 16 and reading.tokens == whole
    assert f"The text has {whole:,} tokens, and the page shows the first 16 of them." in explained.page()
    if family == "gpt2":
        shown = run.decode(reading.ids)
        words = run.score("the dog " * 300)["words"]
        whole_words = [word["end"] for word in words if word["end"] <= len(shown)]
        assert [word.end for word in reading.words] == whole_words != []


def test_characters_of_several_pieces_are_shown_at_the_first_of_them(runs: dict[str, TrainedRun]) -> None:
    (reading,) = runs["gpt2"].explain("a🙂b").readings
    assert [*reading.pieces] == ["⟨end⟩", "a", "🙂", "", "", "", "b"]


def test_words_of_two_runs_are_compared_where_their_tokens_differ(runs: dict[str, TrainedRun]) -> None:
    one, other = runs["gpt2"], runs["bert"]
    page = html.unescape(one.explain("the lazy dog", beside=other).page())
    first, second = one.explain(TEXT).readings[0].words, other.explain(TEXT).readings[0].words
    for word, same in zip(first, second, strict=True):
        assert f'title="{word.bits:.2f} and {same.bits:.2f} bits"' in page
    assert "word by word" in page
    assert "token by token" in one.explain("the lazy dog", beside=one).page()


def test_an_explanation_shows_itself_in_a_frame_and_is_saved_as_a_page(
    runs: dict[str, TrainedRun], tmp_path: Path
) -> None:
    explained = runs["gpt1"].explain("the </script> fox")
    explained.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == explained.page()
    frame = re.fullmatch(
        r'<iframe srcdoc="([^"]*)" sandbox="allow-scripts"[^>]*></iframe>', explained._repr_html_()
    )
    assert frame is not None and html.unescape(frame[1]) == explained.page()
    with pytest.raises(UserError, match="is a directory"):
        explained.save(tmp_path)
    assert "tokens of 'the </script> fox'" in repr(explained)


def test_what_cannot_be_explained_is_refused_in_a_sentence(
    runs: dict[str, TrainedRun], tmp_path: Path
) -> None:
    make_run(tmp_path / "blank" / "run", sentencepiece(), **MODELS["bert"])
    for run, text, beside, words in (
        (runs["gpt1"], "", None, "has no tokens; write a word"),
        (runs["gpt1"], 5, None, "is not a text"),
        (runs["gpt1"], TEXT, "runs/other", "beside='runs/other' is not a run"),
        (gpt1_jax.load(tmp_path / "blank" / "run"), TEXT, None, "a tokenizer without one"),
    ):
        wrong: Any = text
        with pytest.raises(UserError, match=words):
            run.explain(wrong, beside)  # pyright: ignore[reportArgumentType]
