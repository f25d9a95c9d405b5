"""Applies what the operator allows a client to one request of it."""

from __future__ import annotations

from dataclasses import dataclass

from inferential.config.client_policy import ClientRights
from inferential.scheduler.request import MODEL_NOT_ALLOWED, PAYLOAD_NOT_ALLOWED, TOO_FAST, Refusal, RefusalKind
from inferential.server.rate_limits import RateLimits


@dataclass(slots=True)
class Claim:
    """What a request claims, before and after it is held to its client's rights.

    Attributes:
        urgency, priority: as the client states them, 0 the highest priority.
        payload_bytes: of all tensors.
    """

    urgency: float
    priority: int
    payload_bytes: int


def hold_to(
    rights: ClientRights, claim: Claim, client_id: str, model_id: str, rates: RateLimits, now: float
) -> Refusal | None:
    """Lowers a claim to what a client may claim; returns why the request is refused, None if it is not.

    Requests that are refused for another reason do not count for the rate.
    """
    if rights.min_priority is not None and claim.priority < rights.min_priority:
        claim.priority = rights.min_priority
    if rights.max_urgency is not None and claim.urgency > rights.max_urgency:
        claim.urgency = rights.max_urgency
    if not rights.model_is_allowed:
        allowed = ", ".join(rights.models) or "none"
        reason = f"client {client_id!r} may not ask model {model_id!r}; it may ask: {allowed} (clients.known.models)"
        return Refusal(RefusalKind.REJECTED, reason, MODEL_NOT_ALLOWED)
    limit = rights.max_payload_bytes
    if limit is not None and claim.payload_bytes > limit:
        reason = (
            f"client {client_id!r} may send {limit} bytes in an observation, got {claim.payload_bytes} "
            "(clients.known.max_payload_bytes)"
        )
        return Refusal(RefusalKind.REJECTED, reason, PAYLOAD_NOT_ALLOWED)
    if rights.max_rate_hz is None:
        return None
    wait_s = rates.wait_s(client_id, rights.max_rate_hz, now)
    if not wait_s:
        return None
    reason = (
        f"client {client_id!r} asks faster than its {rights.max_rate_hz:g} Hz: wait {wait_s * 1e3:.0f} ms "
        "(clients.known.max_rate_hz)"
    )
    return Refusal(RefusalKind.REJECTED, reason, TOO_FAST)
