"""pyzmq alone: DEALER to ROUTER, the frames of our wire, nothing in them read.

And the same with a process behind it, which is sent the place of each observation and answers: what no server with
models in processes of their own can do without.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any

import zmq

ENVELOPE_BYTES = 120  # of a usual observation
ACTION_BYTES = 64
PLACE_BYTES = 16  # where a payload lies that was received into shared memory
ROWS = 8  # that go over together


def version() -> str:
    """Of pyzmq and libzmq."""
    return f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}"


def serve(ready: Callable[[str], None], kind: str = "alone") -> None:
    """Echoes until standard input ends; `process`: by way of another process."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    if kind == "process":
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        multiprocessing.get_context("fork").Process(target=_work, args=(theirs,), daemon=True).start()
        target, args = _echo_through, (socket, ours)
    else:
        target, args = _echo, (socket,)
    threading.Thread(target=target, args=args, daemon=True).start()
    ready(f"tcp://127.0.0.1:{port}")
    sys.stdin.read()


def _echo(socket: zmq.Socket[bytes]) -> None:
    envelope, action = bytes(ENVELOPE_BYTES), bytes(ACTION_BYTES)
    while True:
        identity, *_ = socket.recv_multipart(copy=False)
        socket.send_multipart((identity, b"", envelope, action))


def _echo_through(socket: zmq.Socket[bytes], worker: Pipe) -> None:
    """The same; what waits goes over together, as the places of what was received, and comes back as actions."""
    envelope = bytes(ENVELOPE_BYTES)
    while True:
        identities = [socket.recv_multipart(copy=False)[0]]
        with contextlib.suppress(zmq.Again):
            while len(identities) < ROWS:
                identities.append(socket.recv_multipart(zmq.NOBLOCK, copy=False)[0])
        worker.send_bytes(bytes(PLACE_BYTES * len(identities)))
        actions = worker.recv_bytes()
        for number, identity in enumerate(identities):
            action = actions[number * ACTION_BYTES : (number + 1) * ACTION_BYTES]
            socket.send_multipart((identity, b"", envelope, action))


def _work(pipe: Pipe) -> None:
    while True:
        rows = len(pipe.recv_bytes()) // PLACE_BYTES
        pipe.send_bytes(bytes(ACTION_BYTES * rows))


def client(address: str, observation: dict[str, Any]) -> Callable[[], Any]:
    """Sends the arrays' own memory, a frame each, and waits."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.connect(address)
    frames = [b"", bytes(ENVELOPE_BYTES), *(array.data.cast("B") for array in map(_flat, observation.values()))]
    copy = sum(map(len, frames)) < 256 * 1024

    def ask() -> Any:
        socket.send_multipart(frames, copy=copy)
        return socket.recv_multipart(copy=False)

    return ask


def _flat(array: Any) -> Any:
    return array.reshape(-1)
