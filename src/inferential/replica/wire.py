"""Calls between a server and a replica: what their frames mean.

No I/O: over ZeroMQ (`zmq_socket.py`) frames travel to replicas on Ray, over a stream (`stream.py`) to worker processes.

Frames, beside the identity that ROUTER puts in front; a call number is 8 bytes, 0 where it is about no call:

    to the replica    0, HELLO, JSON of an `Offer` of shared memory or nothing
                      0, PREPARE, JSON of a part of that: to a worker process in waiting, which imports its modules
                      number, CALL, a head, then for each row: the observation's envelope and payload, as the robot
                      sent them; nothing where the head tells the payload's place in shared memory
                      0, SESSIONS, JSON of the rows of the next call: client id and type, episode and its key; to a
                      worker process with a model that keeps state
                      0, GONE, client ids, one a line: their sessions end
    to the server     0, HELLO, JSON of a `Greeting`
                      number, RESULT, model version (of a model that keeps state then a zero byte, and for each row 1
                      where its session began with it, else 0), then for each row: a `ModelResponse` and its payload;
                      last, where there are any, the places in shared memory that are free again
                      0, FREE, such places, or none: it wants to know whether the server is there
                      number, ENDING, nothing: from a worker process: the model ends the call, the next one may be sent
                      number, FAILED, text: the call failed as a whole; from a worker process also where that was
                      raised, and with number 0: the model cannot be loaded
                      0, NOTED, text: from a worker process: what failed beside a call, for the log
                      0, WARMING: from a worker process: the model was made, and runs its warm-up
                      0, GOODBYE: it takes no more calls, and ends those that it has

A call's head is the number of requests that wait on the server (4 bytes), and where shared memory is used, for each
row an offset and a length (8 bytes each), a length of 0 where the payload is a frame. Places are offsets of 8 bytes.
All numbers are little-endian.

So a tensor passes the server without being looked at, and images are decoded where they are needed.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from inferential.errors import InferentialError, InvalidObservation, reason_of, words_of
from inferential.proto import inferential_pb2 as pb
from inferential.proto.messages import put_metadata, read_response, split_values
from inferential.proto.tensors import Buffer, pack
from inferential.replica.outcomes import BY_MODEL, Refused
from inferential.replica.rows import write_refusal
from inferential.replica.shared import Place

HELLO, CALL, RESULT, FAILED, FREE, GOODBYE = b"H", b"C", b"R", b"X", b"F", b"G"
WARMING, SESSIONS, GONE, PREPARE, ENDING, NOTED = b"W", b"S", b"E", b"I", b"D", b"N"
NO_CALL = bytes(8)
_WAITING = struct.Struct("<I")
_NONE_WAIT = bytes(4)


class InvalidRow(InferentialError):
    """An observation cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a replica says of itself.

    Attributes:
        max_batch_size: rows that a call takes.
        max_inflight: calls that it runs at once.
        memory: token of the memory that it shares with the server; "": of none.
        runs_singly: whether the model has no `infer_batch`, so that rows of a call run one after another.
        metadata: what the model says of itself, values that JSON can hold.
        keeps_state: whether the model's methods take the robots' sessions.
        sees_timestamps: whether the model wants to know when its observations were seen.
        measured: rows of a call and its latency in seconds, as its warm-up found them.
    """

    max_batch_size: int
    max_inflight: int
    memory: str = ""
    runs_singly: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    measured: Sequence[tuple[int, float]] = ()
    keeps_state: bool = False
    sees_timestamps: bool = False

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


def write_head(waiting: int, places: Sequence[Place | None]) -> bytes:
    """The head of a call; `places` of its rows' payloads, None where it is a frame."""
    head = _WAITING.pack(min(waiting, 2**32 - 1)) if waiting else _NONE_WAIT
    if not any(places):
        return head
    return head + b"".join(struct.pack("<qq", place.offset, place.length) if place else bytes(16) for place in places)


def read_head(head: Buffer, rows: int) -> tuple[int, list[Place | None]]:
    """What `write_head` was given; ValueError where it is no head of so many rows."""
    if len(head) not in (4, 4 + 16 * rows):
        raise ValueError(f"a head of {len(head)} bytes for {rows} rows")
    (waiting,) = _WAITING.unpack_from(head)
    if len(head) == 4:
        return waiting, [None] * rows
    return waiting, [Place(*numbers) if numbers[1] else None for numbers in struct.iter_unpack("<qq", head[4:])]


def write_offsets(offsets: Sequence[int]) -> bytes:
    """Places that are free again, as a frame."""
    return struct.pack(f"<{len(offsets)}q", *offsets)


def read_offsets(frame: Buffer) -> list[int]:
    """What `write_offsets` was given; ValueError where it is no such frame."""
    try:
        return [offset for (offset,) in struct.iter_unpack("<q", frame)]
    except struct.error as error:
        raise ValueError(f"no offsets: {error}") from error


def write_row(outcome: Any) -> tuple[bytes, Buffer]:
    """Envelope and payload of one row's outcome: values by key, or an exception."""
    if isinstance(outcome, Exception):
        cause = ""
        if isinstance(outcome, InvalidRow):
            status, reason = "INVALID_OBSERVATION", str(outcome)
        elif type(outcome).__name__ == "BatchFailedError":  # of the room above
            status, reason = "BATCH_FAILED", str(outcome)
        elif isinstance(outcome, InvalidObservation):
            status, reason, cause = "INVALID_OBSERVATION", reason_of(outcome), BY_MODEL
        else:
            status, reason = "MODEL_FAILED", words_of(outcome)
        return write_refusal(status, reason, cause=cause), b""
    message = pb.ModelResponse()
    tensors, metadata = split_values(outcome)
    payload = pack(message.tensors, tensors)
    put_metadata(message.metadata, metadata)
    return message.SerializeToString(), payload


def read_row(envelope: Buffer, payload: Buffer) -> dict[str, Any] | Refused:
    """Values of a row, or why it has none; ValueError where it is neither."""
    response = read_response(envelope, payload)
    if response.message.status == pb.OK:
        return response.values
    message = response.message
    return Refused(pb.Status.Name(message.status), message.reason, cause=message.cause)
