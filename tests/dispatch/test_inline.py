"""What never waits is distinguished from what may, in every form that a model can have."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inferential.dispatch.inline import Resumed, completes_inline, start_inline
from inferential.replica.pending import Pending


async def plain(row: Any) -> Any:
    return row


async def calls_others(row: Any) -> Any:
    asyncio.get_running_loop().call_soon(print)
    return [value + 1 for value in row]


async def has_one_within(row: Any) -> Any:
    async def never_called() -> None:
        await asyncio.sleep(0)

    return never_called


class Plain:
    async def infer(self, row: Any) -> Any:
        return row

    async def __call__(self, row: Any) -> Any:
        return row

    @staticmethod
    async def static(row: Any) -> Any:
        return row

    @classmethod
    async def of_class(cls, row: Any) -> Any:
        return row


async def awaits(row: Any) -> Any:
    return await asyncio.to_thread(print)


async def awaits_at_times(row: Any) -> Any:
    if row is None:
        await asyncio.sleep(0)
    return row


async def enters(row: Any) -> Any:
    async with row as entered:
        return entered


async def iterates(row: AsyncIterator[Any]) -> Any:
    found = []
    async for one in row:
        found.append(one + 1)  # noqa: PERF401 (a comprehension is another form)
    return found


async def comprehends(row: AsyncIterator[Any]) -> Any:
    return [one async for one in row]


async def comprehends_awaiting(row: Any) -> Any:
    return [await one for one in row]


class Awaits:
    async def infer(self, row: Any) -> Any:
        return await row

    async def __call__(self, row: Any) -> Any:
        return await row


def sync(row: Any) -> Any:
    return row


async def generates(row: Any) -> AsyncIterator[Any]:
    yield row


def decorated(function: Any) -> Any:
    @functools.wraps(function)
    async def around(row: Any) -> Any:
        return await function(row)

    return around


@pytest.mark.parametrize(
    "function",
    [
        plain,
        calls_others,
        has_one_within,
        Plain().infer,
        Plain(),
        Plain.static,
        Plain.of_class,
        functools.partial(plain, 1),
        functools.partial(functools.partial(Plain().infer), 1),
    ],
)
def test_a_coroutine_function_without_an_await_never_waits(function: Any) -> None:
    assert completes_inline(function)


@pytest.mark.parametrize(
    "function",
    [
        awaits,
        awaits_at_times,
        enters,
        iterates,
        comprehends,
        comprehends_awaiting,
        Awaits().infer,
        Awaits(),
        functools.partial(awaits, 1),
        decorated(plain),
    ],
)
def test_one_with_an_await_may_wait(function: Any) -> None:
    assert not completes_inline(function)


@pytest.mark.parametrize("function", [sync, generates, lambda row: plain(row), print, None, 3])
def test_what_is_no_coroutine_function_is_not_for_us_to_judge(function: Any) -> None:
    assert not completes_inline(function)


def test_what_has_no_bytecode_does_not_complete_inline() -> None:
    assert not completes_inline(types.FunctionType(plain.__code__.replace(co_code=b""), {}))


def test_what_a_call_of_an_object_runs_is_its_types() -> None:
    lying = Awaits()
    lying.__call__ = plain  # type: ignore[method-assign]
    assert not completes_inline(lying)


# The first step


async def test_a_coroutine_that_never_waits_is_done_by_its_first_step() -> None:
    assert start_inline(plain(None), asyncio.get_running_loop()) is None


async def test_of_one_that_waits_the_rest_is_given() -> None:
    seen: list[Any] = []
    slept = asyncio.Event()

    async def waits() -> None:
        seen.append("begun")
        await asyncio.sleep(0)
        seen.append(await asyncio.wait_for(asyncio.sleep(0.001, "slept"), 60))
        slept.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0.001)
            seen.append("ended")
            raise

    rest = start_inline(waits(), asyncio.get_running_loop())
    assert rest is not None
    assert seen == ["begun"]
    assert isinstance(rest, asyncio.Task)
    await slept.wait()
    rest.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rest
    assert seen == ["begun", "slept", "cancelled", "ended"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_it_raises_is_raised(waits: bool) -> None:
    async def fails() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("in the midst of it")

    async def stepped() -> None:
        rest = start_inline(fails(), asyncio.get_running_loop())
        assert waits
        assert isinstance(rest, asyncio.Task)
        await rest

    with pytest.raises(ValueError, match="in the midst"):
        await stepped()


# What waits for another process


@pytest.fixture
async def first() -> Pending[str]:
    return Pending(asyncio.get_running_loop())


@pytest.fixture
async def second() -> Pending[str]:
    return Pending(asyncio.get_running_loop())


async def test_a_coroutine_goes_on_where_its_answer_is_read(first: Pending[str], second: Pending[str]) -> None:
    seen: list[str] = []

    async def waits() -> None:
        seen.append(await first)
        seen.append(await second)

    assert isinstance(start_inline(waits(), asyncio.get_running_loop()), Resumed)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.call_soon(lambda: (first.set_result("a"), seen.append("-"), second.set_result("b"), over.set()))
    await over.wait()
    assert seen == ["a", "-", "b"]


async def test_it_is_a_task_once_it_waits_for_something_else(first: Pending[str]) -> None:
    seen: list[str] = []
    over = asyncio.Event()

    async def waits() -> None:
        seen.append(await first)
        seen.append(await asyncio.wait_for(asyncio.sleep(0.001, "slept"), 60))
        over.set()

    assert isinstance(start_inline(waits(), asyncio.get_running_loop()), Resumed)
    first.set_result("a")
    await over.wait()
    assert seen == ["a", "slept"]


@pytest.mark.parametrize("already", [False, True])
async def test_it_can_be_cancelled_whatever_it_waits_for(
    already: bool, first: Pending[str], second: Pending[str]
) -> None:
    seen: list[str] = []

    async def waits() -> None:
        try:
            await first
            await second
        finally:
            seen.append("ended")

    rest = start_inline(waits(), asyncio.get_running_loop())
    assert isinstance(rest, Resumed)
    if already:
        first.set_result("a")  # within a task, so that it goes on in the loop's next turn
    async with asyncio.timeout(60):
        await rest.cancel()
        await rest.cancel()
    assert seen == ["ended"]


async def test_what_it_raises_later_is_reported(first: Pending[str]) -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, details: reported.append(details["exception"]))

    async def fails() -> None:
        await first
        raise ValueError("in the midst of it")

    start_inline(fails(), asyncio.get_running_loop())
    first.set_result("a")
    await asyncio.sleep(0)
    assert [str(one) for one in reported] == ["in the midst of it"]
