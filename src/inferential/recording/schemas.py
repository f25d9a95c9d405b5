"""The messages of a recording, as protobuf types that are made here, so that a reader needs nothing but the file.

    /robots/ID/MODEL/observation    Observation: arrays and texts as the model got them, without images
    /robots/ID/MODEL/image/KEY      foxglove.CompressedImage
    /robots/ID/MODEL/answer         Answer: how the request ended, its times, and the arrays of the result

Messages of one request have the same sequence number. Values of small arrays are there as numbers too, to be plotted.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_PACKAGE = "inferential.recording"
OBSERVATION: Final = f"{_PACKAGE}.Observation"
ANSWER: Final = f"{_PACKAGE}.Answer"
IMAGE: Final = "foxglove.CompressedImage"

_TIMESTAMP = ".google.protobuf.Timestamp"
_ARRAYS = f".{_PACKAGE}.Array"
_KINDS = {
    "string": _FIELD.TYPE_STRING,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "uint64": _FIELD.TYPE_UINT64,
    "uint32": _FIELD.TYPE_UINT32,
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
        ("latency_budget_ms", "double"),
        ("steps_remaining", "int64"),  # -1: not stated
        ("priority", "uint32"),
        ("urgency", "double"),
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
    ),
}


def _add(file: descriptor_pb2.FileDescriptorProto, name: str, fields: tuple[tuple[str, str], ...]) -> None:
    message = file.message_type.add(name=name)
    for number, (field_name, kind) in enumerate(fields, 1):
        field = message.field.add(name=field_name, number=number, json_name=field_name)
        repeated = kind.startswith("*")
        field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
        kind = kind.removeprefix("*")
        if kind in _KINDS:
            field.type = _KINDS[kind]
        else:
            field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind


def _files() -> list[descriptor_pb2.FileDescriptorProto]:
    timestamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(timestamp)
    ours = descriptor_pb2.FileDescriptorProto(name="inferential/recording.proto", package=_PACKAGE, syntax="proto3")
    ours.dependency.append(timestamp.name)
    for name, fields in _MESSAGES.items():
        _add(ours, name, fields)
    image = descriptor_pb2.FileDescriptorProto(
        name="foxglove/CompressedImage.proto", package="foxglove", syntax="proto3"
    )
    image.dependency.append(timestamp.name)
    message = image.message_type.add(name="CompressedImage")
    # The numbers are those of Foxglove's own schema, by which it knows the type.
    for number, name, kind in ((1, "timestamp", _TIMESTAMP), (4, "frame_id", ""), (2, "data", "b"), (3, "format", "")):
        field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL, json_name=name)
        field.type = _FIELD.TYPE_MESSAGE if kind == _TIMESTAMP else _FIELD.TYPE_BYTES if kind else _FIELD.TYPE_STRING
        if kind == _TIMESTAMP:
            field.type_name = kind
    return [timestamp, ours, image]


FILES: Final = _files()
_POOL = descriptor_pool.DescriptorPool()
for _file in FILES:
    _POOL.Add(_file)

NAMES: Final = (OBSERVATION, ANSWER, IMAGE)


def message_class(name: str) -> Any:
    """Returns the class of a message by its full name."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


def descriptor_set() -> bytes:
    """Returns the types as MCAP's schema encoding `protobuf` has them."""
    return descriptor_pb2.FileDescriptorSet(file=FILES).SerializeToString()
