"""Inferential 1.4.0 from PyPI, its model a coroutine or a function that answers at once."""

from __future__ import annotations

import asyncio
import socket
import sys
import uuid
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np


def version() -> str:
    """Of the package."""
    return f"inferential {metadata.version('inferential')}"


def serve(ready: Callable[[str], None], kind: str = "coroutine") -> None:
    """Serves until standard input ends."""
    from inferential import LocalDispatcher, Server

    action = np.zeros(16, dtype=np.float32)

    async def model(observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": action}

    def function(observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": action}

    async def main() -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        server = Server(
            bind=address, dispatcher=LocalDispatcher({"policy": model if kind == "coroutine" else function})
        )
        running = asyncio.create_task(server.run())
        while server._transport is None:  # noqa: ASYNC110 (it has no event for when it listens)
            await asyncio.sleep(0.01)
        ready(address)
        await asyncio.to_thread(sys.stdin.read)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """One connection."""
    from inferential import Connection

    model = Connection(address, client_id=uuid.uuid4().hex).model("policy")  # it makes up none

    def ask() -> Any:
        model.observe(**observation)
        result = model.get_result(timeout_ms=10_000)
        if result is None:
            raise TimeoutError("no answer within 10 s")
        return result

    return ask
