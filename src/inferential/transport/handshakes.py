"""Who may connect: makes the handshakes of new connections, and counts, logs and limits those that fail."""

from __future__ import annotations

import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from inferential.notices import Notices
from inferential.transport.client_keys import ClientKeys
from inferential.zmtp import ProtocolError
from inferential.zmtp.certificates import CertificateError, read_certificate
from inferential.zmtp.handshake import Handshake, HandshakeError, NullHandshake
from inferential.zmtp.protocol import CutShort, Ready

if TYPE_CHECKING:
    from inferential.config.addresses import SecurityMode
    from inferential.config.security import SecurityConfig
    from inferential.zmtp.curve_handshake import ServerKeys

logger: logging.Logger = logging.getLogger("inferential.transport")

_KEY = 100  # characters of a reason by which it is the same as another
MAX_FAILURES = 100
"""Failed handshakes of one peer, until further connections of it are closed as soon as they are made."""
FAILURES_PER_S = 10.0
"""At which rate they are forgiven."""
KEYLESS_FACTOR = 10
"""So many times as much is allowed where there are no keys, and a handshake costs a fraction: behind one address may be
many robots, which what fails there must not keep out."""
NETWORK_FACTOR = 10
"""So many times as much is allowed to the 64 bits of an IPv6 network, whose addresses one machine may all use."""
MAX_PEERS = 1024
"""Peers that are remembered; the one that failed longest ago goes first."""
TOO_MANY = "too_many"


class _Peer:
    """Failures of one address."""

    __slots__ = ("at", "failures")

    def __init__(self) -> None:
        self.failures = 0.0
        self.at = 0.0


class HandshakeGuard:
    """Decides who may connect to a ROUTER.

    Args:
        config: mode and keys; None: all may.
        on_failure: called with one word for each handshake that fails.

    Raises:
        CertificateError: a key file or the folder cannot be used.
        ImportError: keys are wanted, and PyNaCl is not installed.
    """

    def __init__(self, config: SecurityConfig | None = None, on_failure: Callable[[str], None] | None = None) -> None:
        self.client_keys: ClientKeys | None = None
        self.failures: int = 0
        self._on_failure = on_failure
        self._mode: SecurityMode = "off"
        self._server_keys: dict[SecurityMode, ServerKeys] = {}
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self._notices = Notices(logger)
        if config is not None and config.mode != "off":
            self._load(config)

    def _load(self, config: SecurityConfig) -> None:
        try:
            from inferential.zmtp.curve import KeyPair
            from inferential.zmtp.curve_handshake import ServerKeys
        except ModuleNotFoundError as error:
            raise ImportError(
                f"security.mode: encrypting needs {error.name}: pip install 'inferential[curve]'"
            ) from error
        assert config.server_key is not None
        assert config.clients is not None
        own = read_certificate(config.server_key)
        if own.secret_key is None:
            raise CertificateError(f"security.server_key: {config.server_key} is a public key; give NAME.key_secret")
        clients = self.client_keys = ClientKeys(config.clients)
        _log(clients.problems)
        keys = KeyPair(own.public_key, own.secret_key)
        self._mode = config.mode
        self._server_keys = {
            "optional": ServerKeys(keys, clients.name_of, False),
            "required": ServerKeys(keys, clients.name_of, True),
        }

    def reload(self) -> bool:
        """Reads the folder of keys again; returns whether a key has changed, so that connections may have to end."""
        if self.client_keys is None:
            return False
        before = self.client_keys.problems
        try:
            changed = self.client_keys.reload()
        except CertificateError as error:
            logger.error("the clients' keys stay as they were: %s", error)
            return False
        if self.client_keys.problems != before:
            _log(self.client_keys.problems)
        if changed:
            logger.info("the clients' keys have changed; there are %d", len(self.client_keys))
        return changed

    def handshake(self, security: SecurityMode | None = None) -> Handshake:
        """Returns the handshake of a new connection.

        Args:
            security: the mode of the address that it came by; None: that of all.
        """
        keys = self._server_keys.get(security or self._mode)
        if keys is None:
            return NullHandshake(b"ROUTER", b"", accepting=True)
        from inferential.zmtp.curve_handshake import ServerCurveHandshake

        return ServerCurveHandshake(b"ROUTER", keys)

    def has_key(self, name: str) -> bool:
        """Returns whether a client id belongs to a key, so that none but its holder may use it."""
        return self.client_keys is not None and name in self.client_keys

    def objection(self, peer: Ready | None) -> HandshakeError | None:
        """Returns why a peer may not use its identity, or not any more after the keys have changed; None if it may."""
        if self.client_keys is None or peer is None:
            return None
        name = peer.identity.decode("utf-8", "replace")
        if peer.key and self.client_keys.name_of(peer.key) != name:
            return HandshakeError(f"the key of {name!r} was revoked", "unknown_key")
        if not peer.key and name in self.client_keys:
            return HandshakeError(f"identity {name!r} belongs to a key, and this client came without it", "name_of_key")
        return None

    # Failures

    @property
    def peers(self) -> int:
        """How many addresses and networks are remembered."""
        return len(self._peers)

    def refuses(self, host: str, now: float) -> bool:
        """Returns whether so many handshakes of an address failed lately that its next connection is closed unread.

        Clients on this machine, by ipc://, have no addresses to tell them apart, and are not refused.
        """
        for name, factor in self._names(host) if host else ():
            peer = self._peers.get(name)
            if peer is not None and _left(peer, factor, now) >= MAX_FAILURES * factor:
                self._count(TOO_MANY)
                text = "connections from %s are closed unread: %d handshakes of it failed, and %g a second are forgiven"
                many, rate = MAX_FAILURES * factor, FAILURES_PER_S * factor
                self._notices.say((name, TOO_MANY), text, name, many, rate, level=logging.WARNING)
                return True
        return False

    def failed(self, host: str, error: Exception, now: float) -> None:
        """Counts a handshake that failed, and logs it once per peer, reason and minute.

        A peer that only closes its connection, as health checks do, broke no rule.
        """
        if not isinstance(error, ProtocolError):
            if isinstance(error, CutShort):
                self._notices.say((host, "cut short"), "handshake with %s failed: %s", host or "a local client", error)
            return
        self._count(error.cause if isinstance(error, HandshakeError) else "protocol")
        for name, factor in self._names(host):
            peer = self._peers.get(name) or _Peer()
            self._peers[name] = peer
            self._peers.move_to_end(name)
            peer.failures, peer.at = _left(peer, factor, now) + 1, now
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        said = str(error)
        text = "handshake with %s failed: %s"
        self._notices.say((host, said[:_KEY]), text, host or "a local client", said, level=logging.WARNING)

    def _names(self, host: str) -> list[tuple[str, int]]:
        """Returns what failures of an address count for, and how many times as much is allowed there."""
        factor = KEYLESS_FACTOR if self.client_keys is None else 1
        if ":" not in host:
            return [(host, factor)]
        address = ipaddress.IPv6Address(host.partition("%")[0])
        if address.is_link_local or address.is_loopback:
            return [(host, factor)]
        network = f"{ipaddress.IPv6Address(address.packed[:8] + bytes(8))}/64"
        return [(host, factor), (network, NETWORK_FACTOR * factor)]

    def _count(self, cause: str) -> None:
        self.failures += 1
        if self._on_failure is not None:
            self._on_failure(cause)


def _left(peer: _Peer, factor: int, now: float) -> float:
    """Returns a peer's failures that are not forgiven yet."""
    return max(peer.failures - (now - peer.at) * FAILURES_PER_S * factor, 0.0)


def _log(problems: list[str]) -> None:
    for problem in problems:
        logger.error("security.clients: %s", problem)
