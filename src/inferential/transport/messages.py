"""What passes between the server and its socket.

Plain values; nothing here reads or writes a socket.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferential.proto.tensors import Buffer

Received = tuple[bytes, Buffer, Buffer, float]
"""What an `IncomingObservation` is made of. On the way through the server none is made: that takes half a microsecond,
as a frozen one's fields are set one by one, and its readers take names of their own."""


@dataclass(frozen=True, slots=True)
class IncomingObservation:
    """A message of a client, nothing of it believed yet.

    Attributes:
        identity: the routing id of the sender's connection.
        envelope: the serialized `Observation`.
        payload: the bytes of its tensors.
        received_at: `time.monotonic()` at its arrival, in seconds.
    """

    identity: bytes
    envelope: Buffer
    payload: Buffer
    received_at: float


@dataclass(frozen=True, slots=True)
class OutgoingResponse:
    """A message to the client whose connection has this routing id."""

    identity: bytes
    envelope: Buffer
    payload: Buffer
