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

# These books are held out whole and in every translation, one of each genre: Esther (history), Ecclesiastes (wisdom),
# Amos (prophecy), John (gospel), Galatians (letter), Revelation (vision). Kings and Chronicles, or Mark and Matthew,
# repeat each other: 10 to 17 % of their runs of eight words occur in another book. At most about 1 % of the runs in
# these six books do, so training on the rest leaks nothing.
HELD_OUT_BOOKS = (17, 21, 30, 43, 48, 66)

# Validation reads one translation. The other two would say the same again, which measures nothing new and flatters
# whatever copies over long distances, such as xz.
VALIDATION_TRANSLATION = "web"


@cache
def read_verses(translation: str) -> dict[int, str]:
    """Reads the verses of one of `TRANSLATIONS`, each one line of text, in order.

    The keys are book · 1,000,000 + chapter · 1,000 + verse, the same in all translations.

    Raises:
        UserError: the package of the translation is not installed.
    """
    try:
        bible: Any = importlib.import_module(f"pythonbible_{translation}.plain_text_readers_bible").bible
    except ImportError as error:
        raise _missing(error) from error
    verses = {}
    for verse_id in sorted(bible.verse_start_indices):
        text: str = bible.get_scripture(verse_id)
        # All three get the same apostrophe: WEB has a backtick in its place, the others a right quotation mark.
        line = " ".join(text.replace("`", "'").replace("\u2019", "'").split())
        # Some verse numbers exist only in some manuscripts, and are empty here.
        if line:
            verses[verse_id] = line
    return verses


class Demo:
    """The source `demo`: each book of each translation is a document, each chapter a paragraph of one line."""

    name = "demo"
    divided = True

    def parts(self, split: SplitName) -> int:
        """Returns 1, since there is little text."""
        return 1

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        """Yields the books of `split`, translation by translation; validation has only one translation."""
        for translation in TRANSLATIONS if split == "train" else (VALIDATION_TRANSLATION,):
            for book, verses in groupby(read_verses(translation).items(), lambda item: item[0] // 1_000_000):
                if (book in HELD_OUT_BOOKS) == (split == "validation"):
                    chapters = groupby(verses, lambda item: item[0] // 1000)
                    yield "\n".join(" ".join(verse for _, verse in chapter) for _, chapter in chapters)

    def fingerprint(self) -> str:
        """Returns a hash of the packages' versions and the books held out, and reads no text.

        Raises:
            UserError: a package is not installed.
        """
        try:
            versions = [metadata.version(f"pythonbible-{translation}") for translation in TRANSLATIONS]
        except metadata.PackageNotFoundError as error:
            raise _missing(error) from error
        return hashlib.sha256(repr((versions, HELD_OUT_BOOKS, VALIDATION_TRANSLATION)).encode()).hexdigest()


def _missing(error: ImportError) -> UserError:
    return UserError(
        f"data.source='demo' reads text from a package that is missing ({error.name}); install it with "
        "`pip install 'gpt1_jax[demo]'`."
    )
