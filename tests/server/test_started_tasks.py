"""What a model starts on the server's event loop ends nothing but itself."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Serve

from inferential import AsyncConnection, LocalDispatcher, ModelFailed, ModelInline, Server
from inferential.dispatch.started_tasks import contain, run_contained

Connect = Callable[..., AsyncConnection]
STATE = np.zeros(3, np.float32)


async def leave() -> None:
    sys.exit(3)


async def leave_later() -> None:
    await asyncio.create_task(leave())


class Leaves:
    """Starts a task that calls sys.exit, and answers."""

    def __init__(self, task: Callable[[], Any] = leave) -> None:
        self._task = task

    def _start(self) -> None:
        started = asyncio.get_running_loop().create_task(self._task())
        started.add_done_callback(lambda task: task.exception())  # else asyncio logs it too


class Each(Leaves):
    async def infer(self, observation: dict[str, Any]) -> Any:
        self._start()
        return observation


class Waits(Leaves):
    async def infer(self, observation: dict[str, Any]) -> Any:
        await asyncio.sleep(0)
        self._start()
        return observation


class Batch(Leaves):
    async def infer_batch(self, rows: list[dict[str, Any]]) -> Any:
        self._start()
        return rows


class Inline(Leaves):
    def infer(self, observation: dict[str, Any]) -> Any:
        self._start()
        return observation


class InlineBatch(Leaves):
    def infer_batch(self, rows: list[dict[str, Any]]) -> Any:
        self._start()
        return rows


MODELS = [
    Each,
    Waits,
    Batch,
    lambda: ModelInline(Inline()),
    lambda: ModelInline(InlineBatch()),
    lambda: Each(leave_later),
]


@pytest.mark.parametrize("make", MODELS, ids=["each", "waits", "batch", "inline", "inline batch", "nested"])
async def test_sys_exit_in_a_task_of_a_model_ends_that_task_and_not_the_server(
    make: Callable[[], Any], serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve({"m": make()}) as server:
        model = connect(server, "robot").model("m")
        for _ in range(3):
            assert await model.infer(60_000, state=STATE) is not None
    assert f"model m: a task that it started ends: it called sys.exit ({__file__}:" in caplog.text


async def test_who_awaits_such_a_task_fails_by_it(serve: Serve, connect: Connect) -> None:
    async def awaits(observation: dict[str, Any]) -> Any:
        await asyncio.gather(asyncio.create_task(leave()), asyncio.sleep(60))

    async with serve({"m": awaits}) as server:
        with pytest.raises(ModelFailed, match="SystemExit: 3"):
            await connect(server, "robot").model("m").infer(60_000, state=STATE)


async def test_tasks_are_made_by_what_made_them_before_and_those_of_others_are_left_alone() -> None:
    loop = asyncio.get_running_loop()
    made: list[Any] = []

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **options)

    former = loop.get_task_factory()
    loop.set_task_factory(make)
    try:
        contain(loop)
        factory = loop.get_task_factory()
        contain(loop)
        assert loop.get_task_factory() is factory
        coroutine = asyncio.sleep(0)
        await loop.create_task(coroutine, name="mine")
        assert made == [coroutine]
    finally:
        loop.set_task_factory(former)


class CallsLater:
    """Leaves a callback that raises, and answers."""

    def __init__(self, raised: type[BaseException] = SystemExit, **options: Any) -> None:
        self._raised, self._options = raised, options

    def _leave(self) -> None:
        raise self._raised(3)

    def infer(self, observation: dict[str, Any]) -> Any:
        asyncio.get_running_loop().call_soon(self._leave, **self._options)
        return observation


class AsyncCallsLater(CallsLater):
    async def infer(self, observation: dict[str, Any]) -> Any:
        asyncio.get_running_loop().call_later(0, self._leave)
        await asyncio.sleep(0)
        return observation


async def ask(model: Any) -> None:
    server = Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": model}))
    async with server, AsyncConnection(server.address, "robot") as connection:
        for _ in range(3):
            assert await connection.model("m").infer(60_000, state=STATE) is not None


@pytest.mark.parametrize(
    "model",
    [ModelInline(CallsLater()), AsyncCallsLater(), AsyncCallsLater(KeyboardInterrupt)],
    ids=["inline", "async", "Ctrl-C"],
)
def test_sys_exit_in_a_callback_that_a_model_left_ends_that_callback_alone(
    model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Thread(target=lambda: run_contained(ask(model)))  # not where Ctrl-C comes
    ended.start()
    ended.join(60)
    said = [record.getMessage() for record in caplog.records if "callback" in record.getMessage()]
    text = f"model m: a callback that it left on the event loop ends: it called sys.exit ({__file__}:"
    assert [one.startswith(text) for one in said] == [True]


def test_sys_exit_of_what_no_model_began_ends_what_runs() -> None:
    with pytest.raises(SystemExit):
        run_contained(ask(ModelInline(CallsLater(context=Context()))))
    with pytest.raises(SystemExit):
        run_contained(leave())


def test_it_runs_as_asyncio_does() -> None:
    async def fails() -> None:
        assert asyncio.get_event_loop() is asyncio.get_running_loop()
        raise ValueError("of what runs")

    with pytest.raises(ValueError, match="of what runs"):
        run_contained(fails())
