"""What the results of calls say of the versions that gave them. No I/O and no clock."""

from __future__ import annotations

from collections.abc import Sequence

from inferential.dispatch.base import DispatchResult
from inferential.models.shadow import Comparison
from inferential.models.trials import Outcome
from inferential.scheduler.request import Refusal, RefusalKind


def outcomes_of(results: Sequence[DispatchResult], now: float) -> list[Outcome]:
    """Returns what became of the requests of a call that ended `now`, without those that the model had no part in."""
    return [
        Outcome(
            one.request.client_id,
            None if one.refusal is None else one.refusal.reason,
            now > one.request.deadline and not one.request.retry_count,  # another version may have made it late
            one.latency_ms,
        )
        for one in results
        if one.refusal is None or _is_of_model(one.refusal)
    ]


def _is_of_model(refusal: Refusal) -> bool:
    """Returns whether a model has failed at a request, and had anything to do with it."""
    return refusal.kind in (RefusalKind.MODEL_FAILED, RefusalKind.BATCH_FAILED)


def compare(comparison: Comparison, active: DispatchResult, shadow: DispatchResult) -> list[float] | None:
    """Adds two results for one observation; returns the mean difference by dimension, None where there is none."""
    if active.values is None:
        return None
    comparison.active.note(active.latency_ms, missed=False)
    error = None if shadow.refusal is None else shadow.refusal.reason
    comparison.shadow.note(shadow.latency_ms, missed=False, error=error)
    apart = None if shadow.values is None else comparison.add(active.values, shadow.values)
    return None if apart is None else [float(one) for one in apart]
