"""Emulates a bad network between robots and a server: a TCP proxy with delay, jitter, loss, a rate, and cuts.

What TCP makes of loss is a stall: the segment comes one retransmission later, and everything behind it waits. So a
"lost" segment here is late, and order is kept. All draws come from a seed, one generator for each direction of each
connection, in the order in which connections come.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Self

SEGMENT_BYTES = 1448
"""What one Ethernet frame carries of a TCP stream: the unit of loss."""
_READ_BYTES = 45 * SEGMENT_BYTES  # some 64 KiB
_SOCKET_BUFFER_BYTES = 64 * 1024  # of the proxy's own sockets: what it has not taken stays with the sender
_LEAST_TIMEOUT_S = 0.2  # of a retransmission, as on Linux


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """What a network does to each direction of a connection.

    Attributes:
        rtt_ms: the round trip without jitter, in milliseconds.
        jitter_ms: how far the round trip differs from it, at most, either way.
        loss: the share of segments that are sent twice, from 0 to below 1.
        rate_bytes_s: bytes a second in each direction, for all connections together; None: as fast as loopback.
        queue_ms: how much of a rate's traffic the network holds before it takes no more, in milliseconds.
    """

    rtt_ms: float = 0.0
    jitter_ms: float = 0.0
    loss: float = 0.0
    rate_bytes_s: float | None = None
    queue_ms: float = 50.0

    def __post_init__(self) -> None:
        if self.jitter_ms > self.rtt_ms:
            raise ValueError(f"jitter_ms: expected at most rtt_ms ({self.rtt_ms}), got {self.jitter_ms}")
        if not 0 <= self.loss < 1:
            raise ValueError(f"loss: expected a share from 0 to below 1, got {self.loss}")

    def delay_s(self, size: int, random_: random.Random) -> float:
        """Draws how long the network keeps so many bytes one way, in seconds, its rate and queue apart."""
        delay = (self.rtt_ms + random_.uniform(-self.jitter_ms, self.jitter_ms)) / 2e3
        for _ in range(-(-size // SEGMENT_BYTES)):
            if random_.random() < self.loss:
                delay += max(self.rtt_ms / 1e3, _LEAST_TIMEOUT_S)
        return delay


class _Direction:
    """One direction of the whole network, whose rate all connections share."""

    def __init__(self, profile: NetworkProfile) -> None:
        self._rate = profile.rate_bytes_s
        self._free_at = 0.0
        self.carried_bytes = 0

    @property
    def is_slow(self) -> bool:
        """Whether a rate limits it."""
        return self._rate is not None

    def leaves_at(self, size: int, now: float) -> float:
        """Returns when the last of so many bytes has been put on the wire."""
        if self._rate is None:
            return now
        self._free_at = max(self._free_at, now) + size / self._rate
        return self._free_at


class EmulatedNetwork:
    """Listens on a port of its own and carries every connection to `target` and back; `async with` starts it.

    Args:
        target: where the server listens, as tcp://HOST:PORT.
        profile: what happens to what is carried; it may be replaced while the network runs, its rate apart.
        seed: of all draws.
    """

    def __init__(self, target: str, profile: NetworkProfile, seed: int = 0) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host.strip("[]"), int(port)
        self.profile = profile
        self._seeds = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._address = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._directions = _Direction(profile), _Direction(profile)
        self._open = asyncio.Event()
        self._open.set()

    @property
    def address(self) -> str:
        """Where robots connect, as tcp://127.0.0.1:PORT; empty until the network has started."""
        return self._address

    @property
    def carried_bytes(self) -> tuple[int, int]:
        """How many bytes arrived at the server, and at robots."""
        to_server, to_robots = self._directions
        return to_server.carried_bytes, to_robots.carried_bytes

    async def __aenter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)  # accepted ones inherit it
        self._address = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        self._server = await asyncio.start_server(self._carry, sock=listener, limit=_READ_BYTES)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """Lets nothing through until `mend`; connections stand, and what was sent arrives afterwards."""
        self._open.clear()

    def mend(self) -> None:
        """Ends a cut."""
        self._open.set()

    def reset_connections(self) -> None:
        """Resets every connection at both ends, as a router does that has lost its table."""
        for writer in self._writers:
            if writer.transport.is_closing():
                continue
            connected: socket.socket = writer.get_extra_info("socket")
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _carry(self, robot: asyncio.StreamReader, to_robot: asyncio.StreamWriter) -> None:
        """Carries one connection until either end has closed it, or the network ends."""
        with contextlib.suppress(asyncio.CancelledError):  # asyncio would log it
            await self._carry_on(robot, to_robot)

    async def _carry_on(self, robot: asyncio.StreamReader, to_robot: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        seeds = [self._seeds.random() for _ in self._directions]
        writers = [to_robot]
        try:
            server, to_server = await self._reach()
            writers.append(to_server)
            # asyncio does so for sockets that it has made itself only.
            to_robot.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._writers.update(writers)
            ways = zip((robot, server), (to_server, to_robot), self._directions, seeds, strict=True)
            async with asyncio.TaskGroup() as group:
                for reader, writer, direction, seed in ways:
                    group.create_task(self._carry_one_way(reader, writer, direction, random.Random(seed)))
        except* OSError:
            pass  # one end has gone, and by closing both the other learns of it
        finally:
            self._connections.discard(task)
            self._writers.difference_update(writers)
            for writer in writers:
                writer.close()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connects to the target; what answers are not taken yet stays with it, as observations do with the robot."""
        family = socket.AF_INET6 if ":" in self._target[0] else socket.AF_INET
        connecting = socket.socket(family, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            connecting.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SOCKET_BUFFER_BYTES)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(connecting, self._target)
        except BaseException:
            connecting.close()
            raise
        return await asyncio.open_connection(sock=connecting, limit=_READ_BYTES)

    async def _carry_one_way(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: _Direction, draws: random.Random
    ) -> None:
        writer.transport.set_write_buffer_limits(0)
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        async def deliver() -> None:
            while True:
                at, data = await under_way.get()
                await asyncio.sleep(at - loop.time())
                await self._open.wait()
                if not data:
                    writer.write_eof()
                    return
                writer.write(data)
                await writer.drain()
                direction.carried_bytes += len(data)

        async def accept() -> None:
            arrives_at = 0.0
            while True:
                data = await reader.read(SEGMENT_BYTES if direction.is_slow else _READ_BYTES)
                now = loop.time()
                leaves_at = direction.leaves_at(len(data), now)
                # TCP keeps order: what is early waits for what is late.
                arrives_at = max(arrives_at, leaves_at + self.profile.delay_s(len(data), draws))
                under_way.put_nowait((arrives_at, data))
                if not data:
                    return
                # The network's own queue is full: the sender's system keeps the rest.
                await asyncio.sleep(leaves_at - now - self.profile.queue_ms / 1e3)

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            group.create_task(accept())
