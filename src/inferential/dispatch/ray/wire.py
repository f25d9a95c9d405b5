"""Calls between a server and a replica: frames, and sockets that the event loop watches.

Frames, beside the identity that ROUTER puts in front; a call number is 8 bytes, 0 where it is about no call:

    to the replica    number, HELLO, b""
                      number, CALL, requests that wait on the server (4 bytes), then for each row:
                      the observation's envelope and payload, as the robot sent them
    to the server     0, HELLO, JSON of a `Greeting`
                      number, RESULT, model version, then for each row: a `ModelResponse` and its payload
                      0, GOODBYE: it takes no more calls, and ends those that it has

So a tensor passes the server without being looked at, and images are decoded where they are needed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import zmq

from inferential.observation.slots import ObservationError
from inferential.proto import inferential_pb2 as pb
from inferential.proto.messages import put_metadata, read_response, split_values
from inferential.proto.tensors import Buffer, pack

HELLO, CALL, RESULT, GOODBYE = b"H", b"C", b"R", b"G"
NO_CALL = bytes(8)
COPY_LIMIT_BYTES = 256 * 1024  # below it a copy is cheaper than keeping the memory alive until it is sent
_RECEIVE_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a replica says of itself.

    Attributes:
        max_batch_size: rows that a call takes.
        max_inflight: calls that it runs at once.
        model_version: of its model.
    """

    max_batch_size: int
    max_inflight: int
    model_version: str

    def to_bytes(self) -> bytes:
        """As a frame."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, frame: Buffer) -> Greeting:
        """Reads a frame; ValueError where it is none."""
        try:
            return cls(**json.loads(bytes(frame)))
        except TypeError as error:
            raise ValueError(f"no greeting: {error}") from error


class WatchedSocket:
    """A ZeroMQ socket whose messages are handed over by the running event loop.

    Args:
        socket: which; it is closed with this.
        on_message: takes the frames of one message.
    """

    def __init__(self, socket: zmq.Socket[bytes], on_message: Callable[[list[zmq.Frame]], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._looks_again = False
        self._loop.add_reader(self._fd, self._on_readable)
        self._loop.call_soon(self._on_readable)

    def send(self, frames: Sequence[Buffer]) -> None:
        """Hands a message to ZeroMQ; it does not wait.

        Raises:
            OSError: (zmq.ZMQError) nobody is there to take it, or too much waits already.
        """
        last = len(frames) - 1
        try:
            for number, frame in enumerate(frames):
                more = zmq.SNDMORE if number < last else 0
                self._socket.send(frame, zmq.NOBLOCK | more, copy=len(frame) < COPY_LIMIT_BYTES)
        except zmq.ZMQError as error:
            raise OSError(error.errno, error.strerror) from error
        finally:
            self._check_edge()

    def _check_edge(self) -> None:
        """ZeroMQ's descriptor signals edges, and sending may have consumed the one that something came."""
        if self._looks_again or self._socket.closed or not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            return
        self._looks_again = True
        self._loop.call_soon(self._on_readable)

    def drain(self) -> None:
        """Hands over all that has come."""
        while self._hand_over():
            pass

    def _on_readable(self) -> None:
        self._looks_again = False
        for _ in range(_RECEIVE_AT_ONCE):
            if not self._hand_over():
                return
        self._loop.call_soon(self._on_readable)

    def _hand_over(self) -> bool:
        if self._socket.closed:
            return False
        try:
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._on_message(frames)
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Closes the socket; twice is fine."""
        if not self._socket.closed:
            self._loop.remove_reader(self._fd)
            self._socket.close(linger=linger_ms)


def write_row(outcome: Any) -> tuple[bytes, Buffer]:
    """Envelope and payload of one row's outcome: values by key, or an exception."""
    if isinstance(outcome, Exception):
        if isinstance(outcome, ObservationError):
            status, reason = "INVALID_OBSERVATION", outcome.reason
        else:
            status, reason = "MODEL_FAILED", f"{type(outcome).__name__}: {outcome}"
        return pb.ModelResponse(status=status, reason=reason.encode(errors="replace").decode()).SerializeToString(), b""
    message = pb.ModelResponse()
    tensors, metadata = split_values(outcome)
    payload = pack(message.tensors, tensors)
    put_metadata(message.metadata, metadata)
    return message.SerializeToString(), payload


def read_row(envelope: Buffer, payload: Buffer) -> dict[str, Any] | tuple[str, str]:
    """Values of a row, or the name of a status and a reason; ValueError where it is neither."""
    response = read_response(envelope, payload)
    if response.status == pb.OK:
        return response.values
    return pb.Status.Name(response.status), response.reason
