"""The rhythm of clients: how often each asks each model, learned from when it did.

It judges nobody: who is overdue or gone is `tracking.fleet`'s to say.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

PAUSE = 5.0
"""An interval of more than this many learned periods is a pause and teaches nothing, unless it comes again."""
_CONFIDENT_AFTER = 10


@dataclass(slots=True)
class _Rhythm:
    last: float
    period: float = math.nan
    intervals: int = 0
    paused: bool = False


class CadenceTracker:
    """An exponentially weighted moving average of the intervals between a client's requests of one model.

    The first interval sets it. An interval of more than five periods is taken for a pause (a robot that was
    switched off and on again) and left out; a second one in a row is taken for a new rhythm and sets the average
    anew.

    Args:
        alpha: weight of the newest interval, 0 to 1.
        overdue_multiplier: after how many periods without a request a client is overdue.
    """

    def __init__(self, alpha: float = 0.3, overdue_multiplier: float = 1.5) -> None:
        self.alpha = alpha
        self.overdue_multiplier = overdue_multiplier
        self._clients: dict[str, dict[str, _Rhythm]] = {}

    def on_request(self, client_id: str, model_id: str = "", now: float | None = None) -> float | None:
        """Notes a request; gives the seconds since the one before, None for the first."""
        now = time.monotonic() if now is None else now
        models = self._clients.setdefault(client_id, {})
        rhythm = models.get(model_id)
        if rhythm is None:
            models[model_id] = _Rhythm(now)
            return None
        interval = now - rhythm.last
        rhythm.last = now
        if rhythm.intervals == 0:
            rhythm.period = interval
        elif interval <= PAUSE * rhythm.period:
            rhythm.period += self.alpha * (interval - rhythm.period)
            rhythm.paused = False
        elif rhythm.paused:
            rhythm.period, rhythm.paused = interval, False
        else:
            rhythm.paused = True
            return interval
        rhythm.intervals += 1
        return interval

    def time_until_next(self, client_id: str, model_id: str = "", now: float | None = None) -> float:
        """Seconds until the next request is due, negative when it is overdue; 0 while the rhythm is unknown."""
        rhythm = self._known(client_id, model_id)
        if rhythm is None:
            return 0.0
        return rhythm.period - ((time.monotonic() if now is None else now) - rhythm.last)

    def is_overdue(self, client_id: str, model_id: str = "", now: float | None = None) -> bool:
        """Whether more than `overdue_multiplier` periods passed since the last request."""
        return (time.monotonic() if now is None else now) > self.overdue_from(client_id, model_id)

    def time_since_last(self, client_id: str, model_id: str = "", now: float | None = None) -> float:
        """Seconds since the last request; infinite before the first."""
        rhythm = self._clients.get(client_id, {}).get(model_id)
        return math.inf if rhythm is None else (time.monotonic() if now is None else now) - rhythm.last

    def learned_cadence(self, client_id: str, model_id: str = "") -> float | None:
        """The learned period in seconds; None before the second request."""
        rhythm = self._known(client_id, model_id)
        return None if rhythm is None else rhythm.period

    def confidence(self, client_id: str, model_id: str = "") -> float:
        """0 before the second request, rising to 1 after ten intervals."""
        rhythm = self._known(client_id, model_id)
        return 0.0 if rhythm is None else min(rhythm.intervals / _CONFIDENT_AFTER, 1.0)

    def models(self, client_id: str) -> list[str]:
        """The models that a client has asked."""
        return list(self._clients.get(client_id, ()))

    def overdue_from(self, client_id: str, model_id: str = "") -> float:
        """The instant of `time.monotonic()` from which `is_overdue`; infinite while the rhythm is unknown."""
        rhythm = self._known(client_id, model_id)
        return math.inf if rhythm is None else rhythm.last + rhythm.period * self.overdue_multiplier

    def forget(self, client_id: str) -> None:
        """Drops all that is known of a client."""
        self._clients.pop(client_id, None)

    def _known(self, client_id: str, model_id: str) -> _Rhythm | None:
        rhythm = self._clients.get(client_id, {}).get(model_id)
        return rhythm if rhythm is not None and rhythm.intervals else None
