"""The section of the fleet's live topics for Foxglove."""

from __future__ import annotations

from typing import ClassVar

from inferential.config.addresses import is_loopback
from inferential.config.section import Port
from inferential.config.services import ListenerConfig


class FoxgloveConfig(ListenerConfig):
    """What robots send and are answered, live in Foxglove; any client that reaches the port sees it."""

    package: ClassVar[str] = "foxglove"
    extra: ClassVar[str] = "foxglove"
    scheme: ClassVar[str] = "ws"

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface. Foxglove's protocol has no password."""
    port: Port = 8765
    """Port to listen on; 0 for a free one."""

    def purpose(self) -> str:
        """Returns what shows it."""
        return "live topics for Foxglove (no password)"

    def protection(self) -> str:
        """Returns what to do where other machines can reach it."""
        return "" if is_loopback(self.host) else "set host to 127.0.0.1: its protocol has no password"
