"""What is awaited for a call's result wakes its task at once, and is otherwise as a future is."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from inferential.replica.pending import Pending


async def started(pending: Pending[int]) -> tuple[asyncio.Task[int], list[str]]:
    steps: list[str] = []

    async def wait() -> int:
        try:
            return await pending
        finally:
            steps.append("woken")

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    return task, steps


async def test_a_result_from_a_callback_wakes_the_task_within_it() -> None:
    loop = asyncio.get_running_loop()
    pending: Pending[int] = Pending(loop)
    task, steps = await started(pending)
    seen: list[list[str]] = []

    def answer() -> None:
        pending.set_result(7)
        seen.append(list(steps))

    loop.call_soon(answer)
    assert await task == 7
    assert seen == [["woken"]]


async def test_a_result_from_within_another_task_wakes_it_in_the_next_turn() -> None:
    pending: Pending[int] = Pending(asyncio.get_running_loop())
    task, steps = await started(pending)
    pending.set_result(7)
    assert steps == []
    assert await task == 7


async def test_an_error_is_raised_where_it_is_awaited() -> None:
    pending: Pending[int] = Pending(asyncio.get_running_loop())
    task, _ = await started(pending)
    asyncio.get_running_loop().call_soon(pending.set_exception, ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        await task


async def test_what_is_done_before_it_is_awaited_does_not_wait() -> None:
    pending: Pending[int] = Pending(asyncio.get_running_loop())
    pending.set_result(1)
    assert pending.done()
    assert await pending == 1
    assert await asyncio.wait_for(_awaited(pending), 60) == 1


async def _awaited(pending: Pending[int]) -> int:
    return await pending


async def test_a_task_that_waits_can_be_cancelled() -> None:
    pending: Pending[int] = Pending(asyncio.get_running_loop())
    task, steps = await started(pending)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pending.done()
    assert steps == ["woken"]
    assert not pending.cancel()


async def test_the_task_keeps_its_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    pending: Pending[int] = Pending(asyncio.get_running_loop())

    async def wait() -> str:
        variable.set("of the task")
        await pending
        return variable.get()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(pending.set_result, 1)
    assert await task == "of the task"
    assert variable.get() == "none"
