"""The embedded tasks, one for each kind but completion, made from aligned translations of the demo text.

Validation examples come from the books that pre-training holds out in every translation, training examples from the
other books.

In the tasks of pairs and choices, no text gives the label away by itself. Items come as two rivals from different
books. Each first text appears beside both second texts, once where that is right and once where it is wrong. A judge of
single texts, such as a linear model of their words, is therefore right half of the time. Length, translation and place
in the book reveal nothing.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, groupby, permutations
from typing import NamedTuple

from gpt1_jax.data.demo import HELD_OUT_BOOKS, TRANSLATIONS, read_verses
from gpt1_jax.data.splits import SplitName
from gpt1_jax.tasks.demo_names import NAME_TAGS, read_names, tag_names
from gpt1_jax.tasks.task import Example, Task

# The books of each genre, one of them held out. The other books are left out: none of the law (1 to 5) and Acts (44) is
# held out, and besides Revelation (66) there is no second vision to train on.
GENRES = {
    "history": range(6, 18),
    "wisdom": range(18, 23),
    "prophecy": range(23, 40),
    "gospel": range(40, 44),
    "letter": range(45, 66),
}

DEMO_TASKS = {
    task.name: task
    for task in (
        Task("demo_genre", "classification", ("accuracy",), labels=tuple(GENRES)),
        Task("demo_entailment", "entailment", ("accuracy",), labels=("entailment", "not_entailment")),
        Task("demo_same_verse", "similarity", ("accuracy", "f1"), labels=("different", "same")),
        Task("demo_next_verse", "choice", ("accuracy",), choices=2),
        Task("demo_names", "tagging", ("f1", "accuracy"), labels=NAME_TAGS),
        Task("demo_span", "span", ("f1", "exact_match")),
    )
}

# The most examples, small enough for a CPU to fine-tune on them in minutes.
SIZES = {"train": 4000, "validation": 800}

# The lengths of texts in bytes; a token is about four. A passage ends with the verse that reaches its range's start.
# The range for genres is narrow, so that the passages of all genres are equally long.
_GENRE_PASSAGE = range(150, 251)
_PASSAGE = range(90, 211)
_VERSE = range(40, 111)
# A passage of the task of spans has so many verses. Each is an answer once, so all have an answer's length, which is
# nearly always within the 30 tokens that an answer may have.
_SPAN_VERSES = 3
_SPAN_VERSE = range(30, 99)

# A verse's number divided by these gives its book and its chapter.
_BOOK, _CHAPTER = 1_000_000, 1_000
# A verse that shares this part of its words with another repeats it, and cannot be its rival.
_SAME = 0.7
Verses = Mapping[int, str]


class Item(NamedTuple):
    """Two texts that belong together, and the number of the first verse of the second."""

    verse: int
    first: str
    second: str


def read_demo_examples(name: str, split: SplitName) -> list[Example]:
    """Makes the examples of one of DEMO_TASKS, always the same ones in the same order, with every label equally often.

    Raises:
        UserError: the package of a translation is not installed.
    """
    generator = random.Random(f"{name} {split}")
    make_groups = {
        "demo_genre": _genre_groups,
        "demo_entailment": _entailment_groups,
        "demo_same_verse": _same_verse_groups,
        "demo_next_verse": _next_verse_groups,
        "demo_names": _names_groups,
        "demo_span": _span_groups,
    }[name]
    groups = list(make_groups(split, generator))
    generator.shuffle(groups)
    examples = list(chain.from_iterable(groups[: SIZES[split] // len(groups[0])]))
    generator.shuffle(examples)
    return examples


# ── Groups ────────────────────────────────────────────────────────────────────────────────────────────────────────────
# A group is a few examples that balance each other and stay together in a split.


def _genre_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields a passage of each genre, all of about equal length."""
    passages: list[list[str]] = [[] for _ in GENRES]
    for translation in TRANSLATIONS:
        verses = _read(split, translation)
        for passage in _passages(verses, _GENRE_PASSAGE):
            for texts, books in zip(passages, GENRES.values(), strict=True):
                if passage[0] // _BOOK in books:
                    texts.append(_join(verses, passage))
    for texts in passages:
        generator.shuffle(texts)
    # The smallest genre decides how many groups there are.
    for texts in zip(*passages, strict=False):
        yield [Example((text,), label) for label, text in enumerate(texts)]


def _entailment_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields pairs of a passage and one of its verses in another translation, and wrong pairs."""
    for one, other in permutations(TRANSLATIONS, 2):
        verses, others = _read(split, one), _read(split, other)
        items = []
        for passage in _passages(verses, _PASSAGE):
            verse = generator.choice(passage)
            if len(passage) > 1 and _size(others, verse) in _VERSE:
                items.append(Item(verse, _join(verses, passage), others[verse]))
        yield from _pair_groups(items, labels=(1, 0))


def _same_verse_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields pairs of a verse in two translations, and wrong pairs."""
    for one, other in permutations(TRANSLATIONS, 2):
        verses, others = _read(split, one), _read(split, other)
        items = [
            Item(verse, verses[verse], others[verse])
            for verse in verses
            if _size(verses, verse) in _VERSE and _size(others, verse) in _VERSE
        ]
        yield from _pair_groups(items, labels=(0, 1))


def _next_verse_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields passages with two choices, one of which is the verse that follows."""
    for translation in TRANSLATIONS:
        verses = _read(split, translation)
        items = [
            Item(passage[-1] + 1, _join(verses, passage), verses[passage[-1] + 1])
            for passage in _passages(verses, _PASSAGE)
            if _size(verses, passage[-1] + 1) in _VERSE
        ]
        for rivals in _rivals(items):
            choices = generator.sample(rivals, 2)
            yield [
                Example((item.first, "", *(choice.second for choice in choices)), label)
                for label, item in enumerate(choices)
            ]


def _names_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields verses of which each word is a name or not, one at a time."""
    verses = {translation: _read(split, translation) for translation in TRANSLATIONS}
    # A set would have its own order in every process.
    for verse in dict.fromkeys(chain.from_iterable(verses.values())):
        translation = generator.choice(TRANSLATIONS)
        if _size(verses[translation], verse) in _VERSE:
            yield [tag_names(verses[translation][verse], read_names(translation))]


def _span_groups(split: SplitName, generator: random.Random) -> Iterator[list[Example]]:
    """Yields a passage with each of its verses in another translation, which asks for that verse."""
    for one, other in permutations(TRANSLATIONS, 2):
        verses, others = _read(split, one), _read(split, other)
        for passage in _short_verses(verses):
            items = [Item(verse, others.get(verse, ""), verses[verse]) for verse in passage]
            if all(_size(others, verse) in _VERSE for verse in passage) and all(
                _share(a, b.second) < _SAME for a, b in permutations(items, 2)
            ):
                ends = [len(_join(verses, passage[: number + 1])) for number in range(len(passage))]
                yield [
                    Example((item.first, _join(verses, passage)), ((end - len(item.second), end),))
                    for item, end in zip(items, ends, strict=True)
                ]


def _pair_groups(items: Sequence[Item], labels: tuple[int, int]) -> Iterator[list[Example]]:
    """Yields the four pairs of two rivals' texts; `labels` are those of a wrong pair and of a right one."""
    for rivals in _rivals(items):
        yield [Example((a.first, b.second), labels[a is b]) for a in rivals for b in rivals]


def _rivals(items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """Yields each item of the first half of the books with an item of the second half."""
    half = len(items) // 2
    for a, b in zip(items[:half], items[half:], strict=False):
        if max(_share(a, b.second), _share(b, a.second)) < _SAME:
            yield a, b


# ── Verses ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _read(split: SplitName, translation: str) -> Verses:
    """Reads the verses of a split's books."""
    return {
        verse: text
        for verse, text in read_verses(translation).items()
        if (verse // _BOOK in HELD_OUT_BOOKS) == (split == "validation")
    }


def _passages(verses: Verses, sizes: range) -> Iterator[list[int]]:
    """Cuts each chapter into runs of verses that are just long enough, and drops those that are too long."""
    for _, chapter in groupby(verses, lambda verse: verse // _CHAPTER):
        passage = []
        for verse in chapter:
            passage.append(verse)
            size = len(_join(verses, passage).encode())
            if size >= sizes.start:
                if size in sizes:
                    yield passage
                passage = []


def _short_verses(verses: Verses) -> Iterator[list[int]]:
    """Yields runs of a few verses of one chapter that all have the lengths of answers."""
    for _, chapter in groupby(verses, lambda verse: verse // _CHAPTER):
        passage = []
        for verse in chapter:
            passage = [*passage, verse] if _size(verses, verse) in _SPAN_VERSE else []
            if len(passage) == _SPAN_VERSES:
                yield passage
                passage = []


def _join(verses: Verses, passage: Iterable[int]) -> str:
    return " ".join(verses[verse] for verse in passage)


def _size(verses: Verses, verse: int) -> int:
    return len(verses.get(verse, "").encode())


def _share(item: Item, text: str) -> float:
    """Returns the share of a text's words that an item has too."""
    words = set(text.lower().split())
    return len(words & set(f"{item.first} {item.second}".lower().split())) / len(words)
