"""What a model raised, in words, whatever its exceptions do when they are asked."""

from __future__ import annotations

import contextlib
import os
import sys
import time

from inferential.errors import place_of, words_of

_LOG_EVERY_S = 1.0


class FailureLog:
    """Writes failures of a model to standard error, at most one a second.

    Args:
        model_id: whose.
    """

    def __init__(self, model_id: str) -> None:
        self._model_id = model_id
        self._logged_at = -_LOG_EVERY_S

    def note(self, error: BaseException) -> str:
        """Returns the error in words, and logs where it was raised."""
        words = words_of(error)
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            text = f"model {self._model_id}, process {os.getpid()}: {words}{place_of(error)}"
            with contextlib.suppress(OSError, ValueError, AttributeError):  # the model may have closed or replaced it
                # What the model says may come from a robot, and a terminal acts on control characters.
                print(text if text.isprintable() else ascii(text), file=sys.stderr, flush=True)
        return words
