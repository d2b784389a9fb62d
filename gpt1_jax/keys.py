"""What a key of the config takes and says of itself."""

import dataclasses
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal

Source = Literal["paper", "code", "ours"]
PAPER: Source = "paper"
# The authors' openai/finetune-transformer-lm, where the paper is silent.
CODE: Source = "code"
OURS: Source = "ours"


@dataclass(frozen=True)
class Range:
    """Where a number must lie: at least `minimum` and below `below`, so that sums and products of it stay numbers."""

    minimum: float
    below: float

    def allows(self, value: float) -> bool:
        """Whether a value lies within, which NaN does not."""
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
    """A field of the schema with what it says of itself.

    Args:
        default: the value that `source` gives.
        source: who says so.
        help: what the key means.
        architecture: it decides the shapes or the meaning of parameters. Whoever takes parameters from elsewhere reads
            this: going on with a run, starting from another, fine-tuning, conversion.
        fixed: a run that goes on must share it with its beginning; so it is with all of the architecture.
        before: the value of earlier runs, whose config.json does not name the key; only such a key may be left out.
    """
    about = {"source": source, "help": help, "architecture": architecture, "before": before}
    return dataclasses.field(default=default, metadata=about | {"fixed": fixed or architecture})


@dataclass(frozen=True)
class Key:
    """A value of the schema.

    Fields:
        name: dotted, such as model.num_layers.
        kind: its type.
        choices: of a Literal.
        ranges: where it must lie.
        optional: whether it may be None.
        default, source, help, architecture, fixed, before: as `setting` has them.
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
    """The values of a section and of those within it."""
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
    """The sections right below one, by name, and whether each may be absent."""
    found = {}
    for name, hint in typing.get_type_hints(section).items():
        kind, _, optional = _unwrap(hint)
        if dataclasses.is_dataclass(kind):
            found[name] = typing.cast(type, kind), optional
    return found


def _unwrap(hint: Any) -> tuple[Any, tuple[Range, ...], bool]:
    """The type, the ranges and whether None is allowed, of a field's annotation."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    if optional:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is Annotated:
        kind, *limits = typing.get_args(hint)
        return kind, tuple(limits), optional
    return hint, (), optional
