"""Training documents that count for nothing (`data.without`): found in the text by their number or by their hash.

Letters: N documents.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from gpt1_jax.config import DataConfig
from gpt1_jax.data.corpus import Split
from gpt1_jax.data.documents import check_marked
from gpt1_jax.data.tokenizers.opening import Tokenizer
from gpt1_jax.disk.inputs import open_input, text_lines
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

# The file of a run that keeps the numbers.
NAME = "without.json"
_HASH = re.compile("[0-9a-f]{64}")
# So many tokens are looked through at once.
_CHUNK = 2**20


class Document(NamedTuple):
    """A document's place in a stream: its number, from 0, its first token, and the one behind its end piece."""

    number: int
    start: int
    stop: int

    def text(self, split: Split, tokenizer: Tokenizer) -> str:
        """Returns its text as its tokens decode."""
        return tokenizer.decode(split.read(self.start, self.stop - 1).tolist())


class LeftOut(NamedTuple):
    """The documents that a training leaves out.

    Attributes:
        numbers: ascending.
        ranges: int64 [N, 2], for each its first token, and the one behind its end piece.
    """

    numbers: tuple[int, ...]
    ranges: np.ndarray

    @property
    def contents(self) -> dict[str, str]:
        """What identifies them in a run, see `Run.identity`; nothing for none."""
        text = json.dumps(self.numbers)
        return {"without": hashlib.sha256(text.encode()).hexdigest()} if self.numbers else {}

    @property
    def files(self) -> dict[str, Any]:
        """The file that a run keeps of them; nothing for none."""
        return {NAME: {"documents": list(self.numbers)}} if self.numbers else {}


NOTHING = LeftOut((), np.zeros((0, 2), np.int64))


def hash_text(text: str) -> str:
    """Returns the SHA-256 of a document's text, in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def walk_documents(
    split: Split, end: int, skips: Callable[[int], bool] = lambda stop: False
) -> Iterator[Document]:
    """Yields the documents of a stream in order, in flat memory.

    Args:
        split: the stream.
        end: the piece behind each document.
        skips: a place behind a document → whether this one and some before it are not wanted, which makes them fast.
    """
    number, start = -1, 0
    for chunk in range(0, len(split), _CHUNK):
        places = np.flatnonzero(split.read(chunk, chunk + _CHUNK) == end).tolist()
        if places and skips(chunk + places[-1] + 1):
            number, start = number + len(places), chunk + places[-1] + 1
            continue
        for place in places:
            # The first end piece stands before all documents.
            if number >= 0:
                yield Document(number, start, chunk + place + 1)
            number, start = number + 1, chunk + place + 1


def find_left_out(data: DataConfig, split: Split, tokenizer: Tokenizer) -> LeftOut:
    """Returns the documents that the file `data.without` names, a number or a hash a line; nothing without a file.

    Raises:
        UserError: the file cannot be read, a line is neither, a document is not in the text, or none would be left.
    """
    if data.without is None:
        return NOTHING
    check_marked(data, tokenizer)
    named = _read_names(data.without)
    hashes = {name for name in named if not isinstance(name, int)}
    numbers = named.keys() - hashes
    assert tokenizer.end_id is not None
    found, seen = [], set()
    for document in walk_documents(split, tokenizer.end_id) if named else ():
        # Decoding takes long, and no number needs it.
        hashed = hash_text(document.text(split, tokenizer)) if hashes else None
        if document.number in numbers or hashed in hashes:
            found.append(document)
            seen |= {document.number, hashed}
    missing = next((name for name in named if name not in seen), None)
    if missing is not None:
        last = f"they have the numbers 0 to {split.documents - 1}"
        raise UserError(
            f"data.without={data.without}: {named[missing]} names the document {missing}, which is none of those "
            f"that data.source={data.source} trains on ({last}); `audit --documents` lists them with their hashes."
        )
    return _made(found, split, f"data.without={data.without}")


def left_out_of(numbers: Collection[int], split: Split, end: int) -> LeftOut:
    """Returns the documents of some numbers, as a run keeps them."""
    wanted = frozenset(numbers)
    return _made([x for x in walk_documents(split, end) if x.number in wanted], split, NAME)


def _made(found: list[Document], split: Split, named: str) -> LeftOut:
    if len(found) == split.documents:
        raise UserError(
            f"{named} leaves out every training document ({split.documents}); leave one or more to learn from."
        )
    ranges = np.array([document[1:] for document in found], np.int64).reshape(-1, 2)
    return LeftOut(tuple(document.number for document in found), ranges)


def _read_names(path: str) -> dict[int | str, str]:
    """Returns the numbers and hashes of a file, each with the line that has it."""
    named: dict[int | str, str] = {}
    with open_input(expand(path, "data.without"), "data.without") as file:
        for number, (_, line) in enumerate(text_lines(file, f"data.without={path}"), start=1):
            name = line.strip().lower()
            if _HASH.fullmatch(name):
                named[name] = f"line {number}"
            elif name.isascii() and name.isdecimal() and len(name) < 20:
                named[int(name)] = f"line {number}"
            elif name:
                raise UserError(
                    f"data.without={path}: line {number} is {name:.60}, neither the number of a training document nor "
                    "a hash of 64 hexadecimal digits; `audit --documents` lists both."
                )
    return named
