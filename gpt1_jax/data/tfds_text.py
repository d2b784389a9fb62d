"""Text of prepared TFDS sets."""

import hashlib
from collections.abc import Iterator
from typing import Any

from gpt1_jax.data.splits import SplitName
from gpt1_jax.disk import inputs
from gpt1_jax.disk.paths import expand
from gpt1_jax.errors import UserError

# There are at most `_PARTS` parts, none smaller than `_PART_EXAMPLES` unless all of the set is.
_PARTS = 4096
_PART_EXAMPLES = 4096


class TfdsSet:
    """The source `tfds:NAME[#FEATURE]`: a prepared TFDS text set, read without TensorFlow."""

    def __init__(self, name: str, feature: str, tfds_dir: str | None) -> None:
        """Opens the set.

        Raises:
            UserError: the set is not prepared, cannot be read, or has no such text feature.
        """
        # Imported late: it takes half a second, which other sources need not pay.
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import constants, read_only_builder

        self.name = f"tfds:{name}#{feature}" if feature else f"tfds:{name}"
        directory = expand(tfds_dir or constants.DATA_DIR, "data.tfds_dir")
        try:
            self._builder: Any = read_only_builder.builder_from_files(name, data_dir=directory)
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise UserError(
                f"data.source={self.name!r} names no prepared set in {directory} (data.tfds_dir); prepare it once on "
                f"a machine with TensorFlow and network, with `tfds build {name} --file_format=array_record`, or set "
                "'demo' or 'text:GLOB'."
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
            f"data.source={self.name!r} does not name one of the set's text features; write #FEATURE with one of "
            f"{', '.join(features)}."
            if features
            else f"data.source={self.name!r} is a set without text; name another set."
        )

    @property
    def divided(self) -> bool:
        """Whether the set has a split `validation`, or else `test`, beside `train`."""
        return self._own("validation") != "train"

    def _own(self, split: SplitName) -> str:
        """Returns the name of the set's split that serves as ours."""
        own = [name for name in ("validation", "test") if name in self._builder.info.splits]
        return own[0] if own and split == "validation" else "train"

    def parts(self, split: SplitName) -> int:
        """Returns the number of parts of a split."""
        examples = len(self._examples(split))
        return -(-examples // self._part(examples))

    def _part(self, examples: int) -> int:
        """Returns the number of examples in a part."""
        return max(_PART_EXAMPLES, -(-examples // _PARTS))

    def read(self, split: SplitName, part: int) -> Iterator[str]:
        """Yields the documents of a part.

        Raises:
            UserError: the set was not prepared as array_record, or an example is not text.
        """
        examples = self._examples(split)
        size = self._part(len(examples))
        for index in range(part * size, min(part * size + size, len(examples))):
            text = examples[index][self._feature]
            where = f"data.source: example {index} of {self.name}"
            if text := text if isinstance(text, str) else inputs.decode(text, where):
                yield text

    def _examples(self, split: SplitName) -> Any:
        own = self._own(split)
        try:
            return self._builder.as_data_source(own)
        except ValueError as error:
            raise UserError(
                f"data.source={self.name!r} has no split {own!r} ({error}); name another set."
            ) from error
        except NotImplementedError as error:
            raise UserError(
                f"data.source={self.name!r} was prepared in {self._builder.data_dir} in a format that only TensorFlow "
                "can read; prepare it again with `--file_format=array_record`."
            ) from error

    def fingerprint(self) -> str:
        """Returns a hash that changes with the set's version, the feature, and the sizes that TFDS records."""
        info = self._builder.info
        sizes = [(name, split.shard_lengths, split.num_bytes) for name, split in sorted(info.splits.items())]
        return hashlib.sha256(repr((info.full_name, self._feature, sizes)).encode()).hexdigest()
