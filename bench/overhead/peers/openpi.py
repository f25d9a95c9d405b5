"""openpi's websocket protocol: the client from PyPI, and a server as its protocol has it, with the same codec.

The server of openpi is not on PyPI; this one is its loop: unpack, infer, pack, send, on `websockets`' asyncio server,
without compression.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np


def version() -> str:
    """Of client and websocket library."""
    return ", ".join(f"{name} {metadata.version(name)}" for name in ("openpi-client", "websockets"))


def serve(ready: Callable[[str], None]) -> None:
    """Serves until standard input ends."""
    from openpi_client import msgpack_numpy
    from websockets.asyncio.server import serve as listen
    from websockets.exceptions import ConnectionClosed

    action = np.zeros(16, dtype=np.float32)

    async def robot(websocket: Any) -> None:
        packer = msgpack_numpy.Packer()
        await websocket.send(packer.pack({}))
        with contextlib.suppress(ConnectionClosed):
            while True:
                msgpack_numpy.unpackb(await websocket.recv())
                await websocket.send(packer.pack({"actions": action, "server_timing": {"infer_ms": 0.0}}))

    async def main() -> None:
        async with listen(robot, "127.0.0.1", 0, compression=None, max_size=None) as server:
            ready(str(server.sockets[0].getsockname()[1]))
            await asyncio.to_thread(sys.stdin.read)

    asyncio.run(main())


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """The client from PyPI."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    policy = WebsocketClientPolicy("127.0.0.1", int(address))
    return lambda: policy.infer(observation)
