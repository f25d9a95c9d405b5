"""Robots of this SDK that ask over a bad network, each in its own way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from bench.network.seen import Seen
from inferential import AsyncConnection, InferenceError, Result
from inferential.client.chunks import AsyncChunkRuntime

RATE_HZ = 20.0
CHUNK_HZ = 50.0
_BUDGET_MS = 200.0


async def ask_and_wait(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Asks before each step, and waits."""
    async with AsyncConnection(address) as connection:
        model, due = connection.model("policy", latency_budget_ms=_BUDGET_MS), seen.start()
        while due < seen.started_at + seconds:
            observed_at, found = time.monotonic(), False
            try:
                if await model.infer(timeout_ms=2000, image=image) is not None:
                    seen.answers.append((time.monotonic(), observed_at))
                    found = True
            except InferenceError:
                pass
            seen.steps.append((due, found))
            due += 1 / RATE_HZ
            while due < time.monotonic():  # it stood still
                seen.steps.append((due, False))
                due += 1 / RATE_HZ
            await asyncio.sleep(due - time.monotonic())


async def go_on_observing(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Observes at each step, and takes the newest answer that is there at its end."""
    async with AsyncConnection(address) as connection:
        model, due = connection.model("policy", latency_budget_ms=_BUDGET_MS), seen.start()
        while due < seen.started_at + seconds:
            found = False
            try:
                await model.observe(image=image)
                result = await model.get_result(timeout_ms=max(due + 1 / RATE_HZ - time.monotonic(), 0) * 1e3)
                if result is not None:
                    now = time.monotonic()
                    seen.answers.append((now, now - result.age_ms / 1e3))
                    found = True
            except InferenceError:
                pass
            seen.steps.append((due, found))
            due += 1 / RATE_HZ
            await asyncio.sleep(due - time.monotonic())


class _Noting(AsyncChunkRuntime):
    """Notes each chunk that it plays."""

    seen: Seen

    def _take(self, result: Result, now: float) -> None:
        chunks = self.stats.chunks
        super()._take(result, now)
        if self.stats.chunks > chunks:
            self.seen.answers.append((now, now - result.age_ms / 1e3))


async def play_chunks(address: str, image: Any, seconds: float, seen: Seen) -> None:
    """Plays chunks as `ChunkRuntime` does."""
    async with AsyncConnection(address) as connection:
        model = connection.model("policy", latency_budget_ms=_BUDGET_MS, control_rate_hz=CHUNK_HZ)
        runtime, due = _Noting(model, CHUNK_HZ), seen.start()
        runtime.seen = seen
        while due < seen.started_at + seconds:
            starved = runtime.stats.starved_steps
            action = await runtime.step({"image": image})
            seen.steps.append((due, action is not None and runtime.stats.starved_steps == starved))
            due += 1 / CHUNK_HZ
            await asyncio.sleep(due - time.monotonic())


def chunk(steps: int = 50) -> Any:
    """Returns an action chunk."""
    return np.zeros((steps, 7), np.float32)
