"""A bound transport, and plain DEALER sockets that talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import zmq

from inferential.config import TransportConfig
from inferential.transport import ZmqTransport

Dealer = zmq.Socket[bytes]


@pytest.fixture
async def transport() -> AsyncIterator[ZmqTransport]:
    """On a free port."""
    opened = ZmqTransport(TransportConfig(bind="tcp://127.0.0.1:0"))
    yield opened
    await opened.close()


@pytest.fixture
def dial() -> Iterator[Callable[..., Dealer]]:
    """`dial(address, b"robot")`: a DEALER socket; closed after the test, when all that it sent has left."""
    context: zmq.Context[Dealer] = zmq.Context()
    sockets: list[Dealer] = []

    def dialled(address: str, identity: bytes | None = None, **options: Any) -> Dealer:
        socket = context.socket(zmq.DEALER)
        if identity is not None:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.setsockopt(zmq.RCVTIMEO, 10_000)
        socket.setsockopt(zmq.LINGER, 5_000)
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        socket.connect(address)
        sockets.append(socket)
        return socket

    yield dialled
    for socket in sockets:
        socket.close()
    context.term()
