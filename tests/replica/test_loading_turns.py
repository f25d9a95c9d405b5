"""Which models load now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from inferential.replica import loading_turns
from inferential.replica.loading_turns import LoadingTurns, Turn


def taken_of(turns: LoadingTurns, begin: Callable[[], None]) -> Turn:
    turn = turns.turn(begin)
    turn.take()
    return turn


async def test_as_many_models_load_at_once_as_there_are_places_in_the_order_of_asking() -> None:
    begun: list[int] = []
    turns = LoadingTurns(2)
    taken = [taken_of(turns, lambda number=number: begun.append(number)) for number in range(4)]  # type: ignore[misc]
    assert begun == [0, 1]
    assert [turn.waits for turn in taken] == [False, False, True, True]
    taken[1].end()
    taken[1].end()
    assert begun == [0, 1, 2]
    taken[2].end()
    assert begun == [0, 1, 2, 3]


async def test_a_turn_that_is_given_up_does_not_come() -> None:
    begun: list[str] = []
    turns = LoadingTurns(1)
    first = taken_of(turns, lambda: begun.append("first"))
    given_up = taken_of(turns, lambda: begun.append("given up"))
    taken_of(turns, lambda: begun.append("last"))
    given_up.end()
    first.end()
    assert begun == ["first", "last"]


async def test_a_model_that_loads_for_long_keeps_no_other_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_turns, "PATIENCE_S", 0.01)
    turns, begun = LoadingTurns(1), asyncio.Event()
    endless = taken_of(turns, lambda: None)
    taken_of(turns, begun.set)
    async with asyncio.timeout(60):
        await begun.wait()
    endless.end()
