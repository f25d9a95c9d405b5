"""What is remembered of clients whose robots play chunks, while nothing of theirs waits too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from inferential.scheduler.request import InferenceRequest

MEAN_RATE = 0.02
"""By which what is usual follows each client that is served."""
CREDIT = 0.25
"""The share of the usual wait, or of the time of a chunk, that one counts as waiting already that was served late."""
MEMORY_S = 5.0
"""Starved time counts by exp(-age / MEMORY_S)."""
MOST_STARVED = 100.0
"""Times of a chunk that a robot owes at most, by one wait."""


class ChunkClient:
    """One client.

    Attributes:
        since: since when it waits, as it counts.
        lasts_until: until when its last chunk lasts; infinite before the first.
        answered_at: when its last call ended, as was expected.
        starved, starved_at: the chunks' time that it starved lately, at that moment.
        reserve_s: how much longer its next answer may take than it knows of, as the server suggested last.
        comes_at: when its turn comes, where its robot knows that; else minus infinity.
        waiting: how many of its requests wait.
    """

    __slots__ = ("answered_at", "comes_at", "lasts_until", "reserve_s", "since", "starved", "starved_at", "waiting")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lasts_until = math.inf
        self.answered_at = -math.inf
        self.starved = 0.0
        self.starved_at = since
        self.reserve_s = 0.0
        self.comes_at = -math.inf
        self.waiting = 0


class Usual:
    """What is usual among the clients that are served, in times of a chunk.

    Attributes:
        starved: what they starved lately.
        wait: how long they waited.
    """

    __slots__ = ("starved", "wait")

    def __init__(self) -> None:
        self.starved = 0.0
        self.wait = 1.0


def note_served(
    served: Iterable[tuple[InferenceRequest, ChunkClient]],
    briefs: Iterable[Sequence[float]],
    answered_at: float,
    now: float,
    usual: Usual,
) -> None:
    """Notes that the clients of a call are served that begins now.

    A client that waited longer than is usual counts as waiting already for what it was longer, or at most CREDIT. So of
    clients that are alike each is served equally often, whichever of them a call takes first as it suits them.

    Args:
        served: its requests.
        briefs: of each, in seconds: when its robot's actions run out, until when its answer covers and how long that
            lasts, since when its client waits, and when its turn is.
        answered_at: when the call ends.
        now: seconds of `time.monotonic()`.
        usual: what is usual until now.
    """
    mean_starved, mean_wait = usual.starved, usual.wait
    exp = math.exp
    for (_, client), (runs_out_at, ends_at, lasts_s, since, turn, *_) in zip(served, briefs, strict=True):
        if ends_at > answered_at + lasts_s:
            ends_at = answered_at + lasts_s
        if ends_at > answered_at and ends_at > runs_out_at:
            mean_wait += MEAN_RATE * ((now - since) / lasts_s - mean_wait)
            late_s = now - since - mean_wait * lasts_s
            if late_s > 0:
                most_s = CREDIT * (mean_wait if mean_wait < 1.0 else 1.0) * lasts_s
                client.since = now - (late_s if late_s < most_s else most_s)
            else:
                client.since = now
        else:  # it gains nothing, so that its turn is now
            client.since = max(client.since, now - (turn - since))
        lasts_until = client.lasts_until
        starved_s = answered_at - (runs_out_at if runs_out_at < lasts_until else lasts_until)
        starved = client.starved
        if starved:
            since_s = now - client.starved_at
            if since_s > 0:
                starved *= exp(-since_s / MEMORY_S)
        if starved_s > 0:
            chunks = starved_s / lasts_s
            starved += chunks if chunks < MOST_STARVED else MOST_STARVED
        client.starved, client.starved_at = starved, now
        mean_starved += MEAN_RATE * (client.starved - mean_starved)
        client.lasts_until, client.answered_at = ends_at, answered_at
        client.comes_at = -math.inf
        client.waiting -= 1
    usual.starved, usual.wait = mean_starved, mean_wait


def note_reserves(
    served: Iterable[tuple[InferenceRequest, ChunkClient]],
    answer_within_s: tuple[float, float],
    answered_at: float,
) -> None:
    """Notes how much longer the next answers may take than their robots know of, in `ChunkTime.reserve_s`.

    A robot asks so early that its chunk comes in time, by what its answers took, or as much earlier as was suggested;
    and it knows what this one takes. What it sent before its last answer came, as it was asked to for a call that
    did not wait for it, says nothing of when it asks by itself.

    Args:
        served: the requests of a call that begins now, with their clients as they were before it.
        answer_within_s: how long answers may take, by how many robots ask lately, and at most: that counts of one that
            is served for the first time, as others may have come with it.
        answered_at: when this call ends.
    """
    lately_s, most_s = answer_within_s
    for request, client in served:
        chunk = request.chunk
        assert chunk is not None
        known_s = answered_at - request.received_at
        stands = chunk.runs_out_at <= request.received_at  # which says when it was seen to, not since when it does
        if not stands and request.waiting_since >= client.answered_at:
            known_s = max(chunk.runs_out_at - request.waiting_since - client.reserve_s, known_s)
        within_s = most_s if client.lasts_until == math.inf else lately_s
        reserve_s = within_s + (request.control_period_s or 0.0) - known_s
        # Whatever a robot says of its actions: what is no number is not between these.
        client.reserve_s = chunk.reserve_s = reserve_s if 0 < reserve_s <= 2 * most_s else 0.0
