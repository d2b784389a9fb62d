"""Where text comes from: a source yields the documents of a split, one after the other."""

import glob
import gzip
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from gpt1_jax.data.demo import Demo
from gpt1_jax.errors import UserError

SplitName = Literal["train", "validation"]

SOURCE_FORMS = "'demo', 'text:GLOB' (.txt or .jsonl files, .gz of either) or 'tfds:NAME[#FEATURE]'"


class Source(Protocol):
    """Text in documents. Reading streams: no more than one document is in memory at a time."""

    @property
    def name(self) -> str:
        """The spec that the source was opened with."""
        ...

    def documents(self, split: SplitName) -> Iterator[str]:
        """Yields the documents of `split`, always in the same order; may be called any number of times."""
        ...

    def fingerprint(self) -> str:
        """A cheap identity of the content: paths, sizes and times of files, or versions of packages."""
        ...


def open_source(spec: str, tfds_dir: str | None = None) -> Source:
    """Opens the source that `data.source` names.

    Args:
        spec: `demo`, `text:GLOB` or `tfds:NAME[#FEATURE]`.
        tfds_dir: the directory of prepared TFDS sets; None is TFDS's own default.

    Raises UserError where the spec has another form or nothing readable is found behind it.
    """
    kind, _, rest = spec.partition(":")
    if spec == "demo":
        return Demo()
    if kind == "text" and rest:
        return TextFiles(rest)
    if kind == "tfds" and rest:
        name, _, feature = rest.partition("#")
        return TfdsSet(name, feature, tfds_dir)
    raise UserError(f"data.source is {spec!r}: expected {SOURCE_FORMS}")


# ---------------------------------------------------------------------------------------- text:GLOB


class TextFiles:
    """The source `text:GLOB`: a `.txt` file is a document, and so is each line of a `.jsonl` file."""

    def __init__(self, pattern: str) -> None:
        """Raises UserError where no file matches, or one that is neither text nor JSON lines."""
        self.name = f"text:{pattern}"
        # Path.glob would find hidden files too, such as an editor's copies.
        matches = glob.glob(str(Path(pattern).expanduser()), recursive=True)  # noqa: PTH207
        self._paths = [path for path in map(Path, sorted(matches)) if path.is_file()]
        if not self._paths:
            raise UserError(
                f"data.source is {self.name!r}, which matches no file: expected a glob of .txt or .jsonl "
                "files, such as 'text:books/**/*.txt'"
            )
        for path in self._paths:
            if not path.name.endswith((".txt", ".jsonl", ".txt.gz", ".jsonl.gz")):
                raise UserError(
                    f"data.source is {self.name!r}, which matches {path}: expected only .txt, .jsonl, "
                    ".txt.gz and .jsonl.gz files, so narrow the glob"
                )

    def documents(self, split: SplitName) -> Iterator[str]:
        """Yields the documents of `split`; a UserError names the file, and byte or line, that is no text."""
        return split_documents(self._read_all, split)

    def fingerprint(self) -> str:
        """Changes with the path, size or modification time of any file."""
        stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in self._paths]
        return hashlib.sha256(repr((self.name, stats)).encode()).hexdigest()

    def _read_all(self) -> Iterator[str]:
        for path in self._paths:
            opened = gzip.open if path.suffix == ".gz" else open
            try:
                with opened(path, "rb") as file:
                    if path.name.removesuffix(".gz").endswith(".jsonl"):
                        for number, line in enumerate(file, start=1):
                            if line.strip():
                                yield _parse_json_line(line, f"line {number} of {path}")
                    else:
                        yield _decode(file.read(), str(path))
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"data.source matches {path}, which cannot be read ({error})") from error


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(
            f"data.source: {where} is not UTF-8 text (at byte {error.start}): convert it, say with iconv"
        ) from error


def _parse_json_line(line: bytes, where: str) -> str:
    try:
        record = json.loads(_decode(line, where))
        text = record["text"] if isinstance(record, dict) and "text" in record else None
        if not isinstance(text, str):
            raise ValueError("there is no such field")
        text.encode()  # JSON can spell half a surrogate pair, which is no text
        return text
    except ValueError as error:
        raise UserError(
            f"data.source: {where} is not a JSON object with a string field 'text' ({error}): mend it"
        ) from error


# --------------------------------------------------------------------------------------- tfds:NAME


class TfdsSet:
    """The source `tfds:NAME[#FEATURE]`: a prepared TFDS text set, read without TensorFlow."""

    def __init__(self, name: str, feature: str, tfds_dir: str | None) -> None:
        """Raises UserError where the set is not prepared, cannot be read, or has no such text feature."""
        import tensorflow_datasets as tfds  # late: it takes half a second that other sources need not pay
        from etils import epath
        from tensorflow_datasets.core import constants, read_only_builder

        self.name = f"tfds:{name}#{feature}" if feature else f"tfds:{name}"
        directory = epath.Path(tfds_dir or constants.DATA_DIR).expanduser()
        try:
            self._builder: Any = read_only_builder.builder_from_files(name, data_dir=directory)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(
                f"data.source is {self.name!r}, but no prepared set of that name is in {directory} "
                "(data.tfds_dir): prepare it once on a machine with TensorFlow and network, with "
                f"`tfds build {name} --file_format=array_record`, or use 'demo' or 'text:GLOB'"
            ) from error
        self._feature = self._choose_feature(feature, tfds.features.Text)

    def _choose_feature(self, feature: str, text_type: type) -> str:
        kinds = sorted(self._builder.info.features.items())
        features = [name for name, kind in kinds if isinstance(kind, text_type)]
        usual = [name for name in ("text", "book_text") if name in features]
        if feature in features:
            return feature
        if not feature and (usual or len(features) == 1):
            return (usual or features)[0]
        raise UserError(
            f"data.source is {self.name!r}: expected '#FEATURE' to name one of the set's text features, "
            f"{', '.join(features) or 'but it has none'}"
        )

    def documents(self, split: SplitName) -> Iterator[str]:
        """Yields the documents of `split`; validation is the set's own `validation`, else its `test` split.

        A set with neither is split by document. Raises UserError where it was not prepared as array_record.
        """
        own = [name for name in ("validation", "test") if name in self._builder.info.splits]
        if not own:
            return split_documents(lambda: self._read_all("train"), split)
        return self._read_all("train" if split == "train" else own[0])

    def _read_all(self, split: str) -> Iterator[str]:
        try:
            examples = self._builder.as_data_source(split)
        except ValueError as error:
            raise UserError(
                f"data.source is {self.name!r}, which has no split {split!r} ({error}): name another set"
            ) from error
        except NotImplementedError as error:
            raise UserError(
                f"data.source is {self.name!r}, prepared in {self._builder.data_dir} in a format that only "
                "TensorFlow can read: prepare it again with `--file_format=array_record`"
            ) from error
        for index in range(len(examples)):
            text = examples[index][self._feature]
            yield text if isinstance(text, str) else _decode(text, f"example {index} of {self.name}")

    def fingerprint(self) -> str:
        """Changes with the set's version, the feature, and the sizes that TFDS records."""
        info = self._builder.info
        sizes = [(name, split.shard_lengths, split.num_bytes) for name, split in sorted(info.splits.items())]
        return hashlib.sha256(repr((info.full_name, self._feature, sizes)).encode()).hexdigest()


# ------------------------------------------------------------------------------------ what they share


def split_documents(read_all: Callable[[], Iterator[str]], split: SplitName) -> Iterator[str]:
    """Yields the documents of `split` from a text that has no splits of its own.

    Every 20th document is held out for validation; of fewer than 20 the last one; of a lone document the last
    5 %. `read_all` starts the reading anew at each call; empty documents do not count.
    """
    # The first 20 are read twice rather than kept: memory stays flat.
    count = sum(1 for _ in islice(filter(None, read_all()), 20))
    if count == 1:
        document = next(filter(None, read_all()))
        cut = _find_cut(document)
        part = document[:cut] if split == "train" else document[cut:]
        yield from filter(None, [part])
        return
    held_out = count - 1  # 19 where there are 20 or more
    for index, document in enumerate(filter(None, read_all())):
        if (index % 20 == held_out) == (split == "validation"):
            yield document


def _find_cut(document: str) -> int:
    """Where the last 5 % of a document begin: behind a line break, else a space, close before that point."""
    target = len(document) * 95 // 100
    for mark in ("\n", " "):
        position = document.rfind(mark, len(document) * 94 // 100, target)
        if position >= 0:
            return position + 1
    return target
