"""The fields of a SentencePiece model that decide its ids, and whether it loses text.

sentencepiece has a module for the whole format, but that needs a protobuf as new as the one it was generated with.
Apache Beam forbids such a version, and so does TensorFlow, which comes with Colab. The few fields used here are
described by their numbers in sentencepiece's `sentencepiece_model.proto`, and any protobuf can read them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# Types of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}

# For each message and field: number, type or message, default. Only `pieces` is repeated.
_MESSAGES: dict[str, dict[str, tuple[int, str, str]]] = {
    "Piece": {"piece": (1, "string", ""), "score": (2, "float", "0"), "type": (3, "int32", "1")},
    "Trainer": {"model_type": (3, "int32", "1"), "byte_fallback": (35, "bool", "false")},
    "Normalizer": {
        "name": (1, "string", ""),
        "precompiled_charsmap": (2, "bytes", ""),
        "add_dummy_prefix": (3, "bool", "true"),
        "remove_extra_whitespaces": (4, "bool", "true"),
        "escape_whitespaces": (5, "bool", "true"),
    },
    "Model": {
        "pieces": (1, "Piece", ""),
        "trainer": (2, "Trainer", ""),
        "normalizer": (3, "Normalizer", ""),
        "denormalizer": (5, "Normalizer", ""),
    },
}


@dataclass(frozen=True)
class ModelFile:
    """What a model file says about itself.

    Attributes:
        pieces: the number of pieces.
        exact: whether the model changes no character, never merges across a line break, and spells unknown characters
            in bytes.
        apart: whether pieces are merged and have spaces at their beginning only, so that words do not change each
            other's ids.
    """

    pieces: int
    exact: bool
    apart: bool


def describe(model: bytes) -> ModelFile:
    """Reads the content of a .model file.

    Raises:
        google.protobuf.message.DecodeError: the content is something else.
    """
    parsed = parse(model)
    normalizer = parsed.normalizer
    return ModelFile(
        pieces=len(parsed.pieces),
        exact=normalizer.name == "identity"
        and not normalizer.add_dummy_prefix
        and not normalizer.remove_extra_whitespaces
        and any(piece.piece == "\n" and piece.type == USER_DEFINED for piece in parsed.pieces)
        and parsed.trainer.byte_fallback,
        apart=MODEL_TYPES.get(parsed.trainer.model_type) == "bpe"
        and not any("▁" in piece.piece.lstrip("▁") for piece in parsed.pieces),
    )


def parse(model: bytes) -> Any:
    """Parses the content of a .model file into a message with the fields above.

    Raises:
        google.protobuf.message.DecodeError: the content is something else.
    """
    return _model_class().FromString(model)


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
