"""What goes wrong in a soak: each fault takes a few seconds at most, and harms no other client."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import time
from collections.abc import Callable

import psutil

from bench.overload.wire import GREETING, PAYLOAD, Observations, address_of, connect, frame, message, ready

Fault = Callable[[random.Random, dict[str, str], psutil.Process], None]
_HOLD_S = 2.0
_FLOOD_S, _FLOOD_HZ = 1.0, 5000
_PAUSES_S = (0.05, 0.3, 0.8)


def _name(rng: random.Random) -> str:
    return f"fault-{rng.randrange(100)}"  # few names: they come again


def _observed(rng: random.Random, name: str, count: int, model_id: str = "batch") -> bytes:
    messages = Observations(name, model_id, rng.choice(("latest", "all")), rng.choice((0, 2)))
    return b"".join(messages.message(number + 1, time.time_ns()) for number in range(count))


def reset(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Asks, and ends the connection by RST."""
    name = _name(rng)
    opened, _ = connect(places["address"], name.encode())
    opened.sendall(_observed(rng, name, rng.randint(1, 30)))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    opened.close()


def half_frame(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Sends part of a large frame, waits, and goes."""
    name = _name(rng)
    opened, _ = connect(places["address"], name.encode())
    with opened:
        whole = message(b"", Observations(name, "batch").envelope(1, time.time_ns()), bytes(rng.randint(1000, 1 << 20)))
        opened.sendall(whole[: rng.randint(1, len(whole) - 1)])
        time.sleep(rng.random() * _HOLD_S)


def half_greeting(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Sends part of a handshake, waits, and goes."""
    with socket.create_connection(address_of(places["address"]), 10) as opened:
        whole = GREETING + ready(_name(rng).encode())
        opened.sendall(whole[: rng.randint(0, len(whole) - 1)])
        time.sleep(rng.random() * _HOLD_S)


def strangers(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Opens many connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(rng.randint(5, 40)):
            stack.enter_context(socket.create_connection(address_of(places["address"]), 10))
        time.sleep(rng.random() * _HOLD_S)


def same_id(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Connects twice under one id, and asks on both."""
    name = _name(rng)
    first, _ = connect(places["address"], name.encode())
    with first:
        first.sendall(_observed(rng, name, 5))
        with contextlib.suppress(OSError):
            second, _ = connect(places["address"], name.encode())
            with second:
                second.sendall(_observed(rng, name, 5))
                time.sleep(rng.random() * 0.5)


def flood(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Sends far more than can be answered, and reads what comes."""
    name = _name(rng)
    opened, _ = connect(places["address"], name.encode())
    with opened:
        opened.setblocking(False)
        until = time.monotonic() + _FLOOD_S
        rest = b""
        while time.monotonic() < until:
            rest = rest or _observed(rng, name, _FLOOD_HZ // 50)
            with contextlib.suppress(BlockingIOError):
                rest = rest[opened.send(rest) :]
            with contextlib.suppress(BlockingIOError):
                opened.recv(1 << 20)
            time.sleep(0.02)


def unread(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Asks a lot and reads nothing."""
    name = _name(rng)
    opened, _ = connect(places["address"], name.encode())
    with opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.settimeout(_HOLD_S)
        with contextlib.suppress(OSError):
            opened.sendall(_observed(rng, name, 1000, "quick"))
        time.sleep(rng.random() * _HOLD_S)


def malformed(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Sends messages that are none, one after another, until the server ends the connection or all are sent."""
    name = _name(rng)
    opened, _ = connect(places["address"], name.encode())
    good = Observations(name, "batch").envelope(1, time.time_ns())
    noise = rng.randbytes(rng.randint(1, 400))
    messages = [
        message(b"", noise, PAYLOAD),
        message(good, PAYLOAD),
        message(b"", good),
        message(b"", good, PAYLOAD, b"more", b"and more"),
        message(b"", good, b""),
        message(b"", Observations("other-client", "batch").envelope(2, time.time_ns()), PAYLOAD),
        message(b"", Observations(name, "no such model").envelope(3, time.time_ns()), PAYLOAD),
        message(b"", Observations(name, "batch").envelope(4, 2**62), PAYLOAD),
        frame(b"\4PING\0\0" + noise[:16], 4) * 10,
        noise,
    ]
    rng.shuffle(messages)
    with opened, contextlib.suppress(OSError):
        for one in messages:
            opened.sendall(one)
        opened.settimeout(0.5)
        opened.recv(1 << 16)


def noise(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Says nonsense to a port, or something meant for another one."""
    place = places[rng.choice(("address", "page", "openpi", "gr00t"))]
    words = (rng.randbytes(200), b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", GREETING, b"GET / HTTP/1.1\r\nHo")
    with socket.create_connection(address_of(place.partition("://")[2]), 10) as opened, contextlib.suppress(OSError):
        opened.sendall(rng.choice(words))
        opened.settimeout(0.5)
        opened.recv(1 << 16)


def pause(rng: random.Random, places: dict[str, str], server: psutil.Process) -> None:
    """Stops the server's process for a moment, as a machine that swaps or a debugger does."""
    server.send_signal(signal.SIGSTOP)
    try:
        time.sleep(rng.choice(_PAUSES_S))
    finally:
        server.send_signal(signal.SIGCONT)


FAULTS: dict[Fault, int] = {
    reset: 4,
    half_frame: 3,
    half_greeting: 2,
    strangers: 2,
    same_id: 3,
    flood: 2,
    unread: 2,
    malformed: 4,
    noise: 3,
    pause: 1,
}
"""How often each comes, in proportion."""
