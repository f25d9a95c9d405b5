"""Envelopes of observations of which the constant part was read and checked before.

An envelope of this line is a constant part, with the observation's timestamp in each tensor, and then the varying
fields, of which the timestamp comes first (`templates.ObservationWriter` writes it so). An envelope in any other form
is read whole each time.

Nothing is checked here: the constant part was checked when it was added, and the varying fields are for the caller to
check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from inferential.proto import inferential_pb2 as pb
from inferential.proto.cache.counts import CacheCounts
from inferential.proto.cache.templates import STAMP_BYTES, STAMPS, request_id_field, stamp_of
from inferential.proto.fields import ConstantFields, VaryingMessage

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_ENVELOPE_BYTES = 2048
_MAX_BYTES = 4 * 1024 * 1024  # of envelopes; what is read from them takes up to ten times as much
_MAX_ENVELOPES_PER_CLIENT = 4  # for each model and form of its observations
_STAMP_TAG = b"\x10"  # field 2, a varint
_REQUEST_ID_TAG = request_id_field(1)[:-1]  # of observations and responses alike

Slot = TypeVar("Slot")


class CachedEnvelope(Generic[Slot]):
    """The constant part of a client's envelopes, and what was read from it.

    Attributes:
        constant: the constant fields.
        slots: the tensors, as the caller of `EnvelopeCache.add` describes them.
        payload_end: the bytes that a payload must have to hold them.
        policy: for the reader of these observations, to keep what follows from the constant fields.
    """

    __slots__ = ("_parts", "_size", "_stamp_at", "constant", "payload_end", "policy", "slots")

    def __init__(
        self, parts: list[bytes], size: int, constant: ConstantFields, slots: Sequence[Slot], payload_end: int
    ) -> None:
        self._parts = parts
        self._size = size
        self._stamp_at = slice(size + len(_STAMP_TAG), size + len(_STAMP_TAG) + STAMP_BYTES)
        self.constant: ConstantFields = constant
        self.slots: Sequence[Slot] = slots
        self.payload_end: int = payload_end
        self.policy: Any = None

    @classmethod
    def of(
        cls, envelope: bytes, message: pb.Observation, constant: ConstantFields, slots: Sequence[Slot]
    ) -> Self | None:
        """Returns what is kept of an envelope; None where it is not written as those of this line are."""
        timestamp_ns, tensors = message.timestamp_ns, message.tensors
        if timestamp_ns not in STAMPS or len(envelope) > _MAX_ENVELOPE_BYTES:
            return None
        if any(tensor.timestamp_ns != timestamp_ns for tensor in tensors):
            return None
        *parts, rest = envelope.split(stamp_of(timestamp_ns))
        if len(parts) != len(tensors) + 1 or not parts[-1].endswith(_STAMP_TAG):
            return None
        parts[-1] = parts[-1][: -len(_STAMP_TAG)]
        size = len(envelope) - len(rest) - STAMP_BYTES - len(_STAMP_TAG)
        payload_end = max((tensor.byte_offset + tensor.byte_length for tensor in tensors), default=0)
        cached = cls(parts, size, constant, slots, payload_end)
        if cached._reproduces(envelope, message) and cached.varying(envelope) is not None:
            return cached
        return None

    def _reproduces(self, envelope: bytes, message: pb.Observation) -> bool:
        """Returns whether the gaps are timestamps and nothing else, such as a text of the same bytes, and whether the
        constant part holds no varying field.

        The envelope is written again with another timestamp: it must be the same message with all timestamps changed.
        """
        other_ns = message.timestamp_ns ^ 1
        expected = pb.Observation()
        expected.CopyFrom(message)
        expected.timestamp_ns = other_ns
        for tensor in expected.tensors:
            tensor.timestamp_ns = other_ns
        stamp, rest_at = stamp_of(other_ns), self._size + len(_STAMP_TAG) + STAMP_BYTES
        rewritten = stamp.join(self._parts) + _STAMP_TAG + stamp + envelope[rest_at:]
        try:
            constant = VaryingMessage.FromString(envelope[: self._size])  # DecodeError where a field is cut
            constant.DiscardUnknownFields()
            return not constant.ByteSize() and pb.Observation.FromString(rewritten) == expected
        except DecodeError:
            return False

    def varying(self, envelope: bytes) -> pb.Observation | None:
        """Returns the varying fields of an envelope; None where its constant part is another."""
        size = self._size
        if envelope[self._stamp_at].join(self._parts) != envelope[:size]:
            return None
        sent = envelope[size:]
        try:
            message = VaryingMessage.FromString(sent)
        except DecodeError:
            return None
        message.DiscardUnknownFields()
        written = message.SerializeToString()
        if written != sent and not _is_all(written, sent):
            return None
        return message if message.timestamp_ns in STAMPS else None

    def request_ids_of(self, envelopes: Sequence[bytes], newest: bytes, request_id: int) -> list[bytes | None]:
        """Returns the field `request_id`, as it was sent, of each envelope that a newer one supersedes unread.

        None where its constant part is another. What else it says does not matter any more, and is not checked.

        Args:
            envelopes: of observations that came before.
            newest: the envelope that supersedes them, whose constant part is this one.
            request_id: of that.
        """
        size, parts = self._size, self._parts
        first, last, last_at, stamped = parts[0], parts[-1], size - len(parts[-1]), len(parts) > 2
        stamp_at, start = size + len(_STAMP_TAG), size + len(_STAMP_TAG) + STAMP_BYTES
        field = request_id_field(request_id)
        at = newest.find(field, start) if field else -1
        stop = at + len(field)
        value_at, before = at + len(_REQUEST_ID_TAG), newest[start:at] + _REQUEST_ID_TAG
        more = int.from_bytes(
            b"\x80" * (stop - value_at), "big"
        )  # the bit that every byte of a varint has but the last
        found: list[bytes | None] = []
        for envelope in envelopes:
            if stamped:
                alike = envelope[stamp_at:start].join(parts) == envelope[:size]
            else:
                alike = envelope.startswith(first) and envelope.startswith(last, last_at)
            if not alike:
                found.append(None)
            elif (
                at >= 0
                and envelope.startswith(before, start)
                and int.from_bytes(envelope[value_at:stop], "big") & more == more - 0x80
            ):
                found.append(envelope[at:stop])
            else:
                found.append(self._request_id_of(envelope))
        return found

    def _request_id_of(self, envelope: bytes) -> bytes | None:
        """Returns the same of an envelope whose other varying fields are not those of the newest."""
        try:
            return request_id_field(VaryingMessage.FromString(envelope[self._size :]).request_id)
        except DecodeError:
            return None


class EnvelopeCache(Generic[Slot]):
    """The envelopes that were read last, by client; its size is bounded, however many clients there are."""

    def __init__(self) -> None:
        self.counts: CacheCounts = CacheCounts()
        self._by_client: dict[bytes, deque[CachedEnvelope[Slot]]] = {}
        self._added_bytes = 0  # of envelopes, also of those that were replaced since
        self.kept_bytes: int = 0
        """Of the constant parts."""

    def find(self, envelope: bytes) -> tuple[CachedEnvelope[Slot], pb.Observation] | None:
        """Returns the entry with the constant part of an envelope, and the envelope's varying fields."""
        for cached in self._by_client.get(_client_of(envelope), ()):
            varying = cached.varying(envelope)
            if varying is not None:
                return cached, varying
        return None

    def add(
        self, envelope: bytes, message: pb.Observation, constant: ConstantFields, slots: Sequence[Slot]
    ) -> CachedEnvelope[Slot] | None:
        """Adds an envelope that was read whole and checked; returns None where it is not of a form to be cached."""
        cached = CachedEnvelope.of(envelope, message, constant, slots)
        if cached is None:
            return None
        self._added_bytes += len(envelope)
        if self._added_bytes > _MAX_BYTES:
            self._by_client.clear()
            self._added_bytes, self.kept_bytes = len(envelope), 0
        of_client = self._by_client.setdefault(_client_of(envelope), deque(maxlen=_MAX_ENVELOPES_PER_CLIENT))
        if len(of_client) == of_client.maxlen:
            self.kept_bytes -= of_client[-1]._size
        self.kept_bytes += cached._size
        of_client.appendleft(cached)
        return cached


def _client_of(envelope: bytes) -> bytes:
    """Returns the bytes of the first field, which is the client in envelopes of this line."""
    return envelope[: 2 + envelope[1]] if len(envelope) > 1 else b""


def _is_all(written: bytes, sent: bytes) -> bool:
    """Returns whether the varying fields that were understood, written again, are all that was sent.

    So they begin with the timestamp, which is the last one that was sent, and no constant field is among them.
    """
    # The same bytes, but for strings of metadata in another order.
    begins = written[: 1 + STAMP_BYTES] == sent[: 1 + STAMP_BYTES]
    return begins and len(written) == VaryingMessage.FromString(sent).ByteSize()
