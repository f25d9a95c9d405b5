"""Puts load on a running server over real sockets: each robot sends the same observation again and again.

Only the times of the answers count; `cli.bench` shows them. It needs no extra.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inferential.client import AsyncConnection, AsyncModel, Result
from inferential.client.handle import QueueChoice
from inferential.errors import InferenceError, RequestSuperseded
from inferential.tracking.robots import COMMANDS

CLIENT_TYPE = f"{COMMANDS}bench"
CONNECT_S = 5.0
"""For every robot's first answer, at most: connections are made before time counts."""
_CONNECT_AT_ONCE = 32
WARM_UP_S = 0.5
"""Then, before anything is counted: the server learns the robots' cadence."""
GRACE_S = 2.0
"""For the last answers, once the time is over."""


@dataclass(frozen=True, slots=True)
class Load:
    """Describes what is asked of a server.

    Attributes:
        server: its address, as `Connection` takes it.
        model_id: which model.
        observation: arrays and strings by key; the same for all.
        robots: how many, each with a connection of its own.
        rate_hz: observations a second of each, whether or not it was answered (open loop); None: each sends its next as
            soon as the one before has ended (closed loop).
        seconds: how long, once every robot is connected and WARM_UP_S have gone.
        budget_ms: latency budget, sent to the server, and by which answers count as in time.
        queue: as for `Connection.model`.
        server_key, secret_keys: as `Connection` takes them, a secret key for each robot; empty: none.
    """

    server: str
    model_id: str
    observation: Mapping[str, Any]
    robots: int
    rate_hz: float | None
    seconds: float
    budget_ms: float
    queue: QueueChoice = "latest"
    server_key: str | None = None
    secret_keys: Sequence[str | None] = ()


@dataclass(slots=True)
class Tally:
    """Counts what became of the observations.

    Once the load is over, each that was sent is in exactly one of answered, superseded, refused and unanswered.

    Attributes:
        sent: observations.
        answered: with a result.
        in_time: those of them within the budget.
        superseded: gave way to a newer observation.
        refused: ended with another error, by its type.
        unanswered: nothing came until the end, or for GRACE_S after it.
        arrived, arrived_in_time: answers that came while time was counted, to observations of the warm-up too, and
            those of them within the budget: what the server gave in that time.
        round_trip_ms: from observation to answer, one for each answered.
        queue_ms, inference_ms: the server's part of it, by its own measure.
        batch_sizes: rows that ran together, one for each answered.
        slip_ms: how much later than it should an observation was sent: the load itself was late, not the server.
    """

    sent: int = 0
    answered: int = 0
    in_time: int = 0
    superseded: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    arrived: int = 0
    arrived_in_time: int = 0
    round_trip_ms: array[float] = field(default_factory=lambda: array("d"))
    queue_ms: array[float] = field(default_factory=lambda: array("d"))
    inference_ms: array[float] = field(default_factory=lambda: array("d"))
    batch_sizes: Counter[int] = field(default_factory=Counter)
    slip_ms: array[float] = field(default_factory=lambda: array("d"))


class Driver:
    """Sends the observations: call `run` once, read `tally` at any time.

    Args:
        load: what is asked.
    """

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tally: Tally = Tally()
        self._warm_up = Tally()  # not reported
        self._began_at = float("inf")
        self._until = float("inf")

    @property
    def counted_s(self) -> float:
        """Returns the seconds counted so far; 0 until the warm-up is over."""
        return min(max(time.monotonic() - self._began_at, 0.0), self.load.seconds)

    async def run(self) -> None:
        """Runs until the last answers are there, or until it is cancelled: what waits then is unanswered."""
        load, run = self.load, secrets.token_hex(2)
        async with contextlib.AsyncExitStack() as connections:
            models = []
            for number, secret_key in enumerate(load.secret_keys or [None] * load.robots):
                client_id = f"bench-{run}-{number:03d}" if secret_key is None else ""  # a key has a name
                connection = AsyncConnection(
                    load.server, client_id, CLIENT_TYPE, server_key=load.server_key, secret_key=secret_key
                )
                await connections.enter_async_context(connection)
                models.append(connection.model(load.model_id, load.budget_ms, queue=load.queue))
            await self._connect(models)
            self._began_at = time.monotonic() + WARM_UP_S
            self._until = self._began_at + load.seconds
            async with asyncio.TaskGroup() as asking:
                for number, model in enumerate(models):
                    asking.create_task(self._robot(number, model, asking))
            await asyncio.sleep(self._until - time.monotonic())  # the last answer may come before the time is over

    async def _connect(self, models: list[AsyncModel]) -> None:
        """Waits until each robot was answered once, a few at a time: a thousand at once would wait for each other."""
        until, turn = time.monotonic() + CONNECT_S, asyncio.Semaphore(_CONNECT_AT_ONCE)

        async def ask(model: AsyncModel) -> None:
            async with turn:
                await self._ask(model, time.monotonic(), until)

        async with asyncio.TaskGroup() as asking:
            for model in models:
                asking.create_task(ask(model))

    async def _robot(self, number: int, model: AsyncModel, asking: asyncio.TaskGroup) -> None:
        load, until = self.load, self._until + GRACE_S
        if load.rate_hz is None:
            while (now := time.monotonic()) < self._until:
                await self._ask(model, now, until)
            return
        # All robots at once would measure the jam that they are; the period is shared out among them.
        first = self._began_at - WARM_UP_S + number / load.robots / load.rate_hz
        for step in itertools.count():
            if (due := first + step / load.rate_hz) >= self._until:
                return
            await asyncio.sleep(due - time.monotonic())
            asking.create_task(self._ask(model, due, until))

    async def _ask(self, model: AsyncModel, due: float, until: float) -> None:
        now = time.monotonic()
        tally = self.tally if due >= self._began_at else self._warm_up
        tally.sent += 1
        tally.slip_ms.append((now - due) * 1e3)
        timeout_ms = max(until - now, 0.0) * 1e3
        try:
            result = await model.infer(timeout_ms, **self.load.observation)
        except RequestSuperseded:
            tally.superseded += 1
        except InferenceError as error:
            tally.refused[type(error).__name__] += 1
        except asyncio.CancelledError:
            tally.unanswered += 1
            raise
        else:
            self._ended(tally, result)

    def _ended(self, tally: Tally, result: Result | None) -> None:
        if result is None:
            tally.unanswered += 1
            return
        in_time = result.age_ms <= self.load.budget_ms
        tally.answered += 1
        tally.in_time += in_time
        tally.round_trip_ms.append(result.age_ms)
        if result.timing is not None:  # servers of the 1.x line do not tell
            tally.queue_ms.append(result.timing.queue_ms)
            tally.inference_ms.append(result.timing.inference_ms)
            tally.batch_sizes[result.timing.batch_size] += 1
        if self._began_at <= time.monotonic() < self._until:
            self.tally.arrived += 1
            self.tally.arrived_in_time += in_time
