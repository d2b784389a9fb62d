"""Large public data that may lie beside the repository: an addition to the small data that tests have inside it."""

import itertools
import random
import tarfile
from pathlib import Path

import pytest

LARGE = Path(__file__).parents[2] / "shared" / "data"
BOOKS = LARGE / "books.tar.xz"

_SYLLABLES = ["".join(parts) for parts in itertools.product("bdfghklmnprst", "aeiou", ("", "n", "r", "s"))]


def needs_large(name: str) -> pytest.MarkDecorator:
    """Skips a test where a file or directory of the large data is not there."""
    path = LARGE / name
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not there: only small data were tried")


def write_books(directory: Path, megabytes: int) -> None:
    """Writes some .txt files of this size in all: real books where they are there, else made-up words.

    These are as often one another as real words are, by Zipf's law, so that a large vocabulary can be learned.
    """
    left = megabytes * 1_000_000
    if BOOKS.exists():
        with tarfile.open(BOOKS) as archive:
            for member in archive:
                file = archive.extractfile(member) if left > 0 and member.name.endswith(".txt") else None
                if file is not None:
                    (directory / Path(member.name).name).write_bytes(data := file.read())
                    left -= len(data)
        return
    chosen = random.Random(0)
    words = ["".join(chosen.choices(_SYLLABLES, k=1 + i % 4)) for i in range(60_000)]
    weights = list(itertools.accumulate(1 / (1 + i) for i in range(len(words))))
    for number in itertools.count():
        if left <= 0:
            return
        lines = [" ".join(chosen.choices(words, cum_weights=weights, k=12)) for _ in range(8_000)]
        text = "In the beginning\n" + ".\n".join(lines) + ".\n"
        (directory / f"{number:03}.txt").write_text(text)
        left -= len(text)
