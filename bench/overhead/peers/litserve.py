"""LitServe: observations as the bytes of a POST, one worker; the client of the standard library."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

MODELS = Path(__file__).parents[1] / "models"


def version() -> str:
    """Of the package."""
    return f"litserve {metadata.version('litserve')}"


def serve(ready: Callable[[str], None]) -> None:
    """Serves until standard input ends."""
    sys.path.append(str(MODELS))
    import litserve
    from lit_policy import Policy

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # A number: a limit in words ("64MB"), as its own text has it, is compared with the size and refuses every request.
    server = litserve.LitServer(Policy(), accelerator="cpu", workers_per_device=1, max_payload_size=64_000_000)
    threading.Thread(target=_watch, args=(f"127.0.0.1:{port}", ready), daemon=True).start()
    server.run(host="127.0.0.1", port=port, num_api_servers=1, log_level="error", generate_client_file=False)


def _watch(address: str, ready: Callable[[str], None]) -> None:
    while True:
        try:
            client(address, {})()
        except (OSError, http.client.HTTPException, RuntimeError):
            time.sleep(0.1)
        else:
            break
    ready(address)
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """One connection that is kept alive."""
    connection = http.client.HTTPConnection(address)
    arrays = list(observation.values())

    def ask() -> Any:
        body = b"".join(array.data.cast("B") for array in (each.reshape(-1) for each in arrays)) or b"0"
        try:
            return answer(body)
        except (http.client.RemoteDisconnected, ConnectionError):  # it closes what was idle for 5 s, between rounds
            connection.close()
            return answer(body)

    def answer(body: bytes) -> bytes:
        connection.request("POST", "/predict", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        read = response.read()
        if response.status != 200:
            raise RuntimeError(f"HTTP {response.status}: {read[:200]!r}")
        return read

    return ask
