"""What never waits is told from what may, in every form that a model can have."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inferential.dispatch.waiting import never_waits


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
    assert never_waits(function)


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
    assert not never_waits(function)


@pytest.mark.parametrize("function", [sync, generates, lambda row: plain(row), print, None, 3])
def test_what_is_no_coroutine_function_is_not_for_us_to_judge(function: Any) -> None:
    assert not never_waits(function)
