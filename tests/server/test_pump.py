"""The event pump under overload, driven turn by turn: what is scheduled, read and begun in one turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inferential.server import pump as pump_module
from inferential.server.pump import EventPump


class Loop:
    """Collects what is scheduled instead of running it."""

    def __init__(self) -> None:
        self.scheduled: list[Any] = []

    def call_soon(self, callback: Any, *args: Any) -> None:
        self.scheduled.append((callback, args))

    def time(self) -> float:
        return 0.0

    def turn(self) -> None:
        """Runs what was scheduled before this turn."""
        now, self.scheduled = self.scheduled, []
        for callback, args in now:
            callback(*args)


class Clock:
    """Each look at it takes so long."""

    def __init__(self, step_s: float = 0.0001) -> None:
        self.now = 0.0
        self.step_s = step_s

    def monotonic(self) -> float:
        self.now += self.step_s
        return self.now


class Endless:
    """A transport that always has another message."""

    overtaken: tuple[()] = ()
    parked = 0

    def __init__(self) -> None:
        self.read = 0
        self.expected: list[int] = []  # calls, after so many messages

    def receive(self) -> Any:
        self.read += 1
        return (b"robot", b"", b"", 0.0, 1)

    def watch(self, on_readable: Callable[[], None], *_: Any) -> None:
        self.on_readable = on_readable


def make_pump(monkeypatch: Any) -> tuple[EventPump, Loop, Endless]:
    """A pump that reads and does nothing else."""
    transport, loop = Endless(), Loop()
    nothing: Any = None
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "get_running_loop", lambda: loop)
        accounting: Any = SimpleNamespace(flush=None)
        pump = EventPump(transport, nothing, accounting, nothing, nothing)  # type: ignore[arg-type]
    pump.start(SimpleNamespace(run_inline=None, expect_call=lambda: transport.expected.append(transport.read)))  # type: ignore[arg-type]
    monkeypatch.setattr(pump_module, "time", Clock())
    monkeypatch.setattr(pump, "receive", lambda received: None)
    monkeypatch.setattr(pump, "work", lambda *args: None)
    return pump, loop, transport


async def test_however_often_the_socket_is_readable_one_continuation_is_scheduled(monkeypatch: Any) -> None:
    _, loop, transport = make_pump(monkeypatch)
    for _ in range(10):
        transport.on_readable()
        loop.turn()
        assert len(loop.scheduled) == 1


async def test_a_turn_reads_for_a_slice_of_time_and_not_a_number_of_messages(monkeypatch: Any) -> None:
    _, _, transport = make_pump(monkeypatch)
    transport.on_readable()
    assert transport.read == 9  # of 0.1 ms each, and the slice is 1 ms
    transport.on_readable()  # in the same turn of the loop, or before the continuation had its turn
    assert transport.read == 9


async def test_a_call_is_expected_as_soon_as_the_first_message_of_a_turn_has_come(monkeypatch: Any) -> None:
    _, _, transport = make_pump(monkeypatch)
    transport.on_readable()
    assert transport.expected == [1]


@pytest.mark.parametrize(("step_s", "read"), [(0.0002, 8), (0.0005, 3)])
async def test_a_slice_is_longer_where_other_programs_have_the_processor_and_ends_all_the_same(
    monkeypatch: Any, step_s: float, read: int
) -> None:
    _, _, transport = make_pump(monkeypatch)
    monkeypatch.setattr(pump_module, "time", Clock(step_s))
    transport.on_readable()
    assert transport.read == read  # 8 messages, and 2 ms at most


class Calls(list[Any]):
    """Calls that are running; those that complete inline never are."""

    def run_inline(self, batch: Any) -> None:
        if batch != "inline":
            self.append(batch)


@pytest.mark.parametrize(("call", "turns"), [("inline", 0), ("elsewhere", 2)])
async def test_deferred_records_are_written_after_the_answer_that_a_call_may_have_in_the_next_turn(
    monkeypatch: Any, call: str, turns: int
) -> None:
    loop, calls, flushed = Loop(), Calls(), []
    engine = SimpleNamespace(
        take_bypassed=lambda now: [call], waiting=lambda: 0, ended=list, wake_at=lambda: None, running=list
    )
    accounting = SimpleNamespace(pending=1, flush=lambda: flushed.append(loop), next_sweep_at=lambda: None)
    nothing: Any = None
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "get_running_loop", lambda: loop)
        pump = EventPump(Endless(), nothing, accounting, engine, nothing)  # type: ignore[arg-type]
    pump.start(calls)  # type: ignore[arg-type]
    pump.work(calls.run_inline)
    for _ in range(turns):
        assert not flushed
        loop.turn()
    assert flushed == [loop]


async def test_the_next_calls_are_planned_after_the_first_steps_of_those_that_were_begun(monkeypatch: Any) -> None:
    loop, done = Loop(), []
    batches = [["call"], []]
    engine = SimpleNamespace(
        take_bypassed=lambda now: [],
        waiting=lambda: 1,
        ended=list,
        wake_at=lambda: None,
        work=lambda now: batches.pop(0),
        outdated=lambda: done.append("planned") or [],
    )
    accounting = SimpleNamespace(flush=None, pending=0, engine=engine, next_sweep_at=lambda: None)
    executor = SimpleNamespace(
        inline_calls=0, submit=lambda batch: loop.call_soon(done.append, f"{batch} has begun"), run_inline=None
    )
    nothing: Any = None
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "get_running_loop", lambda: loop)
        pump = EventPump(Endless(), nothing, accounting, engine, nothing)  # type: ignore[arg-type]
    pump.start(executor)  # type: ignore[arg-type]
    pump.work()
    assert not done
    loop.turn()
    assert done == ["call has begun", "planned"]


async def test_calls_that_complete_inline_follow_one_another_in_one_turn(serve: Any, connect: Any) -> None:
    async def model(observation: dict[str, Any]) -> Any:
        return observation["state"]

    async with serve({"m": model}) as server:
        robots = [connect(server, f"robot-{number}").model("m", queue="all") for number in range(8)]
        for _ in range(20):
            await asyncio.gather(*(robot.infer(60_000, state=np.ones(1)) for robot in robots))
        counters = server.status().counters
        assert counters["calls_inline"] + counters["calls_as_tasks"] == 160
        assert counters["calls_as_tasks"] <= 16
