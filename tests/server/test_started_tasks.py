"""What a model starts on the server's event loop ends nothing but itself."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.server.conftest import Serve

from inferential import AsyncConnection, ModelFailed, ModelInline
from inferential.dispatch.started_tasks import contain

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
    assert f"a task that a model started ends: it called sys.exit ({__file__}:" in caplog.text


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
