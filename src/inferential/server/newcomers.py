"""First requests of clients, at models that are flooded by clients which ask once and never again.

They run while their model would be idle and no robot is expected (`scheduler.floods`), and of each connection one waits
at a time. A robot that comes meanwhile is served as they are, and from its second request on as a robot.
"""

from __future__ import annotations

from collections.abc import Callable

from inferential.scheduler.engine import Engine
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind
from inferential.tracking.fleet import Fleet

PACE_S = 0.001
"""Their `InferenceRequest.pace_s`."""
CROWDED = Refusal(RefusalKind.REJECTED, "clients that ask once and never again flood the model", "newcomers")
"""Ends those that come by one connection beside one that waits."""


def floods(fleet: Fleet, request: InferenceRequest) -> bool:
    """Returns whether a request is the first of its client, at such a model."""
    return (
        request.model_id in fleet.newcomers.flooded
        and not request.in_order
        and fleet.track(request.client_id, request.model_id) is None
    )


def refusal(fleet: Fleet, request: InferenceRequest, waits: Callable[[int], int]) -> Refusal | None:
    """Returns why such a request is refused; None: it is not. `waits` is that of the engine."""
    return CROWDED if floods(fleet, request) and request.connection > 0 and waits(request.connection) else None


def count(fleet: Fleet, engine: Engine, now: float) -> None:
    """Finds the models that are flooded, and sets aside what waits there already."""
    if found := fleet.newcomers.count(now):
        for request in engine.waiting_requests():
            track = request.track
            if request.model_id in found and not request.in_order and track is not None and not track.rhythm.intervals:
                request.pace_s = PACE_S
