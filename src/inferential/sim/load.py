"""Load on a server that runs: robots that are nothing but their observations, on real sockets.

What they are answered does not matter to them, only when; shown it is by `cli.bench`. It needs no extra.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inferential.client import AsyncConnection, Result
from inferential.client.session import QueueChoice
from inferential.errors import InferenceError

WARM_UP_S = 0.5
"""Before anything is counted: connections are made, and the server learns the robots' cadence."""
_GRACE_S = 2.0  # for the last answers


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of a server.

    Attributes:
        server: its address, as `Connection` takes it.
        model_id: which model.
        observation: arrays and strings by key; the same for all.
        robots: how many.
        rate_hz: observations a second of each, whether or not it was answered (open loop); None: each sends its next as
            soon as it is answered (closed loop).
        seconds: how long, after WARM_UP_S.
        budget_ms: latency budget, which the server is told, and by which answers are judged.
        queue: as of `Connection.model`, in open loop.
    """

    server: str
    model_id: str
    observation: Mapping[str, Any]
    robots: int = 10
    rate_hz: float | None = 10.0
    seconds: float = 10.0
    budget_ms: float = 50.0
    queue: QueueChoice = "latest"


@dataclass(slots=True)
class Tally:
    """What became of the observations. Every one that was sent is counted once among the other counts.

    Attributes:
        sent: observations.
        answered: with a result.
        in_time: those of them within the budget.
        superseded: gave way to a newer observation, or their answer came after a newer one's.
        refused: ended with another error, by its type.
        unanswered: nothing came, until the end or for two seconds after it.
        round_trip_ms: from observation to answer, one for each answered.
        queue_ms, inference_ms: the server's part of it, as it told.
        batch_sizes: rows that ran together, one for each answered.
        slip_ms: how much later than it should an observation was sent: the load itself, not the server, was late.
    """

    sent: int = 0
    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    round_trip_ms: array[float] = field(default_factory=lambda: array("d"))
    queue_ms: array[float] = field(default_factory=lambda: array("d"))
    inference_ms: array[float] = field(default_factory=lambda: array("d"))
    batch_sizes: Counter[int] = field(default_factory=Counter)
    slip_ms: array[float] = field(default_factory=lambda: array("d"))


class Driver:
    """Puts the load on; `run` once, look at `tally` and `began_at` whenever.

    Args:
        load: what is asked.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally = Tally()
        self.began_at = 0.0  # counting, in seconds of `time.monotonic()`
        self._until = 0.0

    async def run(self) -> None:
        """Until the time is over, or it is cancelled: then what is counted holds all the same."""
        self.began_at = time.monotonic() + WARM_UP_S
        self._until = self.began_at + self.load.seconds
        robot = self._closed_loop if self.load.rate_hz is None else self._open_loop
        async with asyncio.TaskGroup() as robots:
            for number in range(self.load.robots):
                robots.create_task(robot(number))

    async def _closed_loop(self, number: int) -> None:
        load, tally = self.load, self.tally
        async with AsyncConnection(load.server, client_type="inferential bench") as connection:
            handle = connection.model(load.model_id, load.budget_ms, queue="all")
            while (sent_at := time.monotonic()) < self._until:
                counts = sent_at >= self.began_at
                tally.sent += counts
                try:
                    result = await handle.infer(self._left_ms(), **load.observation)
                except InferenceError as error:
                    tally.refused[type(error).__name__] += counts
                    continue
                if result is not None and counts:
                    self._answered(result, sent_at)
                elif counts:
                    tally.unanswered += 1

    async def _open_loop(self, number: int) -> None:
        assert self.load.rate_hz is not None
        load, period_s = self.load, 1 / self.load.rate_hz
        sent: dict[int, float] = {}
        async with AsyncConnection(load.server, client_type="inferential bench") as connection:
            handle = connection.model(load.model_id, load.budget_ms, queue=load.queue, control_rate_hz=load.rate_hz)
            stats = connection.stats

            async def read() -> None:
                while (
                    time.monotonic() < self._until or stats.observed > stats.results + stats.refused + stats.superseded
                ):
                    try:
                        result = await handle.get_result(self._left_ms())
                    except InferenceError as error:
                        if sent.pop(error.request_id, None) is not None:
                            self.tally.refused[type(error).__name__] += 1
                        continue
                    if result is None:
                        return
                    sent_at = sent.pop(result.request_id, None)
                    if sent_at is not None:
                        self._answered(result, sent_at)

            reading = asyncio.create_task(read())
            try:
                due = self.began_at - WARM_UP_S + period_s * number / load.robots
                while due < self._until:
                    await asyncio.sleep(due - time.monotonic())
                    sent_at = time.monotonic()
                    request_id = await handle.observe(**load.observation)
                    if due >= self.began_at:
                        sent[request_id] = sent_at
                        self.tally.sent += 1
                        self.tally.slip_ms.append((sent_at - due) * 1e3)
                    due += period_s
                await reading
            finally:
                reading.cancel()
                # What neither came nor was refused gave way to something newer, but for what the server still has.
                open_now = stats.observed - stats.results - stats.refused - stats.superseded
                self.tally.unanswered += min(open_now, len(sent))
                self.tally.superseded += len(sent) - min(open_now, len(sent))

    def _left_ms(self) -> float:
        return max(self._until + _GRACE_S - time.monotonic(), 0.0) * 1e3

    def _answered(self, result: Result, sent_at: float) -> None:
        tally, took_ms = self.tally, (time.monotonic() - sent_at) * 1e3
        tally.answered += 1
        tally.in_time += took_ms <= self.load.budget_ms
        tally.round_trip_ms.append(took_ms)
        if result.timing is not None:
            tally.queue_ms.append(result.timing.queue_ms)
            tally.inference_ms.append(result.timing.inference_ms)
            tally.batch_sizes[result.timing.batch_size] += 1
