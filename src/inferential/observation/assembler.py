"""From the frames of a message to an observation that can be believed.

Nothing is copied and no image is decoded here: an observation may yet be superseded, and the work with it. Every
limit is looked at before anything grows with what it limits, so that a bad message costs microseconds.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from inferential.observation.decoded import DecodedObservation
from inferential.observation.known import KnownEnvelope, News, name_of_sender
from inferential.observation.slots import ObservationError, SlotInfo, validate_slots
from inferential.proto import (
    ENCODING_UNSPECIFIED,
    Observation,
    ObservationNews,
    Tensor,
    dtype_to_numpy,
    encoding_from_string,
    encoding_to_string,
)
from inferential.proto.images import ImageError, decode
from inferential.proto.structure import STRUCTURE_KEY, restore
from inferential.proto.tensors import Buffer, view_checked

if TYPE_CHECKING:
    from inferential.config.schema import ObservationConfig

logger = logging.getLogger("inferential.observation")

# What an envelope may take beside its texts: the numbers, tags and lengths of the fields, with room for fields to come.
_ENVELOPE_BASE_BYTES = 4096
_ENVELOPE_PER_TENSOR_BYTES = 96
_ENVELOPE_PER_DIM_BYTES = 10  # the longest varint
_ENVELOPE_PER_ENTRY_BYTES = 32
_REMEMBERED_WARNINGS = 1024
_REMEMBERED_NAMES = 4096
_REMEMBERED_PLACES = 4096
_REMEMBERED_BYTES = 4 * 1024 * 1024  # of envelopes; what they say takes at most some ten times as much
_REMEMBERED_ENVELOPES = 4  # of one sender: for each model and form of its observations


class ObservationAssembler:
    """Decodes and checks observations against the limits of a configuration."""

    def __init__(self, config: ObservationConfig) -> None:
        self._config = config
        self._max_payload_bytes = config.max_payload_bytes  # of these, a model of pydantic takes as long as a call
        self._max_staleness_ms = config.max_staleness_ms
        self._max_envelope_bytes = (
            _ENVELOPE_BASE_BYTES
            + 3 * config.max_id_bytes  # client id, client type, model id
            + config.max_metadata_bytes
            + config.max_metadata_entries * _ENVELOPE_PER_ENTRY_BYTES
            + config.max_tensors
            * (config.max_id_bytes + config.max_dims * _ENVELOPE_PER_DIM_BYTES + _ENVELOPE_PER_TENSOR_BYTES)
        )
        self._seen: dict[bytes, deque[KnownEnvelope]] = {}  # by sender
        self._seen_bytes = 0  # of the envelopes that went in, be they replaced since
        self._good_names: set[str] = set()
        self._good_places: dict[tuple[Any, ...], tuple[str, tuple[int, ...], str, int]] = {}
        self._warned: OrderedDict[tuple[str, str], None] = OrderedDict()

    def decode(self, envelope: Buffer, payload: Buffer, received_at: float) -> DecodedObservation:
        """Reads one observation.

        Args:
            envelope: the serialized `Observation`.
            payload: the bytes of its tensors.
            received_at: seconds of `time.monotonic()`.

        Raises:
            ObservationError: it breaks a rule of the wire or a limit.
        """
        recalled = self.recall(envelope, payload)
        if recalled is not None:
            known, news = recalled
            return DecodedObservation(
                known.client_id,
                known.client_type,
                known.model_id,
                news.timestamp_ns,
                news.urgency,
                news.priority,
                news.steps_remaining,
                known.slots_at(news.timestamp_ns),
                news.metadata,
                envelope,
                payload,
                received_at,
                news.staleness_ms,
                news.request_id,
                known.latency_budget_ms,
                known.protocol_version,
                known.queue,
                known.control_period_ms,
                known.late,
            )
        if len(envelope) > self._max_envelope_bytes:
            raise ObservationError(
                f"Failed to decode the envelope: {len(envelope)} bytes, the limits allow {self._max_envelope_bytes}"
            )
        message = Observation()
        try:
            message.ParseFromString(envelope if isinstance(envelope, bytes) else bytes(envelope))
        except DecodeError as error:
            raise ObservationError(f"Failed to decode the envelope: {error}") from error
        try:
            decoded = self._check(message, envelope, payload, received_at)
        except ObservationError as error:
            raise ObservationError(
                error.reason,
                client_id=message.client.id,
                model_id=message.model_id,
                request_id=message.request_id,
                protocol_version=message.protocol_version,
            ) from error
        if isinstance(envelope, bytes):
            self._remember(decoded, envelope)
        return decoded

    def _remember(self, decoded: DecodedObservation, envelope: bytes) -> None:
        known = KnownEnvelope.of(decoded, envelope)
        if known is None:
            return
        self._seen_bytes += len(envelope)
        if self._seen_bytes > _REMEMBERED_BYTES:
            self._seen.clear()
            self._seen_bytes = len(envelope)
        seen = self._seen.setdefault(name_of_sender(envelope), deque(maxlen=_REMEMBERED_ENVELOPES))
        seen.appendleft(known)

    @property
    def envelopes_cached(self) -> int:
        """How many envelopes are cached."""
        return sum(map(len, self._seen.values()))

    def recall(self, envelope: Buffer, payload: Buffer) -> tuple[KnownEnvelope, News] | None:
        """An observation of which all but the news was checked before; None where it has to be looked at whole.

        The news is checked, whatever `decode` would say against it has None.
        """
        if not isinstance(envelope, bytes) or len(envelope) > self._max_envelope_bytes:
            return None
        for known in self._seen.get(name_of_sender(envelope), ()):
            message = known.news(envelope)
            if message is not None:
                news = self._news(known, message, len(payload))
                return None if news is None else (known, news)
        return None

    def _news(self, known: KnownEnvelope, message: ObservationNews, payload_size: int) -> News | None:
        timestamp_ns, urgency, now_ns = message.timestamp_ns, message.urgency, time.time_ns()
        if not known.payload_end <= payload_size <= self._max_payload_bytes:
            return None
        if timestamp_ns > now_ns or not 0.0 <= urgency <= 1.0:
            return None
        metadata: dict[str, str] = {}
        if message.metadata:
            try:
                metadata = self._metadata(message.metadata)
            except ObservationError:
                return None  # whoever reads it whole tells whose it is
            if any(slot.key in metadata for slot in known.slots):
                return None
        return News(
            timestamp_ns,
            self._staleness_ms(known.client_id, timestamp_ns, now_ns),
            urgency,
            message.priority,
            message.steps_remaining if message.HasField("steps_remaining") else None,
            metadata,
            message.request_id,
        )

    def _staleness_ms(self, client_id: str, timestamp_ns: int, now_ns: int) -> float:
        staleness_ms = (now_ns - timestamp_ns) / 1e6 if 0 < timestamp_ns < now_ns else 0.0
        if staleness_ms > self._max_staleness_ms:
            self._warn_once(client_id, "stale", "observations arrive %.0f ms old by its own clock", staleness_ms)
        return staleness_ms

    def _check(self, message: Observation, envelope: Buffer, payload: Buffer, received_at: float) -> DecodedObservation:
        client = message.client
        client_id, client_type, model_id = client.id, client.type, message.model_id
        if not client_id:
            raise ObservationError("Missing client id in the observation")
        if not model_id:
            raise ObservationError("Missing model_id in the observation")
        self._check_name("client.id", client_id)
        self._check_name("client.type", client_type)
        self._check_name("model_id", model_id)
        urgency: float = message.urgency
        if not math.isfinite(urgency):
            raise ObservationError(f"urgency: expected a number from 0 to 1, got {urgency}")
        budget: float = message.latency_budget_ms
        if not math.isfinite(budget) or budget < 0:
            raise ObservationError(f"latency_budget_ms: expected a number above 0, got {budget}")
        period: float = message.control_period_ms
        if not math.isfinite(period) or period < 0:
            raise ObservationError(f"control_period_ms: expected a number above 0, got {period}")
        if len(payload) > self._max_payload_bytes:
            raise ObservationError(
                f"payload: {len(payload)} bytes, observations.max_payload_bytes is {self._max_payload_bytes}"
            )
        now_ns = time.time_ns()
        timestamp_ns: int = message.timestamp_ns
        self._check_timestamp("timestamp_ns", timestamp_ns, now_ns)
        slots = self._slots(message, now_ns, len(payload))
        metadata = self._metadata(message.metadata)
        if metadata:
            for slot in slots:
                if slot.key in metadata:  # a model sees both in one dict
                    raise ObservationError(f"tensor {slot.key!r}: there is a string of that key too")
        staleness_ms = self._staleness_ms(client_id, timestamp_ns, now_ns)
        if len(slots) > 1:
            self._check_alignment(client_id, slots)
        return DecodedObservation(
            client_id=client_id,
            client_type=client_type,
            model_id=model_id,
            timestamp_ns=timestamp_ns,
            # 1.x clients may tell more than 1; nobody gets ahead of the others by that.
            urgency=0.0 if urgency <= 0.0 else min(urgency, 1.0),
            priority=message.priority,
            steps_remaining=message.steps_remaining if message.HasField("steps_remaining") else None,
            slots=slots,
            metadata=metadata,
            envelope=envelope,
            payload=payload,
            received_at=received_at,
            staleness_ms=staleness_ms,
            request_id=message.request_id,
            latency_budget_ms=budget or None,
            protocol_version=message.protocol_version,
            queue=message.queue,
            control_period_ms=period or None,
            late=message.late,
        )

    def _check_name(self, field: str, text: str) -> None:
        if text in self._good_names:  # a fleet says the same few names again and again
            return
        if len(text) > self._config.max_id_bytes or len(text.encode()) > self._config.max_id_bytes:
            raise ObservationError(
                f"{field}: {len(text.encode())} bytes, observations.max_id_bytes is {self._config.max_id_bytes}"
            )
        if not text.isprintable():
            raise ObservationError(f"{field}: expected printable text, got {text!r}")
        if len(self._good_names) >= _REMEMBERED_NAMES:
            self._good_names.clear()
        self._good_names.add(text)

    def _check_timestamp(self, field: str, timestamp_ns: int, now_ns: int) -> None:
        if timestamp_ns - now_ns > self._config.max_future_ms * 1e6:
            raise ObservationError(
                f"{field}: {(timestamp_ns - now_ns) / 1e6:.0f} ms in the future by the server's clock, "
                f"observations.max_future_ms is {self._config.max_future_ms:.0f}"
            )

    def _slots(self, message: Observation, now_ns: int, payload_size: int) -> list[SlotInfo]:
        config, tensors = self._config, message.tensors
        if len(tensors) > config.max_tensors:
            raise ObservationError(f"tensors: {len(tensors)} of them, observations.max_tensors is {config.max_tensors}")
        slots: list[SlotInfo] = []
        keys: set[str] = set()
        for tensor in tensors:
            key = tensor.key
            offset, length = tensor.byte_offset, tensor.byte_length
            place = (key, tensor.dtype, tensor.encoding, offset, length, *tensor.shape)
            good = self._good_places.get(place)
            timestamp_ns = tensor.timestamp_ns
            if good is not None and good[3] <= payload_size and key not in keys and timestamp_ns <= now_ns:
                keys.add(key)
                slots.append(SlotInfo(key, good[0], good[1], offset, length, timestamp_ns, good[2]))
                continue
            self._check_name("tensor key", key)
            if key in keys:
                raise ObservationError(f"tensor {key!r}: there are two of that key")
            keys.add(key)
            if len(tensor.shape) > config.max_dims:
                raise ObservationError(
                    f"tensor {key!r}: {len(tensor.shape)} dimensions, observations.max_dims is {config.max_dims}"
                )
            self._check_timestamp(f"tensor {key!r}: timestamp_ns", tensor.timestamp_ns, now_ns)
            slot = _slot(tensor)
            if slot.encoding != "raw":
                decoded_bytes = slot.element_count * slot.numpy_dtype.itemsize
                if decoded_bytes > config.max_decoded_bytes:
                    raise ObservationError(
                        f"tensor {key!r}: shape {slot.shape} decodes to {decoded_bytes} bytes, "
                        f"observations.max_decoded_bytes is {config.max_decoded_bytes}"
                    )
            validate_slots((slot,), payload_size)
            if len(self._good_places) >= _REMEMBERED_PLACES:
                self._good_places.clear()
            self._good_places[place] = (slot.dtype, slot.shape, slot.encoding, slot.byte_offset + slot.byte_length)
            slots.append(slot)
        return slots

    def _metadata(self, metadata: Mapping[str, str]) -> dict[str, str]:
        if not metadata:
            return {}
        if len(metadata) > self._config.max_metadata_entries:
            raise ObservationError(
                f"metadata: {len(metadata)} entries, observations.max_metadata_entries is "
                f"{self._config.max_metadata_entries}"
            )
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
        if size > self._config.max_metadata_bytes:
            raise ObservationError(
                f"metadata: {size} bytes, observations.max_metadata_bytes is {self._config.max_metadata_bytes}"
            )
        return dict(metadata)

    def _check_alignment(self, client_id: str, slots: list[SlotInfo]) -> None:
        times = [slot.timestamp_ns for slot in slots if slot.timestamp_ns]
        if len(times) > 1:
            spread_ms = (max(times) - min(times)) / 1e6
            if spread_ms > self._config.temporal_alignment_threshold_ms:
                self._warn_once(client_id, "alignment", "tensors of one observation lie %.0f ms apart", spread_ms)

    def _warn_once(self, client_id: str, kind: str, text: str, value: float) -> None:
        if (client_id, kind) in self._warned:
            return
        self._warned[client_id, kind] = None
        if len(self._warned) > _REMEMBERED_WARNINGS:
            self._warned.popitem(last=False)
        logger.warning("client %s: " + text + " (said once)", client_id, value)


def _slot(tensor: Tensor) -> SlotInfo:
    try:
        dtype = dtype_to_numpy(tensor.dtype)
        encoding = encoding_to_string(tensor.encoding) if tensor.encoding != ENCODING_UNSPECIFIED else "raw"
    except ValueError as error:
        raise ObservationError(f"tensor {tensor.key!r}: {error}") from error
    return SlotInfo(
        key=tensor.key,
        dtype=dtype.name,
        shape=tuple(tensor.shape),
        byte_offset=tensor.byte_offset,
        byte_length=tensor.byte_length,
        timestamp_ns=tensor.timestamp_ns,
        encoding=encoding,
    )


def is_encoded(slots: Sequence[SlotInfo] | None) -> bool:
    """Whether a tensor must be decoded before a model can see it, which takes milliseconds."""
    for slot in slots or ():  # noqa: SIM110 (half the price of `any`, and every request is asked)
        if slot.encoding != "raw":
            return True
    return False


def to_values(slots: Sequence[SlotInfo], metadata: Mapping[str, str], payload: Buffer) -> dict[str, Any]:
    """What a model sees: arrays by key and strings by key, or what their structure makes of them.

    Raw tensors are views on the payload, writable where the payload is; images are decoded.

    Args:
        slots: the tensors, which were checked against this payload (`validate_slots`).
        metadata: the strings.
        payload: the bytes.

    Raises:
        ObservationError: a broken image, one that is not what its tensor says, or a structure that does not fit.
    """
    values: dict[str, Any] = {}
    for slot in slots:
        dtype = slot.numpy_dtype
        if slot.encoding == "raw":
            values[slot.key] = view_checked(payload, dtype, slot.shape, slot.byte_offset)
            continue
        data = memoryview(payload)[slot.byte_offset : slot.byte_offset + slot.byte_length]
        try:
            values[slot.key] = decode(data, encoding_from_string(slot.encoding), dtype, slot.shape)
        except ImageError as error:
            raise ObservationError(f"tensor {slot.key!r}: {error}") from error
    if metadata:
        values.update(metadata)
        if STRUCTURE_KEY in metadata:
            try:
                return restore(values)
            except ValueError as error:
                raise ObservationError(str(error)) from error
    return values


def read_slots(envelope: Buffer, payload_size: int) -> tuple[list[SlotInfo], dict[str, str]]:
    """Slots and metadata of an envelope that comes from this process and not through a server.

    Raises:
        ObservationError: as `ObservationAssembler.decode`, the limits of a configuration apart.
    """
    message = Observation()
    try:
        message.ParseFromString(bytes(envelope))
    except DecodeError as error:
        raise ObservationError(f"Failed to decode the envelope: {error}") from error
    slots = [_slot(tensor) for tensor in message.tensors]
    validate_slots(slots, payload_size)
    return slots, dict(message.metadata)
