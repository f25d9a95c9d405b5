"""What a request costs the server as the fleet, the queue and the number of models grow: CPU time, and memory a client.

Requests are handed to a running server in its own process, past the socket, whose cost does not depend on any of this.
Figures are the least of some rounds, in microseconds of CPU for a request, from frames in to frames out.
"""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from inferential import LocalDispatcher, Server
from inferential.client.encoding import EncodingRules
from inferential.client.handle import Handle
from inferential.client.session import Session
from inferential.config import InferentialConfig
from inferential.proto.messages import content_of
from inferential.server.inprocess import identity_of
from inferential.transport.messages import Received

CLIENTS = (1, 10, 100, 500, 1000, 2000)
WAITING = (0, 10, 100, 1000, 10_000)
MODELS = (1, 4, 16, 64)
REQUESTS = 2000
ROUNDS = 5
IMAGES = Path(__file__).parents[1] / "docs" / "images"
_ACTION = np.zeros(16, dtype=np.float32)


class _Model:
    """Answers at once, or when it is let."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()

    async def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        """The same action for all."""
        await self.free.wait()
        return [_ACTION] * len(observations)


class _Robot:
    """A client whose frames are handed over, and whose answers are counted."""

    def __init__(self, server: Server, name: str, model_id: str, answered: Callable[[], None]) -> None:
        self._number = server._core.inprocess.add(lambda envelope, payload: answered())
        self._session = Session(name, "bench")
        self._mailbox = self._session.mailbox(Handle(model_id, 1000.0, 1, "all", EncodingRules(None)))

    def observation(self) -> Received:
        now, now_ns = time.monotonic(), time.time_ns()
        _, (_, envelope, payload) = self._session.observe(
            self._mailbox,
            content_of({"state": _ACTION}),
            {},
            now=now,
            timestamp_ns=now_ns,
        )
        return identity_of(self._number), envelope, payload, now, self._number


class _Bench:
    """A server that runs, and its robots."""

    def __init__(self, models: int) -> None:
        self.models = {f"m{number}": _Model() for number in range(models)}
        scheduling = {"max_queue_size": 100_000, "request_ttl_ms": 600_000.0}
        config = InferentialConfig(scheduling=scheduling, server={"drain_timeout_s": 0.0})
        self.server = Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher(self.models))
        self._answers = 0
        self._wanted = 0
        self._all = asyncio.Event()

    def robots(self, count: int, models: Iterable[str]) -> list[_Robot]:
        """Some robots, spread over models."""
        names = list(models)
        return [
            _Robot(self.server, f"robot-{number}-{id(names)}", names[number % len(names)], self._answered)
            for number in range(count)
        ]

    def _answered(self) -> None:
        self._answers += 1
        if self._answers == self._wanted:
            self._all.set()

    async def cost_us(self, robots: list[_Robot], requests: int) -> float:
        """CPU time of a request, eight of them at a time, each round answered before the next."""
        spent = 0.0
        for first in range(0, requests, 8):
            arrivals = [robots[(first + n) % len(robots)].observation() for n in range(min(8, len(robots)))]
            self._wanted, self._answers = len(arrivals), 0
            self._all.clear()
            began = time.thread_time()
            for arrival in arrivals:
                self.server._run.pump.receive(arrival)
            self.server._run.pump.work()
            await self._all.wait()
            spent += (time.thread_time() - began) / len(arrivals) * 8
        return spent / requests * 1e6

    def fill(self, robots: list[_Robot]) -> None:
        """One request of each waits."""
        for robot in robots:
            self.server._run.pump.receive(robot.observation())
        self.server._run.pump.work()


def run(seconds: float) -> dict[str, Any]:
    """All three curves; `seconds` is not asked for."""
    result = asyncio.run(_run())
    _draw(result)
    return result


async def _run() -> dict[str, Any]:
    clients, memory = {}, {}
    for count in CLIENTS:
        clients[count], memory[count] = await _with_clients(count)
    return {
        "unit": "us of CPU a request",
        "clients": clients,
        "waiting": {count: await _with_waiting(count) for count in WAITING},
        "models": {count: await _with_models(count) for count in MODELS},
        "memory_a_client_kb": round((memory[2000] - memory[100]) / 1900 / 1024, 2),
    }


async def _with_clients(count: int) -> tuple[float, int]:
    gc.collect()
    bench = _Bench(1)
    async with bench.server:
        robots = bench.robots(count, ["m0"])
        await bench.cost_us(robots, max(REQUESTS, count))  # all are known to the server then
        costs = [await bench.cost_us(robots, REQUESTS) for _ in range(ROUNDS)]
    bench = _Bench(1)
    async with bench.server:
        robots = bench.robots(count, ["m0"])
        tracemalloc.start()  # the server's part of it, not the robots'
        await bench.cost_us(robots, 2 * count)
        gc.collect()
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return round(min(costs), 1), used


async def _with_waiting(count: int) -> float:
    """A request of a model that is free, while so many wait for another."""
    bench = _Bench(2)
    async with bench.server:
        bench.models["m0"].free.clear()
        bench.fill(bench.robots(count, ["m0"]))
        robots = bench.robots(8, ["m1"])
        await bench.cost_us(robots, 80)
        costs = [await bench.cost_us(robots, REQUESTS) for _ in range(ROUNDS)]
    return round(min(costs), 1)


async def _with_models(count: int) -> float:
    bench = _Bench(count)
    async with bench.server:
        robots = bench.robots(64, bench.models)
        await bench.cost_us(robots, 640)
        costs = [await bench.cost_us(robots, REQUESTS) for _ in range(ROUNDS)]
    return round(min(costs), 1)


def _draw(result: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, places = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained", sharey=True)
    titles = (("clients", "clients"), ("waiting", "requests that wait"), ("models", "models"))
    for axes, (name, title) in zip(places, titles, strict=True):
        curve = result[name]
        axes.plot([max(int(count), 1) for count in curve], list(curve.values()), marker="o", color="#1f6feb")
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.spines[["top", "right"]].set_visible(False)
    places[0].set_ylabel("CPU a request, µs")
    places[0].set_ylim(bottom=0)
    figure.savefig(IMAGES / "growth.png", dpi=130)
    plt.close(figure)
