"""How long `/readyz` takes an orchestrator, by a connection for each probe and by one that stays, under each load.

The server has a core for itself. The prober goes before the robots on the other one where the system lets it, as if
each were on a machine of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from bench.overload.clients import Plan
from bench.overload.harness import Cpu, start_of, together
from bench.overload.serving import Serving

MODELS = {
    "coroutine": "bench.overload.models:coroutine",
    "single": "bench.overload.models:single",
    "locking": "bench.overload.models:locking",
}
EVERY_S = 0.05
WARM_S = 2.0
_SERVER_CPU, _CLIENTS_CPU = 0, 1
_FIRST = 10
"""Priority of the prober: it runs for some 0.1 ms at a time."""
_LAST = 19


@dataclass(frozen=True, slots=True)
class Load:
    """What robots ask meanwhile: so many of a model at a rate, and a flooder beside them if that has a rate."""

    model: str = "coroutine"
    robots: int = 0
    rate_hz: float = 0.0
    flood_hz: float = 0.0


LOADS = {
    "no robots": Load(),
    "100 robots at 20 Hz": Load(robots=100, rate_hz=20.0),
    "1,000 robots at 7 Hz": Load(robots=1000, rate_hz=7.0),
    "1,000 robots at 20 Hz, which is too much": Load(robots=1000, rate_hz=20.0),
    "10 robots at 5 Hz beside one that floods": Load("single", 10, 5.0, 19_000.0),
    "10 robots at 2 Hz whose model holds the lock for 10 ms": Load("locking", 10, 2.0),
}


def run(seconds: float) -> dict[str, Any]:
    """Returns what probes of each way take under each load, and the robots' round trips beside them."""
    return {name: _probed(load, seconds) for name, load in LOADS.items()}


def _probed(load: Load, seconds: float) -> dict[str, Any]:
    with Serving(MODELS, cpu=_SERVER_CPU, http={"port": 0}) as serving, contextlib.ExitStack() as stack:
        plans = []
        if load.robots:
            robots = Plan(serving.address, load.model, load.robots, load.rate_hz, 0.0, WARM_S, seconds)
            plans.append(replace(robots, cpu=_CLIENTS_CPU))
        if load.flood_hz:
            until_s = WARM_S + seconds
            flood = Plan(serving.address, load.model, 1, load.flood_hz, 0.0, 0.0, until_s, "latest", "flooder")
            plans.append(replace(flood, cpu=_CLIENTS_CPU, nice=_LAST))
        start = start_of(plans) if plans else time.monotonic() + 1.0
        began = start + WARM_S
        pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
        asked = pool.submit(_probe, serving.places["page"], began, began + seconds)
        with Cpu(serving.process) as cpu:
            outcomes = together(plans, start) if plans else []
            each, kept = asked.result()
        result: dict[str, Any] = {"readyz, a connection each": _percentiles(each), "readyz, kept": _percentiles(kept)}
        if outcomes:
            result["robots"] = outcomes[0].as_dict()
        return result | cpu.figures()


def _percentiles(values_ms: list[float]) -> dict[str, float]:
    p50, p99, most = np.percentile(values_ms, [50, 99, 100])
    return {
        "count": len(values_ms),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "max_ms": round(float(most), 2),
    }


def _probe(page: str, began: float, until: float) -> tuple[list[float], list[float]]:
    """Asks by turns, each way once in `EVERY_S`; returns how long each answer took, in milliseconds."""
    os.sched_setaffinity(0, {_CLIENTS_CPU})
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_FIRST))
    place = urlsplit(page)
    address = place.hostname or "", place.port or 0
    request = f"GET /readyz HTTP/1.1\r\nHost: {place.netloc}\r\nUser-Agent: probe\r\n"
    closing, keeping = (f"{request}Connection: close\r\n\r\n".encode(), f"{request}\r\n".encode())
    each: list[float] = []
    kept: list[float] = []
    with socket.create_connection(address, timeout=30) as stays:
        stays.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        time.sleep(max(began - time.monotonic(), 0.0))
        while (now := time.monotonic()) < until:
            kept.append(_asked(stays, keeping))
            time.sleep(EVERY_S / 2)
            came = time.perf_counter()
            with socket.create_connection(address, timeout=30) as opened:
                _asked(opened, closing)
                each.append((time.perf_counter() - came) * 1e3)
            time.sleep(max(EVERY_S - (time.monotonic() - now), 0.0))
    return each, kept


def _asked(opened: socket.socket, request: bytes) -> float:
    began = time.perf_counter()
    opened.sendall(request)
    said = b""
    while not said.endswith(b"}\n"):
        some = opened.recv(65_536)
        if not some:
            raise ConnectionError(f"the answer ended after {said[-200:]!r}")
        said += some
    if not said.startswith(b"HTTP/1.1 200 "):
        raise ValueError(said[:200].decode(errors="replace"))
    return (time.perf_counter() - began) * 1e3
