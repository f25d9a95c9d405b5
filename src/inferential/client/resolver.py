"""Finds the addresses of a server by its name, without blocking."""

from __future__ import annotations

import itertools
import socket
import threading
from typing import Any

Address = tuple[int, Any]
"""An address family and an address."""


class Resolver:
    """Resolves a host's name in a thread, since getaddrinfo may block for seconds."""

    def __init__(self, host: str, port: str) -> None:
        self.places: list[Address] | None = None
        """The addresses, empty where there are none; None until the name is resolved."""
        self.done, self._tell = socket.socketpair()  # readable when done
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
