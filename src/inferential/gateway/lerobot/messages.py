"""Messages of LeRobot's gRPC service `transport.AsyncInference`. (lerobot 0.6.1, `transport/services.proto`.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

SERVICE = "transport.AsyncInference"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""Of one message, both ways: the limit of LeRobot's client."""
TRANSFER_BEGIN, TRANSFER_MIDDLE, TRANSFER_END = 1, 2, 3
"""Which part of an observation a message of the stream has; an observation that fits in one message is END alone."""


def _service_messages() -> Callable[[str], Any]:
    """Returns a function from a message's name to its class; a pool of their own keeps them apart from lerobot's."""
    file = FileDescriptorProto(name="inferential/lerobot.proto", package="transport", syntax="proto3")
    fields: dict[str, list[tuple[str, Any]]] = {
        "Empty": [],
        "PolicySetup": [("data", FieldDescriptorProto.TYPE_BYTES)],
        "Observation": [
            ("transfer_state", FieldDescriptorProto.TYPE_INT32),
            ("data", FieldDescriptorProto.TYPE_BYTES),
        ],
        "Actions": [("data", FieldDescriptorProto.TYPE_BYTES)],
    }
    for name, of_message in fields.items():
        message = file.message_type.add(name=name)
        for number, (field_name, kind) in enumerate(of_message, 1):
            message.field.add(name=field_name, number=number, type=kind, label=FieldDescriptorProto.LABEL_OPTIONAL)
    pool = DescriptorPool()
    pool.Add(file)
    return lambda name: GetMessageClass(pool.FindMessageTypeByName(f"transport.{name}"))


_class_of = _service_messages()
Empty: Any = _class_of("Empty")
PolicySetup: Any = _class_of("PolicySetup")
Observation: Any = _class_of("Observation")
Actions: Any = _class_of("Actions")


async def assembled(
    pieces: AsyncIterator[Any], limit: int, note: Callable[[int], object] = lambda size: None
) -> bytearray:
    """Returns the bytes of one observation.

    Args:
        pieces: of it.
        limit: of its bytes.
        note: called with how many there are, with each piece.

    Raises:
        ValueError: the stream ended early, a piece is out of turn, or there are too many bytes.
    """
    data = bytearray()
    async for piece in pieces:
        state = piece.transfer_state
        if state == TRANSFER_BEGIN:
            data.clear()
        elif state not in (TRANSFER_MIDDLE, TRANSFER_END):
            raise ValueError(f"transfer_state: expected 1, 2 or 3, got {state}")
        if len(data) + len(piece.data) > limit:
            raise ValueError(f"an observation of more than {limit} bytes (observations.max_payload_bytes)")
        data += piece.data
        note(len(data))
        if state == TRANSFER_END:
            return data
    raise ValueError(f"the stream of an observation ended after {len(data)} bytes, before its last piece")
