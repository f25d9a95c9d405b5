"""Finds the requests of an episode again: recordings interleave robots, datasets do not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from inferential.recording.dataset.plan import Episode
from inferential.recording.reading import Recorded
from inferential.recording.spool import Spool


class Episodes:
    """Requests that are kept, and found by their episodes.

    Args:
        spool: where to keep them.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._places: dict[tuple[str, str, str, int, int], int] = {}

    def keep(self, requests: Iterable[Recorded]) -> Iterator[Recorded]:
        """Yields each request, and keeps those that were answered."""
        for one in requests:
            if one.observation is not None and one.answer is not None:
                key = (one.client_id, one.model_id, one.session, one.received_ns, one.request_id)
                self._places[key] = self._spool.keep(one)
            yield one

    def steps(self, episode: Episode) -> Iterator[Recorded]:
        """Yields the request that each step of an episode shows."""
        before: tuple[int, int] | None = None
        for step in episode.steps:
            if step != before:
                one = self._spool.at(self._places[(*episode.key, *step)])
                before = step
            yield one
