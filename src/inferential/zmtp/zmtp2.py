"""The handshake with a peer of ZMTP 2, such as libzmq 3 or JeroMQ 0.3: a byte for its socket type, then its identity.

Sans-I/O. Neither encrypts nor has commands; frames are those of ZMTP 3. An accepting end sends no more than signature
and major version before it has seen the peer's. https://rfc.zeromq.org/spec/15/
"""

from __future__ import annotations

from collections.abc import Sequence

from inferential.zmtp.protocol import Buffer, ProtocolError, Ready, ready_of
from inferential.zmtp.wire import Wire

REVISIONS = frozenset({1, 2})
"""What stands in place of the major version."""
GREETING_BYTES = 12
"""Signature, revision and socket type."""
_SOCKET_TYPES = (*(b"PAIR", b"PUB", b"SUB", b"REQ", b"REP", b"DEALER", b"ROUTER", b"PULL", b"PUSH", b"XPUB", b"XSUB"),)


class Zmtp2Handshake:
    """The accepting end.

    Args:
        socket_type: of this end.
    """

    def __init__(self, socket_type: bytes) -> None:
        self.accepting = True
        self._socket_type = socket_type
        self._peer_type = b""
        self.peer: Ready | None = None

    def greeting(self) -> bytes:
        return b""

    def greeted(self, peer_greeting: bytes) -> bytes:
        number = peer_greeting[GREETING_BYTES - 1]
        if number >= len(_SOCKET_TYPES):
            raise ProtocolError(f"peer has socket type {number}, which ZMTP 2 does not know")
        self._peer_type = _SOCKET_TYPES[number]
        self._ready(b"")  # the wrong type is refused at once, not when it has sent its identity
        return bytes((_SOCKET_TYPES.index(self._socket_type),)) + b"\0\0"  # an empty identity, as a frame

    def receive(self, command: bytes) -> bytes:
        raise ProtocolError("expected the identity, as ZMTP 2 has it, and not a command")

    def receive_identity(self, frames: Sequence[Buffer]) -> None:
        """Takes the peer's first message, which is its identity.

        Raises:
            ProtocolError: it has more frames, or is not an identity.
        """
        if len(frames) != 1:
            raise ProtocolError(f"expected the identity as one frame, as ZMTP 2 has it, got {len(frames)}")
        self.peer = self._ready(bytes(frames[0]))

    def _ready(self, identity: bytes) -> Ready:
        return ready_of({b"socket-type": self._peer_type, b"identity": identity}, self._socket_type)

    def wire(self, max_frame_bytes: int | None, max_frames: int) -> Wire | None:
        return None

    def cut_short(self) -> str:
        return ""

    def older(self) -> Zmtp2Handshake | None:
        return self
