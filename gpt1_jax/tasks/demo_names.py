"""Which words of a verse are names, decided by how its translation writes them.

A capitalized word of two letters or more is a name if either is true of its translation:

- The word stands capitalized within a sentence, behind another word or a comma, and never in lower case.
- The word stands capitalized directly behind another word, where no speech begins, more often than in lower case.

The first holds for nearly all names. The second is for those that are also common words: "God" is a name, and "a god"
is not. Words joined by hyphens are one word. Names with only a space between them are one name, as "Jesus Christ" is.
Nationalities and the like count as names.
"""

import re
from collections import Counter
from functools import cache

from gpt1_jax.data.demo import read_verses
from gpt1_jax.tasks.task import Example
from gpt1_jax.tasks.units import split_words

# The tags in the order of their numbers.
NAME_TAGS = ("O", "B-NAME", "I-NAME")
_OUTSIDE, _BEGIN, _INSIDE = range(3)

# Each begins with what a search can skip to, since a translation has four million characters.
_ANY_WORD = re.compile(r"\w+(?:-\w+)*")
_BEHIND_WORD = re.compile(r" (?<=\w )([A-ZÆ]\w+(?:-\w+)*)")
_BEHIND_COMMA = re.compile(r", ([A-ZÆ]\w+(?:-\w+)*)")


@cache
def read_names(translation: str) -> frozenset[str]:
    """Returns the names of a translation, in lower case.

    Raises:
        UserError: the package of the translation is not installed.
    """
    text = "\n".join(read_verses(translation).values())
    written = Counter(_ANY_WORD.findall(text))
    behind_word = Counter(word.lower() for word in _BEHIND_WORD.findall(text))
    within = {word.lower() for word in _BEHIND_COMMA.findall(text)} | behind_word.keys()
    return frozenset(word for word in within if written[word] == 0 or behind_word[word] > written[word])


def tag_names(verse: str, names: frozenset[str]) -> Example:
    """Returns the words and signs of a verse in lower case, labeled with the numbers of NAME_TAGS."""
    tags = {}
    last = None
    for found in _ANY_WORD.finditer(verse):
        if not (found[0][0].isupper() and found[0].lower() in names):
            continue
        # Characters, of which only those that begin a word or sign are asked for below.
        tags |= dict.fromkeys(range(*found.span()), _INSIDE)
        if last is None or verse[last : found.start()] != " ":
            tags[found.start()] = _BEGIN
        last = found.end()
    words = split_words(verse)
    return Example(
        tuple(word.text.lower() for word in words), tuple(tags.get(word.start, _OUTSIDE) for word in words)
    )
