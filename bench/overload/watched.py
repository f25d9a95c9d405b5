"""A thousand robots and open pages, probes and scrapes; three hundred robots and a server that was away."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench.overload.clients import Plan
from bench.overload.crowd import MODELS
from bench.overload.harness import Cpu, together
from bench.overload.serving import Serving

ROBOTS, RATE_HZ, WARM_S = 1000, 1.0, 2.0
RETURNING, RETURNING_HZ = 300, 5.0
AWAY_S = (2.7, 4.0, 5.7)
"""How long after its end the server is started again; it takes a second or more until it listens."""
PAGES = 10
_ASK_EVERY_S, _SCRAPE_EVERY_S = 0.1, 1.0
_BACK_WITHIN_S = 60.0


def run_page(seconds: float) -> dict[str, Any]:
    """Returns the robots' round trips with no viewer, and with each thing asked that may be."""
    ways = ("alone", "readyz", "metrics", "page", "page and readyz", "ten pages")
    result = {way: _looked_at(way, max(seconds, 5.0)) for way in ways}
    return result | {"p99_ratio": round(result["page"]["p99_ms"] / result["alone"]["p99_ms"], 1)}


def _looked_at(how: str, seconds: float) -> dict[str, Any]:
    with Serving(MODELS, http={"port": 0}) as serving, contextlib.ExitStack() as stack:
        page = serving.places["page"]
        asked: dict[str, list[float]] = {}
        plan = Plan(serving.address, "coroutine", ROBOTS, RATE_HZ, 0.0, WARM_S, seconds)
        cpu = stack.enter_context(Cpu(serving.process))
        if "page" in how:
            stack.enter_context(_watching(page, PAGES if "ten" in how else 1))
        if "readyz" in how:
            asked["readyz_ms"] = stack.enter_context(_asking(page, "/readyz", _ASK_EVERY_S))
        if "metrics" in how:
            asked["metrics_ms"] = stack.enter_context(_asking(page, "/metrics", _SCRAPE_EVERY_S))
        (outcome,) = together([plan])
        stack.pop_all().close()
        result = {**outcome.as_dict(), **cpu.figures()}
        return result | {name: _percentiles(taken_ms) for name, taken_ms in asked.items()}


def _percentiles(values_ms: list[float]) -> dict[str, float]:
    p50, p99, most = np.percentile(values_ms, [50, 99, 100])
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "max_ms": round(float(most), 2)}


@contextlib.contextmanager
def _watching(page: str, viewers: int) -> Iterator[None]:
    """Reads the page's stream of events meanwhile."""
    place = urlsplit(page)
    opened = [socket.create_connection((place.hostname, place.port)) for _ in range(viewers)]
    threads = [threading.Thread(target=_read, args=(one,), daemon=True) for one in opened]
    for one, thread in zip(opened, threads, strict=True):
        one.sendall(f"GET /api/stream HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
        thread.start()
    try:
        yield
    finally:
        for one in opened:
            one.shutdown(socket.SHUT_RDWR)
        for one, thread in zip(opened, threads, strict=True):
            thread.join()
            one.close()


def _read(opened: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while opened.recv(1 << 20):
            pass


@contextlib.contextmanager
def _asking(page: str, path: str, every_s: float) -> Iterator[list[float]]:
    """Asks over and over meanwhile; gives how long each answer took, in milliseconds."""
    place, taken, stop = urlsplit(page), [], threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
        while not stop.wait(every_s):
            began = time.perf_counter()
            connection.request("GET", path)
            connection.getresponse().read()
            taken.append((time.perf_counter() - began) * 1e3)
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield taken
    finally:
        stop.set()
        thread.join()


def run_restart(seconds: float) -> dict[str, Any]:
    """Returns how long robots of the SDK are without an answer once a killed server listens again."""
    return {f"started after {away_s:g} s": _restarted(away_s) for away_s in AWAY_S}


def _restarted(away_s: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with Serving(MODELS) as serving, context.Pool(1) as pool, context.Manager() as manager:
        ready = manager.Event()
        back = pool.apply_async(_robots, (serving.address, ready))
        if not ready.wait(30):
            raise TimeoutError("the robots were not answered within 30 s")
        ended = time.monotonic()
        serving.kill()
        time.sleep(away_s)
        serving.start()
        listening = time.monotonic()
        returned = back.get(_BACK_WITHIN_S + 10)
    after = sorted(max(at - listening, 0.0) for at in returned)
    half = after[len(after) // 2] if after else float("inf")
    return {
        "robots": RETURNING,
        "served_again": len(after),
        "outage_s": round(listening - ended, 2),
        "half_back_s": round(half, 2),
        "all_back_s": round(after[-1], 2) if len(after) == RETURNING else None,
    }


def _robots(address: str, ready: Event) -> list[float]:
    logging.getLogger("inferential").setLevel(logging.ERROR)  # each robot would say that its server is away
    return asyncio.run(_fleet(address, ready))


async def _fleet(address: str, ready: Event) -> list[float]:
    """Asks at a fixed rate with every robot; returns when each had its first answer of the second server."""
    from inferential import AsyncConnection, InferenceError

    state = np.zeros(7, dtype=np.float32)
    answered, all_answered, away = 0, asyncio.Event(), asyncio.Event()
    back: list[float] = []
    loop = asyncio.get_running_loop()

    async def robot(number: int) -> None:
        nonlocal answered
        async with AsyncConnection(address, f"back-{number}") as connection:
            model = connection.model("coroutine")
            while await model.infer(1000, state=state) is None:
                pass
            answered += 1
            if answered == RETURNING:
                all_answered.set()
            await away.wait()
            await asyncio.sleep(number / RETURNING / RETURNING_HZ)
            until = time.monotonic() + _BACK_WITHIN_S
            lost = False
            while (began := time.monotonic()) < until:
                with contextlib.suppress(InferenceError):
                    if await model.infer(1000 / RETURNING_HZ, state=state) is None:
                        lost = True
                    elif lost:
                        back.append(time.monotonic())
                        return
                await asyncio.sleep(max(1 / RETURNING_HZ - (time.monotonic() - began), 0.0))

    async with asyncio.TaskGroup() as robots:
        for number in range(RETURNING):
            robots.create_task(robot(number))
        await all_answered.wait()
        await loop.run_in_executor(None, ready.set)
        away.set()
    return back
