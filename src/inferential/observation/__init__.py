"""What came from outside, checked before it is believed."""

from inferential.observation.assembler import DecodedObservation, ObservationAssembler
from inferential.observation.slots import ObservationError, SlotInfo, validate_slots

__all__ = ["DecodedObservation", "ObservationAssembler", "ObservationError", "SlotInfo", "validate_slots"]
