"""Where text comes from: a source yields the documents of a split in order, all together or part by part."""

from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from gpt1_jax.data.demo import Demo
from gpt1_jax.data.splits import HELD_OUT, SplitName, select_split
from gpt1_jax.data.text_files import TextFiles
from gpt1_jax.data.tfds_text import TfdsSet
from gpt1_jax.errors import UserError

SOURCE_FORMS = "'demo', 'text:GLOB' (.txt or .jsonl files, .gz of either) or 'tfds:NAME[#FEATURE]'"


class Source(Protocol):
    """Text in documents, none of them empty, divided into parts that can be read independently.

    Reading holds at most one document in memory. Every call reads again from the beginning, in the same order.
    """

    @property
    def name(self) -> str:
        """The spec that opened the source."""
        ...

    @property
    def divided(self) -> bool:
        """Whether the text has a validation split of its own; if not, either split is the whole text."""
        ...

    def parts(self, split: SplitName) -> int:
        """Returns the number of parts of a split."""
        ...

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        """Yields the documents of a part.

        Raises:
            UserError: something in the part is not text.
        """
        ...

    def fingerprint(self) -> str:
        """Returns a cheap identity of the content, from paths, sizes and times of files or versions of packages."""
        ...


def read_documents(source: Source, split: SplitName, split_seed: int = 0) -> Iterator[str]:
    """Yields the documents of a split, part by part; `select_split` divides a source that is not divided."""

    def read_all() -> Iterator[str]:
        for part in range(source.parts(split)):
            yield from source.read(split, part)

    if source.divided:
        return read_all()
    # Any larger total has the same effect.
    total = sum(1 for _ in islice(read_all(), HELD_OUT))
    return select_split(read_all(), split, before=0, total=total, split_seed=split_seed)


def open_source(spec: str, tfds_dir: str | None = None) -> Source:
    """Opens the source that `data.source` names.

    Args:
        spec: `demo`, `text:GLOB` or `tfds:NAME[#FEATURE]`.
        tfds_dir: the directory of prepared TFDS sets; None means TFDS's default.

    Raises:
        UserError: the spec has another form, or names nothing that can be read.
    """
    kind, _, rest = spec.partition(":")
    if spec == "demo":
        return Demo()
    if kind == "text" and rest:
        return TextFiles(rest)
    if kind == "tfds" and rest:
        name, _, feature = rest.partition("#")
        return TfdsSet(name, feature, tfds_dir)
    raise UserError(f"data.source={spec!r} is not a source of text; set it to {SOURCE_FORMS}.")
