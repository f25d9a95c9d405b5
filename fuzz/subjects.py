"""Reads bytes with what the package has, and returns what came out as plain values that can be compared.

Names of the package appear here and nowhere else in `fuzz`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import numpy as np
from google.protobuf.message import DecodeError

from inferential.config import InferentialConfig
from inferential.errors import InvalidObservation
from inferential.gateway.act_messages import read as read_act
from inferential.gateway.gr00t_messages import unpack as gr00t_unpack
from inferential.gateway.kserve.messages import message_class
from inferential.gateway.kserve.rpc_tensors import asked_of
from inferential.gateway.lerobot.pickles import read as read_pickle
from inferential.gateway.lerobot.records import instructions_of
from inferential.gateway.lerobot.records import observation_of as lerobot_observation_of
from inferential.observation import ObservationAssembler
from inferential.observation.slots import ObservationError
from inferential.observation.values import read_slots, to_values
from inferential.proto import ModelResponse
from inferential.proto.cache.response_reader import ResponseReader
from inferential.proto.messages import Response, read_response
from inferential.proto.msgpack_numpy import pack, unpack
from inferential.proto.open_inference import read_infer
from inferential.proto.structure import STRUCTURE_KEY, flatten, restore
from inferential.proto.value_limits import check_protobuf
from inferential.zmtp import curve
from inferential.zmtp.boxes import BoxWire
from inferential.zmtp.protocol import ConnectionEnded, Discarded, ProtocolError
from inferential.zmtp.reader import Reader
from inferential.zmtp.stream import Stream

NOW_NS = 1_900_000_000_000_000_000
Events = list[Any]
Pair = tuple[bytes, bytes]


# ZMTP


def _ending(error: Exception) -> str:
    """Returns an error without the hint at what else a peer speaks, which depends on how many bytes have come."""
    text, mark, _ = f"error: {error}".partition("(ZeroMQ's protocol)")
    return text + mark


def feed(reader: Any, piece: bytes) -> Iterator[None]:
    """Gives bytes to a reader of frames as a stream does; yields after each part, when it may have something."""
    while piece:
        if reader.space is not None:
            size = min(len(piece), len(reader.space))
            reader.space[:size] = piece[:size]
            reader.filled(size)
        else:
            size = len(piece)
            reader.feed(piece)
        piece = piece[size:]
        yield


def zmtp_events(pieces: Sequence[bytes], max_frame_bytes: int, max_frames: int) -> Events:
    """Returns messages and commands that come out of these pieces; the text of an error is the last."""
    reader = Reader(max_frame_bytes, max_frames)
    events: Events = []
    try:
        for piece in pieces:
            for _ in feed(reader, piece):
                while (found := reader.next()) is not None:
                    _note(found, events)
    except ProtocolError as error:
        events.append(_ending(error))
    return events


def zmtp_conversation(pieces: Sequence[bytes]) -> tuple[Events, bytes]:
    """Returns what a listening socket makes of a peer that says this, and what it answers."""
    ours, theirs = socket.socketpair()
    events: Events = []
    theirs.settimeout(5)
    with contextlib.closing(Stream(ours, b"ROUTER", b"", 4096, 3)) as stream, theirs:
        try:
            shaken = False
            for piece in pieces:
                theirs.sendall(piece)
                if not shaken and (shaken := stream.handshake()):
                    other = stream.peer
                    assert other is not None
                    events.append((other.socket_type, other.identity))
                while shaken and (found := stream.receive()) is not None:
                    _note(found, events)
        except ConnectionEnded as error:
            events.append(_ending(error))
        theirs.setblocking(False)
        answered = b""
        with contextlib.suppress(BlockingIOError):
            answered = theirs.recv(1 << 20)
    return events, answered


def _deterministic(seed: int) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    return random.Random(seed).randbytes


_SERVER, _CLIENT = curve.key_pair(_deterministic(1)), curve.key_pair(_deterministic(2))


def curve_conversation(kind: int, at: int, noise: bytes) -> None:
    """Says a handshake to a server, one command of which is spoilt; raises AssertionError if it is let in by that."""

    def authorize(key: bytes) -> None:
        assert key == _CLIENT.public, "a client was let in with a key that it does not hold"

    server = curve.CurveServer(_SERVER, b"", _deterministic(3), authorize)
    client = curve.CurveClient(_CLIENT, _SERVER.public, b"Socket-Type", _deterministic(4))
    spoil = at % 2
    welcome = b""
    try:
        for number in range(2):
            command = client.hello() if number == 0 else client.receive(welcome)
            assert command is not None
            said = _spoilt(command, kind, noise) if number == spoil else command
            welcome = server.receive(said)
            # HELLO has 72 bytes of padding, which carry nothing.
            same = said == command or (number == 0 and said[:8] + said[80:] == command[:8] + command[80:])
            assert same, f"a spoilt command {number} was taken: {said!r}"
    except ProtocolError:
        assert server.session is None


def _spoilt(command: bytes, kind: int, noise: bytes) -> bytes:
    at = int.from_bytes(noise[:2], "big") % (len(command) + 1)
    if kind % 4 == 0:
        return noise
    if kind % 4 == 1:
        return command[:at]
    if kind % 4 == 2:
        return command + noise
    return command[:at] + noise[2:] + command[at + len(noise[2:]) :]


def box_events(pieces: Sequence[bytes]) -> Events:
    """Returns what a connection with keys makes of these pieces after a true message; the text of an error is last."""
    shared = bytes(range(32))
    to_server, to_client = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"
    wire = BoxWire(curve.Session(shared, to_client, to_server, 1, 1), 4096, 3)
    robot = BoxWire(curve.Session(shared, to_server, to_client, 1, 1), None, 3)
    true = b"".join(bytes(part) for part in robot.message((b"", b"envelope", b"payload"), 0))
    events: Events = []
    try:
        for piece in (true, *pieces):
            rest = piece
            while rest:
                space = wire.reader.space
                if space is not None:
                    size = min(len(rest), len(space))
                    space[:size] = rest[:size]
                    wire.reader.filled(size)
                else:
                    size = len(rest)
                    wire.reader.feed(rest)
                rest = rest[size:]
                while (found := wire.reader.next()) is not None:
                    _note(found, events)
    except ProtocolError as error:
        events.append(_ending(error))
    assert events[0] == [b"", b"envelope", b"payload"]
    return events


def _note(found: Any, events: Events) -> None:
    if found is not Discarded.PART:  # how many there are depends on how much comes at once
        events.append([bytes(one) for one in found] if isinstance(found, list) else found)


# Observations and responses


class Observations:
    """Decodes observations one after another, remembering what it may."""

    def __init__(self) -> None:
        self._assembler = ObservationAssembler(InferentialConfig().observations)

    def decode(self, envelope: bytes, payload: bytes) -> Any:
        """Returns the fields of the observation and the values that a model sees, or the text of the refusal."""
        try:
            decoded = self._assembler.decode(envelope, payload, 1.0)
        except ObservationError as error:
            return (error.reason, error.client_id, error.model_id, error.request_id, error.protocol_version)
        fields = {one.name: getattr(decoded, one.name) for one in dataclasses.fields(decoded)}
        try:
            values = _plain(to_values(decoded.slots, decoded.metadata, payload))
        except ObservationError as error:
            values = error.reason
        with contextlib.suppress(ObservationError):
            read_slots(envelope, len(payload))
        return fields, values


@contextlib.contextmanager
def wall_clock_stopped() -> Iterator[None]:
    """Stops the wall clock, which staleness is measured by."""
    with mock.patch.object(time, "time_ns", return_value=NOW_NS):
        yield


class Responses:
    """Reads the responses of one connection, remembering what it may."""

    def __init__(self) -> None:
        self._reader = ResponseReader()

    def read(self, envelope: bytes, payload: bytes) -> Any:
        """Returns what the response says, or "error"."""
        return _response(self._reader.read, envelope, payload)


def response_read_slowly(envelope: bytes, payload: bytes) -> Any:
    """Returns the same with nothing remembered."""
    return _response(read_response, envelope, payload)


def _response(read: Any, envelope: bytes, payload: bytes) -> Any:
    try:
        response: Response = read(envelope, payload)
    except ValueError:
        return "error"
    reported: ModelResponse = response.message
    names = ("request_id", "response_id", "timestamp_ns", "status", "reason", "serve_interval_ms")
    fields = {name: repr(getattr(reported, name)) for name in names}
    fields["inference_latency_ms"] = repr(reported.inference_latency_ms)
    return fields, response.model_id, response.model_version, repr(response.timing), _plain(response.values)


# Gateways


def openpi_message(data: bytes) -> Any:
    """Returns what an openpi robot said, None where it is no message; checks that it can be written and read again."""
    try:
        value = unpack(data)
    except ValueError:
        return None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        again = unpack(pack(value))
        assert _plain(again) == _plain(value), (again, value)
    return value


def gr00t_message(data: bytes) -> Any:
    """Returns what a GR00T robot said, None where it is no message."""
    try:
        return gr00t_unpack(data)[0]
    except ValueError:
        return None


def act_message(data: bytes) -> Any:
    """Returns what a client of POST /act said, None where it is no message."""
    try:
        return read_act(data, ()).observation
    except ValueError:
        return None


def kserve_message(data: bytes, header_length: int | None) -> Any:
    """Returns the tensors and the other values of a KServe request over HTTP, None where it is none."""
    try:
        message = read_infer(data, header_length, "inputs")
    except ValueError:
        return None
    return {**message.fields, "tensors": dict(message.tensors)}


def kserve_rpc_message(data: bytes) -> Any:
    """Returns the tensors of a KServe request over gRPC, None where it is none."""
    kind = message_class("ModelInferRequest")
    try:
        check_protobuf(data, kind.DESCRIPTOR)
        return dict(asked_of(kind.FromString(data)).tensors)
    except (ValueError, DecodeError, InvalidObservation):
        return None


def lerobot_message(data: bytes) -> Any:
    """Returns what a robot of LeRobot said, None where it is no message or one that the gateway refuses."""
    try:
        value = read_pickle(data)
        with contextlib.suppress(ValueError):
            instructions_of(value)
        return dict(lerobot_observation_of(value).values)
    except ValueError:
        return None


def observation_of(value: Any) -> dict[str, Any] | None:
    """Returns the arrays and strings of a gateway's observation; None where it is refused.

    Checks that the model is given what the robot sent.
    """
    if not isinstance(value, dict):
        return None
    try:
        values, structure = flatten(value)
    except (TypeError, ValueError):
        return None
    again = restore({**values, STRUCTURE_KEY: structure})
    assert _plain(again) == _plain(value), (again, value)
    return values


def structure_of(text: str, values: dict[str, Any]) -> None:
    """Reads a description of nested values that a peer wrote; only a ValueError may come of it."""
    with contextlib.suppress(ValueError):
        restore({**values, STRUCTURE_KEY: text})


def _plain(value: Any) -> Any:
    """Returns the value with arrays as bytes, so that it can be compared, be it not a number."""
    if isinstance(value, dict):
        return {(type(key).__name__, repr(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.ndarray | np.generic):
        return (str(value.dtype), value.shape, value.tobytes())
    return repr(value) if isinstance(value, float) else value
