"""The rules of the wire and the limits of a configuration, for every field that comes from outside.

Every limit is checked before anything grows with what it limits, so a bad message costs microseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from inferential.notices import Notices
from inferential.observation.ages import Ages
from inferential.observation.slots import ObservationError, SlotInfo, slot_of, validate_slots
from inferential.proto import Captured, Observation
from inferential.proto.fields import CONSTANT, ConstantFields, VaryingFields, read_constant, read_varying

if TYPE_CHECKING:
    from inferential.config.schema import ObservationConfig

logger: logging.Logger = logging.getLogger("inferential.observation")

# What an envelope may take beside its texts: the numbers, tags and lengths of the fields, with room for fields to come.
_ENVELOPE_BASE_BYTES = 4096
_ENVELOPE_PER_TENSOR_BYTES = 96
_ENVELOPE_PER_DIM_BYTES = 10  # the longest varint
_ENVELOPE_PER_ENTRY_BYTES = 32
_ENVELOPE_PER_AGE_BYTES = 16
_LONGEST_AGE_MS = 1e12  # some 30 years
_OLDEST_BY_CLOCK_MS = 86_400e3  # an observation that seems older has a clock that is wrong
_MAX_GOOD_NAMES = 4096
_MAX_GOOD_PLACES = 4096


class ObservationValidator:
    """Checks observations against the limits of one configuration."""

    def __init__(self, config: ObservationConfig) -> None:
        self._config = config
        # Kept here: an attribute of a pydantic model takes as long as a call.
        self.max_payload_bytes: int = config.max_payload_bytes
        self.max_staleness_ms: float = config.max_staleness_ms
        self.max_envelope_bytes: int = (
            _ENVELOPE_BASE_BYTES
            + 3 * config.max_id_bytes  # client id, client type, model id
            + config.max_metadata_bytes
            + config.max_metadata_entries * _ENVELOPE_PER_ENTRY_BYTES
            + config.max_tensors
            * (config.max_id_bytes + config.max_dims * _ENVELOPE_PER_DIM_BYTES + _ENVELOPE_PER_TENSOR_BYTES)
            + (config.max_tensors + config.max_metadata_entries) * (config.max_id_bytes + _ENVELOPE_PER_AGE_BYTES)
        )
        self._good_names: set[str] = set()
        self._good_places: dict[tuple[Any, ...], tuple[str, tuple[int, ...], str, int]] = {}
        self._max_future_ns = config.max_future_ms * 1e6
        self._notices = Notices(logger)
        self.clocks_off: int = 0
        """Observations with a timestamp that was ignored."""

    def constant(self, message: Observation) -> ConstantFields:
        """Returns the constant fields of an observation.

        Raises:
            ObservationError: one is missing, too long or not allowed.
        """
        if not message.client.id:
            raise ObservationError("Missing client id in the observation")
        if not message.model_id:
            raise ObservationError("Missing model_id in the observation")
        try:
            fields = read_constant(message)
        except ValueError as error:
            raise ObservationError(str(error)) from error
        for (name, row), value in zip(CONSTANT.items(), fields, strict=True):
            if isinstance(value, str):
                self._check_name(row.path or name, value)
        return fields

    def varying(self, message: Observation, slots: Iterable[SlotInfo]) -> VaryingFields:
        """Returns the varying fields of an observation, its timestamp apart checked.

        Args:
            message: an `Observation`, or a `VaryingMessage`.
            slots: the observation's tensors.

        Raises:
            ObservationError: one is too large or not allowed.
        """
        if message.metadata:
            self.check_metadata(message.metadata, slots)
        try:
            return read_varying(message)
        except ValueError as error:
            raise ObservationError(str(error)) from error

    def staleness_ms(self, client_id: str, by_clock_ms: float) -> float:
        """Returns how old an observation is, of which its client's clock says so much; 0 where that cannot be.

        Warns, once a minute for each client, where it is older than the limit, or its clock is wrong.
        """
        if by_clock_ms <= self.max_staleness_ms:
            return by_clock_ms
        if by_clock_ms <= _OLDEST_BY_CLOCK_MS:
            self._warn(client_id, "stale", "observations arrive %.0f ms old by the client's clock", by_clock_ms)
            return by_clock_ms
        self.clocks_off += 1
        text = "its clock is %.0f s behind the server's: its timestamps are ignored"
        self._warn(client_id, "clock", text, by_clock_ms / 1e3)
        return 0.0

    def check_payload(self, size: int) -> None:
        """Checks the size of a payload.

        Raises:
            ObservationError: it is too large.
        """
        if size > self.max_payload_bytes:
            raise ObservationError(f"payload: {size} bytes, observations.max_payload_bytes is {self.max_payload_bytes}")

    def is_plausible(self, client_id: str, timestamp_ns: int, now_ns: int) -> bool:
        """Returns whether a timestamp is not far in the future; one that is counts as not given, and is counted.

        The clock of a robot without a battery, or of a server that was set, hurts no one: its observations are served.
        A time before 1970 is far in the future too, as the field has no sign.
        """
        ahead_ns = timestamp_ns - now_ns
        if ahead_ns <= self._max_future_ns:
            return True
        self.clocks_off += 1
        text = "its clock is %.0f s ahead of the server's or before 1970: its timestamps are ignored"
        self._warn(client_id, "clock", text, ahead_ns / 1e9)
        return False

    def slots(self, message: Observation, now_ns: int, payload_size: int) -> list[SlotInfo]:
        """Returns the tensors of an observation.

        Raises:
            ObservationError: there are too many, or one breaks a rule.
        """
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
            slot = slot_of(tensor)
            if timestamp_ns - now_ns > self._max_future_ns:
                slot = slot._replace(timestamp_ns=0)  # as if it were not given
            if slot.encoding != "raw":
                decoded_bytes = slot.element_count * slot.numpy_dtype.itemsize
                if decoded_bytes > config.max_decoded_bytes:
                    raise ObservationError(
                        f"tensor {key!r}: shape {slot.shape} decodes to {decoded_bytes} bytes, "
                        f"observations.max_decoded_bytes is {config.max_decoded_bytes}"
                    )
            validate_slots((slot,), payload_size)
            if len(self._good_places) >= _MAX_GOOD_PLACES:
                self._good_places.clear()
            self._good_places[place] = (slot.dtype, slot.shape, slot.encoding, slot.byte_offset + slot.byte_length)
            slots.append(slot)
        return slots

    def check_alignment(self, client_id: str, slots: list[SlotInfo]) -> float:
        """Warns, once a minute for each client, where the tensors of one observation were measured too far apart.

        Returns:
            How far, in ms; 0 where that is within the limit.
        """
        times = [slot.timestamp_ns for slot in slots if slot.timestamp_ns]
        return self.misalignment_ms(client_id, (max(times) - min(times)) / 1e6) if len(times) > 1 else 0.0

    def misalignment_ms(self, client_id: str, spread_ms: float) -> float:
        """Returns how far apart the values of an observation were seen, 0 where that is within the limit; warns as
        `check_alignment`."""
        if not spread_ms > self._config.temporal_alignment_threshold_ms:
            return 0.0
        self._warn(client_id, "alignment", "tensors of one observation were measured %.0f ms apart", spread_ms)
        return spread_ms

    def ages(self, captured: Captured) -> Ages:
        """Returns how old an observation and its values were on arrival, as far as its robot knows.

        Raises:
            ObservationError: an age is no duration, or there are more than an observation has values.
        """
        config, ages_ms = self._config, captured.tensor_ages_ms
        if len(ages_ms) > config.max_tensors + config.max_metadata_entries:
            raise ObservationError(
                f"captured: {len(ages_ms)} ages, observations.max_tensors is {config.max_tensors} and "
                f"max_metadata_entries {config.max_metadata_entries}"
            )
        for name, age_ms in (("age_ms", captured.age_ms), ("held_ms", captured.held_ms), *ages_ms.items()):
            self._check_name("captured", name)
            if not 0 <= age_ms <= _LONGEST_AGE_MS:
                raise ObservationError(f"captured: expected an age in ms, 0 or above, got {age_ms} for {name!r}")
        held_ms = captured.held_ms
        return Ages(captured.age_ms + held_ms, {key: age_ms + held_ms for key, age_ms in ages_ms.items()})

    def _check_name(self, field: str, text: str) -> None:
        if text in self._good_names:  # a fleet sends the same few names again and again
            return
        if len(text) > self._config.max_id_bytes or len(text.encode()) > self._config.max_id_bytes:
            raise ObservationError(
                f"{field}: {len(text.encode())} bytes, observations.max_id_bytes is {self._config.max_id_bytes}"
            )
        if not text.isprintable():
            raise ObservationError(f"{field}: expected printable text, got {text!r}")
        if len(self._good_names) >= _MAX_GOOD_NAMES:
            self._good_names.clear()
        self._good_names.add(text)

    def check_metadata(self, metadata: Mapping[str, str], slots: Iterable[SlotInfo]) -> None:
        """Checks the strings of an observation.

        Raises:
            ObservationError: there are too many or too large ones, or one has the key of a tensor.
        """
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
        for slot in slots:
            if slot.key in metadata:  # a model sees both in one dict
                raise ObservationError(f"tensor {slot.key!r}: there is a string of that key too")

    def _warn(self, client_id: str, kind: str, text: str, value: float) -> None:
        self._notices.say((client_id, kind), "client %s: " + text, client_id, value, level=logging.WARNING)
