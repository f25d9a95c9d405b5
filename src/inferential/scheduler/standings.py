"""Since when clients wait whose requests ended without a call: their next ones wait since then.

A request has a time to live, and its client does not wait less for having to ask anew. Were its wait to begin again
with each request, a client that asks again only once it has its answer would never have waited as long as one whose
newer observations take the places of older ones, and where a turn comes round more rarely than requests live, it would
never be served.
"""

from __future__ import annotations

from collections import OrderedDict

from inferential.scheduler.client_queue import Key
from inferential.scheduler.request import InferenceRequest

PATIENCE_S = 1.0
"""After so much waiting in a server's queue a request counts as overdue (`InferenceRequest.overdue_after_s`), however
slow its client's cadence is. A robot that asks again only once it has its answer asks as seldom as it is answered: by
its cadence alone, one that others keep out would be overdue ever later, and never before its request expires."""
MOST = 4096
"""Clients that are known at a time; the one that was noted first is forgotten."""


class Standings:
    """By queue: since when its client waits, and until when it may ask again and keep that.

    Args:
        kept_s: how long after the end of a request its client may ask again, in seconds.
    """

    __slots__ = ("_kept_s", "_since")

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._since: OrderedDict[Key, tuple[float, int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._since)

    def note(self, key: Key, request: InferenceRequest, now: float) -> None:
        """Notes that the first request of a queue ended because it had waited too long."""
        self._since[key] = request.waiting_since, request.arrival, now + self._kept_s
        self._since.move_to_end(key)
        while len(self._since) > MOST or next(iter(self._since.values()))[2] < now:
            self._since.popitem(last=False)

    def give(self, key: Key, request: InferenceRequest, now: float, *, enters: bool) -> None:
        """Has the next request of a queue wait since its client does, if that is known.

        Args:
            key: of the queue.
            request: a new one, or the one that moves up to be the first.
            now: seconds of `time.monotonic()`.
            enters: whether it is new: then it has the place of the one that ended also among equals.
        """
        since, arrival, until = self._since.pop(key, (request.waiting_since, request.arrival, now))
        if now <= until:
            request.waiting_since = min(since, request.waiting_since)
            if enters:
                request.arrival = arrival

    def forget(self, source: int | str) -> None:
        """Forgets a connection, or a client of this process, that is gone."""
        for key in [key for key in self._since if key[0] == source]:
            del self._since[key]
