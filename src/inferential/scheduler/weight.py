"""What a request weighs against others, by its priority and urgency."""

from __future__ import annotations

from functools import lru_cache

from inferential.scheduler.request import InferenceRequest

_LEAST_PRIORITY = 30  # beyond it the weight is practically 0


def weight_of(request: InferenceRequest) -> float:
    """Returns what a miss of this request costs: 1 at priority 0, halved by each level, up to doubled by urgency."""
    return _weight(request.urgency, request.priority)


@lru_cache(maxsize=4096)
def _weight(urgency: float, priority: int) -> float:
    urgency = urgency if 0.0 <= urgency <= 1.0 else float(urgency > 1.0)
    return float((1.0 + urgency) * 2.0 ** -min(max(priority, 0), _LEAST_PRIORITY))
