"""CurveZMQ: proves who is at the other end of a connection and encrypts what is sent, as ZeroMQ's CURVE mechanism.

Sans-I/O: commands of the handshake go in and come out as bytes, and so do boxed frames; randomness is an argument.

    client                                     server
    HELLO     proof that C' is held       ->
                                          <-   WELCOME   S', and a cookie that stands for the server's state
    INITIATE  the cookie, C, a vouch that ->
              C and C' belong together,
              metadata
                                          <-   READY     metadata
    MESSAGE   flags and a frame           <->  MESSAGE

C and S are the long-term keys, C' and S' are made for one connection and forgotten with it, so that a key that is
stolen later opens no old recording. Nonces rise with every command of a direction; one that does not rise is a replay
or was reordered, and ends the connection. https://rfc.zeromq.org/spec/26/ and http://curvezmq.org
"""

from __future__ import annotations

import enum
import hmac
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nacl import bindings

# PyNaCl's own functions take and return bytes, at three copies of a large frame for each; these are what they call.
from nacl._sodium import ffi, lib
from nacl.exceptions import CryptoError

from inferential.zmtp.protocol import ERROR, Buffer, Frame, ProtocolError

KEY_BYTES = 32
GREETING_NAME = b"CURVE".ljust(20, b"\0")
"""The mechanism, as a greeting names it."""
OVERHEAD_BYTES = 33
"""How much longer a MESSAGE is than the frame inside it: name, nonce, authenticator and flags."""

HELLO, WELCOME, INITIATE, READY, MESSAGE = b"\5HELLO", b"\7WELCOME", b"\x08INITIATE", b"\5READY", b"\7MESSAGE"
MORE, COMMAND = 1, 2
"""Flags inside a box: another frame follows; the frame is a command such as PING."""

_VERSION = b"\1\0"
_HELLO_BYTES = 200
_WELCOME_BYTES = 168
_COOKIE_BYTES = 96
_VOUCH_BYTES = 80
_LEAST_INITIATE_BYTES = len(INITIATE) + _COOKIE_BYTES + 8 + 16 + KEY_BYTES + 16 + _VOUCH_BYTES
_LAST_NONCE = 2**64 - 1
_BOX_AT, _PLAIN_AT = 16, 32  # in a MESSAGE: authenticator and box; flags and body
_LONG, _SHORT_BYTES, _LONG_HEAD_BYTES = 2, 255, 9  # of a frame of ZMTP
_SHORT_HEAD, _LONG_HEAD, _NUMBER = struct.Struct(">BB8sQ"), struct.Struct(">BQ8sQ"), struct.Struct(">Q")
_seal, _open = lib.crypto_box_easy_afternm, lib.crypto_box_open_easy_afternm
_CANNOT_OPEN = "{} cannot be opened: it was changed on the way or made with another key"
_TO_SERVER, _TO_CLIENT = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"

RandomBytes = Callable[[int], bytes]
"""Returns as many unpredictable bytes as asked for, such as `os.urandom`."""


class State(enum.Enum):
    """Where a handshake is; each end knows its own half of them."""

    SEND_HELLO = "send HELLO"
    EXPECT_WELCOME = "expect WELCOME"
    EXPECT_READY = "expect READY"
    EXPECT_HELLO = "expect HELLO"
    EXPECT_INITIATE = "expect INITIATE"
    ESTABLISHED = "established"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A Curve25519 key pair, 32 bytes each."""

    public: bytes
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.public) != KEY_BYTES or len(self.secret) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, got {len(self.public)} and {len(self.secret)}")


def key_pair(random_bytes: RandomBytes) -> KeyPair:
    """Makes a new key pair."""
    secret = random_bytes(KEY_BYTES)
    return KeyPair(public_key(secret), secret)


def public_key(secret: bytes) -> bytes:
    """Returns the public key that belongs to a secret one."""
    return bindings.crypto_scalarmult_base(secret)


class Session:
    """Boxes and opens the frames of an established connection.

    Args:
        shared: the key that follows from S' and C'.
        sends, receives: the two directions' nonce prefixes.
        sent, received: the nonces used last by the handshake; the second is an attribute too.
    """

    __slots__ = ("_receives", "_receives_at", "_sends", "_sends_at", "_sent", "_shared", "received")

    def __init__(self, shared: bytes, sends: bytes, receives: bytes, sent: int, received: int) -> None:
        self._shared = shared
        # A nonce is a prefix and a number; it is written where libsodium reads it.
        self._sends, self._receives = bytearray(sends + bytes(8)), bytearray(receives + bytes(8))
        self._sends_at, self._receives_at = pointer_to(self._sends), pointer_to(self._receives)
        self._sent = sent
        self.received = received

    def seal(self, flags: int, body: bytes) -> bytes:
        """Returns the MESSAGE that carries a frame.

        Raises:
            ProtocolError: the nonces are used up.
        """
        out = bytearray(_LONG_HEAD_BYTES + OVERHEAD_BYTES + len(body))
        end = self.seal_frame(memoryview(out), pointer_to(out), 0, flags, body, len(body))
        return bytes(out[end - OVERHEAD_BYTES - len(body) : end])

    def seal_frame(self, out: memoryview, pointer: Any, at: int, flags: int, frame: Frame, size: int) -> int:
        """Writes the frame of ZMTP with the MESSAGE that carries a frame; returns where it ends.

        Args:
            out: memory to write to.
            pointer: to the first byte of it.
            at: where to begin.
            flags: inside the box.
            frame, size: the body, and how long it is.

        Raises:
            ProtocolError: the nonces are used up.
        """
        number = self._sent = _next(self._sent)
        _NUMBER.pack_into(self._sends, 16, number)
        size += OVERHEAD_BYTES
        if size <= _SHORT_BYTES:
            _SHORT_HEAD.pack_into(out, at, 0, size, MESSAGE, number)
            plain = at + 2 + _PLAIN_AT
        else:
            _LONG_HEAD.pack_into(out, at, _LONG, size, MESSAGE, number)
            plain = at + _LONG_HEAD_BYTES + _PLAIN_AT
        out[plain] = flags
        place = plain + 1
        if isinstance(frame, list):
            for piece in frame:
                end = place + len(piece)
                out[place:end] = piece
                place = end
        else:
            end = place + len(frame)
            out[place:end] = frame
            place = end
        # The box is made where the frame lies, with the authenticator before it.
        if _seal(pointer + (plain - 16), pointer + plain, place - plain, self._sends_at, self._shared):
            raise ProtocolError("a frame could not be encrypted")
        return place

    def open(self, message: bytes) -> tuple[int, memoryview]:
        """Returns the flags and the body of the frame that a MESSAGE carries.

        Raises:
            ProtocolError: it is no MESSAGE, was changed or repeated, or came out of order.
        """
        opened = bytearray(max(len(message) - _PLAIN_AT, 1))
        self.open_box(message, pointer_to(message), 0, len(message), pointer_to(opened))
        return opened[0], memoryview(opened)[1:]

    def open_box(self, data: Buffer, pointer: Any, at: int, size: int, opened: Any) -> None:
        """Writes the flags and the body of the frame that a MESSAGE carries.

        Args:
            data: memory with the MESSAGE.
            pointer: to the first byte of it.
            at, size: where the MESSAGE is.
            opened: pointer to where they are written; it may be the place of the box itself.

        Raises:
            ProtocolError: as `open`.
        """
        if size < OVERHEAD_BYTES or bytes(data[at : at + 8]) != MESSAGE:
            raise ProtocolError("expected an encrypted MESSAGE")
        (number,) = _NUMBER.unpack_from(data, at + 8)
        if number <= self.received:
            raise ProtocolError("an encrypted message was repeated or came out of order")
        _NUMBER.pack_into(self._receives, 16, number)
        if _open(opened, pointer + (at + _BOX_AT), size - _BOX_AT, self._receives_at, self._shared):
            raise ProtocolError(_CANNOT_OPEN.format("MESSAGE"))
        self.received = number


def pointer_to(memory: Buffer) -> Any:
    """Returns a pointer to the first byte of memory, for libsodium."""
    return ffi.from_buffer("unsigned char[]", memory) + 0


class CurveClient:
    """The connecting end of the handshake.

    Args:
        keys: the client's long-term keys, by which the server knows it.
        server_key: the server's long-term public key.
        metadata: properties that the server is to see, such as Socket-Type and Identity.
        random_bytes: makes the connection's own keys and nonces.

    Raises:
        ValueError: `server_key` does not have 32 bytes.
    """

    def __init__(self, keys: KeyPair, server_key: bytes, metadata: bytes, random_bytes: RandomBytes) -> None:
        if len(server_key) != KEY_BYTES:
            raise ValueError(f"server_key: a key has {KEY_BYTES} bytes, got {len(server_key)}")
        self._keys = keys
        self._server_key = server_key
        self._metadata = metadata
        self._random_bytes = random_bytes
        self._own = key_pair(random_bytes)
        self._shared, self._sent = b"", 0
        self.state: State = State.SEND_HELLO
        self.session: Session | None = None  # from WELCOME on: frames may follow INITIATE at once
        self.peer_metadata: bytes = b""

    def hello(self) -> bytes:
        """Returns the command that begins the handshake.

        Raises:
            ProtocolError: it has begun already.
        """
        if self.state is not State.SEND_HELLO:
            raise ProtocolError(f"the handshake has begun: {self.state.value}")
        self.state = State.EXPECT_WELCOME
        nonce = self._nonce()
        box = bindings.crypto_box_easy(bytes(64), b"CurveZMQHELLO---" + nonce, self._server_key, self._own.secret)
        return b"".join((HELLO, _VERSION, bytes(72), self._own.public, nonce, box))

    def receive(self, command: bytes) -> bytes | None:
        """Takes the server's next command; returns what is to be sent, None once the connection is established.

        Raises:
            ProtocolError: it is not the command that is due, is not from the holder of the server's key, or says that
                the server refuses this client.
        """
        if command.startswith(ERROR):
            raise ProtocolError(f"the server refused the connection: {_reason(command)}")
        if self.state is State.EXPECT_WELCOME:
            return self._welcomed(command)
        if self.state is State.EXPECT_READY:
            self._finish(command)
            return None
        raise ProtocolError(f"a command of the handshake came unexpectedly: {self.state.value}")

    def _welcomed(self, command: bytes) -> bytes:
        if not command.startswith(WELCOME) or len(command) != _WELCOME_BYTES:
            raise ProtocolError("expected WELCOME")
        nonce = b"WELCOME-" + command[8:24]
        try:
            opened = bindings.crypto_box_open_easy(command[24:], nonce, self._server_key, self._own.secret)
        except CryptoError as error:
            raise ProtocolError("WELCOME cannot be opened: the server holds another key than server_key") from error
        server_own, cookie = opened[:KEY_BYTES], opened[KEY_BYTES:]
        vouch_nonce = self._random_bytes(16)
        vouch = bindings.crypto_box_easy(
            self._own.public + self._server_key, b"VOUCH---" + vouch_nonce, server_own, self._keys.secret
        )
        nonce = self._nonce()
        inner = b"".join((self._keys.public, vouch_nonce, vouch, self._metadata))
        box = bindings.crypto_box_easy(inner, b"CurveZMQINITIATE" + nonce, server_own, self._own.secret)
        self._shared = _shared(server_own, self._own.secret)
        self.session = Session(self._shared, _TO_SERVER, _TO_CLIENT, self._sent, 0)
        self.state = State.EXPECT_READY
        return b"".join((INITIATE, cookie, nonce, box))

    def _finish(self, command: bytes) -> None:
        if not command.startswith(READY) or len(command) < len(READY) + 8 + 16:
            raise ProtocolError("expected READY")
        assert self.session is not None
        nonce = command[6:14]
        self.peer_metadata = _open_afternm(command[14:], b"CurveZMQREADY---" + nonce, self._shared, "READY")
        self.session.received = int.from_bytes(nonce, "big")
        self.state = State.ESTABLISHED

    def _nonce(self) -> bytes:
        self._sent = _next(self._sent)
        return struct.pack(">Q", self._sent)


class CurveServer:
    """The accepting end of the handshake.

    Args:
        keys: the server's long-term keys.
        metadata: properties that the client is to see.
        random_bytes: makes the connection's own keys, cookie and nonces.
        authorize: called with the client's long-term public key once that is proven; raises ProtocolError to refuse.
    """

    def __init__(
        self, keys: KeyPair, metadata: bytes, random_bytes: RandomBytes, authorize: Callable[[bytes], None]
    ) -> None:
        self._keys = keys
        self._metadata = metadata
        self._random_bytes = random_bytes
        self._authorize = authorize
        self._cookie = b""
        self._client_own = b""
        self._own: KeyPair | None = None
        self._received = 0
        self.state: State = State.EXPECT_HELLO
        self.session: Session | None = None
        self.peer_metadata: bytes = b""
        self.client_key: bytes = b""
        """The client's long-term public key, once it is proven."""

    def receive(self, command: bytes) -> bytes:
        """Takes the client's next command; returns the answer to be sent.

        Raises:
            ProtocolError: it is not the command that is due, was made with other keys, or the client is refused.
        """
        if self.state is State.EXPECT_HELLO:
            return self._welcome(command)
        if self.state is State.EXPECT_INITIATE:
            return self._initiated(command)
        raise ProtocolError(f"a command of the handshake came unexpectedly: {self.state.value}")

    def _welcome(self, command: bytes) -> bytes:
        if not command.startswith(HELLO) or len(command) != _HELLO_BYTES or command[6:8] != _VERSION:
            raise ProtocolError("expected HELLO of CurveZMQ 1.0")
        client_own, nonce = command[80:112], command[112:120]
        try:
            bindings.crypto_box_open_easy(command[120:], b"CurveZMQHELLO---" + nonce, client_own, self._keys.secret)
        except CryptoError as error:
            raise ProtocolError("HELLO cannot be opened: the client expects another server key") from error
        self._received = int.from_bytes(nonce, "big")
        self._client_own, self._own = client_own, key_pair(self._random_bytes)
        # The cookie is the client's proof that it has read WELCOME; as this object lives on, it need not carry state,
        # and random bytes serve as well as a box would.
        self._cookie = self._random_bytes(_COOKIE_BYTES)
        welcome_nonce = self._random_bytes(16)
        box = bindings.crypto_box_easy(
            self._own.public + self._cookie, b"WELCOME-" + welcome_nonce, client_own, self._keys.secret
        )
        self.state = State.EXPECT_INITIATE
        return b"".join((WELCOME, welcome_nonce, box))

    def _initiated(self, command: bytes) -> bytes:
        assert self._own is not None
        if not command.startswith(INITIATE) or len(command) < _LEAST_INITIATE_BYTES:
            raise ProtocolError("expected INITIATE")
        cookie, nonce, box = command[9:105], command[105:113], command[113:]
        if not hmac.compare_digest(cookie, self._cookie):
            raise ProtocolError("INITIATE has the cookie of another connection")
        number = int.from_bytes(nonce, "big")
        if number <= self._received:
            raise ProtocolError("INITIATE was repeated")
        shared = _shared(self._client_own, self._own.secret)
        opened = _open_afternm(box, b"CurveZMQINITIATE" + nonce, shared, "INITIATE")
        client_key, vouch_nonce, rest = opened[:32], opened[32:48], opened[48:]
        vouch, metadata = rest[:_VOUCH_BYTES], rest[_VOUCH_BYTES:]
        try:
            vouched = bindings.crypto_box_open_easy(vouch, b"VOUCH---" + vouch_nonce, client_key, self._own.secret)
        except CryptoError as error:
            raise ProtocolError("the vouch cannot be opened: the client does not hold the key it names") from error
        if not hmac.compare_digest(vouched, self._client_own + self._keys.public):
            raise ProtocolError("the vouch is for another connection")
        self.client_key, self.peer_metadata = client_key, metadata
        self._authorize(client_key)
        ready_nonce = struct.pack(">Q", 1)
        box = bindings.crypto_box_easy_afternm(self._metadata, b"CurveZMQREADY---" + ready_nonce, shared)
        self.session = Session(shared, _TO_CLIENT, _TO_SERVER, 1, number)
        self.state = State.ESTABLISHED
        return b"".join((READY, ready_nonce, box))


def _shared(public: bytes, secret: bytes) -> bytes:
    return bindings.crypto_box_beforenm(public, secret)


def _open_afternm(box: bytes, nonce: bytes, shared: bytes, name: str) -> bytes:
    try:
        return bindings.crypto_box_open_easy_afternm(box, nonce, shared)
    except CryptoError as error:
        raise ProtocolError(_CANNOT_OPEN.format(name)) from error


def _next(nonce: int) -> int:
    if nonce >= _LAST_NONCE:
        raise ProtocolError("all nonces of the connection are used")
    return nonce + 1


def _reason(command: bytes) -> str:
    """Returns what an ERROR command says: its length in a byte, and text."""
    return command[7 : 7 + command[6]].decode("utf-8", "replace") if len(command) > 6 else "no reason given"
