"""A server with real sockets on a free port of 127.0.0.1, and models to serve."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
import pytest

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.config import InferentialConfig


def echo(observation: dict[str, Any]) -> dict[str, Any]:
    """Gives back what it is given."""
    return observation


class Gate:
    """A sync model that waits in its thread until it is let through."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._open = threading.Semaphore(0)
        self.calls = 0

    def infer(self, observation: dict[str, Any]) -> Any:
        self.calls += 1
        self.entered.release()
        assert self._open.acquire(timeout=60)
        return observation

    def let(self, count: int = 1) -> None:
        """Lets calls through."""
        self._open.release(count)

    async def wait_entered(self) -> None:
        """Until a call has begun."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=60)


class Stacker:
    """A model that batches, and notes the sizes of its batches."""

    def __init__(self, max_batch_size: int = 8) -> None:
        self.max_batch_size = max_batch_size
        self.sizes: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        self.sizes.append(len(observations))
        stacked = np.stack([observation["state"] for observation in observations])
        return list(stacked * 2)


Serve = Callable[..., AbstractAsyncContextManager[Server]]


@pytest.fixture
def serve() -> Serve:
    """`async with serve({"m": model}, {"scheduling": {...}}) as server:`"""

    @asynccontextmanager
    async def started(models: dict[str, Any], config: dict[str, Any] | None = None) -> AsyncIterator[Server]:
        sections = {"server": {"drain_timeout_s": 0.0}, **(config or {})}
        server = Server("tcp://127.0.0.1:0", config=InferentialConfig(**sections), dispatcher=LocalDispatcher(models))
        async with server:
            yield server

    return started


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., AsyncConnection]]:
    """`connect(server, "robot-1")`; closed after the test."""
    connections: list[AsyncConnection] = []

    def connected(server: Server | str, client_id: str = "", **options: Any) -> AsyncConnection:
        address = server if isinstance(server, str) else server.address
        connections.append(AsyncConnection(address, client_id, **options))
        return connections[-1]

    yield connected
    for connection in connections:
        connection.close()


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def make_stacker() -> type[Stacker]:
    return Stacker
