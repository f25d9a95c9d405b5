"""Two connected sockets, and a stream on one of them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from inferential.zmtp import Stream


def read_exactly(end: socket.socket, size: int) -> bytes:
    """So many bytes of a socket that blocks."""
    data = b""
    while len(data) < size:
        piece = end.recv(size - len(data))
        assert piece
        data += piece
    return data


def fill(fd: int) -> int:
    """Writes to a socket until the system takes no more; returns the number of bytes, which the other end must skip."""
    count = 0
    with socket.socket(fileno=os.dup(fd)) as filler:
        filler.setblocking(False)
        for size in (1_000_000, 100, 1):  # a little may fit where much does not
            full = 0
            while full < 3:  # what the other end's system takes meanwhile makes room again
                try:
                    count += filler.send(bytes(size))
                    full = 0
                except BlockingIOError:
                    full += 1
                    time.sleep(0.005)
    return count


@pytest.fixture(params=["ipc", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends; the second one blocks, for a test to read and write it."""
    if request.param == "ipc":
        ends = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            first = socket.create_connection(listener.getsockname())
            ends = first, listener.accept()[0]
    ends[1].settimeout(60)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def make_stream() -> Iterator[Callable[..., Stream]]:
    """`make_stream(socket, b"ROUTER")`: closed after the test."""
    made: list[Stream] = []

    def make(end: socket.socket, socket_type: bytes = b"ROUTER", **inputs: object) -> Stream:
        made.append(Stream(end, socket_type, **inputs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stream in made:
        stream.close()
