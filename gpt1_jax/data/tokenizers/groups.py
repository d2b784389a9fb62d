"""Texts in groups of about one size, so that a thread's work is worth its start and memory stays flat."""

from collections.abc import Iterable, Iterator


def grouped(texts: Iterable[str], characters: int) -> Iterator[list[str]]:
    """Yields consecutive texts in lists that end as soon as they hold so many characters; none is read in advance."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= characters:
            yield group
            group, size = [], 0
    if group:
        yield group
