"""The messages of a recording, as protobuf types that are made here, so that a reader needs nothing but the file.

    /robots/ID/MODEL/observation    Observation: arrays and texts as the model got them, without images
    /robots/ID/MODEL/image/KEY      foxglove.CompressedImage
    /robots/ID/MODEL/depth/KEY      foxglove.RawImage
    /robots/ID/MODEL/answer         Answer: how the request ended, its times, and the arrays of the result

Messages of one request have the same sequence number. Values of small arrays are there as numbers too, to be plotted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "inferential.recording"
OBSERVATION: Final = f"{_PACKAGE}.Observation"
ANSWER: Final = f"{_PACKAGE}.Answer"
IMAGE: Final = "foxglove.CompressedImage"
RAW_IMAGE: Final = "foxglove.RawImage"

_TIMESTAMP = ".google.protobuf.Timestamp"
_ARRAYS = f".{_PACKAGE}.Array"
_KINDS = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "uint64": _FIELD.TYPE_UINT64,
    "uint32": _FIELD.TYPE_UINT32,
    "fixed32": _FIELD.TYPE_FIXED32,
    "int64": _FIELD.TYPE_INT64,
    "bool": _FIELD.TYPE_BOOL,
}
_COMMON = (
    ("timestamp", _TIMESTAMP),
    ("client_id", "string"),
    ("client_type", "string"),
    ("model_id", "string"),
    ("session", "string"),
    ("request_id", "uint64"),
)
_MESSAGES: dict[str, tuple[tuple[str, str], ...]] = {
    "Array": (("key", "string"), ("dtype", "string"), ("shape", "*int64"), ("data", "bytes"), ("values", "*double")),
    "Text": (("key", "string"), ("value", "string")),
    "Observation": (
        *_COMMON,
        ("arrays", f"*{_ARRAYS}"),
        ("texts", f"*.{_PACKAGE}.Text"),
        ("images", f"*{_ARRAYS}"),  # without data: what the images are in the model's eyes
        ("latency_budget_ms", "double"),  # 0: not stated
        ("steps_remaining", "int64"),  # -1: not stated
        ("priority", "uint32"),
        ("urgency", "double"),
        ("applied_id", "uint64"),  # the request whose answer the robot says that it has used; 0: it says nothing
        ("applied_age_ms", "double"),  # how old that was then, by the robot's clock
        ("applied_unread_ms", "double"),  # of that, from its arrival until it was read
        ("control_period_ms", "double"),  # how long the robot plays one action of a chunk; 0: not stated
    ),
    "Answer": (
        *_COMMON,
        ("end", "string"),  # answered, or the kind of refusal
        ("reason", "string"),
        ("model_version", "string"),
        ("arrays", f"*{_ARRAYS}"),
        ("texts", f"*.{_PACKAGE}.Text"),
        ("queue_ms", "double"),
        ("inference_ms", "double"),
        ("server_ms", "double"),
        ("budget_ms", "double"),
        ("batch_size", "uint32"),
        ("late", "bool"),
        ("late_cause", "string"),  # of one that was sent in time: what made it late when the robot used it
    ),
}


# Foxglove's own types, which viewers know by their names; the numbers of the fields are those of its schemas.
_FOXGLOVE: dict[str, tuple[tuple[int, str, str], ...]] = {
    "CompressedImage": (
        (1, "timestamp", _TIMESTAMP),
        (4, "frame_id", "string"),
        (2, "data", "bytes"),
        (3, "format", "string"),
    ),
    "RawImage": (
        (1, "timestamp", _TIMESTAMP),
        (7, "frame_id", "string"),
        (2, "width", "fixed32"),
        (3, "height", "fixed32"),
        (4, "encoding", "string"),
        (5, "step", "fixed32"),
        (6, "data", "bytes"),
    ),
}


def _add(file: descriptor_pb2.FileDescriptorProto, name: str, fields: Iterable[tuple[int, str, str]]) -> None:
    message = file.message_type.add(name=name)
    for number, field_name, kind in fields:
        field = message.field.add(name=field_name, number=number, json_name=field_name)
        repeated = kind.startswith("*")
        field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
        kind = kind.removeprefix("*")
        if kind in _KINDS:
            field.type = _KINDS[kind]
        else:
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind


def _foxglove_file(name: str, fields: Iterable[tuple[int, str, str]]) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"foxglove/{name}.proto", package="foxglove", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    _add(file, name, fields)
    return file


def _files() -> list[descriptor_pb2.FileDescriptorProto]:
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    ours = descriptor_pb2.FileDescriptorProto(name="inferential/recording.proto", package=_PACKAGE, syntax="proto3")
    ours.dependency.append(timestamp.name)
    for name, fields in _MESSAGES.items():
        _add(ours, name, ((number, *field) for number, field in enumerate(fields, 1)))
    return [timestamp, ours, *(_foxglove_file(name, fields) for name, fields in _FOXGLOVE.items())]


FILES: Final = _files()
_POOL = descriptor_pool.DescriptorPool()
for _file in FILES:
    _POOL.Add(_file)

NAMES: Final = (OBSERVATION, ANSWER, IMAGE, RAW_IMAGE)


def message_class(name: str) -> Any:
    """Returns the class of a message by its full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def descriptor_set() -> bytes:
    """Returns the types as MCAP's schema encoding `protobuf` has them."""
    return descriptor_pb2.FileDescriptorSet(file=FILES).SerializeToString()
