"""The emulated network: what it carries stays whole and in order, and is as late as its profile says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from inferential.sim.network import SEGMENT_BYTES, EmulatedNetwork, NetworkProfile


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that sends back what it gets."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


async def connect(network: EmulatedNetwork) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = network.address.removeprefix("tcp://").split(":")
    return await asyncio.open_connection(host, int(port))


@pytest.mark.parametrize(
    "profile",
    [
        NetworkProfile(),
        NetworkProfile(rtt_ms=10, jitter_ms=10),
        NetworkProfile(rtt_ms=4, jitter_ms=2, loss=0.02),
        NetworkProfile(rate_bytes_s=4_000_000, queue_ms=5),
    ],
)
async def test_bytes_arrive_whole_and_in_order(profile: NetworkProfile) -> None:
    sent = random.Random(1).randbytes(200_000)
    async with echo() as address, EmulatedNetwork(address, profile, seed=1) as network:
        reader, writer = await connect(network)
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        writer.close()
        assert network.carried_bytes == (len(sent), len(sent))


async def test_nothing_passes_a_cut_and_all_arrives_after_it() -> None:
    async with echo() as address, EmulatedNetwork(address, NetworkProfile()) as network:
        reader, writer = await connect(network)
        network.cut()
        writer.write(b"observation")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        assert network.carried_bytes == (0, 0)
        network.mend()
        assert await reader.readexactly(11) == b"observation"
        writer.close()


@pytest.mark.parametrize("sender", ["robot", "server"])
async def test_what_a_slow_network_has_not_taken_stays_with_the_sender_on_either_side(sender: str) -> None:
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
        asyncio.get_running_loop().create_future()
    )
    server = await asyncio.start_server(lambda *streams: accepted.set_result(streams), "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, EmulatedNetwork(address, NetworkProfile(rate_bytes_s=4_000_000)) as network:
        robot = await connect(network)
        ends = [robot, await accepted]
        (_, writer), (reader, _) = ends if sender == "robot" else reversed(ends)
        sending = writer.get_extra_info("socket")
        sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        sent = arrived = most_held = 0
        while arrived < 2_000_000:
            with contextlib.suppress(BlockingIOError):
                sent += os.write(sending.fileno(), bytes(64 * 1024))
            with contextlib.suppress(TimeoutError):
                arrived += len(await asyncio.wait_for(reader.read(64 * 1024), 0.001))
            most_held = max(most_held, sent - arrived)
        for _, one in ends:
            one.close()
        assert most_held < 900_000


async def test_a_reset_ends_connections_at_both_ends_and_new_ones_work() -> None:
    async with echo() as address, EmulatedNetwork(address, NetworkProfile()) as network:
        reader, writer = await connect(network)
        writer.write(b"1")
        assert await reader.readexactly(1) == b"1"
        network.reset_connections()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        reader, writer = await connect(network)
        writer.write(b"2")
        assert await reader.readexactly(1) == b"2"
        writer.close()


async def test_the_end_of_a_stream_is_carried_too() -> None:
    async with echo() as address, EmulatedNetwork(address, NetworkProfile(rtt_ms=2)) as network:
        reader, writer = await connect(network)
        writer.write(b"last words")
        writer.write_eof()
        assert await reader.read() == b"last words"
        writer.close()


def test_delays_follow_from_the_seed_and_stay_within_the_profile() -> None:
    profile = NetworkProfile(rtt_ms=50, jitter_ms=30)
    first, second = ([profile.delay_s(100, draws) for _ in range(200)] for draws in map(random.Random, (7, 7)))
    assert first == second
    assert 0.010 <= min(first) < 0.015 < 0.035 < max(first) <= 0.040


def test_a_lost_segment_comes_one_retransmission_later() -> None:
    profile = NetworkProfile(rtt_ms=100, loss=0.05)
    draws = random.Random(3)
    delays = [profile.delay_s(SEGMENT_BYTES, draws) for _ in range(4000)]
    late = sum(delay > 0.2 for delay in delays)
    assert {round(delay, 3) for delay in delays} <= {0.05, 0.25, 0.45}
    assert 0.04 < late / len(delays) < 0.06


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"rtt_ms": 1, "jitter_ms": 2}, "jitter_ms: expected at most rtt_ms"), ({"loss": 1.0}, "loss: expected a share")],
)
def test_a_profile_that_cannot_be_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        NetworkProfile(**settings)
