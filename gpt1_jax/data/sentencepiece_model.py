"""The fields of a SentencePiece model that decide whether it loses text.

sentencepiece has a module of all of them, but it wants as new a protobuf as it was made with, which others forbid:
Apache Beam, and TensorFlow, which comes with Colab. So the few are described here, by their numbers in sentencepiece's
`sentencepiece_model.proto`, and any protobuf reads them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_USER_DEFINED = 4

# message → field: its number, its type or message, its default; pieces are repeated
_MESSAGES: dict[str, dict[str, tuple[int, str, str]]] = {
    "Piece": {"piece": (1, "string", ""), "type": (3, "int32", "1")},
    "Trainer": {"byte_fallback": (35, "bool", "false")},
    "Normalizer": {
        "name": (1, "string", ""),
        "add_dummy_prefix": (3, "bool", "true"),
        "remove_extra_whitespaces": (4, "bool", "true"),
    },
    "Model": {"pieces": (1, "Piece", ""), "trainer": (2, "Trainer", ""), "normalizer": (3, "Normalizer", "")},
}


@dataclass(frozen=True)
class Described:
    """What a model file says of itself."""

    pieces: int
    exact: bool  # it changes no character, never merges across a line break, and spells what it does not know in bytes


def describe(model: bytes) -> Described:
    """Reads a .model file's content; raises google.protobuf.message.DecodeError where it is something else."""
    parsed = _model_class().FromString(model)
    normalizer = parsed.normalizer
    return Described(
        pieces=len(parsed.pieces),
        exact=normalizer.name == "identity"
        and not normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
        and any(piece.piece == "\n" and piece.type == _USER_DEFINED for piece in parsed.pieces)
        and parsed.trainer.byte_fallback,
    )


@cache
def _model_class() -> Any:
    fields = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="model.proto", package="sentencepiece_model", syntax="proto2"
    )
    for message, members in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, default) in members.items():
            field = described.field.add(name=name, number=number, label=fields.LABEL_OPTIONAL)
            if kind in _MESSAGES:
                field.type, field.type_name = fields.TYPE_MESSAGE, f".sentencepiece_model.{kind}"
            else:
                field.type, field.default_value = getattr(fields, f"TYPE_{kind.upper()}"), default
            if name == "pieces":
                field.label = fields.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("sentencepiece_model.Model"))
