"""What a worker sends of one result of its model."""

from __future__ import annotations

from typing import Any

from inferential.errors import InvalidObservation, reason_of, words_of
from inferential.replica.failures import FailurePlaces, forget_frames
from inferential.replica.outcomes import BY_MODEL
from inferential.replica.rows import RowWriter, write_refusal
from inferential.replica.values import as_values

_MAX_RESULT_BYTES = 256 * 1024 * 1024


class ResultWriter:
    """Writes results; one that cannot be sent becomes a refusal of its request alone.

    Args:
        places: says where what the model gave was raised.
    """

    def __init__(self, places: FailurePlaces) -> None:
        self._writer = RowWriter()
        self._places = places

    def write(self, outcome: Any) -> tuple[bytes, Any]:
        """Returns the two frames of what a model returned for an observation, or of the exception that it gave."""
        try:
            if isinstance(outcome, Exception):
                raise outcome
            values = as_values(outcome)
            size = 0
            for value in values.values():
                if not isinstance(value, str):
                    size += value.nbytes
            if size > _MAX_RESULT_BYTES:
                raise ValueError(f"a result of {size} bytes; at most {_MAX_RESULT_BYTES} are sent")
            return self._writer.values(values)
        except BaseException as error:  # a result that the wire cannot carry, or that is not what it seems, fails alone
            if isinstance(error, InvalidObservation):
                refusal = write_refusal("INVALID_OBSERVATION", reason_of(error), cause=BY_MODEL)
            else:
                refusal = write_refusal("MODEL_FAILED", words_of(error), self._places.of(error))
            forget_frames(error)
            return refusal, b""
