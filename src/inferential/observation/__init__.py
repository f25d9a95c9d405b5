"""Validation of observations, and the values that a model sees."""

from inferential.observation.assembler import ObservationAssembler
from inferential.observation.decoded import DecodedObservation
from inferential.observation.slots import ObservationError, SlotInfo, validate_slots

__all__ = ["DecodedObservation", "ObservationAssembler", "ObservationError", "SlotInfo", "validate_slots"]
