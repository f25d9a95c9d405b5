"""openpi's websocket protocol: client and server from PyPI."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np


def version() -> str:
    """Of client, server and websocket library."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("openpi-client", "openpi-server", "websockets"))


class Policy:
    """Answers at once, on the server's event loop, as it runs every policy."""

    action = np.zeros(16, dtype=np.float32)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Returns the same action for every observation."""
        return {"actions": self.action}


def serve(ready: Callable[[str], None]) -> None:
    """Serves until standard input ends."""
    from openpi_server.websocket_policy_server import WebsocketPolicyServer

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = WebsocketPolicyServer(Policy(), host="127.0.0.1", port=port)
    threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True).start()
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                break
        time.sleep(0.05)
    ready(str(port))
    sys.stdin.read()


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """The client from PyPI."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy("127.0.0.1", int(address))
    return lambda: policy.infer(observation)
