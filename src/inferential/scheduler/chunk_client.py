"""What is remembered of clients whose robots play chunks, while nothing of theirs waits too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from inferential.scheduler.chunk_columns import LEAST_S, ROUNDING_S
from inferential.scheduler.request import InferenceRequest

MEAN_RATE = 0.02
"""By which what is usual follows each client that is served."""
CREDIT = 0.25
"""The share of the usual wait, or of the time of a chunk, that one counts as waiting already that was served late."""
MEMORY_S = 5.0
"""Each second without an action, and each since its first answer, counts for a robot by exp(-age / MEMORY_S)."""


class ChunkClient:
    """One client.

    Attributes:
        since: since when it waits, as it counts.
        lasts_until: until when its last chunk lasts; infinite before the first.
        answered_at: when its last call ended, as was expected.
        starved_s, known_s: seconds lately without an action, and in all, from its first answer until then.
        reserve_s: how much longer its next answer may take than it knows of, as the server suggested last.
        comes_at: when its turn comes, where its robot knows that; else minus infinity.
        waiting: how many of its requests wait.
    """

    __slots__ = ("answered_at", "comes_at", "known_s", "lasts_until", "reserve_s", "since", "starved_s", "waiting")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lasts_until = math.inf
        self.answered_at = -math.inf
        self.starved_s = self.known_s = 0.0
        self.reserve_s = 0.0
        self.comes_at = -math.inf
        self.waiting = 0


class Usual:
    """What is usual among the clients that are served.

    Attributes:
        starved: the share of the time lately for which they had no action.
        wait: how long they waited, in times of a chunk.
    """

    __slots__ = ("starved", "wait")

    def __init__(self) -> None:
        self.starved = 0.0
        self.wait = 1.0


def owed(client: ChunkClient, usual: Usual, lasts_s: float) -> float:
    """Returns how much more than is usual a client starved lately, as a share of what is usual, or of its chunk; >= 0.

    It is compared by the time for which it is known: one that came later than others starved less by that alone.

    Args:
        client: which.
        usual: what is usual.
        lasts_s: of its chunk, which counts where less is usual.
    """
    more_s = client.starved_s - usual.starved * client.known_s
    return more_s / max(usual.starved * MEMORY_S, LEAST_S, lasts_s) if more_s > 0 else 0.0


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
        passed_s = answered_at - client.answered_at
        if ROUNDING_S < passed_s < math.inf:
            kept = exp(-passed_s / MEMORY_S)
            starved_s = client.starved_s * kept
            stood_s = answered_at - (runs_out_at if runs_out_at < lasts_until else lasts_until)
            if stood_s > 0:
                starved_s += MEMORY_S * (1 - exp(-(stood_s if stood_s < passed_s else passed_s) / MEMORY_S))
            client.starved_s, client.known_s = starved_s, MEMORY_S - (MEMORY_S - client.known_s) * kept
            mean_starved += MEAN_RATE * (starved_s / client.known_s - mean_starved)
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
