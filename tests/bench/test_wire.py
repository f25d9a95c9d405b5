"""Raw connections of loads: what they read."""

from __future__ import annotations

import socket
import threading

import pytest
from bench.overload.wire import GREETING, connect, message, ready


@pytest.mark.parametrize("identity", [b"server", b"s" * 250], ids=["in a short frame", "in a long frame"])
def test_what_comes_with_the_end_of_the_handshake_is_left_to_be_read(identity: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            accepted, _ = listening.accept()
            with accepted:
                accepted.sendall(GREETING + ready(identity) + message(b"", b"owed"))
                accepted.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        connected, frames = connect(f"tcp://127.0.0.1:{listening.getsockname()[1]}", b"arm", 60.0)
        found: list[object] = []
        while not found and (piece := connected.recv(100)):
            found = list(frames.feed(piece))
        assert found == [[b"", b"owed"]]
        connected.close()
        thread.join()
