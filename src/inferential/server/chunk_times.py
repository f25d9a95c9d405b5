"""What an answer is worth to a robot that plays chunks: when it runs out, and what a newer observation would add."""

from __future__ import annotations

import math

from inferential.proto import PROTOCOL_VERSION
from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.time.robot_time import ChunkTime
from inferential.server.ingress import IncomingRequest
from inferential.tracking.action_horizon import ActionHorizonTracker

_MAX_LEAD_S = 0.5  # a robot is not asked for a newer observation earlier before its turn


def chunk_time(queues: ActionHorizonTracker, incoming: IncomingRequest) -> ChunkTime | None:
    """Returns what an answer adds to a robot that states its steps remaining; None while that is not known.

    Args:
        queues: what is known of robots' queues of actions.
        incoming: its request.
    """
    request = incoming.request
    assert request.steps_remaining is not None
    found = queues.queue_of(
        request.client_id,
        request.model_id,
        request.steps_remaining,
        request.received_at,
        incoming.played_id,
        incoming.played_from,
    )
    if found is None:
        return None
    if incoming.renews is None:  # how it aligns a chunk is not known: an old observation loses nothing for certain
        most_s = max(found.lasts_s - (found.runs_out_at - request.received_at), 0.0)
        return ChunkTime(found.runs_out_at, math.inf, found.lasts_s, most_s)
    renews = incoming.renews and request.protocol_version >= PROTOCOL_VERSION
    # As times at which an answer is sent, not played.
    transit_s = found.transit_s or 0.0
    by_time = incoming.plays_by_time
    return ChunkTime(
        found.runs_out_at - transit_s,
        request.received_at + found.lasts_s - transit_s if by_time else math.inf,
        found.lasts_s,
        math.inf if by_time else max(found.lasts_s - max(found.runs_out_at - request.received_at, 0.0), 0.0),
        renews=renews,
        lead_s=min(found.lag_s, _MAX_LEAD_S) if renews else 0.0,
        steps_at=request.received_at - transit_s,
        step_s=found.period_s,
    )


def adds_s(request: InferenceRequest) -> float | None:
    """Returns the seconds that an answer adds to a robot that goes on with what it has not executed; None: to another.

    To one that plays chunks by time, what it adds depends on when it comes.
    """
    chunk = request.chunk
    if chunk is None or chunk.step_s <= 0 or chunk.covers_until < math.inf:
        return None
    return chunk.most_s
