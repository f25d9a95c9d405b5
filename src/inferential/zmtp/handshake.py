"""The handshake of a connection, from the greeting to the peer's properties; `Stream` moves its bytes.

Sans-I/O. NULL, which proves and encrypts nothing, is here; CURVE is in `curve_handshake`, which needs PyNaCl.

An accepting end sends the mechanism of its greeting only once it has seen that the client's is the same. A client of
libzmq that reads another mechanism never tries again, even after the server is configured anew; one whose connection
is closed before does.
"""

from __future__ import annotations

from typing import Protocol

from inferential.zmtp.protocol import (
    VERSION_BYTES,
    ConnectionEnded,
    CutShort,
    ProtocolError,
    Ready,
    greeting,
    mechanism_of,
    read_ready,
    ready,
)
from inferential.zmtp.wire import Wire
from inferential.zmtp.zmtp2 import Zmtp2Handshake

NULL, CURVE = "NULL", "CURVE"


class HandshakeError(ProtocolError):
    """The two ends cannot agree; the text says what to change, and where.

    Attributes:
        cause: one word for metrics.
        answer: what is to be sent before the connection is closed.
    """

    def __init__(self, reason: str, cause: str, answer: bytes = b"") -> None:
        super().__init__(reason)
        self.cause = cause
        self.answer = answer


class Handshake(Protocol):
    """One end of a handshake."""

    accepting: bool
    """Whether this end accepts the connection."""

    peer: Ready | None
    """What was found out of the peer, or is presumed; messages may be sent then. None before that."""

    def greeting(self) -> bytes:
        """Returns what is sent first: the greeting, and what follows it where the peer is presumed to be known."""
        ...

    def greeted(self, peer_greeting: bytes) -> bytes:
        """Takes the peer's complete greeting; returns what is to be sent.

        Raises:
            ProtocolError: the two ends do not use the same mechanism.
        """
        ...

    def receive(self, command: bytes) -> bytes:
        """Takes the peer's next command; returns what is to be sent.

        Raises:
            ProtocolError: the peer is refused, or refuses.
        """
        ...

    def wire(self, max_frame_bytes: int | None, max_frames: int) -> Wire | None:
        """Returns how messages are read and written after the handshake; None: as they are."""
        ...

    def older(self) -> Zmtp2Handshake | None:
        """Returns the handshake with a peer that has ZMTP 2; None where this end has no such.

        Raises:
            HandshakeError: this end requires keys, which ZMTP 2 does not have.
        """
        ...

    def cut_short(self) -> str:
        """Returns what it may mean that the peer closed the connection now; "" if nothing is known."""
        ...


def cut_short(handshake: Handshake, error: ConnectionEnded) -> ConnectionEnded:
    """Returns the error for a connection that the peer has closed during its handshake, with what that may mean."""
    hint = handshake.cut_short()
    if not hint:
        return ConnectionEnded(str(error))
    kind = CutShort if handshake.accepting else ConnectionEnded
    return kind(f"{error} during the handshake; {hint}")


class NullHandshake:
    """The handshake of a connection without keys.

    Args:
        socket_type, identity: sent to the peer.
        accepting: whether this end waits for the client's mechanism before it sends its own.
        life: sent to the peer, see `protocol.LIFE`; b"": not sent.
        presumed: what the peer said by a connection just before. READY goes with the greeting then, and messages may
            follow at once, two round trips sooner; what the peer says is checked as it comes.
    """

    def __init__(
        self,
        socket_type: bytes,
        identity: bytes,
        *,
        accepting: bool = False,
        life: bytes = b"",
        presumed: Ready | None = None,
    ) -> None:
        self._socket_type = socket_type
        self._identity = identity
        self.accepting = accepting
        self._life = life
        self._greeted = False
        self.peer: Ready | None = presumed

    def greeting(self) -> bytes:
        if self.accepting:
            return greeting()[:VERSION_BYTES]
        return greeting() + (b"" if self.peer is None else self._ready())

    def greeted(self, peer_greeting: bytes) -> bytes:
        self._greeted = True
        mechanism = mechanism_of(peer_greeting)
        if mechanism != NULL:
            raise HandshakeError(self._wrong(mechanism), "mechanism")
        if self.peer is not None:
            return b""  # it has READY already
        return (greeting()[VERSION_BYTES:] if self.accepting else b"") + self._ready()

    def _ready(self) -> bytes:
        return ready(self._socket_type, self._identity, self._life)

    def receive(self, command: bytes) -> bytes:
        self.peer = read_ready(command, self._socket_type)
        return b""

    def wire(self, max_frame_bytes: int | None, max_frames: int) -> Wire | None:
        return None

    def older(self) -> Zmtp2Handshake | None:
        return Zmtp2Handshake(self._socket_type) if self.accepting else None

    def cut_short(self) -> str:
        if self.accepting:
            return _OTHER_SOCKET if self._greeted else ""
        return "" if self._greeted else f"a tunnel or proxy does so that does not reach the server. Or {NEEDS_KEYS}"

    def _wrong(self, mechanism: str) -> str:
        if mechanism != CURVE:
            return f"peer requires mechanism {mechanism}; NULL and CURVE are supported"
        if self.accepting:
            return "the client has keys, and this server takes none: set security.mode, or leave its keys out"
        return NEEDS_KEYS


_OTHER_SOCKET = (
    "sockets other than DEALER, REQ and ROUTER do so when they read that this is a ROUTER, and robots that gave up"
)
NEEDS_KEYS = (
    "the server accepts no client without keys (security.mode: required): give server_key= and secret_key=, or "
    "INFERENTIAL_SERVER_KEY and INFERENTIAL_SECRET_KEY; `inferential keys new client NAME` makes them"
)
TAKES_NO_KEYS = (
    "the server takes no keys (security.mode: off): leave out server_key= and secret_key=, or set security.mode there"
)
