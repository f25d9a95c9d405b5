"""The way to a model on Ray Serve: a bare handle call, our server through handles, and our server straight to replicas.

`python -m bench ray` starts a Ray of its own on this machine's cores and shuts it down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.harness import save
from inferential import AsyncConnection
from inferential.cluster import ServerGroup
from inferential.config import InferentialConfig
from inferential.replica import direct

SIZES = {"64 B": 64, "150 kB": 150_528, "1 MB": 1_000_000}
REPLICAS = (1, 2, 4)
CLIENTS = 8
ROUNDS = 3
WAYS = ("bare handle", "server by handle", "server direct")
Call = Callable[[np.ndarray[Any, Any]], Awaitable[Any]]


class Echo:
    """Answers at once, so that all the time is the road's."""

    max_batch_size = 8

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [{"actions": np.zeros(7, np.float32)} for _ in observations]


@dataclass(frozen=True, slots=True)
class Row:
    """One way, one size, one number of replicas; medians of the rounds.

    Attributes:
        p50_ms, p99_ms: of a round trip of one client in a closed loop.
        per_second: of CLIENTS clients in closed loops.
        of_handle_p50, of_handle_per_second: as multiples of the bare handle's.
    """

    way: str
    size: str
    replicas: int
    p50_ms: float
    p99_ms: float
    per_second: float
    of_handle_p50: float = 1.0
    of_handle_per_second: float = 1.0


def run(seconds: float = 5.0) -> dict[str, Any]:
    """All ways in turn, in each round."""
    return _run(REPLICAS, ROUNDS, seconds / 5)


def run_quick(seconds: float = 5.0) -> dict[str, Any]:
    """One round with one replica."""
    return _run((1,), 1, 0.5)


def _run(replicas: tuple[int, ...], rounds: int, seconds: float) -> dict[str, Any]:
    import ray
    from ray import serve

    ray.init(num_cpus=os.cpu_count(), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(proxy_location="Disabled")
        rows = [row for count in replicas for row in asyncio.run(_with_replicas(serve, count, rounds, seconds))]
    finally:
        serve.shutdown()
        ray.shutdown()
    Console(width=120).print(_table(rows))
    return {
        "rounds": rounds,
        "seconds": seconds,
        "clients": CLIENTS,
        "ray": ray.__version__,
        "rows": list(map(asdict, rows)),
    }


async def _with_replicas(serve: Any, count: int, rounds: int, seconds: float) -> list[Row]:
    options = {"num_replicas": count, "ray_actor_options": {"num_cpus": 0.05}, "max_ongoing_requests": 16}
    loop = asyncio.get_running_loop()

    def deploy() -> Any:
        serve.run(serve.deployment(**options)(direct(max_inflight=2)(Echo)).bind(), name="direct", route_prefix=None)
        return serve.run(serve.deployment(**options)(Echo).bind(), name="handle", route_prefix=None)

    handle = await loop.run_in_executor(None, deploy)
    found: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        ways: dict[str, list[Call]] = {"bare handle": [_bare(handle)] * CLIENTS}
        for way, model_id in (("server by handle", "handle"), ("server direct", "direct")):
            ways[way] = await stack.enter_async_context(_clients(model_id, count))
        cells = [(way, size) for _ in range(rounds) for size in SIZES for way in WAYS]
        for way, size in track(cells, f"{count} replicas", console=Console(stderr=True), transient=True):
            image = np.zeros(SIZES[size], np.uint8)
            image.setflags(write=False)  # read-only: it is sent from its own memory
            measured = await _measure(ways[way], image, seconds)
            found.setdefault((way, size), []).append(measured)
    rows = []
    for (way, size), measured in found.items():
        p50, p99, rate = (statistics.median(values) for values in zip(*measured, strict=True))
        base = [statistics.median(values) for values in zip(*found[WAYS[0], size], strict=True)]
        rows.append(
            Row(
                way,
                size,
                count,
                round(p50, 3),
                round(p99, 3),
                round(rate),
                round(p50 / base[0], 3),
                round(rate / base[2], 2),
            )
        )
    return rows


def _bare(handle: Any) -> Call:
    async def call(image: np.ndarray[Any, Any]) -> Any:
        return (await handle.infer_batch.remote([{"image": image}]))[0]

    return call


@contextlib.asynccontextmanager
async def _clients(model_id: str, count: int) -> AsyncIterator[list[Call]]:
    """Clients of a server that has nothing but this model, in a process of its own as `inferential serve --servers`."""
    config = {"transport": {"bind": "tcp://127.0.0.1:0"}, "ray": {"address": "auto"}}
    servers = ServerGroup(InferentialConfig.model_validate(config), {model_id: model_id}, 1)
    async with contextlib.AsyncExitStack() as stack:
        (address,) = await stack.enter_async_context(servers)
        while not await _is_up(servers, count):  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0.05)
        calls: list[Call] = []
        for number in range(CLIENTS):
            connection = await stack.enter_async_context(AsyncConnection(address, client_id=f"c{number}"))
            model = connection.model(model_id, latency_budget_ms=1000.0)
            calls.append(lambda image, model=model: model.infer(timeout_ms=10_000, image=image))
        yield calls


async def _is_up(servers: ServerGroup, count: int) -> bool:
    (status,) = await servers.status()
    assert status is not None
    (model,) = status["models"]
    return len(model["replicas"]) == count and bool(model["max_inflight"])


async def _measure(calls: list[Call], image: np.ndarray[Any, Any], seconds: float) -> tuple[float, float, float]:
    """p50 and p99 of one client in ms, and requests per second of all."""
    for call in calls:
        await call(image)
    alone = await _loop(calls[0], image, seconds)
    began = time.perf_counter()
    together = await asyncio.gather(*(_loop(call, image, seconds) for call in calls))
    rate = sum(map(len, together)) / (time.perf_counter() - began)
    p50, p99 = np.percentile(alone, [50, 99]) * 1e3
    return float(p50), float(p99), rate


async def _loop(call: Call, image: np.ndarray[Any, Any], seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        if await call(image) is None:
            raise TimeoutError("no answer within 10 s")
        times.append(time.perf_counter() - began)
    return times


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("replicas", "size", "way"):
        table.add_column(title)
    for title in ("p50 ms", "p99 ms", "of handle", "requests/s", "of handle"):
        table.add_column(title, justify="right")
    for row in sorted(rows, key=lambda row: (row.replicas, list(SIZES).index(row.size), WAYS.index(row.way))):
        figures = (f"{row.p50_ms:.2f}", f"{row.p99_ms:.2f}", f"{row.of_handle_p50:.2f}x")
        table.add_row(
            str(row.replicas), row.size, row.way, *figures, f"{row.per_second:.0f}", f"{row.of_handle_per_second:.1f}x"
        )
    return table


if __name__ == "__main__":
    save("ray", run())
