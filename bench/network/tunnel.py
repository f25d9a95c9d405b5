"""A network of IP packets between a robot and a server, so that the system's own TCP meets delay, loss and cuts.

Robot and server each have a network namespace with one TUN device; what one sends, this process reads, delays, loses,
and writes to the other. It needs Linux, and the right to make both (CAP_NET_ADMIN and CAP_SYS_ADMIN, as root has).
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from inferential.sim.network import NetworkProfile

ROBOT, SERVER = "10.9.0.1", "10.9.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
_READS = 64  # packets of one side, before the other has its turn
_LONGEST_WAIT_S = 0.05
T = TypeVar("T")


def is_available() -> bool:
    """Returns whether this machine lets this process make such a network."""
    if sys.platform != "linux" or not os.access("/dev/net/tun", os.W_OK):
        return False
    found: list[bool] = []

    def attempt() -> None:
        try:
            _unshare()
            os.close(_device(ROBOT))
        except (OSError, subprocess.CalledProcessError):
            return
        found.append(True)

    _in_thread(attempt)
    return bool(found)


class Tunnel:
    """The network; `with` makes it.

    Args:
        profile: what happens to packets; a lost one is lost.
        seed: of all draws.
    """

    def __init__(self, profile: NetworkProfile, seed: int = 0) -> None:
        self._profile = profile
        self._random = random.Random(seed)
        self._open = True
        self._ends = False
        self._devices: list[int] = []
        self._namespaces: list[int] = []

    def __enter__(self) -> Self:
        _in_thread(self._make)
        self._carrying = threading.Thread(target=self._carry, name="tunnel", daemon=True)
        self._carrying.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends = True
        self._carrying.join()
        for fd in (*self._devices, *self._namespaces):
            os.close(fd)

    def cut(self) -> None:
        """Loses every packet until `mend`."""
        self._open = False

    def mend(self) -> None:
        """Ends a cut."""
        self._open = True

    @contextmanager
    def server_side(self, serving: Callable[[], AbstractAsyncContextManager[str]]) -> Iterator[str]:
        """Runs a server in a thread of its side; yields what `serving` yields."""
        loop, ready, ends = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
        found: list[str] = []

        async def serve() -> None:
            async with serving() as address:
                found.append(address)
                ready.set()
                await ends.wait()

        def run() -> None:
            _enter(self._namespaces[1])
            try:
                loop.run_until_complete(serve())
            finally:
                ready.set()

        thread = threading.Thread(target=run, name="server side")
        thread.start()
        ready.wait()
        try:
            yield found[0]
        finally:
            loop.call_soon_threadsafe(ends.set)
            thread.join()

    def on_robot(self, function: Callable[[], T]) -> T:
        """Runs a function in a thread of the robot's side, and returns what it returns."""
        return _in_thread(lambda: (_enter(self._namespaces[0]), function())[1])

    def _make(self) -> None:
        for address in (ROBOT, SERVER):
            _unshare()
            self._namespaces.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
            self._devices.append(_device(address))

    def _carry(self) -> None:
        robot, server = self._devices
        other, profile = {robot: server, server: robot}, self._profile
        free_at, last_at = dict.fromkeys(other, 0.0), dict.fromkeys(other, 0.0)
        under_way: list[tuple[float, int, int, bytes]] = []
        count = 0
        while not self._ends:
            wait_s = under_way[0][0] - time.monotonic() if under_way else _LONGEST_WAIT_S
            readable, _, _ = select.select(list(other), [], [], min(max(wait_s, 0.0), _LONGEST_WAIT_S))
            for device in readable:
                for packet in _packets(device):
                    if not self._open or self._random.random() < profile.loss:
                        continue
                    at = now = time.monotonic()
                    if profile.rate_bytes_s is not None:
                        at = max(free_at[device], now)
                        if at - now > profile.queue_ms / 1e3:
                            continue  # the queue is full
                        at = free_at[device] = at + len(packet) / profile.rate_bytes_s
                    at += (profile.rtt_ms + self._random.uniform(-profile.jitter_ms, profile.jitter_ms)) / 2e3
                    at = last_at[device] = max(at, last_at[device])  # a wireless link keeps the order
                    count += 1
                    heapq.heappush(under_way, (at, count, other[device], packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, _, device, packet = heapq.heappop(under_way)
                if self._open:
                    os.write(device, packet)


def _packets(device: int) -> Iterator[bytes]:
    for _ in range(_READS):
        try:
            yield os.read(device, 65_536)
        except BlockingIOError:
            return


def _in_thread(function: Callable[[], T]) -> T:
    """Runs a function in a thread, whose namespaces end with it."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append((function(), None))
        except BaseException as error:
            found.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = found[0]
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def _unshare() -> None:
    _check(_libc().unshare(_CLONE_NEWNET))


def _enter(namespace: int) -> None:
    _check(_libc().setns(namespace, _CLONE_NEWNET))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _device(address: str) -> int:
    """Returns a TUN device of the thread's namespace with an address."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tun0", _IFF_TUN | _IFF_NO_PI))
    for command in (f"ip addr add {address}/24 dev tun0", "ip link set lo up", "ip link set tun0 up txqueuelen 2000"):
        subprocess.run(command.split(), check=True)
    return device
