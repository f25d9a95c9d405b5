"""What arrives of requests that are not whole is bounded: of all clients of a gateway together, and in time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import json
from types import FrameType
from typing import Any

import grpc
import numpy as np
import pytest
from tests.gateway.conftest import Open, Recorder
from tests.gateway.lerobot_robot import connected, refused
from tests.gateway.test_act import OPENVLA, open_connection, post, request_of
from tests.gateway.test_openpi import UPGRADE, answered_as
from tests.uncollected import without_collections
from websockets.asyncio.client import connect
from websockets.frames import Frame

from inferential.gateway import act as act_module
from inferential.gateway import http as http_module
from inferential.gateway import receiving
from inferential.gateway.lerobot.messages import Observation
from inferential.gateway.receiving import Receiving
from inferential.proto.msgpack_numpy import pack

SMALL = {"observations": {"max_payload_bytes": 200_000}}


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a request may have 400,000 bytes, all that arrive have as much together."""
    monkeypatch.setattr(receiving, "MAX_BYTES", 300_000)


def test_where_it_is_too_much_the_largest_ends_and_its_bytes_are_free() -> None:
    ended: list[str] = []
    received = Receiving(0)
    for name, size in (("a", 100_000), ("b", 150_000), ("a", 110_000)):
        received.note(name, size, lambda name=name: ended.append(name))  # type: ignore[misc]
    assert (received.used, ended) == (260_000, [])
    received.note("c", 60_000, lambda: ended.append("c"))
    assert (received.used, ended) == (170_000, ["b"])
    received.note("d", 299_000, lambda: ended.append("d"))
    assert ended == ["b", "d"]
    for name in ("a", "b", "c", "d", "never"):
        received.done(name)
    assert received.used == 0


def test_one_request_may_have_what_one_may_have() -> None:
    received = Receiving(1_000_000)
    received.note("a", 1_000_000, lambda: pytest.fail("it ended"))


async def test_the_last_message_of_a_robot_whose_connection_broke_is_free(openpi: Open) -> None:
    def messages() -> int:
        return sum(type(one) is Frame and len(one.data) > 100_000 for one in gc.get_objects())

    async with openpi(Recorder()) as (_, gateway):
        with without_collections():
            websocket = await connect(gateway.address, compression=None)
            await websocket.recv()
            await websocket.send(pack({"image": np.zeros(150_000, np.uint8)}))
            await websocket.recv()
            assert messages() == 1
            websocket.transport.abort()
            async with asyncio.timeout(60):
                while messages():  # noqa: ASYNC110 (no event is set)
                    await asyncio.sleep(0.01)


async def test_what_was_made_of_a_failed_request_is_free(act: Open) -> None:
    def fails(observation: dict[str, Any]) -> Any:
        raise ValueError("no cup")

    def frames() -> int:
        return sum(type(one) is FrameType and one.f_code.co_name == "until_answered" for one in gc.get_objects())

    async with act(fails) as (_, gateway):
        with without_collections():
            for _ in range(3):
                assert (await post(gateway, OPENVLA))[0] == 500
            async with asyncio.timeout(60):
                while frames():  # noqa: ASYNC110 (no event is set)
                    await asyncio.sleep(0.01)


async def test_of_bodies_that_arrive_the_largest_is_refused_and_others_are_answered(act: Open) -> None:
    async with act(Recorder(), SMALL) as (_, gateway):
        greedy = [await open_connection(gateway) for _ in range(2)]
        for _, writer in greedy:
            writer.write(b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: 390000\r\n\r\n" + bytes(250_000))
            await writer.drain()
        async with asyncio.timeout(60):
            done, _ = await asyncio.wait(
                [asyncio.ensure_future(reader.readline()) for reader, _ in greedy], return_when="FIRST_COMPLETED"
            )
        assert [one.result() for one in done] == [b"HTTP/1.1 503 Service Unavailable\r\n"]
        assert (await post(gateway, OPENVLA))[0] == 200
        for _, writer in greedy:
            writer.close()


async def test_a_packed_body_is_unpacked_in_steps(act: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "UNPACK_BYTES", 1000)
    turns = 0

    async def counted() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with act(Recorder(), SMALL) as (_, gateway):
        counting = asyncio.create_task(counted())
        reader, writer = await open_connection(gateway)
        writer.write(request_of(gzip.compress(bytes(350_000)), **{"Content-Encoding": "gzip"}))
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"  # zeros are no JSON
        counting.cancel()
        assert turns > 350
        writer.close()


async def test_json_above_its_own_limit_is_refused_once_that_much_is_unpacked(
    act: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act_module, "MAX_JSON_BYTES", 10_000)
    async with act(Recorder()) as (_, gateway):
        reader, writer = await open_connection(gateway)
        writer.write(request_of(gzip.compress(b"[" * 1_000_000), **{"Content-Encoding": "gzip"}))
        assert b" 413 " in await reader.readline()
        assert b"more than 10000 bytes (as JSON)" in await reader.readuntil(b"}")
        writer.close()


@pytest.mark.parametrize(("cut", "more", "text"), [(5, b"", b"cut short"), (0, b"more", b"bytes behind")])
async def test_a_packed_body_is_whole(act: Open, cut: int, more: bytes, text: bytes) -> None:
    packed = gzip.compress(json.dumps(OPENVLA).encode())
    async with act(Recorder(), SMALL) as (_, gateway):
        reader, writer = await open_connection(gateway)
        writer.write(request_of(packed[: len(packed) - cut] + more, **{"Content-Encoding": "gzip"}))
        assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        assert text in await reader.readuntil(b"}")
        writer.close()


async def ended(reader: asyncio.StreamReader) -> None:
    """Until the other end has closed the connection."""
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionResetError):
            while await reader.read(10_000):
                pass


async def test_of_websockets_the_one_with_the_largest_half_message_ends(openpi: Open) -> None:
    async with openpi(sections=SMALL) as (_, gateway):
        host, _, port = gateway.address.removeprefix("ws://").rpartition(":")
        greedy = []
        for number, fragments in ((1, False), (2, True)):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(UPGRADE.replace("arm", f"arm-{number}").encode())
            await reader.readuntil(b"\r\n\r\n")
            if fragments:  # several frames of one message
                writer.write(b"".join(bytes([2 if not n else 0, 0xFE, 0x40, 0]) + bytes(4 + 0x4000) for n in range(13)))
            else:
                writer.write(b"\x82\xff" + (390_000).to_bytes(8) + bytes(4 + 220_000))
            greedy.append((reader, writer))
        await ended(greedy[0][0])
        assert "actions" in await answered_as("arm", gateway.address)
        for _, writer in greedy:
            writer.close()


async def test_half_a_message_of_a_websocket_that_does_not_come_on_ends_it(
    openpi: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.websocket.RECEIVE_S", 0.05)
    async with openpi(sections=SMALL) as (_, gateway):
        host, _, port = gateway.address.removeprefix("ws://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(UPGRADE.encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x82\xff" + (390_000).to_bytes(8) + bytes(100_000))
        await ended(reader)
        writer.close()


async def test_of_streams_of_lerobots_robots_the_largest_is_refused(lerobot: Open) -> None:
    async with lerobot(sections={"observations": {"max_payload_bytes": 250_000}}) as (_, gateway):

        async def half(size: int) -> Any:
            yield Observation(transfer_state=1, data=bytes(size))
            await asyncio.sleep(20)

        async with connected(gateway.address) as small, connected(gateway.address) as large:
            await small.begin()
            await large.begin()
            waiting = asyncio.ensure_future(small.observe(half(100_000)))
            code, text = await refused(large.observe(half(240_000)))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "too much arrives from other robots at once" in text
            assert not waiting.done()
            waiting.cancel()
