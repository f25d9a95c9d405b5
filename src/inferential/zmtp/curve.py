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

from nacl import bindings
from nacl.exceptions import CryptoError

from inferential.zmtp.protocol import ERROR, ProtocolError

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
        sent, received: the nonces used last by the handshake.
    """

    __slots__ = ("_received", "_receives", "_sends", "_sent", "_shared")

    def __init__(self, shared: bytes, sends: bytes, receives: bytes, sent: int, received: int) -> None:
        self._shared = shared
        self._sends = sends
        self._receives = receives
        self._sent = sent
        self._received = received

    def seal(self, flags: int, body: bytes) -> bytes:
        """Returns the MESSAGE that carries a frame.

        Raises:
            ProtocolError: the nonces are used up.
        """
        self._sent = _next(self._sent)
        nonce = struct.pack(">Q", self._sent)
        box = bindings.crypto_box_easy_afternm(bytes((flags,)) + body, self._sends + nonce, self._shared)
        return b"".join((MESSAGE, nonce, box))

    def open(self, message: bytes) -> tuple[int, memoryview]:
        """Returns the flags and the body of the frame that a MESSAGE carries.

        Raises:
            ProtocolError: it is no MESSAGE, was changed or repeated, or came out of order.
        """
        if not message.startswith(MESSAGE) or len(message) < OVERHEAD_BYTES:
            raise ProtocolError("expected an encrypted MESSAGE")
        nonce = message[8:16]
        number = int.from_bytes(nonce, "big")
        if number <= self._received:
            raise ProtocolError("an encrypted message was repeated or came out of order")
        opened = _open_afternm(message[16:], self._receives + nonce, self._shared, "MESSAGE")
        self._received = number
        return opened[0], memoryview(opened)[1:]


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
        self._server_own = b""
        self._sent = 0
        self.state: State = State.SEND_HELLO
        self.session: Session | None = None
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
        self._server_own, cookie = opened[:KEY_BYTES], opened[KEY_BYTES:]
        vouch_nonce = self._random_bytes(16)
        vouch = bindings.crypto_box_easy(
            self._own.public + self._server_key, b"VOUCH---" + vouch_nonce, self._server_own, self._keys.secret
        )
        nonce = self._nonce()
        inner = b"".join((self._keys.public, vouch_nonce, vouch, self._metadata))
        box = bindings.crypto_box_easy(inner, b"CurveZMQINITIATE" + nonce, self._server_own, self._own.secret)
        self.state = State.EXPECT_READY
        return b"".join((INITIATE, cookie, nonce, box))

    def _finish(self, command: bytes) -> None:
        if not command.startswith(READY) or len(command) < len(READY) + 8 + 16:
            raise ProtocolError("expected READY")
        shared = _shared(self._server_own, self._own.secret)
        nonce = command[6:14]
        self.peer_metadata = _open_afternm(command[14:], b"CurveZMQREADY---" + nonce, shared, "READY")
        self.session = Session(shared, _TO_SERVER, _TO_CLIENT, self._sent, int.from_bytes(nonce, "big"))
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
        self._authorize(client_key)
        self.client_key, self.peer_metadata = client_key, metadata
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
        raise ProtocolError(f"{name} cannot be opened: it was changed on the way or made with another key") from error


def _next(nonce: int) -> int:
    if nonce >= _LAST_NONCE:
        raise ProtocolError("all nonces of the connection are used")
    return nonce + 1


def _reason(command: bytes) -> str:
    """Returns what an ERROR command says: its length in a byte, and text."""
    return command[7 : 7 + command[6]].decode("utf-8", "replace") if len(command) > 6 else "no reason given"
