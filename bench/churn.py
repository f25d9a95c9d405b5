"""Clients that come and go: what they leave behind on the server.

2,000 clients connect, send 10 requests each and vanish; the server's tables and memory are read before, with all
of them there, and after they have timed out.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import numpy as np

from inferential import AsyncConnection, LocalDispatcher, Server
from inferential.config import InferentialConfig

CLIENTS = 2000
REQUESTS = 10
AT_ONCE = 100  # sockets open at a time: each takes a descriptor on both sides
TIMEOUT_S = 3.0


def run(seconds: float) -> dict[str, Any]:
    """Memory in MiB and table sizes, before, during and after."""
    return asyncio.run(_run())


async def _run() -> dict[str, Any]:
    config = InferentialConfig(
        response_tracking={"disconnect_timeout_s": TIMEOUT_S}, metrics={"ring_buffer_size": 1000}
    )
    server = Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher({"m": lambda obs: obs["state"]}))
    sizes: dict[str, Any] = {}
    empty = asyncio.Event()

    @server.on_metric
    def note(name: str, value: float, labels: dict[str, str]) -> None:
        if name == "active_clients":
            (empty.clear if value else empty.set)()

    async with server:
        # Once for the heap's own sake: what the first use of everything allocates is no leak.
        await _fleet(server.address, "warm")
        await asyncio.wait_for(empty.wait(), 60)
        sizes["before"] = _sizes(server)
        for number in range(2):
            await _fleet(server.address, f"round-{number}")
            sizes[f"full_{number}"] = _sizes(server)
            await asyncio.wait_for(empty.wait(), 60)
            sizes[f"after_{number}"] = _sizes(server)
    sizes["clients"], sizes["requests"] = CLIENTS, CLIENTS * REQUESTS
    return sizes


async def _fleet(address: str, name: str) -> None:
    state = np.zeros(7, dtype=np.float32)
    turn = asyncio.Semaphore(AT_ONCE)

    async def robot(number: int) -> None:
        async with turn, AsyncConnection(address, f"{name}-{number}") as connection:
            model = connection.model("m")
            for _ in range(REQUESTS):
                if await model.infer(10_000, state=state) is None:
                    raise TimeoutError("no answer within 10 s")

    await asyncio.gather(*(robot(number) for number in range(CLIENTS)))


def _sizes(server: Server) -> dict[str, float]:
    import psutil

    gc.collect()
    return {
        "rss_mib": round(psutil.Process().memory_info().rss / 2**20, 1),
        "objects": len(gc.get_objects()),
        "active_clients": server.metrics.get_latest("active_clients") or 0,
    }
