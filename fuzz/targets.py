"""The targets: each takes bytes, and raises where the package does what it should not with them.

The first bytes of an input choose limits and cuts, the rest is what comes from outside; `seeds` writes inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from fuzz import listening, subjects

_FRAME_LIMITS = (0, 254, 255, 256, 2048, 4096, 1 << 20)
_NO_LENGTH = 0xFFFF
_LONGEST = 6000  # of what is read byte by byte
_MOST_BYTES_A_BYTE = 64  # of arrays, for each byte of a message


def zmtp_reader(data: bytes) -> None:
    """The reader gives the same from the whole input, from every byte by itself, and from pieces."""
    if len(data) < 4:
        return
    max_frames, limit = 1 + data[0] % 4, _FRAME_LIMITS[data[1] % len(_FRAME_LIMITS)]
    rest = data[4 : 4 + _LONGEST]
    whole = subjects.zmtp_events([rest], limit, max_frames)
    for name, pieces in _cut(rest, data[2], data[3]):
        result = subjects.zmtp_events(pieces, limit, max_frames)
        assert result == whole, f"{name}: {result} instead of {whole}"


def zmtp_handshake(data: bytes) -> None:
    """A connection is greeted, understood and answered the same, however its bytes come."""
    if len(data) < 2:
        return
    rest = data[2 : 2 + 2000]
    whole, answered = subjects.zmtp_conversation([rest])
    for name, pieces in _cut(rest, data[0], data[1]):
        result, answer = subjects.zmtp_conversation(pieces)
        assert result == whole, f"{name}: {result} instead of {whole}"
        if not (whole and isinstance(whole[-1], str)):  # after an error, answers may have gone or not
            assert answer == answered, f"{name}: {answer!r} instead of {answered!r}"


def curve_handshake(data: bytes) -> None:
    """A server with keys is not led astray by commands that were changed, cut, repeated or left out."""
    if len(data) >= 2:
        subjects.curve_conversation(data[0], data[1], data[2 : 2 + 2000])


def curve_boxes(data: bytes) -> None:
    """What is no box of the connection gives no message, however its bytes come, and ends in a ProtocolError."""
    if len(data) < 2:
        return
    rest = data[2 : 2 + _LONGEST]
    whole = subjects.box_events([rest])
    for name, pieces in _cut(rest, data[0], data[1]):
        parted = subjects.box_events(pieces)
        assert parted == whole, f"{name}: {parted} instead of {whole}"


def _cut(data: bytes, first: int, step: int) -> Iterator[tuple[str, list[bytes]]]:
    yield "byte by byte", [data[at : at + 1] for at in range(len(data))]
    step = 1 + step * 9
    edges = [0, *range(min(first, len(data)), len(data), step), len(data)]
    yield f"in pieces of {step}", [data[a:b] for a, b in pairwise(edges)]


def observation(data: bytes) -> None:
    """Observations are decoded, or refused, the same whether or not others of their kind came before."""
    with subjects.wall_clock_stopped():
        remembering = subjects.Observations()
        for envelope, payload in _pairs(data):
            result, fresh = remembering.decode(envelope, payload), subjects.Observations().decode(envelope, payload)
            assert result == fresh, f"remembered: {result} instead of {fresh}"


def response(data: bytes) -> None:
    """Responses are read the same whether or not others of their kind came before."""
    remembering = subjects.Responses()
    for envelope, payload in _pairs(data):
        result, fresh = remembering.read(envelope, payload), subjects.response_read_slowly(envelope, payload)
        assert result == fresh, f"remembered: {result} instead of {fresh}"


def _pairs(data: bytes) -> Iterator[subjects.Pair]:
    """Splits an input into envelopes, each with its size before it in two bytes, and payloads of that many zeros."""
    at = 0
    while at + 4 <= len(data):
        size, payload = int.from_bytes(data[at : at + 2]), int.from_bytes(data[at + 2 : at + 4])
        yield data[at + 4 : at + 4 + size], bytes(payload % 8192)
        at += 4 + size


def openpi_message(data: bytes) -> None:
    """What an openpi robot sends is a value or a ValueError, and takes no more memory than its size allows."""
    _check_value(subjects.openpi_message(data), data)


def gr00t_message(data: bytes) -> None:
    """The same of a GR00T robot."""
    _check_value(subjects.gr00t_message(data), data)


def act_message(data: bytes) -> None:
    """The same of a client of POST /act."""
    _check_value(subjects.act_message(data), data)


def kserve_message(data: bytes) -> None:
    """The same of a client of KServe's protocol over HTTP; the first two bytes are the length of the JSON, or none."""
    length = int.from_bytes(data[:2])
    _check_value(subjects.kserve_message(data[2:], None if length == _NO_LENGTH else length), data)


def kserve_rpc_message(data: bytes) -> None:
    """The same over gRPC."""
    _check_value(subjects.kserve_rpc_message(data), data)


def lerobot_message(data: bytes) -> None:
    """The same of a robot of LeRobot."""
    _check_value(subjects.lerobot_message(data), data)


def structure(data: bytes) -> None:
    """A description of nested values is read, or refused by a ValueError."""
    values = {"a": np.arange(3.0), "b": np.float32(2).reshape(()), "bytes": np.zeros(4, np.uint8), "text": "pick"}
    subjects.structure_of(data.decode(errors="replace"), values)


def _check_value(value: Any, data: bytes) -> None:
    size = sum(_bytes_of(value))
    assert size <= _MOST_BYTES_A_BYTE * len(data), f"{len(data)} bytes became {size}"
    for one in (subjects.observation_of(value) or {}).values():
        assert isinstance(one, np.ndarray | str), f"{type(one)} in an observation"


def _bytes_of(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _bytes_of(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _bytes_of(one)
    elif isinstance(value, np.ndarray):
        yield value.nbytes
    else:
        assert value is None or isinstance(value, bool | int | float | str | bytes | np.generic) or _is_plain(value), (
            f"a {type(value)} came out of a message"
        )


def _is_plain(value: Any) -> bool:
    return type(value).__module__.startswith("msgpack")  # extension types and timestamps


def http_page(data: bytes) -> None:
    """Whatever is said to the page's port, the server serves on and logs no failure."""
    listening.say("page", data)


def http_openpi(data: bytes) -> None:
    """Whatever is said to the openpi gateway's port, the server serves on and logs no failure."""
    listening.say("openpi", data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        zmtp_reader,
        zmtp_handshake,
        curve_handshake,
        curve_boxes,
        observation,
        response,
        openpi_message,
        gr00t_message,
        act_message,
        kserve_message,
        kserve_rpc_message,
        lerobot_message,
        structure,
        http_page,
        http_openpi,
    )
}
"""By name, which is that of their folder in `corpus`."""
