"""Keeps requests on disk while a dataset is made of them: recordings interleave robots, datasets do not."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from inferential.recording.dataset.plan import Episode
from inferential.recording.reading import Recorded


class Spool:
    """Requests in a file without a name, found again by their episode; use it in a `with` statement.

    Args:
        folder: on the disk that has room for the observations as they were recorded.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._places: dict[tuple[str, str, str, int, int], int] = {}

    def keep(self, requests: Iterable[Recorded]) -> Iterator[Recorded]:
        """Yields each request, and keeps those that were answered."""
        for one in requests:
            if one.observation is not None and one.answer is not None:
                key = (one.client_id, one.model_id, one.session, one.received_ns, one.request_id)
                self._places[key] = self._file.tell()
                pickle.dump(one, self._file, pickle.HIGHEST_PROTOCOL)
            yield one

    def steps(self, episode: Episode) -> Iterator[Recorded]:
        """Yields the request that each step of an episode shows."""
        before: tuple[int, int] | None = None
        for step in episode.steps:
            if step != before:
                self._file.seek(self._places[(*episode.key, *step)])
                one: Recorded = pickle.load(self._file)
                before = step
            yield one

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
