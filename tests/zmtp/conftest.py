"""Two connected sockets, and a stream on one of them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from inferential.zmtp import Stream


@pytest.fixture(params=["ipc", "tcp"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends; the second one blocks, for a test to read and write it."""
    if request.param == "ipc":
        ends = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            first = socket.create_connection(listener.getsockname())
            ends = first, listener.accept()[0]
    ends[1].settimeout(10)
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def make_stream() -> Iterator[Callable[..., Stream]]:
    """`make_stream(socket, b"ROUTER")`: closed after the test."""
    made: list[Stream] = []

    def make(end: socket.socket, socket_type: bytes = b"ROUTER", **told: object) -> Stream:
        made.append(Stream(end, socket_type, **told))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stream in made:
        stream.close()
