"""What passes between the server and its socket.

Plain values; nothing here reads or writes a socket.
"""

from __future__ import annotations

from dataclasses import dataclass

from inferential.proto.tensors import Buffer

Received = tuple[bytes, Buffer, Buffer, float]
"""What an `IncomingObservation` is made of, which on its way through the server is not made."""


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
