"""What is remembered of clients whose robots play chunks, while nothing of theirs waits too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from inferential.scheduler.request import InferenceRequest


class ChunkClient:
    """One client.

    Attributes:
        since: since when it waits.
        lasts_until: until when its last chunk lasts; infinite before the first.
        starved, starved_at: the chunks' time that it starved lately, at that moment.
        reserve_s: how much longer its next answer may take than it knows of, as the server suggested last.
    """

    __slots__ = ("lasts_until", "reserve_s", "since", "starved", "starved_at")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lasts_until = math.inf
        self.starved = 0.0
        self.starved_at = since
        self.reserve_s = 0.0


def note_reserves(
    batch: Sequence[InferenceRequest],
    clients: Mapping[str, ChunkClient],
    answer_within_s: tuple[float, float],
    answered_at: float,
) -> None:
    """Notes how much longer the next answers may take than their robots know of, in `ChunkTime.reserve_s`.

    A robot asks so early that its chunk comes in time, by what its answers took, or as much earlier as was suggested;
    and it knows what this one takes.

    Args:
        batch: of a call that begins now.
        clients: by id, as they were before it.
        answer_within_s: how long answers may take, by how many robots ask lately, and at most: that counts of one that
            is served for the first time, as others may have come with it.
        answered_at: when this call ends.
    """
    lately_s, most_s = answer_within_s
    for request in batch:
        chunk, client = request.chunk, clients.get(request.client_id)
        if chunk is None or client is None:
            continue
        asked_before_s = chunk.runs_out_at - request.waiting_since - client.reserve_s
        known_s = max(asked_before_s, answered_at - request.received_at)
        within_s = most_s if client.lasts_until == math.inf else lately_s
        reserve_s = within_s + (request.control_period_s or 0.0) - known_s
        # Whatever a robot says of its actions: what is no number is not between these.
        client.reserve_s = chunk.reserve_s = reserve_s if 0 < reserve_s <= 2 * most_s else 0.0
