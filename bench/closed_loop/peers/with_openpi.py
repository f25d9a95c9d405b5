"""Robots over openpi-server: a websocket each, calls one after another on its event loop, without batches."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from robots import AskingLink, add_package, main

add_package()

import numpy as np  # noqa: E402
from openpi_client import msgpack_numpy  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402

from inferential.sim.link import Served, Software  # noqa: E402


class OpenpiLink(AskingLink):
    """openpi's protocol on asyncio: its own client blocks its thread."""

    def __init__(self, model_id: str, address: str) -> None:
        super().__init__()
        self._model_id = model_id
        self._address = address
        self._packer = msgpack_numpy.Packer()

    async def connect(self) -> None:
        """Connects, and reads the server's metadata."""
        self._socket = await connect(f"ws://{self._address}", compression=None, max_size=None)
        await self._socket.recv()

    async def ask(self, observation: Any) -> Any:
        """Sends arrays and reads an action."""
        await self._socket.send(self._packer.pack({**observation, "model": self._model_id}))
        answer = await self._socket.recv()
        if isinstance(answer, str):
            raise OSError(answer)
        return np.asarray(msgpack_numpy.unpackb(answer)["actions"])

    async def disconnect(self) -> None:
        """Ends the connection."""
        await self._socket.close()


class Policies:
    """All models behind one policy, as openpi-server serves one."""

    def __init__(self, models: dict[str, Any]) -> None:
        self._models = models

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Runs the model that the observation names."""
        model = observation.pop("model")
        (result,) = self._models[model].infer_batch([observation])
        return dict(result)


def link(robot: Any, name: str, server: str) -> AskingLink:
    """A robot's connection."""
    return OpenpiLink(robot.model_id, server)


@asynccontextmanager
async def serve(strategy: str, models: dict[str, Any]) -> AsyncIterator[tuple[str, Served]]:
    """openpi-server, on an event loop of its own."""
    from openpi_server.websocket_policy_server import WebsocketPolicyServer

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = WebsocketPolicyServer(Policies(models), host="127.0.0.1", port=port)
    threading.Thread(target=lambda: asyncio.run(server.run()), daemon=True).start()
    while True:
        with socket.socket() as trial:
            if not trial.connect_ex(("127.0.0.1", port)):
                break
        await asyncio.sleep(0.05)
    yield f"127.0.0.1:{port}", Served()


if __name__ == "__main__":
    main(Software(serve, link))
