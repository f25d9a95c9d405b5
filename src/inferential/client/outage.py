"""What is logged of an outage: each of its reasons once, and its end."""

from __future__ import annotations

import logging

logger: logging.Logger = logging.getLogger("inferential.client")

_MAX_REASONS = 8  # of one outage


class OutageLog:
    """The log of one server's outages.

    Args:
        address: the server's.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._said: set[str] = set()  # since it was connected

    def failed(self, reason: str) -> None:
        """Logs why the server cannot be reached."""
        if reason not in self._said and len(self._said) < _MAX_REASONS:
            self._said.add(reason)
            logger.warning("cannot connect to %s (%s); retrying with backoff", self._address, reason)

    def over(self) -> None:
        """Logs that the server was reached, if it was said that it could not be."""
        if self._said:
            self._said.clear()
            logger.warning("connected to %s", self._address)
