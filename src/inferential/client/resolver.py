"""Finds the addresses of a server by its name, without blocking."""

from __future__ import annotations

import itertools
import selectors
import socket
import threading
from typing import Any

from inferential.zmtp.ipc import socket_path

Address = tuple[int, Any]
"""An address family and an address."""


class Resolver:
    """Resolves a host's name in a thread, since getaddrinfo may block for seconds."""

    def __init__(self, host: str, port: str) -> None:
        self.places: list[Address] | None = None
        """The addresses, empty where there are none; None until the name is resolved."""
        self.done: socket.socket
        """Readable when done."""
        self.done, self._tell = socket.socketpair()
        threading.Thread(target=self._find, args=(host, port), name="inferential-find-host", daemon=True).start()

    def _find(self, host: str, port: str) -> None:
        try:
            self.places = find_addresses(host, port, 0)
        except OSError:
            self.places = []
        self._tell.close()

    def close(self) -> None:
        """Discards the outcome."""
        self.done.close()


class AddressFinder:
    """Finds the addresses of one server; while its name is being resolved a socket is registered with the selector.

    Args:
        address: tcp://HOST:PORT or ipc://PATH.
        selector: that of the connection.
    """

    def __init__(self, address: str, selector: selectors.BaseSelector) -> None:
        self._address = address
        self._selector = selector
        self._resolver: Resolver | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the name is being resolved."""
        return self._resolver is not None

    def find(self) -> list[Address]:
        """Returns the server's addresses; none while its name is being resolved, which may take seconds.

        Raises:
            OSError: it has none.
        """
        kind, _, name = self._address.partition("://")
        if kind == "ipc":
            return [(socket.AF_UNIX, socket_path(name))]
        if self._resolver is not None:
            found = self._resolver.places
            if found is None:
                return []
            self.close()
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, f"cannot resolve {name}")
            return found
        host, _, port = name.rpartition(":")
        host = host.strip("[]")
        try:
            return find_addresses(host, port, 0 if host == "localhost" else socket.AI_NUMERICHOST)
        except socket.gaierror:
            self._resolver = Resolver(host, port)
            self._selector.register(self._resolver.done, selectors.EVENT_READ)
            return []

    def close(self) -> None:
        """Ends what is going on."""
        if self._resolver is not None:
            self._selector.unregister(self._resolver.done)
            self._resolver.close()
            self._resolver = None


def find_addresses(host: str, port: str, flags: int) -> list[Address]:
    """Returns the addresses of a host, in the order in which they are tried.

    Raises:
        OSError: it has none.
    """
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=flags)
    places = [(int(family), place) for family, _, _, _, place in found]
    # IPv4 first: servers that listen on every interface mostly do so by IPv4. Then in turns (RFC 8305, section 4).
    first = [place for place in places if place[0] == socket.AF_INET]
    others = [place for place in places if place[0] != socket.AF_INET]
    turns = itertools.zip_longest(first, others)
    return [place for turn in turns for place in turn if place is not None]
