"""What `gpt1_jax.load` returns, as Python calls it: what is taken, what comes back, what is a sentence."""

import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from run_support import make_run

import gpt1_jax
from gpt1_jax.data.tokenizers.gpt1 import OpenAITokenizer
from gpt1_jax.errors import UserError
from gpt1_jax.model.transformer import parameter_count
from gpt1_jax.tasks.task import Task
from gpt1_jax.usage import labeling
from gpt1_jax.usage.continuation import Prompt, growing_text, sample_text
from gpt1_jax.usage.prediction_files import Records
from gpt1_jax.usage.trained import TrainedRun

pytestmark = pytest.mark.usefixtures("quick_compilation")


def spelled(value: object) -> str:
    """Returns a value as the name of a test, without an address, so that it is the same in every test process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))


GENRES = Task("custom", "classification", ("accuracy",), labels=("bad", "good"))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def run(directory: Path) -> TrainedRun:
    return gpt1_jax.load(directory)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return gpt1_jax.load(make_run(tmp_path_factory.mktemp("classifier"), GENRES))


# ── What it is ───────────────────────────────────────────────────────────────────────────────────────────────


def test_its_repr_says_what_a_run_is(run: TrainedRun, classifier: TrainedRun) -> None:
    count = parameter_count(run.params, 300)
    assert repr(run) == (
        f"TrainedRun({run.run.directory}: pre-trained, {count:,} parameters, step 0, sentencepiece of 300 pieces)"
    )
    more = 3 * 32 + 32 * 2 + 2  # the special tokens, the head and its bias
    assert f": fine-tuned on custom (classification), {count + more:,} parameters, " in repr(classifier)


# ── What is taken ────────────────────────────────────────────────────────────────────────────────────────────


def test_ids_come_from_any_collection_of_integers(run: TrainedRun) -> None:
    ids = run.encode("the old song")
    same = [tuple(ids), np.array(ids), np.array(ids, np.uint16), iter(ids), [np.int64(id) for id in ids]]
    for given in same:
        assert run.decode(given) == "the old song"  # pyright: ignore[reportArgumentType]
    plain = run.generate(ids, max_new_tokens=3)
    for given in (tuple(ids), np.array(ids), iter(ids)):
        assert run.generate(given, max_new_tokens=3) == plain  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert all(type(id) is int for id in plain["prompt_token_ids"])
    assert json.loads(json.dumps(plain)) == plain
    assert (run.logits(np.array(ids)) == run.logits(ids)).all()  # pyright: ignore[reportArgumentType]


def test_texts_come_from_any_collection_of_texts(run: TrainedRun) -> None:
    plain = run.generate(["the old", "a river"], max_new_tokens=3)
    for given in (("the old", "a river"), np.array(["the old", "a river"]), iter(["the old", "a river"])):
        assert run.generate(given, max_new_tokens=3) == plain  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_list_may_be_continued_in_parts(run: TrainedRun) -> None:
    texts = ["the old", "the old", "a river"]
    whole = run.generate(texts, max_new_tokens=4)
    parts = run.generate(texts[:1], max_new_tokens=4) + run.generate(texts[1:], max_new_tokens=4, number=1)
    assert [entry["samples"][0]["token_ids"] for entry in parts] == [
        entry["samples"][0]["token_ids"] for entry in whole
    ]


def test_records_come_from_any_collection_of_dictionaries(classifier: TrainedRun) -> None:
    records = [{"text": text} for text in ("the old", "a river", "")]
    plain = classifier.predict(records)
    assert [set(entry) for entry in plain] == [{"label", "probabilities"}] * 3
    assert classifier.predict(iter(records)) == classifier.predict(tuple(records)) == plain  # pyright: ignore
    assert classifier.predict([]) == []
    assert json.loads(json.dumps(plain)) == plain


USES: dict[str, Callable[[TrainedRun, TrainedRun], Any]] = {
    "predict": lambda run, classifier: classifier.predict(["the fox", "a lazy dog", "the dog"]),
    "evaluate on examples": lambda run, classifier: classifier.evaluate(
        [{"text": "the fox", "label": "bad"}]
    ),
    "evaluate on text": lambda run, classifier: run.evaluate("the quick brown fox"),
    "evaluate on a longer text": lambda run, classifier: run.evaluate("the quick brown fox " * 40),
    "score": lambda run, classifier: run.score(["the fox", "a lazy dog", "the dog"]),
    "embed": lambda run, classifier: run.embed(["the fox", "a lazy dog"]),
    "generate": lambda run, classifier: run.generate(["the", "a"], max_new_tokens=3, temperature=0),
    "next_tokens": lambda run, classifier: run.next_tokens("the fox"),
}


@pytest.fixture
def traced() -> Iterator[list[str]]:
    """The names of what jax traces."""
    names: list[str] = []

    def listen(event: str, seconds: float, **facts: Any) -> None:
        if event.endswith("jaxpr_trace_duration"):
            names.append(facts.get("fun_name", "?"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.jit(lambda x: x + 1)(1)
    assert names, "jax tells of a trace by another name"
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("use", USES)
def test_what_is_asked_again_is_not_traced_again(
    run: TrainedRun, classifier: TrainedRun, use: str, traced: list[str]
) -> None:
    first = USES[use](run, classifier)
    traced.clear()
    np.testing.assert_equal(USES[use](run, classifier), first)
    assert not traced


def test_64_bits_for_the_rest_of_a_program_change_nothing(run: TrainedRun, directory: Path) -> None:
    drawn = {"max_new_tokens": 3, "repetition_penalty": 1.2, "top_k": 4, "top_p": 0.9}
    calls = (
        lambda run: run.generate("the old", **drawn),
        lambda run: run.generate("the old", max_new_tokens=3, num_beams=2),
        lambda run: run.logits([1, 2]).tolist(),
    )
    plain = [call(run) for call in calls]
    with jax.enable_x64(True):
        other = gpt1_jax.load(directory)
        assert [call(other) for call in calls] == plain


# ── What is streamed ─────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_shown_that_the_final_text_lacks(run: TrainedRun) -> None:
    """Random parameters write single bytes, only some of which make a character."""
    shown: list[list[str]] = []
    results = run.generate(
        ["the old", "a", ""],
        max_new_tokens=11,
        num_samples=4,
        stop=range(200, 220),
        watch=shown.append,
    )
    final = [sample["text"] for result in results for sample in result["samples"]]
    assert any(sample["finish_reason"] == "stop" for result in results for sample in result["samples"])
    assert len(shown) == 11
    for texts in shown:
        assert [whole.startswith(text) for whole, text in zip(final, texts, strict=True)] == [True] * 12
    for earlier, later in pairwise(shown):
        assert [b.startswith(a) for a, b in zip(earlier, later, strict=True)] == [True] * 12


def test_nothing_is_shown_that_the_authors_tokenizer_spells_otherwise_later() -> None:
    pieces = [
        "<unk>",
        *"he is'nt.,(!",
        *(f"{word}</w>" for word in ("he", "'s", "n't", ".", ",", "(", "it", "is")),
    ]
    encoder = json.dumps({piece: id for id, piece in enumerate(pieces)}).encode()
    tokenizer = OpenAITokenizer(encoder, b"#version: 0.2\n")
    generator = np.random.default_rng(0)
    prompt = Prompt("he", [pieces.index("he</w>")])
    for _ in range(300):
        ids = generator.integers(0, len(pieces), 10).tolist()
        final = sample_text(tokenizer, prompt, ids, ())
        for count in range(len(ids)):
            assert final.startswith(growing_text(tokenizer, prompt, ids[:count], ()))


# ── What is a sentence ───────────────────────────────────────────────────────────────────────────────────────


class Path8:
    """A path in bytes, as os.PathLike may be one."""

    def __fspath__(self) -> bytes:
        return b"runs"


@pytest.mark.parametrize("wrong", [None, 3, b"runs", ["runs"], Path8(), "runs\0"], ids=spelled)
def test_a_directory_of_another_type_is_told(wrong: Any) -> None:
    with pytest.raises(UserError, match="directory="):
        gpt1_jax.load(wrong)


@pytest.mark.parametrize(
    "wrong",
    ["worst", "", "-1", -1, "9" * 11, b"last", 1.0, True, [0], 10**5000],
    ids=lambda value: f"{value!s:.9}" if value != 10**5000 else "huge",
)
def test_a_step_of_another_type_is_told(directory: Path, wrong: Any) -> None:
    with pytest.raises(UserError, match="step"):
        gpt1_jax.load(directory, step=wrong)


SURROGATE = "half \ud800"
NO_TEXTS = [None, 5, 1.5, b"the", ["the"], {"text": "the"}, SURROGATE]
NO_IDS = [None, 5, "the", b"the", {1: 2}, {1, 2}, [1.0], [True], [None], ["1"], [[1]], [-1], [300], [10**30],
          np.array([1.0]), np.array([[1]]), np.array([True]), np.array(3), [np.float32(1)]]  # fmt: skip


@pytest.mark.parametrize("wrong", NO_TEXTS, ids=spelled)
def test_what_is_no_text_is_told(run: TrainedRun, wrong: Any) -> None:
    with pytest.raises(UserError, match="text"):
        run.encode(wrong)


@pytest.mark.parametrize("wrong", NO_IDS, ids=spelled)
def test_what_are_no_ids_is_told(run: TrainedRun, wrong: Any) -> None:
    for call in (run.decode, run.logits, lambda ids: run.generate([1], max_new_tokens=1, stop=ids)):
        with pytest.raises(UserError, match=r"ids|stop"):
            call(wrong)


NO_PROMPTS = [None, 5, b"the", {"text": "the"}, {"the"}, ["the", 5], ["the", None], [b"the"], [["the"]], [[1], [2]],
              [1.0], [True], SURROGATE, ["the", SURROGATE], np.array([1.5]), np.array([[1]])]  # fmt: skip


@pytest.mark.parametrize("wrong", NO_PROMPTS, ids=spelled)
def test_what_is_no_prompt_is_told(run: TrainedRun, wrong: Any) -> None:
    with pytest.raises(UserError, match="prompt"):
        run.generate(wrong, max_new_tokens=1)


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        b"the",
        {"text": "the"},
        {"the"},
        [None],
        [["the", "old"]],
        [5],
        [b"the"],
        SURROGATE,
        ["the", SURROGATE],
    ],
    ids=spelled,
)
def test_what_are_no_records_is_told(classifier: TrainedRun, wrong: Any) -> None:
    with pytest.raises(UserError, match="examples"):
        classifier.predict(wrong)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"txt": "a"}, {"text": None}, {"text": 5}, {"text": ["a"]}, {"text": b"a"}, {"text": SURROGATE},
     {SURROGATE: "a"}, {5: "a"}, {"text": float("nan")}],
    ids=spelled,
)  # fmt: skip
def test_a_record_that_is_no_example_is_told_by_its_number(classifier: TrainedRun, wrong: Any) -> None:
    with pytest.raises(UserError, match="2"):
        classifier.predict([{"text": "a"}, wrong])


def test_one_prompt_of_many_is_told_by_its_number(run: TrainedRun) -> None:
    with pytest.raises(UserError, match=r"^Prompt 2: A prompt of \d+ tokens leaves no room"):
        run.generate(["the old", "the old song " * 20], max_new_tokens=1)


def test_other_slips_are_told(run: TrainedRun) -> None:
    for wrong, told in (
        ({"watch": "print"}, "watch='print' is not a function"),
        ({"number": -1}, "number=-1"),
        ({"number": "1"}, "number='1' is not a whole number"),
        ({"seed": 1.5}, "seed=1.5"),
    ):
        with pytest.raises(UserError, match=told):
            run.generate("a", max_new_tokens=1, **wrong)  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(UserError, match="not fine-tuned"):
        run.predict([{"text": "a"}])
    with pytest.raises(TypeError, match="topk"):
        run.generate("a", topk=3)  # pyright: ignore[reportCallIssue]


def test_parameters_that_are_no_numbers_are_told(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    run = gpt1_jax.load(directory)
    run.params = {**run.params, "tokens": run.params["tokens"] * np.nan}
    for call in (lambda: run.generate("a", max_new_tokens=2), lambda: run.logits([1]),
                 lambda: run.generate("a", max_new_tokens=2, num_beams=2)):  # fmt: skip
        with pytest.raises(UserError, match="diverged; name an earlier checkpoint"):
            call()


def test_labels_of_many_records_take_no_more_memory_than_those_of_few(
    classifier: TrainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labeling, "_RECORDS_AT_ONCE", 50)

    def peak(count: int) -> int:
        def read() -> Iterator[dict[str, Any]]:
            return ({"text": f"the old song {number}"} for number in range(count))

        tracemalloc.start()
        assert sum(1 for _ in labeling.predict_records(classifier, Records(count, {"text"}, read))) == count
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(60)
    # Held at once, an example and its prediction take more than 900 bytes.
    assert (peak(600) - peak(60)) / 540 < 450
