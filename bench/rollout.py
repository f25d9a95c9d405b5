"""Models that change under robots: swapped, crashed, slowed, hung, shadowed and killed, with 16 robots in closed loop.

Each trial has 16 poles to balance at 50 Hz, over real sockets, by policies in processes of their own. What is counted:
falls, the longest time between two results of a robot, requests that ended in an error or in nothing, results that
another version made than they say or that come back to a version which their robot had left, and after how many of its
requests and seconds, from its first fault on, a bad version was taken back. Then the ages of results with and without
a version in the shadow, by turns, and chunks of two versions (`rollout_chunks`).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from bench import rollout_chunks
from inferential import AsyncConnection, InferenceError, LocalDispatcher, RequestSuperseded, Server
from inferential.cli.targets import model_later
from inferential.config import InferentialConfig
from inferential.metrics.names import MODEL_STATE_CHANGES, RESULTS_DROPPED, SHADOW_DIFFERENCE
from inferential.scheduler.engine import Batch
from inferential.sim.robots import CartPole

ROBOTS = 16
_LEAST_S = 8.0
_TURNS = 6
_SETTLES_S = 1.0
_AFTER_S = 2.0  # what happens, happens then
_TARGET = "bench.rollout_models:Policy"


@dataclass(slots=True)
class _Seen:
    """What the robots of one trial have seen."""

    requests: int = 0
    results: int = 0
    superseded: int = 0
    lost: int = 0
    mixed: int = 0
    falls: int = 0
    restarted: int = 0
    longest_gap_s: float = 0.0
    lost_why: list[str] = field(default_factory=list)
    ages_ms: list[float] = field(default_factory=list)


def run(seconds: float) -> dict[str, Any]:
    """What each trial has cost the robots."""
    length_s = max(seconds, _LEAST_S)
    return {**asyncio.run(_run(length_s)), "chunks": asyncio.run(rollout_chunks.run(1.5 * length_s))}


async def _run(length_s: float) -> dict[str, Any]:
    good = {"target": _TARGET, "args": {"name": "a"}}
    limits = {"error_rate": 0.02, "deadline_misses": 0.05, "latency_ratio": 1.5, "min_requests": 200}

    def tried(**fault: Any) -> dict[str, Any]:
        bad = {"target": _TARGET, "args": {"name": "b", **fault}}
        return {"versions": {"a": good, "b": bad}, "active": "a", "rollout": {"b": {"share": 0.25}}, "abort": limits}

    before = {"versions": {"a": good}, "active": "a"}
    swapped = {"target": _TARGET, "args": {"name": "new"}}
    shadowed = {**before, "versions": {"a": good, "b": {"target": _TARGET, "args": {"name": "b", "scale": 1.5}}}}
    memory = {"target": "bench.rollout_models:Remembers"}
    two = {**memory, "replicas": 2}
    found = {
        "swap under load": await _trial({"target": _TARGET, "args": {"name": "old"}}, _to(swapped), length_s),
        "crash of the new version at 25 %": await _trial(before, _to(tried(dies_after=20)), length_s, 20),
        "new version at 25 % that fails after a while": await _trial(
            before, _to(tried(fails_after=300)), length_s, 300
        ),
        "new version at 25 % that hangs": await _trial(before, _to(tried(hangs_after=100)), length_s, 100),
        "slow new version at 25 %": await _trial(before, _to(tried(slow_s=0.015)), length_s),
        "other action scale, in the shadow": await _trial(before, _to({**shadowed, "shadow": "b"}), length_s),
        "worker with state killed": await _trial(memory, _kill, length_s),
        "worker with state and a spare killed": await _trial({**memory, "spare": True}, _kill, length_s),
        "one of two workers with state killed": await _trial(two, _kill, length_s),
    }
    shadow = await _shadow_cost(before, {**before, "versions": {"a": good, "b": good}, "shadow": "b"}, length_s)
    return {"robots": ROBOTS, "seconds": length_s, "trials": found, "shadow": shadow}


async def _shadow_cost(without: dict[str, Any], beside: dict[str, Any], length_s: float) -> dict[str, Any]:
    """Compares the ages of results without a version in the shadow and with one, by turns; the medians of all turns."""
    kinds = {"without": without, "with": beside}
    turns: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    compared = met = 0
    for _ in range(_TURNS):
        for kind, model in kinds.items():
            found = await _trial(model, lambda server: None, length_s)
            turns[kind].append((found["age_p50_ms"], found["age_p99_ms"]))
            compared += found.get("compared", 0)
            met += found.get("calls_beside_it", 0)
    p50 = {kind: median(one for one, _ in rows) for kind, rows in turns.items()}
    p99 = {kind: median(one for _, one in rows) for kind, rows in turns.items()}
    return {
        "p50_ms": p50,
        "p99_ms": p99,
        "p99_of_each_turn_ms": {kind: [one for _, one in rows] for kind, rows in turns.items()},
        "p99_ratio": p99["with"] / p99["without"],
        "compared": compared,
        "calls_beside_it": met,
    }


def _settings(model: dict[str, Any]) -> InferentialConfig:
    return InferentialConfig.model_validate({"models": {"known": {"balance": model}}, "server": {"ready_wait_s": 60.0}})


def _to(model: dict[str, Any]) -> Callable[[Server], None]:
    return lambda server: server.reconfigure(_settings(model))


def _kill(server: Server) -> None:
    dispatcher = server.dispatcher
    assert isinstance(dispatcher, LocalDispatcher)
    os.kill(dispatcher.process_ids("balance")[0], signal.SIGKILL)


async def _trial(
    model: dict[str, Any], change: Callable[[Server], None], length_s: float, good_for: int = 0
) -> dict[str, Any]:
    """Returns what a trial has cost; the new version answers so many requests before its first fault."""
    server = Server("tcp://127.0.0.1:0", config=_settings(model), dispatcher=LocalDispatcher({}))
    server.manage_models(model_later)
    watched = _Watched(server, good_for)
    async with server:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            # Robots have a process of their own, as on a real floor; the clock is the system's.
            await loop.run_in_executor(pool, _import)
            loop.call_later(_AFTER_S, change, server)
            seen = await loop.run_in_executor(pool, _drive, server.address, time.monotonic() + 0.3, length_s)
        (status,) = server.status().models
    shadow = [one for one in status.versions if one.role == "shadow"]
    return {
        "requests": seen.requests,
        "results": seen.results,
        "superseded": seen.superseded,
        "falls": seen.falls,
        "lost": seen.lost,
        "lost_why": seen.lost_why[:3],
        "mixed": seen.mixed,
        "longest_gap_s": round(seen.longest_gap_s, 3),
        **({"restarted": seen.restarted} if seen.restarted else {}),
        **watched.taken_back,
        **({"dropped": watched.dropped} if watched.dropped else {}),
        **({"compared": shadow[0].compared, "calls_beside_it": watched.met(shadow[0].latency_ms)} if shadow else {}),
        "age_p50_ms": float(np.percentile(seen.ages_ms, 50)),
        "age_p99_ms": float(np.percentile(seen.ages_ms, 99)),
        "difference_mean": next((one.difference_mean for one in status.versions if one.difference_mean), []),
    }


class _Watched:
    """What a server does about version b: when it takes it back, and which calls of robots ran beside one of its.

    Args:
        server: which.
        good_for: the version's requests before its first fault.
    """

    def __init__(self, server: Server, good_for: int) -> None:
        self.taken_back: dict[str, Any] = {}
        self.dropped = 0
        self._server = server
        self._good_for = good_for
        self._rows = 0
        self._fault_at: float | None = None
        self._calls: list[tuple[float, float]] = []
        self._shadow_ended: list[float] = []
        server.on_batch(self._on_batch)
        server.on_metric(self._on_metric)

    def _on_batch(self, batch: Batch, ended_at: float) -> None:
        self._calls.append((batch.started_at, ended_at))
        if batch.model_id != "balance@b":
            return
        self._rows += len(batch.requests)
        if self._rows <= self._good_for:
            self._fault_at = ended_at
        elif self._fault_at is None:
            self._fault_at = batch.started_at

    def _on_metric(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        if name == SHADOW_DIFFERENCE:
            self._shadow_ended.append(time.monotonic())
        elif name == RESULTS_DROPPED:
            self.dropped += 1
        elif name == MODEL_STATE_CHANGES and labels["state"] == "aborted":
            (b,) = [one for one in self._server.status().models[0].versions if one.version == "b"]
            now = time.monotonic()
            self.taken_back = {
                "taken_back_after_requests": max(b.requests - self._good_for, 0),
                "taken_back_after_s": now - (self._fault_at or now),
                "why": b.why,
            }

    def met(self, latency_ms: float | None) -> int:
        """Returns how many calls of robots ran while a version in the shadow did, whose calls take so long."""
        shadow = [(at - (latency_ms or 0.0) / 1e3, at) for at in self._shadow_ended]
        return sum(any(began < end and at < ended for at, end in shadow) for began, ended in self._calls)


def _import() -> None:
    """Has the process of the robots import what they need."""
    CartPole(0)


def _drive(address: str, start: float, length_s: float) -> _Seen:
    async def drive() -> _Seen:
        seen = _Seen()
        await asyncio.gather(*(_robot(address, number, start, length_s, seen) for number in range(ROBOTS)))
        return seen

    return asyncio.run(drive())


async def _robot(address: str, number: int, start: float, length_s: float, seen: _Seen) -> None:
    pole = CartPole(number)
    versions: list[str] = []
    open_ids: set[int] = set()
    async with AsyncConnection(address, f"pole-{number}", "cartpole") as connection:
        model = connection.model("balance", pole.deadline_ms)

        async def receive() -> None:
            last_at = start
            while True:
                try:
                    result = await model.get_result(1000)
                except RequestSuperseded:
                    continue
                except InferenceError as error:
                    open_ids.discard(error.request_id)
                    seen.lost += 1
                    seen.lost_why.append(f"{type(error).__name__}: {error.reason}"[:200])
                    continue
                if result is None:
                    continue
                seen.results += 1
                now = time.monotonic()
                if now - start > _SETTLES_S:
                    seen.ages_ms.append(result.age_ms)
                    seen.longest_gap_s = max(seen.longest_gap_s, now - last_at)
                last_at = now
                seen.restarted += result.session == "restarted"
                open_ids.difference_update([one for one in open_ids if one <= result.request_id])
                version = result.model_version
                name = str(result["name"])
                seen.mixed += name in ("a", "b") and name != version
                if not versions or versions[-1] != version:
                    seen.mixed += versions.count(version) > 1
                    versions.append(version)
                pole.act(np.asarray(result["actions"]))

        receiving = asyncio.create_task(receive())
        for step in range(round(length_s * pole.control_rate_hz)):
            await asyncio.sleep(max(start + step / pole.control_rate_hz - time.monotonic(), 0.0))
            for _ in range(4):
                pole.step()
            open_ids.add(await model.observe(**pole.observe()))
            seen.requests += 1
        await asyncio.sleep(1.0)
        seen.lost += len(open_ids)
        seen.superseded += connection.stats.superseded
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
    seen.falls += pole.falls
