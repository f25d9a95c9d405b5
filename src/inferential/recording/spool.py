"""Keeps requests on disk while something is made of them: those of an hour of cameras would fill the memory."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

from inferential.recording.reading import Recorded


class Spool:
    """Requests in a file without a name; use it in a `with` statement.

    Args:
        folder: on the disk that has room for the observations as they were recorded; None: that of temporary files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        self._end = 0

    def keep(self, one: Recorded) -> int:
        """Keeps a request; returns its place.

        Raises:
            OSError: there is no room.
        """
        place = self._end
        self._file.seek(place)
        pickle.dump(one, self._file, pickle.HIGHEST_PROTOCOL)
        self._end = self._file.tell()
        return place

    def at(self, place: int) -> Recorded:
        """Returns the request of a place."""
        self._file.seek(place)
        one: Recorded = pickle.load(self._file)
        return one

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
