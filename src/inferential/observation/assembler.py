"""From the frames of a message to an observation of which every field was checked.

Nothing is copied and no image is decoded here: the observation may yet be superseded, and that work would be wasted.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from inferential.observation.decoded import DecodedObservation
from inferential.observation.slots import ObservationError, SlotInfo
from inferential.observation.validation import ObservationValidator
from inferential.proto import Observation
from inferential.proto.cache import CacheCounts
from inferential.proto.cache.envelopes import CachedEnvelope, EnvelopeCache
from inferential.proto.fields import SenderMessage, VaryingFields, read_varying
from inferential.proto.tensors import Buffer

if TYPE_CHECKING:
    from inferential.config.schema import ObservationConfig


_ANSWERED_TIMES = 100
"""Times the size that the limits allow, by which an envelope is read as far as is needed to answer it: that skips its
tensors, and takes half a millisecond for each megabyte, no longer than it takes to receive it."""
CachedObservation = tuple[CachedEnvelope[SlotInfo], VaryingFields, float]
"""An observation of which the constant part was checked before: the cached part with the constant fields and the
tensors, which are without timestamps; the varying fields; and its age on arrival in milliseconds by the client's clock,
0 where that is not known."""


class ObservationAssembler:
    """Decodes and checks observations against the limits of a configuration."""

    def __init__(self, config: ObservationConfig) -> None:
        self._validator = ObservationValidator(config)
        self._max_payload_bytes = self._validator.max_payload_bytes
        self._max_future_ns = config.max_future_ms * 1e6
        self._max_staleness_ms = self._validator.max_staleness_ms
        self._max_envelope_bytes = self._validator.max_envelope_bytes
        self._cache: EnvelopeCache[SlotInfo] = EnvelopeCache()
        self._counts = self._cache.counts

    @property
    def cache_counts(self) -> CacheCounts:
        """The observations of which only the varying fields were read, and those that were read whole."""
        return self._counts

    def cache_bytes(self) -> int:
        """Returns the bytes of envelopes that are cached."""
        return self._cache.kept_bytes

    def decode(self, envelope: Buffer, payload: Buffer, received_at: float) -> DecodedObservation:
        """Returns one observation, checked.

        Args:
            envelope: the serialized `Observation`.
            payload: the bytes of its tensors.
            received_at: seconds of `time.monotonic()`.

        Raises:
            ObservationError: it breaks a rule of the wire or a limit.
        """
        found = self.lookup(envelope, payload)
        if found is None:
            return self.decode_whole(envelope, payload, received_at)
        cached, varying, staleness_ms = found
        timestamp_ns = varying.timestamp_ns
        if not staleness_ms and timestamp_ns - time.time_ns() > self._max_future_ns:
            timestamp_ns = 0
        slots = [
            SlotInfo(slot.key, slot.dtype, slot.shape, slot.byte_offset, slot.byte_length, timestamp_ns, slot.encoding)
            for slot in cached.slots
        ]
        return DecodedObservation(cached.constant, varying, slots, envelope, payload, received_at, staleness_ms)

    @property
    def clocks_off(self) -> int:
        """Observations so far with a timestamp far in the future, which was ignored."""
        return self._validator.clocks_off

    @property
    def validator(self) -> ObservationValidator:
        """The checks on single fields."""
        return self._validator

    def lookup(self, envelope: Buffer, payload: Buffer) -> CachedObservation | None:
        """Returns an observation of which only the varying fields are read, and checked.

        None where its constant part is not cached, or where `decode_whole` might raise.
        """
        if not isinstance(envelope, bytes) or len(envelope) > self._max_envelope_bytes:
            return None
        found = self._cache.find(envelope)
        if found is None:
            return None
        cached, message = found
        timestamp_ns, now_ns = message.timestamp_ns, time.time_ns()
        if not cached.payload_end <= len(payload) <= self._max_payload_bytes:
            return None
        try:
            if message.metadata:
                self._validator.check_metadata(message.metadata, cached.slots)
            varying = read_varying(message)
        except (ObservationError, ValueError):
            return None  # decode_whole raises it with the names of client and model
        staleness_ms = (now_ns - timestamp_ns) / 1e6
        if staleness_ms < 0:
            self._validator.is_plausible(cached.constant.client_id, timestamp_ns, now_ns)
            staleness_ms = 0.0
        elif staleness_ms > self._max_staleness_ms:
            staleness_ms = self._validator.staleness_ms(cached.constant.client_id, staleness_ms)
        self._counts.hits += 1
        return cached, varying, staleness_ms

    def decode_whole(self, envelope: Buffer, payload: Buffer, received_at: float) -> DecodedObservation:
        """Returns what `decode` does, without looking at what was read before; caches it where it can.

        Raises:
            ObservationError: it breaks a rule of the wire or a limit.
        """
        self._counts.misses += 1
        if len(envelope) > self._max_envelope_bytes:
            raise self._too_large(envelope)
        message = Observation()
        try:
            message.ParseFromString(envelope if isinstance(envelope, bytes) else bytes(envelope))
        except DecodeError as error:
            raise ObservationError(f"Failed to decode the envelope: {error}") from error
        try:
            decoded = self._checked(message, envelope, payload, received_at)
        except ObservationError as error:
            raise ObservationError(
                error.reason,
                client_id=message.client.id,
                model_id=message.model_id,
                request_id=message.request_id,
                protocol_version=message.protocol_version,
            ) from error
        if isinstance(envelope, bytes):
            self._cache.add(envelope, message, decoded.constant, decoded.slots)
        return decoded

    def _too_large(self, envelope: Buffer) -> ObservationError:
        """Returns the error of an envelope above the limits; of one that is not far above, to whom it belongs."""
        most = self._max_envelope_bytes
        reason = f"Failed to decode the envelope: {len(envelope)} bytes, the limits allow {most} of tensors and strings"
        sender = SenderMessage()
        if len(envelope) <= _ANSWERED_TIMES * most:
            try:
                sender.ParseFromString(bytes(envelope))
            except DecodeError as error:
                return ObservationError(f"Failed to decode the envelope: {error}")
        return ObservationError(
            reason,
            client_id=sender.client.id,
            model_id=sender.model_id,
            request_id=sender.request_id,
            protocol_version=sender.protocol_version,
        )

    def _checked(
        self, message: Observation, envelope: Buffer, payload: Buffer, received_at: float
    ) -> DecodedObservation:
        validator, timestamp_ns, now_ns = self._validator, message.timestamp_ns, time.time_ns()
        constant = validator.constant(message)
        validator.check_payload(len(payload))
        validator.is_plausible(constant.client_id, timestamp_ns, now_ns)
        slots = validator.slots(message, now_ns, len(payload))
        varying = validator.varying(message, slots)
        by_clock_ms = (now_ns - timestamp_ns) / 1e6 if 0 < timestamp_ns < now_ns else 0.0
        staleness_ms = validator.staleness_ms(constant.client_id, by_clock_ms)
        decoded = DecodedObservation(constant, varying, slots, envelope, payload, received_at, staleness_ms)
        if len(slots) > 1:
            decoded.misalignment_ms = validator.check_alignment(constant.client_id, slots)
        return decoded
