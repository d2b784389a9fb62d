"""`run.score`: the model's own probabilities of tokens, words and continuations, however the texts are batched."""

import dataclasses
import math
import random
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interop_support import TEXT, bpe, sentencepiece
from interop_support import make_run as make_run_with

import gpt1_jax
from gpt1_jax.data import corpus as corpora
from gpt1_jax.data.packing import Packed, pack
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.interop.conversion import convert
from gpt1_jax.usage import scores
from gpt1_jax.usage.measuring import evaluate
from gpt1_jax.usage.scores import Scorer
from gpt1_jax.usage.trained import TrainedRun
from gpt1_jax.usage.windows import cut, encode
from gpt1_jax.usage.words import find_words

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONTEXT = 16
SHORT, LONG = "the lazy dog", "the " + " ".join(random.Random(0).choices(TEXT.split(), k=60))
ODD = "  The “quick” FOX… jumps—over\n\ncafé naïve don't 日本語 🙂  ok...  "


def load(directory: Path, tokenizer: Tokenizer) -> TrainedRun:
    make_run_with(directory, tokenizer)
    return gpt1_jax.load(directory)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """With a tokenizer that has an end piece and gives every text back."""
    return load(tmp_path_factory.mktemp("scores") / "run", sentencepiece())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """With GPT-1's own tokenizer, which has no end piece and changes what it reads."""
    return load(tmp_path_factory.mktemp("scores") / "run", bpe())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def one_by_one(run: TrainedRun, ids: list[int], stride: int) -> list[float]:
    """What the model says of each id behind the first, a call a token: the formula, slowly."""
    found = []
    for place in range(1, len(ids)):
        windows = 0 if place <= CONTEXT else math.ceil((place - CONTEXT) / stride)
        seen = ids[windows * stride : place]
        # What follows changes nothing, and one length is compiled once.
        padded = seen + [0] * (CONTEXT - len(seen))
        found.append(float(log_softmax(run.logits(padded))[len(seen) - 1, ids[place]]))
    return found


# ── Tokens ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["sentencepiece", "bpe"])
def test_tokens_have_the_probabilities_of_transformers(
    run: TrainedRun, published: TrainedRun, tmp_path: Path, name: str
) -> None:
    torch = pytest.importorskip("torch", reason="torch is the reference; it is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is the reference; not installed")
    ours = {"sentencepiece": run, "bpe": published}[name]
    convert("gpt1_jax", "huggingface", str(ours.run.directory), str(tmp_path / "hub"))
    model: Any = transformers.OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "hub").eval()
    found = ours.score(SHORT)
    begin = [] if name == "bpe" else [ours.tokenizer.end_id]
    ids = [*begin, *found["token_ids"]]
    with torch.no_grad():
        expected = log_softmax(model(torch.tensor([ids])).logits[0].numpy())
    expected = [expected[place - 1, ids[place]] for place in range(1, len(ids))]
    logprobs = found["logprobs"]
    if name == "bpe":
        assert logprobs[0] is None
        logprobs = logprobs[1:]
    np.testing.assert_allclose(np.array(logprobs), expected, atol=1e-4)
    assert found["total"] == pytest.approx(sum(expected), abs=1e-3)


@pytest.mark.parametrize("stride", [None, 1, 5, CONTEXT])
def test_a_text_longer_than_the_context_is_read_in_windows(run: TrainedRun, stride: int | None) -> None:
    found = run.score(LONG, stride=stride)
    ids = [run.tokenizer.end_id, *run.encode(LONG)]
    assert len(ids) > 4 * CONTEXT and found["token_ids"] == ids[1:]
    expected = one_by_one(run, ids[: 4 * CONTEXT], stride or CONTEXT // 2)
    np.testing.assert_allclose(np.array(found["logprobs"][: len(expected)]), expected, atol=1e-4)
    assert found["tokens"] == len(found["logprobs"]) == len(ids) - 1


def test_disjoint_windows_give_the_bits_per_byte_of_evaluate(run: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(LONG)
    source = f"text:{tmp_path}/text.txt"
    measured = evaluate(str(run.run.directory), source, None)
    corpus = corpora.prepare(dataclasses.replace(run.config.data, source=source), run.tokenizer)
    nats = size = 0.0
    for split in (corpus.train, corpus.validation):
        stream = split.read(0, len(split)).tolist()
        scored = run.score(run.decode(stream), stride=CONTEXT)
        # Only `evaluate` also predicts that the document ends.
        last = (len(stream) - 2) // CONTEXT * CONTEXT
        end = log_softmax(run.logits(stream[last:-1]))[-1, stream[-1]]
        nats -= scored["total"] + float(end)
        size += scored["bytes"]
    assert size == measured["bytes"] == len(LONG)
    assert nats / math.log(2) / size == pytest.approx(measured["bits_per_byte"], rel=1e-5)


def test_texts_of_all_lengths_are_scored_in_order_as_if_alone(run: TrainedRun) -> None:
    lengths = random.Random(1).choices(range(90), k=45)
    texts = [LONG[:length] for length in lengths]
    together = run.score(texts)
    assert [found["text"] for found in together] == texts
    for text, found in list(zip(texts, together, strict=True))[::6]:
        alone = run.score(text)
        assert found["token_ids"] == alone["token_ids"] and found["words"] == [
            word | {"bits": pytest.approx(word["bits"], abs=1e-3)} for word in alone["words"]
        ]
        np.testing.assert_allclose(np.array(found["logprobs"]), np.array(alone["logprobs"]), atol=1e-4)
    assert run.score([]) == []


def test_texts_share_rows(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, positions = [LONG[: 1 + number % 20] for number in range(500)], []

    def seen(*arguments: Any) -> list[Packed]:
        batches = pack(*arguments)
        positions.append(sum(np.prod(packed.shape) for packed in batches))
        return batches

    monkeypatch.setattr(scores, "pack", seen)
    together = run.score(texts)
    monkeypatch.setattr(scores, "keeps_apart", lambda config, mesh: False)
    alone = run.score(texts)
    assert positions[0] < 0.8 * positions[1]
    totals = [[found["total"] for found in several] for several in (together, alone)]
    np.testing.assert_allclose(*totals, rtol=1e-4, atol=1e-4)


def test_what_decoding_does_not_give_back_has_no_bits_per_byte(
    run: TrainedRun, published: TrainedRun
) -> None:
    assert published.score(ODD)["bits_per_byte"] is None
    found = run.score(ODD)
    assert found["bytes"] == len(ODD.encode())
    assert found["bits_per_byte"] == pytest.approx(-found["total"] / math.log(2) / found["bytes"])
    assert published.score("the fox")["bits_per_byte"] is not None


def test_a_text_without_tokens_has_none_to_score(run: TrainedRun, published: TrainedRun) -> None:
    nothing = {"text": "", "token_ids": [], "logprobs": [], "total": 0.0, "tokens": 0, "bytes": 0,
               "bits_per_byte": None, "words": []}  # fmt: skip
    assert run.score("") == published.score("") == nothing


def test_alternatives_are_the_most_probable_pieces(run: TrainedRun, published: TrainedRun) -> None:
    for trained, skipped in ((run, 0), (published, 1)):
        found = trained.score(SHORT, top=3)
        ids = [trained.tokenizer.end_id, *found["token_ids"]] if skipped == 0 else found["token_ids"]
        assert [len(pieces) for pieces in found["alternatives"]][:skipped] == [0] * skipped
        expected_all = log_softmax(trained.logits(ids))
        for expected, pieces in zip(expected_all, found["alternatives"][skipped:], strict=False):
            best = np.argsort(-expected)[:3]
            assert [piece for piece, _ in pieces] == [trained.decode([id]) for id in best]
            np.testing.assert_allclose([value for _, value in pieces], expected[best], atol=1e-4)
    assert "alternatives" not in run.score(SHORT)


# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("text", [SHORT, ODD, " ", "a", "fox's\tfox \r\n", "ﬁne ½ e\u0301te\u0301 ﷺ x" * 3])
def test_words_are_those_between_white_space_and_have_all_bits(run: TrainedRun, text: str) -> None:
    found = run.score(text)
    assert [word["text"] for word in found["words"]] == text.split()
    for word in found["words"]:
        assert text[word["start"] : word["end"]] == word["text"]
    if found["words"]:
        bits = math.fsum(word["bits"] or 0.0 for word in found["words"])
        assert bits == pytest.approx(-found["total"] / math.log(2))


def pieces_of_words(run: TrainedRun, text: str) -> list[str]:
    ids = run.encode(text)
    return [run.decode(ids[word.first : word.last]) for word in find_words(run.tokenizer, text, ids)]


def test_a_word_has_the_pieces_that_spell_it(run: TrainedRun, published: TrainedRun) -> None:
    assert pieces_of_words(run, ODD) == [
        "  The", " “quick”", " FOX…", " jumps—over", "\n\ncafé", " naïve", " don't", " 日本語", " 🙂", "  ok...  ",
    ]  # fmt: skip
    changed = pieces_of_words(published, ODD)
    assert [text.strip() for text in changed] == [
        "the", "<unk> quick <unk>", "fox ...", "jumps <unk> over", "caf<unk>", "na<unk> ve", "do n<unk> t",
        "<unk> <unk> <unk>", "<unk>", "ok ...",
    ]  # fmt: skip


def test_the_bits_of_a_first_word_without_anything_before_it_are_not_known(published: TrainedRun) -> None:
    assert [word["bits"] is None for word in published.score(SHORT)["words"]] == [True, False, False]


# ── Continuations ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("given", ["the lazy", "the lazy "])
def test_a_continuation_is_what_the_whole_has_more_than_its_context(run: TrainedRun, given: str) -> None:
    behind = "the lazy dog"[len(given) :]
    (found,) = run.score([{"context": given, "continuation": behind}])
    whole, before = run.score(["the lazy dog", "the lazy"])
    assert found["total"] == pytest.approx(whole["total"] - before["total"], abs=1e-4)
    assert found["tokens"] == whole["tokens"] - before["tokens"] > 0


def test_a_piece_that_spells_the_border_of_context_and_continuation_is_scored(run: TrainedRun) -> None:
    """The context alone ends with the piece "d", where the whole has "do"."""
    assert run.encode("the dog")[2] != run.encode("the d")[2]
    (found,) = run.score([{"context": "the d", "continuation": "og"}])
    behind = run.score("the dog")["logprobs"][2:]
    assert found["tokens"] == len(behind) == 2
    assert found["total"] == pytest.approx(sum(filter(None, behind)), abs=1e-4)


def test_a_continuation_of_the_most_probable_token_is_greedy(run: TrainedRun) -> None:
    pieces = {id: run.decode([id]) for id in range(run.tokenizer.vocab_size)}
    greedy: list[int] = []
    for context in TEXT.split():
        ids = run.encode(context)
        whole = {id: text for id, text in pieces.items() if run.encode(context + text) == [*ids, id]}
        found = run.score([{"context": context, "continuation": text} for text in whole.values()])
        expected = log_softmax(run.logits([run.tokenizer.end_id, *ids]))[-1]  # pyright: ignore
        np.testing.assert_allclose([score["total"] for score in found], expected[[*whole]], atol=1e-4)
        best = [id for id, score in zip(whole, found, strict=True) if score["greedy"]]
        assert best == [id for id in whole if id == expected.argmax()]
        greedy += best
    assert greedy


def test_a_context_that_does_not_fit_is_cut_at_its_beginning(run: TrainedRun) -> None:
    (found,) = run.score([{"context": LONG, "continuation": " dog"}])
    ids, more = run.encode(LONG), len(run.encode(LONG + " dog")) - len(run.encode(LONG))
    last = run.encode(LONG + " dog")[-CONTEXT - 1 :]
    expected = log_softmax(run.logits(last[:-1]))
    assert found["total"] == pytest.approx(
        sum(expected[place - 1, last[place]] for place in range(CONTEXT + 1 - more, CONTEXT + 1)), abs=1e-4
    )
    (longer,) = run.score([{"context": "the", "continuation": LONG[3:]}])
    assert longer["tokens"] == len(run.encode(LONG)) - len(run.encode("the")) and len(ids) > CONTEXT


# ── What is a sentence ───────────────────────────────────────────────────────────────────────────────────────


def test_slips_are_told(run: TrainedRun) -> None:
    for texts, settings, told in (
        (["a", 5], {}, r"^Text 2: text=5 is not a text"),
        ([{"context": "a"}], {}, 'has neither "text" nor both "context" and "continuation"'),
        ([{"context": "a", "continuation": None}], {}, "continuation=None is not a text"),
        (None, {}, "texts=None is not a text or a list"),
        ("a", {"top": -1}, "top=-1 is out of range; give 0 to"),
        ("a", {"stride": 0}, "stride=0 is out of range; give 1 to 16"),
        ("a", {"stride": 17}, "stride=17"),
        ("a", {"top": 1.5}, "top=1.5 is not a whole number"),
        ("a", {"top": 10**12}, r"top=10{12} is out of range; give 0 to \d+, the tokenizer's pieces"),
    ):
        with pytest.raises(UserError, match=told):
            run.score(texts, **settings)  # pyright: ignore


def test_strides_of_windows_meet(run: TrainedRun) -> None:
    """Each token is scored once, with as much before it as the stride leaves."""
    (passage,) = encode(run.tokenizer, CONTEXT, [LONG])
    for stride in (1, 7, 8, CONTEXT):
        windows = [*cut(0, passage, CONTEXT, stride)]
        assert windows[0].new == 0 and windows[-1].stop == len(passage.ids) - 1
        assert all(one.stop == other.new for one, other in pairwise(windows))
        assert all(window.new - window.start >= CONTEXT - stride for window in windows[1:])


# ── Memory ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_continuation_with_nothing_before_it_is_told(run: TrainedRun, published: TrainedRun) -> None:
    for context in ("", "  "):
        record = {"context": context, "continuation": "the lazy dog"}
        with pytest.raises(UserError, match=r"context='.*' has no token before continuation='the lazy dog'"):
            published.score(record)
        # With an end piece, all tokens are scored as a text's are.
        assert run.score(record)["tokens"] == len(run.encode(context + "the lazy dog"))
    assert published.score({"context": "the", "continuation": " lazy"})["tokens"] > 0


def test_alternatives_take_no_more_memory_for_many_texts(
    run: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run.score([SHORT, LONG, ODD], top=run.tokenizer.vocab_size)
    monkeypatch.setattr(scores, "_ALTERNATIVES", (len(run.encode(LONG)) + 1) * run.tokenizer.vocab_size)
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in [SHORT, LONG, ODD] * 4:
            read += 1
            yield text

    for number, found in enumerate(Scorer(run, run.tokenizer.vocab_size)(texts())):
        assert read - number <= 3
        assert found["alternatives"] == expected[number % 3]["alternatives"]
    monkeypatch.setattr(scores, "_ALTERNATIVES", len(run.encode(LONG)) * run.tokenizer.vocab_size)
    with pytest.raises(
        UserError, match=r"top=\d+ of a text of \d+ tokens asks for more than [\d,]+ alternatives"
    ):
        run.score([SHORT, LONG], top=run.tokenizer.vocab_size)


def test_a_large_file_is_scored_in_flat_memory(run: TrainedRun) -> None:
    def peak(texts: int) -> int:
        tracemalloc.start()
        for _ in Scorer(run)(f"{SHORT} {number % 7}" for number in range(texts)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(512)
    assert peak(2048) < 1.3 * peak(1024)
