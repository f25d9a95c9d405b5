"""Envelopes that were believed before: most of what a robot says, it says in every observation.

It checks nothing: what it holds was checked when it came first, and what is new is for the assembler to check.

An envelope of this line is a constant part, with the observation's timestamp in each tensor, and then what is new,
beginning with that timestamp (`proto.templates` writes it so). Whoever sends another order of fields is read the long
way each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from google.protobuf.message import DecodeError

from inferential.observation.decoded import DecodedObservation
from inferential.observation.slots import SlotInfo
from inferential.proto import Observation, ObservationNews

_STAMP_BYTES = 9  # of a timestamp as a varint, from 1972 to 2262
_STAMPED = range(2**56, 2**63)  # the timestamps of that length
_LONGEST_BYTES = 2048  # of what is remembered
_STAMP_TAG = 0x10  # field 2, a varint


@dataclass(slots=True)  # not frozen, which would double the time that it takes to make one
class News:
    """What is new in an observation, as of `DecodedObservation`."""

    timestamp_ns: int
    staleness_ms: float
    urgency: float
    priority: int
    steps_remaining: int | None
    metadata: dict[str, str]
    request_id: int


def name_of_sender(envelope: bytes) -> bytes:
    """The bytes that say whose an envelope is: its first field, which is the client where it has one."""
    return envelope[: 2 + envelope[1]] if len(envelope) > 1 else b""


class KnownEnvelope:
    """What stays of a robot's envelopes, and what it says."""

    __slots__ = (
        "_parts",
        "_size",
        "client_id",
        "client_type",
        "control_period_ms",
        "late",
        "latency_budget_ms",
        "model_id",
        "payload_end",
        "policy",
        "protocol_version",
        "queue",
        "slots",
    )

    def __init__(self, parts: list[bytes], size: int, decoded: DecodedObservation) -> None:
        self._parts = parts
        self._size = size
        self.client_id = decoded.client_id
        self.client_type = decoded.client_type
        self.model_id = decoded.model_id
        self.latency_budget_ms = decoded.latency_budget_ms
        self.protocol_version = decoded.protocol_version
        self.queue = decoded.queue
        self.control_period_ms = decoded.control_period_ms
        self.late = decoded.late
        self.slots = [replace(slot, timestamp_ns=0) for slot in decoded.slots]
        """The tensors, whenever they were measured."""
        self.policy: Any = None
        """For whoever reads these observations to keep what follows from what is known."""
        self.payload_end = max((slot.byte_offset + slot.byte_length for slot in decoded.slots), default=0)

    @classmethod
    def of(cls, decoded: DecodedObservation, envelope: bytes) -> Self | None:
        """What stays of an envelope; None where it is not made as those of this line are."""
        timestamp_ns = decoded.timestamp_ns
        if timestamp_ns not in _STAMPED or len(envelope) > _LONGEST_BYTES:
            return None
        stamp = _varint(timestamp_ns)
        if any(slot.timestamp_ns != timestamp_ns for slot in decoded.slots):
            return None
        *parts, rest = envelope.split(stamp)
        if len(parts) != len(decoded.slots) + 1 or parts[-1][-1:] != bytes((_STAMP_TAG,)):
            return None
        parts[-1] = parts[-1][:-1]
        size = len(envelope) - len(rest) - _STAMP_BYTES - 1
        known = cls(parts, size, decoded)
        return known if known._stands_for(envelope, timestamp_ns) and known.news(envelope) is not None else None

    def _stands_for(self, envelope: bytes, timestamp_ns: int) -> bool:
        """Whether what changes with the timestamp are the timestamps and nothing else, such as a text of those bytes,
        and no news stand among what stays.

        Each tensor's timestamp changes, and there are as many stamps as tensors: none is left that is anything else.
        """
        other_ns = timestamp_ns ^ 1
        expected = Observation.FromString(envelope)
        expected.timestamp_ns = other_ns
        for tensor in expected.tensors:
            tensor.timestamp_ns = other_ns
        other, news_from = _varint(other_ns), self._size + 1 + _STAMP_BYTES
        rewritten = other.join(self._parts) + bytes((_STAMP_TAG,)) + other + envelope[news_from:]
        try:
            stays = ObservationNews.FromString(envelope[: self._size])  # which is no message where a field is cut
            stays.DiscardUnknownFields()
            return not stays.ByteSize() and Observation.FromString(rewritten) == expected
        except DecodeError:
            return False

    def news(self, envelope: bytes) -> ObservationNews | None:
        """What is new in an envelope; None where it is not one of these."""
        size = self._size
        stamp = envelope[size + 1 : size + 1 + _STAMP_BYTES]
        if stamp.join(self._parts) != envelope[:size]:
            return None
        told = envelope[size:]
        try:
            news = ObservationNews.FromString(told)
        except DecodeError:
            return None
        news.DiscardUnknownFields()
        if not _is_all(news.SerializeToString(), told):
            return None
        return news if news.timestamp_ns in _STAMPED else None

    def slots_at(self, timestamp_ns: int) -> list[SlotInfo]:
        """The tensors, of an observation that was made then."""
        return [
            SlotInfo(slot.key, slot.dtype, slot.shape, slot.byte_offset, slot.byte_length, timestamp_ns, slot.encoding)
            for slot in self.slots
        ]


def _is_all(written: bytes, told: bytes) -> bool:
    """Whether what was understood of the news, written again, is all that was told.

    It begins with its timestamp, and that is the last one it tells; nothing in it is of the fields that stay.
    """
    if written == told:
        return True
    # Two strings of metadata may have changed places.
    begins = written[: 1 + _STAMP_BYTES] == told[: 1 + _STAMP_BYTES]
    return begins and len(written) == ObservationNews.FromString(told).ByteSize()


def _varint(timestamp_ns: int) -> bytes:
    return ObservationNews(timestamp_ns=timestamp_ns).SerializeToString()[1:]
