"""What a key of the config accepts, and what it says about itself."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal

Source = Literal["paper", "code", "ours"]
PAPER: Source = "paper"
# The authors' openai/finetune-transformer-lm, used where the paper is silent.
CODE: Source = "code"
OURS: Source = "ours"


@dataclass(frozen=True)
class Range:
    """The range of a number: at least `minimum` and below `below`, so that sums and products of numbers stay finite."""

    minimum: float
    below: float

    def allows(self, value: float) -> bool:
        """Returns whether a value lies in the range, which NaN does not."""
        return self.minimum <= value < self.below

    def __str__(self) -> str:
        return f"at least {self.minimum} and below {self.below}"


def setting(
    default: Any,
    source: Source,
    help: str,
    *,
    architecture: bool = False,
    fixed: bool = False,
    before: Any = MISSING,
) -> Any:
    """Makes a field of the schema that carries its own description.

    Args:
        default: the value that `source` gives.
        source: where the default comes from.
        help: what the key means.
        architecture: whether the key decides the shapes or the meaning of parameters. Everything that takes parameters
            from elsewhere reads this: resuming, init_from, fine-tuning and conversion.
        fixed: whether the key must stay the same when a run is resumed, as all of the architecture must.
        before: the value in older runs, whose config.json lacks the key; only a key with this value may be left out.
    """
    about = {"source": source, "help": help, "architecture": architecture, "before": before}
    return dataclasses.field(default=default, metadata=about | {"fixed": fixed or architecture})


@dataclass(frozen=True)
class Key:
    """A key of the schema.

    Attributes:
        name: the dotted name, such as model.num_layers.
        kind: the type of its values.
        choices: the values of a Literal.
        ranges: the ranges of numbers.
        optional: whether the value may be None.
        default, source, help, architecture, fixed, before: as in `setting`.
    """

    name: str
    kind: type
    choices: tuple[str, ...]
    ranges: tuple[Range, ...]
    optional: bool
    default: Any
    source: Source
    help: str
    architecture: bool
    fixed: bool
    before: Any


def walk(section: type, prefix: str = "") -> Iterator[Key]:
    """Yields the keys of a section and of the sections within it."""
    hints = typing.get_type_hints(section, include_extras=True)
    for field in dataclasses.fields(section):
        kind, ranges, optional = _unwrap(hints[field.name])
        if dataclasses.is_dataclass(kind):
            yield from walk(typing.cast(type, kind), f"{prefix}{field.name}.")
        else:
            choices = typing.get_args(kind)
            kind = str if choices else kind
            yield Key(prefix + field.name, kind, choices, ranges, optional, field.default, **field.metadata)


def sections(section: type) -> dict[str, tuple[type, bool]]:
    """Returns the sections directly below one, by name, and whether each may be absent."""
    found = {}
    for name, hint in typing.get_type_hints(section).items():
        kind, _, optional = _unwrap(hint)
        if dataclasses.is_dataclass(kind):
            found[name] = typing.cast(type, kind), optional
    return found


def _unwrap(hint: Any) -> tuple[Any, tuple[Range, ...], bool]:
    """Returns the type and the ranges of a field's annotation, and whether it allows None."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is Annotated:
        kind, *limits = typing.get_args(hint)
        return kind, tuple(limits), optional
    return hint, (), optional
