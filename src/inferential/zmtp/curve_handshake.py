"""The handshake of a connection with keys: CURVE, on either end, and of a server that takes clients without keys too.

A client is known by its key: its identity is the name under which the server has the key, whatever it sends.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from inferential.zmtp.boxes import BoxWire
from inferential.zmtp.certificates import encode_z85
from inferential.zmtp.curve import CurveClient, CurveServer, KeyPair, State
from inferential.zmtp.handshake import CURVE, NULL, TAKES_NO_KEYS, HandshakeError, NullHandshake
from inferential.zmtp.protocol import (
    ERROR,
    EXTENSIONS,
    LIFE,
    VERSION_BYTES,
    ProtocolError,
    Ready,
    command,
    greeting,
    mechanism_of,
    properties,
    read_properties,
    ready_of,
)
from inferential.zmtp.wire import Wire
from inferential.zmtp.zmtp2 import Zmtp2Handshake

_REFUSABLE = b"X-Inferential"
"""Property of a client that comes back after ERROR, so that it can be sent the reason; libzmq's would not."""
_MAX_REASON_BYTES = 255

NameOf = Callable[[bytes], str | None]
"""Returns the name of the client with a public key; None for a key that is not accepted."""


class ClientCurveHandshake:
    """The connecting end.

    Args:
        socket_type, identity: sent to the server.
        keys: the client's.
        server_key: the public key that the server must hold.
        life: sent to the server, see `protocol.LIFE`; b"": not sent.
        presumed: what the server said before, see `NullHandshake`: HELLO goes with the greeting then, and messages may
            follow INITIATE, two round trips sooner.
    """

    def __init__(
        self,
        socket_type: bytes,
        identity: bytes,
        keys: KeyPair,
        server_key: bytes,
        life: bytes = b"",
        presumed: Ready | None = None,
    ) -> None:
        self.accepting = False
        self._presumed = presumed
        self._socket_type = socket_type
        named = [(b"Socket-Type", socket_type), (b"Identity", identity), (_REFUSABLE, b"1")]
        if life:
            named.append((LIFE, life))
        self._curve = CurveClient(keys, server_key, properties(*named), os.urandom)
        self.peer: Ready | None = None

    def greeting(self) -> bytes:
        return greeting(CURVE) + (b"" if self._presumed is None else command(self._curve.hello()))

    def greeted(self, peer_greeting: bytes) -> bytes:
        mechanism = mechanism_of(peer_greeting)
        if mechanism != CURVE:
            reason = TAKES_NO_KEYS if mechanism == NULL else f"the server uses mechanism {mechanism}, not CURVE"
            raise HandshakeError(reason, "mechanism")
        return command(self._curve.hello()) if self._presumed is None else b""

    def receive(self, body: bytes) -> bytes:
        answer = self._curve.receive(body)
        if answer is not None:
            self.peer = self._presumed
            return command(answer)
        self.peer = ready_of(read_properties(self._curve.peer_metadata), self._socket_type)
        return b""

    def wire(self, max_frame_bytes: int | None, max_frames: int) -> Wire:
        assert self._curve.session is not None
        return BoxWire(self._curve.session, max_frame_bytes, max_frames)

    def older(self) -> None:
        return None

    def cut_short(self) -> str:
        if self._curve.state is State.SEND_HELLO:
            return TAKES_NO_KEYS
        if self._curve.state is State.EXPECT_WELCOME:
            return "the server holds another key than server_key= says; its NAME.key has the right one"
        return "the server does not accept the key of secret_key=; put its NAME.key into the folder security.clients"


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """What an accepting end needs.

    Attributes:
        keys: the server's.
        name_of: names the clients that are accepted by their keys.
        required: whether a client without keys is refused.
    """

    keys: KeyPair
    name_of: NameOf
    required: bool


class ServerCurveHandshake:
    """The accepting end; the client's greeting decides whether it is CURVE or, where that is allowed, NULL.

    Args:
        socket_type: sent to the client.
        server_keys: the server's keys, and whose it accepts.
    """

    def __init__(self, socket_type: bytes, server_keys: ServerKeys) -> None:
        self.accepting = True
        self._socket_type = socket_type
        self._server_keys = server_keys
        self._null: NullHandshake | None = None
        metadata = properties((b"Socket-Type", socket_type), (b"Identity", b""), EXTENSIONS)
        self._curve = CurveServer(server_keys.keys, metadata, os.urandom, self._authorize)
        self._name = ""
        self.peer: Ready | None = None

    def greeting(self) -> bytes:
        return greeting()[:VERSION_BYTES]

    def greeted(self, peer_greeting: bytes) -> bytes:
        mechanism = mechanism_of(peer_greeting)
        if mechanism == NULL and not self._server_keys.required:
            self._null = NullHandshake(self._socket_type, b"", accepting=True)
            return self._null.greeted(peer_greeting)
        if mechanism == NULL:
            raise HandshakeError(
                "the client has no keys, and security.mode is required: `inferential keys new client NAME` makes them",
                "no_keys",
            )
        if mechanism != CURVE:
            raise HandshakeError(f"the client uses mechanism {mechanism}; NULL and CURVE are supported", "mechanism")
        return greeting(CURVE, as_server=True)[VERSION_BYTES:]

    def receive(self, body: bytes) -> bytes:
        if self._null is not None:
            answer = self._null.receive(body)
            self.peer = self._null.peer
            return answer
        if self._curve.state is State.EXPECT_HELLO:
            try:
                return command(self._curve.receive(body))
            except HandshakeError:
                raise
            except ProtocolError as error:
                raise HandshakeError(str(error), "hello") from error
        answer = command(self._curve.receive(body))
        ready = ready_of(read_properties(self._curve.peer_metadata), self._socket_type)
        self.peer = Ready(ready.socket_type, self._name.encode(), self._curve.client_key, life=ready.life)
        return answer

    def wire(self, max_frame_bytes: int | None, max_frames: int) -> Wire | None:
        if self._null is not None:
            return None
        assert self._curve.session is not None
        return BoxWire(self._curve.session, max_frame_bytes, max_frames)

    def older(self) -> Zmtp2Handshake:
        if self._server_keys.required:
            raise HandshakeError("the client has ZMTP 2, which has no keys, and security.mode is required", "no_keys")
        return Zmtp2Handshake(self._socket_type)

    def cut_short(self) -> str:
        return "" if self._null is None else self._null.cut_short()

    def _authorize(self, client_key: bytes) -> None:
        name = self._server_keys.name_of(client_key)
        if name is not None:
            self._name = name
            return
        shown = encode_z85(client_key)
        properties = read_properties(self._curve.peer_metadata)
        reason = f"no client has the key {shown}: it was revoked, or its NAME.key is not in the folder security.clients"
        answer = refusal(reason) if _REFUSABLE.lower() in properties else b""
        raise HandshakeError(reason, "unknown_key", answer)


def refusal(reason: str) -> bytes:
    """Returns the ERROR command that gives a reason."""
    said = reason.encode()[:_MAX_REASON_BYTES]
    return command(ERROR + bytes((len(said),)) + said)
