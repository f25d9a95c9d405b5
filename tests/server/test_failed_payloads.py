"""What a robot sends is free on its machine once its request failed, though the error has a traceback."""

from __future__ import annotations

import asyncio
import weakref
from typing import Any

import numpy as np
import pytest
from tests.uncollected import without_collections

from inferential import AsyncModel, Connection, Model, ModelFailed

given: list[weakref.ref[Any]] = []


def fails(observation: dict[str, Any]) -> Any:
    raise ValueError("no cup")


def state() -> Any:
    made = np.ones(3)
    given.append(weakref.ref(made))
    return made


def ask(model: Model) -> None:
    try:
        model.infer(60_000, state=state())
    except ModelFailed:
        return
    raise AssertionError


def ask_and_get(model: Model) -> None:
    try:
        model.observe(state=state())
        model.get_result(60_000)
    except ModelFailed:
        return
    raise AssertionError


async def ask_by_await(model: AsyncModel) -> None:
    try:
        await model.infer(60_000, state=state())
    except ModelFailed:
        return
    raise AssertionError


async def ask_and_get_by_await(model: AsyncModel) -> None:
    try:
        await model.observe(state=state())
        await model.get_result(60_000)
    except ModelFailed:
        return
    raise AssertionError


@pytest.mark.parametrize("way", [ask, ask_and_get])
async def test_of_a_connection_for_threads(way: Any, serve: Any) -> None:
    given.clear()
    async with serve({"m": fails}) as server:
        with Connection(server.address, "robot") as connection, without_collections():
            await asyncio.to_thread(way, connection.model("m"))
            assert given[0]() is None


@pytest.mark.parametrize("way", [ask_by_await, ask_and_get_by_await])
async def test_of_a_connection_for_asyncio(way: Any, serve: Any, connect: Any) -> None:
    given.clear()
    async with serve({"m": fails}) as server:
        connection = connect(server, "robot")
        with without_collections():
            await way(connection.model("m"))
            assert given[0]() is None
