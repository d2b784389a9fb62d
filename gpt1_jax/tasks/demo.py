"""The four embedded tasks, one for each transformation, made of the aligned translations of the demo text.

Validation examples come from the books that pre-training holds out in every translation, training examples from
the others.

In the pair and choice tasks no text tells the label by itself. Items come as two rivals from different books, and
each of their first texts stands beside each of their second texts: once it is right, once it is not. What judges
texts one by one, such as a linear model of their words, is right half of the time; length, translation and place in
the book tell nothing.
"""

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, permutations
from typing import Literal, NamedTuple

from gpt1_jax.data.demo import HELD_OUT_BOOKS, TRANSLATIONS, read_verses
from gpt1_jax.tasks.task import Example, Task

# The books of each genre, one of them held out. Others are left out: of the law (1 to 5) and of Acts (44) nothing
# is held out, and beside Revelation (66) there is no second vision to train on.
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
    )
}

SIZES = {"train": 4000, "validation": 800}  # multiples of all groups: a CPU fine-tunes on them in minutes

# Bytes of a text; four are about a token. Of the range of a passage the start is where its verses end.
_GENRE_PASSAGE = range(150, 251)  # so narrow that all genres' are equally long
_PASSAGE = range(90, 211)
_VERSE = range(40, 111)

_BOOK, _CHAPTER = 1_000_000, 1_000  # what a verse's number is divided by
_SAME = 0.7  # the share of a verse's words that makes it another's repetition, and no rival of it

Split = Literal["train", "validation"]
Verses = Mapping[int, str]


class Item(NamedTuple):
    """Two texts that belong together, and the number of the verse that the second begins with."""

    verse: int
    first: str
    second: str


def read_demo_examples(name: str, split: Split) -> list[Example]:
    """The examples of one of DEMO_TASKS, the same in the same order every time; each label as often as any other.

    Raises UserError where the package of a translation is not installed.
    """
    generator = random.Random(f"{name} {split}")
    make_groups = {
        "demo_genre": _genre_groups,
        "demo_entailment": _entailment_groups,
        "demo_same_verse": _same_verse_groups,
        "demo_next_verse": _next_verse_groups,
    }[name]
    groups = list(make_groups(split, generator))
    generator.shuffle(groups)
    examples = [example for group in groups for example in group][: SIZES[split]]
    generator.shuffle(examples)
    return examples


# ------------------------------------------------------------------------------------------------ groups
# Each is a few examples that balance each other and stay together in a split.


def _genre_groups(split: Split, generator: random.Random) -> Iterator[list[Example]]:
    """A passage of each genre; of all genres about equally long."""
    passages: list[list[str]] = [[] for _ in GENRES]
    for translation in TRANSLATIONS:
        verses = _read(split, translation)
        for passage in _passages(verses, _GENRE_PASSAGE):
            for texts, books in zip(passages, GENRES.values(), strict=True):
                if passage[0] // _BOOK in books:
                    texts.append(_join(verses, passage))
    for texts in passages:
        generator.shuffle(texts)
    for texts in zip(*passages, strict=False):  # as many as the smallest genre has
        yield [Example((text,), label) for label, text in enumerate(texts)]


def _entailment_groups(split: Split, generator: random.Random) -> Iterator[list[Example]]:
    """A passage, and a verse of it in another translation."""
    for one, other in permutations(TRANSLATIONS, 2):
        verses, others = _read(split, one), _read(split, other)
        items = []
        for passage in _passages(verses, _PASSAGE):
            verse = generator.choice(passage)
            if len(passage) > 1 and _size(others, verse) in _VERSE:
                items.append(Item(verse, _join(verses, passage), others[verse]))
        yield from _pair_groups(items, labels=(1, 0))


def _same_verse_groups(split: Split, generator: random.Random) -> Iterator[list[Example]]:
    """A verse in two translations."""
    for one, other in permutations(TRANSLATIONS, 2):
        verses, others = _read(split, one), _read(split, other)
        items = [
            Item(verse, verses[verse], others[verse])
            for verse in verses
            if _size(verses, verse) in _VERSE and _size(others, verse) in _VERSE
        ]
        yield from _pair_groups(items, labels=(0, 1))


def _next_verse_groups(split: Split, generator: random.Random) -> Iterator[list[Example]]:
    """A passage, and the verse that follows it."""
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


def _pair_groups(items: Sequence[Item], labels: tuple[int, int]) -> Iterator[list[Example]]:
    """The four pairs of two rivals' texts; `labels` are of a wrong pair and of a right one."""
    for rivals in _rivals(items):
        yield [Example((a.first, b.second), labels[a is b]) for a in rivals for b in rivals]


def _rivals(items: Sequence[Item]) -> Iterator[tuple[Item, Item]]:
    """Each item of the first half of the books with one of the second."""
    half = len(items) // 2
    for a, b in zip(items[:half], items[half:], strict=False):
        if max(_share(a, b.second), _share(b, a.second)) < _SAME:
            yield a, b


# ------------------------------------------------------------------------------------------------ verses


def _read(split: Split, translation: str) -> Verses:
    """The verses of a split's books."""
    return {
        verse: text
        for verse, text in read_verses(translation).items()
        if (verse // _BOOK in HELD_OUT_BOOKS) == (split == "validation")
    }


def _passages(verses: Verses, sizes: range) -> Iterator[list[int]]:
    """Each chapter cut into runs of verses as soon as they are long enough; those that are too long are dropped."""
    for _, chapter in groupby(verses, lambda verse: verse // _CHAPTER):
        passage = []
        for verse in chapter:
            passage.append(verse)
            size = len(_join(verses, passage).encode())
            if size >= sizes.start:
                if size in sizes:
                    yield passage
                passage = []


def _join(verses: Verses, passage: Iterable[int]) -> str:
    return " ".join(verses[verse] for verse in passage)


def _size(verses: Verses, verse: int) -> int:
    return len(verses.get(verse, "").encode())


def _share(item: Item, text: str) -> float:
    """How many of the words of a text an item has too."""
    words = set(text.lower().split())
    return len(words & set(f"{item.first} {item.second}".lower().split())) / len(words)
