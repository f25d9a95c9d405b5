"""A robot's keys: what `server_key=` and `secret_key=` mean, and the handshakes that are made with them.

PyNaCl is imported only where keys are given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from inferential.zmtp.certificates import SECRET_SUFFIX, CertificateError, decode_key, decode_z85, read_certificate
from inferential.zmtp.handshake import Handshake
from inferential.zmtp.protocol import ConnectionEnded, Ready

if TYPE_CHECKING:
    from inferential.zmtp.curve import KeyPair

SERVER_KEY, SECRET_KEY = "INFERENTIAL_SERVER_KEY", "INFERENTIAL_SECRET_KEY"
"""The environment variables that are read where an argument is None."""
_KEY_CHARACTERS = 40

HandshakeMaker = Callable[[bytes, Ready | None], Handshake]
"""Makes the handshake of one attempt to connect, which says this life (see `zmtp.protocol.LIFE`; b"": none) and
presumes that the server will say what it said before; None: nothing.

Raises:
    ConnectionEnded: a key file cannot be used any more.
"""


class RobotKeys:
    """A robot's own keys, and those of its servers.

    Files are read for every attempt to connect: a key that is replaced counts at once.

    Args:
        server_keys: of each server, or one for all; each the path of a NAME.key file or 40 characters of Z85.
        secret_key: the path of the robot's NAME.key_secret file, or 40 characters of Z85.

    Raises:
        ValueError: one cannot be used (`CertificateError` for a file).
        ImportError: PyNaCl is not installed.
    """

    def __init__(self, server_keys: Sequence[str], secret_key: str) -> None:
        try:
            from inferential.zmtp.curve_handshake import ClientCurveHandshake
        except ModuleNotFoundError as error:
            raise ImportError(
                f"server_key and secret_key: encrypting needs {error.name}: pip install 'inferential[curve]'"
            ) from error
        self._handshake = ClientCurveHandshake
        self._server_keys = list(server_keys)
        self._secret_key = secret_key
        self.name: str = _name_of(secret_key)
        """The name of the secret key's file, which is the robot's id on the server; "" if it is not in a file."""
        self._own()
        for key in self._server_keys:
            _public(key)

    def makers(self, identity: bytes, servers: int) -> list[HandshakeMaker]:
        """Returns what makes the handshakes with each of several servers.

        Raises:
            ValueError: there are several server keys, but not one for each server.
        """
        keys = self._server_keys
        if len(keys) == 1:
            keys = keys * servers
        if len(keys) != servers:
            raise ValueError(f"server_key: expected one key for all servers, or {servers} of them, got {len(keys)}")
        return [self._maker(identity, key) for key in keys]

    def _maker(self, identity: bytes, server_key: str) -> HandshakeMaker:
        def make(life: bytes, presumed: Ready | None) -> Handshake:
            try:
                return self._handshake(b"DEALER", identity, self._own(), _public(server_key), life, presumed)
            except CertificateError as error:
                raise ConnectionEnded(str(error)) from error

        return make

    def _own(self) -> KeyPair:
        from inferential.zmtp.curve import KeyPair, public_key

        if _is_key(self._secret_key):
            secret = decode_key(self._secret_key, "secret_key")
        else:
            found = read_certificate(self._secret_key).secret_key
            if found is None:
                raise CertificateError(f"secret_key: {self._secret_key} is a public key; give NAME{SECRET_SUFFIX}")
            secret = found
        return KeyPair(public_key(secret), secret)


def robot_keys(server_key: str | Sequence[str] | None, secret_key: str | None) -> RobotKeys | None:
    """Returns a robot's keys; None if it has none.

    Args:
        server_key: see `RobotKeys`, several as a sequence or separated by commas; "": none; None: what
            INFERENTIAL_SERVER_KEY says.
        secret_key: see `RobotKeys`; "": none; None: what INFERENTIAL_SECRET_KEY says.

    Raises:
        ValueError: one is missing, or cannot be used.
        ImportError: PyNaCl is not installed.
    """
    shared = os.environ.get(SERVER_KEY, "") if server_key is None else server_key
    secret = os.environ.get(SECRET_KEY, "") if secret_key is None else os.fspath(secret_key)
    listed = [os.fspath(shared)] if isinstance(shared, os.PathLike) else shared
    server_keys = [key.strip() for key in listed.split(",")] if isinstance(listed, str) else [*map(os.fspath, listed)]
    if not any(server_keys) and not secret:
        return None
    if not all(server_keys):
        raise ValueError("server_key: secret_key is given, so the server's public key is needed too: its NAME.key file")
    if not secret:
        raise ValueError(
            "secret_key: server_key is given, so the robot's own key is needed too: `inferential keys new client NAME` "
            "makes it"
        )
    return RobotKeys(server_keys, secret)


def client_id_with(client_id: str | int, keys: RobotKeys | None) -> str | int:
    """Returns the client id; where it is empty, that of the keys."""
    return keys.name if client_id == "" and keys is not None else client_id


def _public(key: str) -> bytes:
    return decode_key(key, "server_key") if _is_key(key) else read_certificate(key).public_key


def _name_of(secret_key: str) -> str:
    return "" if _is_key(secret_key) else Path(secret_key).name.removesuffix(SECRET_SUFFIX)


def _is_key(text: str) -> bool:
    """Returns whether it is a key itself, not the path of a file."""
    if len(text) != _KEY_CHARACTERS or os.path.exists(text):
        return False
    try:
        decode_z85(text)
    except ValueError:
        return False
    return True
