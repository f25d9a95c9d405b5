"""Makes of what a robot says of its observation's age what the server counts, refuses and gives to the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inferential.observation.slots import ObservationError, SlotInfo
from inferential.observation.validation import ObservationValidator
from inferential.proto import Captured
from inferential.scheduler.request import Refusal, RefusalKind

if TYPE_CHECKING:
    from inferential.config.schema import ObservationConfig
    from inferential.server.ingress import IncomingRequest


class AgeLimits:
    """Holds observations to the limits of a configuration on their ages.

    Args:
        config: the limits, and whether what breaks them is refused.
        validator: reads the ages.
    """

    def __init__(self, config: ObservationConfig, validator: ObservationValidator) -> None:
        self._max_staleness_ms = config.max_staleness_ms
        self._threshold_ms = config.temporal_alignment_threshold_ms
        self._refuses_stale = config.stale == "refuse"
        self._refuses_misaligned = config.misaligned == "refuse"
        self._validator = validator

    def apply(
        self, incoming: IncomingRequest, captured: Captured, slots: Sequence[SlotInfo], misalignment_ms: float
    ) -> None:
        """Sets ages of a request, and its refusal where it breaks a limit that is kept.

        Args:
            incoming: the request.
            captured: what its robot says.
            slots: its tensors.
            misalignment_ms: by the timestamps of its tensors, 0 where that is within the limit.

        Raises:
            ObservationError: an age is no duration.
        """
        request = incoming.request
        if captured.age_ms:
            try:
                ages = self._validator.ages(captured)
            except ObservationError as error:
                raise ObservationError(
                    error.reason,
                    client_id=request.client_id,
                    model_id=request.model_id,
                    request_id=request.request_id,
                    protocol_version=request.protocol_version,
                ) from error
            request.seen = ages.seen(request.received_at)
            incoming.staleness_ms = ages.observation_ms
            incoming.is_stale = ages.observation_ms > self._max_staleness_ms
            if self._refuses_stale:
                request.stale_at = request.seen.captured_at + self._max_staleness_ms / 1e3
            spread_ms = ages.spread_ms([slot.key for slot in slots])
            misalignment_ms = self._validator.misalignment_ms(request.client_id, spread_ms)
        incoming.misalignment_ms = misalignment_ms
        if incoming.refusal is not None:
            return
        if incoming.is_stale and self._refuses_stale:
            reason = (
                f"the observation was {incoming.staleness_ms:.0f} ms old on arrival, observations.max_staleness_ms is "
                f"{self._max_staleness_ms:g}"
            )
            incoming.refusal = Refusal(RefusalKind.REJECTED, reason, "stale")
        elif misalignment_ms and self._refuses_misaligned:
            reason = (
                f"the values of the observation were seen {misalignment_ms:.0f} ms apart, "
                f"observations.temporal_alignment_threshold_ms is {self._threshold_ms:g}"
            )
            incoming.refusal = Refusal(RefusalKind.REJECTED, reason, "misaligned")
