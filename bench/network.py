"""Robots over bad networks: how old answers are, how many steps starve, and how soon a robot acts again after a cut.

Each network is emulated in the process (`inferential.sim.network`), deterministic by a seed; the server's policy takes
30 ms. The robots ask synchronously (`infer` before each step) or go on observing (`observe`, `get_result`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferential import AsyncConnection, InferenceError, LocalDispatcher, Server
from inferential.sim.network import EmulatedNetwork, NetworkProfile

RATE_HZ = 20.0
INFERENCE_S = 0.03
CUT_S = 5.0
NETWORKS = {
    "rtt 50 +- 30 ms": (NetworkProfile(rtt_ms=50, jitter_ms=30), 2_000),
    "rtt 100 +- 60 ms, 5 % loss": (NetworkProfile(rtt_ms=100, jitter_ms=60, loss=0.05), 2_000),
    "2 MB/s, 150 kB": (NetworkProfile(rate_bytes_s=2e6), 150_000),
}


@dataclass(slots=True)
class Seen:
    """What a robot saw: when each answer came, and its age in ms; steps without a new answer."""

    answers: list[tuple[float, float]]
    starved: int = 0


async def _policy(observation: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(INFERENCE_S)
    return {"actions": np.zeros((1, 7), np.float32)}


async def _steps(connection: AsyncConnection, image: Any, until: float, *, waits: bool) -> Seen:
    """Runs a robot's control loop."""
    model, seen = connection.model("policy", latency_budget_ms=200.0), Seen([])
    due = time.monotonic()
    while due < until:
        found = False
        try:
            if waits:
                result = await model.infer(timeout_ms=2000, image=image)
            else:
                await model.observe(image=image)
                result = await model.get_result(timeout_ms=max(due + 1 / RATE_HZ - time.monotonic(), 0) * 1e3)
            if result is not None:
                seen.answers.append((time.monotonic(), result.age_ms))
                found = True
        except InferenceError:
            pass
        seen.starved += not found
        due = max(due + 1 / RATE_HZ, time.monotonic()) if waits else due + 1 / RATE_HZ
        await asyncio.sleep(due - time.monotonic())
    return seen


async def _measure(profile: NetworkProfile, size: int, seconds: float, *, waits: bool, cut: bool) -> dict[str, Any]:
    image = np.random.default_rng(0).integers(0, 255, size, np.uint8)
    async with (
        Server("tcp://127.0.0.1:*", dispatcher=LocalDispatcher({"policy": _policy})) as server,
        EmulatedNetwork(server.address, profile, seed=1) as network,
        AsyncConnection(network.address) as connection,
    ):
        await connection.model("policy").infer(timeout_ms=5000, image=image)
        began = time.monotonic()
        mended = 0.0
        length = seconds + (CUT_S if cut else 0.0)
        robot = asyncio.create_task(_steps(connection, image, began + length, waits=waits))
        if cut:
            await asyncio.sleep(seconds / 2)
            network.cut()
            await asyncio.sleep(CUT_S)
            network.mend()
            mended = time.monotonic()
        seen = await robot
        ages = sorted(age for _, age in seen.answers)
        row: dict[str, Any] = {
            "answers": len(ages),
            "starved_steps": seen.starved,
            "age_p50_ms": round(ages[len(ages) // 2], 1),
            "age_p99_ms": round(ages[int(len(ages) * 0.99)], 1),
            "age_max_ms": round(ages[-1], 1),
            "link_bytes_s": connection.stats.link_bytes_s,
        }
        if cut:
            fresh = [at for at, age in seen.answers if at > mended and at - age / 1e3 > mended - 1 / RATE_HZ]
            row["back_after_ms"] = round((fresh[0] - mended) * 1e3, 1) if fresh else None
        return row


def run(seconds: float) -> dict[str, Any]:
    """Returns ages, starved steps and the time back after a cut of 5 s, by network and robot."""
    found: dict[str, Any] = {}
    for name, (profile, size) in NETWORKS.items():
        for robot in ("sync", "async"):
            for cut in (False, True):
                measured = _measure(profile, size, seconds, waits=robot == "sync", cut=cut)
                found[f"{name}, {robot}{', a cut of 5 s' if cut else ''}"] = asyncio.run(measured)
    return found
