"""Several servers: each robot has its own, and uses another one while that is away."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.client.conftest import WAIT_MS, Peer, Seen, result_of

from inferential import AsyncConnection, Connection, RequestRejected
from inferential.client import failover
from inferential.client.failover import rendezvous_order
from inferential.zmtp import protocol

ADDRESSES = [f"tcp://10.0.0.{number}:5555" for number in range(1, 6)]


@pytest.fixture
def peers() -> Iterator[list[Peer]]:
    peers = [Peer(), Peer()]
    yield peers
    for peer in peers:
        peer.close()


def own(peers: list[Peer], client_id: str) -> tuple[Peer, Peer]:
    """A robot's own server, and the other."""
    first = rendezvous_order([peer.address for peer in peers], client_id)[0]
    return (peers[0], peers[1]) if peers[0].address == first else (peers[1], peers[0])


def test_robots_are_spread_evenly_and_only_those_of_a_server_that_goes_move() -> None:
    robots = [f"robot-{number}" for number in range(2000)]
    before = {robot: rendezvous_order(ADDRESSES, robot)[0] for robot in robots}
    counts = Counter(before.values())
    assert len(counts) == 5
    assert max(counts.values()) < 1.25 * min(counts.values())
    after = {robot: rendezvous_order(ADDRESSES[1:], robot)[0] for robot in robots}
    moved = [robot for robot in robots if after[robot] != before[robot]]
    assert moved == [robot for robot in robots if before[robot] == ADDRESSES[0]]
    assert len(set(after.values())) == 4


def test_the_order_of_the_list_does_not_matter() -> None:
    assert rendezvous_order(ADDRESSES, "arm") == rendezvous_order(ADDRESSES[::-1], "arm")


@pytest.mark.parametrize("server", ["", [], "localhost:1,localhost:1", ["localhost:1", "tcp://localhost:1"]])
def test_addresses_that_are_none_or_the_same_are_refused(server: str | list[str]) -> None:
    with pytest.raises(ValueError, match="server: expected"):
        Connection(server)


async def answer(peer: Peer, seen: Seen) -> None:
    await asyncio.to_thread(peer.send, seen, result_of(seen))


async def ask(connection: AsyncConnection, peers: list[Peer]) -> Peer | None:
    """One request, answered by the server that it reaches; None where the connection that it was sent by ended."""
    asking = asyncio.create_task(connection.model("m", queue="all").infer(WAIT_MS, n=np.zeros(1)))
    while not asking.done():
        for peer in peers:
            if not peer.is_quiet():
                seen = await peer.next()
                await answer(peer, seen)
                assert await asking is not None
                return peer
        await asyncio.sleep(0.005)
    with contextlib.suppress(RequestRejected):
        await asking
    return None


async def idle(connection: AsyncConnection, peers: list[Peer], wanted: Peer) -> None:
    """Asks until the wanted server is the one that is asked: the first goes to whichever is reached first."""
    async with asyncio.timeout(60):
        while await ask(connection, peers) is not wanted:
            pass


async def test_observations_go_to_the_robots_own_server(peers: list[Peer]) -> None:
    mine, _ = own(peers, "arm")
    async with AsyncConnection(",".join(peer.address for peer in peers), "arm") as connection:
        await idle(connection, peers, mine)
        for _ in range(5):
            assert await ask(connection, peers) is mine


async def test_when_it_goes_the_other_takes_over_and_what_it_had_ends(peers: list[Peer]) -> None:
    mine, other = own(peers, "arm")
    async with AsyncConnection([peer.address for peer in peers], "arm") as connection:
        await idle(connection, peers, mine)
        model = connection.model("m", queue="all")
        lost = asyncio.create_task(model.infer(WAIT_MS, n=np.zeros(1)))
        await mine.next()
        mine.stop()
        with pytest.raises(RequestRejected, match="was lost before the answer came"):
            await lost
        again = asyncio.create_task(model.infer(WAIT_MS, n=np.ones(1)))
        seen = await other.next()
        await answer(other, seen)
        assert await again is not None


async def test_a_server_that_falls_silent_without_ending_its_connections_is_left_too(
    peers: list[Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(failover, "SILENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [peers[0].address, f"tcp://127.0.0.1:{silent.getsockname()[1]}"]
        robot = next(name for name in map(str, range(99)) if rendezvous_order(addresses, name)[0] == addresses[1])
        async with AsyncConnection(addresses, robot) as connection:
            model = connection.model("m", queue="all")
            asking = asyncio.create_task(model.infer(WAIT_MS, n=np.zeros(1)))
            end, _ = await asyncio.to_thread(silent.accept)
            with end:
                end.sendall(protocol.greeting() + protocol.ready(b"ROUTER", b""))
                await until_answered(asking, peers[0])  # or lost, if it was sent to the silent one
                asking = asyncio.create_task(model.infer(WAIT_MS, n=np.zeros(1)))
                await until_answered(asking, peers[0])


async def until_answered(asking: asyncio.Task[Any], peer: Peer) -> None:
    while not asking.done():
        if not peer.is_quiet():
            await answer(peer, await peer.next())
        await asyncio.sleep(0.005)
    with contextlib.suppress(RequestRejected):
        await asking


async def test_when_it_is_back_it_is_the_robots_own_again(peers: list[Peer]) -> None:
    mine, other = own(peers, "arm")
    async with AsyncConnection([peer.address for peer in peers], "arm", reconnect_ivl_ms=20) as connection:
        await idle(connection, peers, mine)
        mine.stop()
        await idle(connection, [other], other)
        mine.start()
        await idle(connection, peers, mine)


async def test_while_none_is_there_observations_wait_for_the_first_that_comes(peers: list[Peer]) -> None:
    addresses = [peer.address for peer in peers]
    for peer in peers:
        peer.stop()
    async with AsyncConnection(addresses, "arm", reconnect_ivl_ms=20) as connection:
        model = connection.model("m")
        asking = asyncio.create_task(model.infer(WAIT_MS, n=np.full(1, 7.0)))
        await asyncio.sleep(0)
        peers[1].start()
        seen = await peers[1].next()
        await answer(peers[1], seen)
        assert await asking is not None


def test_a_connection_of_threads_moves_too(peers: list[Peer]) -> None:
    mine, other = own(peers, "arm")
    with Connection([peer.address for peer in peers], "arm") as connection:
        model = connection.model("m", queue="all")
        model.observe(n=np.zeros(1))
        seen = mine.receive()  # its own: the first observation waits for the connection
        mine.send(seen, result_of(seen))
        assert model.get_result(WAIT_MS) is not None
        model.observe(n=np.zeros(1))
        mine.receive()
        mine.stop()
        with pytest.raises(RequestRejected, match="was lost before"):
            model.get_result(WAIT_MS)
        model.observe(n=np.zeros(1))
        seen = other.receive()
        other.send(seen, result_of(seen))
        assert model.get_result(WAIT_MS) is not None


COUNTS_DESCRIPTORS = """
import os, sys
from inferential import Connection
counts = []
for _ in range(6):
    Connection(sys.argv[1:]).close()
    counts.append(len(os.listdir("/proc/self/fd")))
assert counts == counts[:1] * 6, counts
"""


def test_closing_leaves_no_descriptor_open(peers: list[Peer]) -> None:
    # In a process of its own: what the peers' ZeroMQ opens and closes in its own time does not count.
    command = [sys.executable, "-c", COUNTS_DESCRIPTORS, *[peer.address for peer in peers]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
