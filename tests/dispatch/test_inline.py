"""What never waits is told from what may, in every form that a model can have."""

from __future__ import annotations

import asyncio
import functools
import types
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inferential.dispatch.inline import completes_inline, start_inline


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


def test_of_what_has_no_bytecode_nobody_can_tell() -> None:
    assert not completes_inline(types.FunctionType(plain.__code__.replace(co_code=b""), {}))


def test_what_a_call_of_an_object_runs_is_its_types() -> None:
    lying = Awaits()
    lying.__call__ = plain  # type: ignore[method-assign]
    assert not completes_inline(lying)


# The first step


async def test_a_coroutine_that_never_waits_is_done_by_its_first_step() -> None:
    assert start_inline(plain(None)) is None


async def test_of_one_that_waits_the_rest_is_given() -> None:
    seen: list[Any] = []
    slept = asyncio.Event()

    async def waits() -> None:
        seen.append("begun")
        await asyncio.sleep(0)
        seen.append(await asyncio.wait_for(asyncio.sleep(0.001, "slept"), 5))
        slept.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0.001)
            seen.append("ended")
            raise

    rest = start_inline(waits())
    assert rest is not None
    assert seen == ["begun"]
    task = asyncio.create_task(rest)
    await slept.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["begun", "slept", "cancelled", "ended"]


@pytest.mark.parametrize("waits", [False, True])
async def test_what_it_raises_is_raised(waits: bool) -> None:
    async def fails() -> None:
        if waits:
            await asyncio.sleep(0)
        raise ValueError("in the midst of it")

    async def stepped() -> None:
        rest = start_inline(fails())
        assert waits
        assert rest is not None
        await rest

    with pytest.raises(ValueError, match="in the midst"):
        await stepped()
