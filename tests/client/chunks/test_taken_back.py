"""Requests of a chunk runtime that end without it: taken back, of another episode, replaced, or read by another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from tests.client.chunks.test_runtime import serving

from inferential import AsyncConnection, AsyncModel, Connection
from inferential.client.chunks import AsyncChunkRuntime, ChunkRuntime
from inferential.client.chunks.player import Player

STATE = {"state": np.zeros(3, np.float32)}


class Held:
    """A policy that answers once it may."""

    def __init__(self) -> None:
        self.may, self.called = asyncio.Event(), asyncio.Event()

    async def infer(self, observation: Any) -> Any:
        self.called.set()
        await self.may.wait()
        return np.ones((50, 2), np.float32)


async def cancel(model: AsyncModel, connection: AsyncConnection) -> None:
    await model.cancel()


async def reset(model: AsyncModel, connection: AsyncConnection) -> None:
    await connection.model("policy").reset()


async def until_it_moves(runtime: AsyncChunkRuntime) -> None:
    async with asyncio.timeout(60):
        while await runtime.step(STATE) is None:  # noqa: ASYNC110 (it is what a robot does)
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("end", [cancel, reset])
async def test_a_request_that_ends_without_the_runtime_is_made_again(
    end: Callable[[AsyncModel, AsyncConnection], Awaitable[None]],
) -> None:
    policy = Held()
    async with serving(policy) as server, AsyncConnection(server.address) as connection:
        model = connection.model("policy")
        runtime = AsyncChunkRuntime(model, 50.0)
        assert await runtime.step(STATE) is None
        await policy.called.wait()
        await end(model, connection)
        policy.may.set()
        await until_it_moves(runtime)
        assert (runtime.stats.chunks, runtime.stats.asked, runtime.stats.lost) == (1, 2, 1)


async def test_so_is_one_whose_answer_another_took() -> None:
    policy = Held()
    policy.may.set()
    async with serving(policy) as server, AsyncConnection(server.address) as connection:
        model = connection.model("policy")
        runtime = AsyncChunkRuntime(model, 50.0)
        await runtime.step(STATE)
        assert await model.get_result(timeout_ms=60_000) is not None
        await until_it_moves(runtime)
        assert (runtime.stats.chunks, runtime.stats.asked, runtime.stats.lost) == (1, 2, 1)


async def test_so_is_one_that_another_handle_of_the_model_replaced() -> None:
    policy = Held()
    async with serving(policy) as server, AsyncConnection(server.address) as connection:
        other = connection.model("policy")
        await other.observe(**STATE)  # occupies the model
        await policy.called.wait()
        runtime = AsyncChunkRuntime(connection.model("policy"), 50.0)
        await runtime.step(STATE)
        await other.observe(**STATE)  # takes the place of the runtime's, which waits
        while not connection.stats.superseded:
            assert await other.get_result(timeout_ms=20) is None
        policy.may.set()
        await until_it_moves(runtime)
        assert (runtime.stats.chunks, runtime.stats.asked, runtime.stats.lost) == (1, 2, 1)


def test_one_that_is_waited_for_is_not_made_again_and_one_that_ended_not_at_once() -> None:
    player, ended = Player(50.0), set[int]()

    def wants(now: float) -> bool:
        return player.wants_chunk(now, awaits=lambda request_id: request_id not in ended)

    assert wants(0.0)
    player.asked(1, 0.0)
    player.play()
    assert not wants(0.2)
    ended.add(1)
    assert not wants(0.08)  # two runtimes that replace each other's requests do so ten times a second
    assert wants(0.2)
    assert (player.stats.lost, player.open_requests) == (1, 0)


def test_of_two_runtimes_that_share_a_handle_the_former_one_is_an_error() -> None:
    with Connection("tcp://127.0.0.1:1", client_id="arm") as connection:
        model = connection.model("policy")
        first, second = ChunkRuntime(model, 50.0), ChunkRuntime(model, 50.0)
        first.step(STATE)
        second.step(STATE)  # it may take the place of the first
        second.step(STATE)
        with pytest.raises(RuntimeError, match=r"another ChunkRuntime plays.*'policy'.*a handle of its own"):
            first.step(STATE)
        second.step(STATE)
