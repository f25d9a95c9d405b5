"""Learns the cadence of clients: the period at which each asks each model.

The learned period is an exponentially weighted moving average of the intervals between requests. A robot's intervals
have two kinds of outliers, with one rule for each, so that an outlier does not spoil what was learned and a new rhythm
is followed soon:

    interval            taken for                                   effect on the period
    1/5 to 5 periods    the rhythm                                  moves by alpha
    > 5 periods         a pause, after 5 intervals of the rhythm    stays
                        too few intervals to tell            moves by alpha, as by 5 periods
      a second in a row a slower rhythm                             is this interval
    < 1/5 of a period   requests that bunched up on their way       moves by alpha
      a third in a row  a faster rhythm                             is this interval

How far intervals are from the period on average, their spread, is learned beside it: a client whose intervals differ by
more than 40 % on average is never overdue, and its mean interval is no deadline.

A client that was taken for overdue and asked again made a pause. One that does so now and then, as robots do between
tasks, is overdue only after longer than its longest one lately.

A robot that sends a newer observation in place of one that waits for an answer does not ask again: its period is from
one request to the next, however often it renews them (`CadenceTracker.on_renewal`).

So after a pause the period is known at once, a client that changes its rate for good is followed within three
requests, and one that asks in pairs (1 ms, 99 ms, 1 ms, ...) is learned as what it is on average, not as all pauses.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from inferential.tracking.limits import MAX_MODELS

PAUSE = 5.0
"""An interval this many times longer, or shorter, than the period may be an outlier."""
_SETTLED = 5  # regular intervals in a row after which a long one is a pause
_SLOWER = 2  # long intervals in a row that make a new rhythm
_FASTER = 3  # short intervals; two or more arrive together after a network stall
_USUAL = 0.3  # of the period, the spread that a robot's network may cause
_IRREGULAR = 0.4  # of the period, the spread of intervals above which no next one is expected
_EARLY = 2.0  # times the spread, a request may come before the period is over
_SPREADS = 3.0  # how many times the spread an interval exceeds the period before it is overdue
_PAUSES, _PAUSES_WITHIN, _PAUSES_KEPT = 2, 1000, 8
"""After so many pauses within so many intervals of the rhythm more are expected, as long as the longest kept."""
_BURSTS = 3.0  # times the learned period, the mean interval of a client that asks in bursts
_FIRST_COUNTED_S, _COUNTED_S = 0.2, 1.0  # how long irregular requests are counted for their mean interval
STEADY_AFTER = 3  # intervals: a confidence of 0.3, below which a cadence is not relied on
_CONFIDENT_AFTER = 10  # intervals after which the confidence is 1


@dataclass(slots=True)
class Rhythm:
    """The rhythm of one client and model: last request, learned period, and the number of intervals behind it.

    Times are in seconds.
    """

    last: float
    period: float = math.nan
    intervals: int = 0
    regular: int = 0  # in a row; the count of outliers in a row is in the next two
    long: int = 0
    short: int = 0
    spread: float = 0.0
    """How far intervals are from the period on average, either way."""
    counted: int = 0
    counted_at: float = math.nan
    mean: float = math.nan
    """The mean interval when it was last counted, and up to which interval and when that was."""
    pauses: tuple[tuple[int, float], ...] = ()
    """The newest pauses: up to which interval, and how long."""
    renewed_at: float = -math.inf
    """When the last request was last renewed; its client is not silent meanwhile."""
    answered_at: float = -math.inf
    """When the newest request was answered."""
    pause: float = math.inf
    """How long after the answer to its newest request the client asks again, on average; infinite: not known."""

    @property
    def confidence(self) -> float:
        """0 to 1; reaches 1 after ten intervals, and falls where their spread is above three tenths of the period."""
        excess = self.spread - _USUAL * self.period
        falls = 1.0 if excess <= 0 else max(1.0 - excess / (_USUAL * self.period), 0.0)
        return min(self.intervals / _CONFIDENT_AFTER, 1.0) * falls

    @property
    def is_irregular(self) -> bool:
        """Whether the intervals differ so much that their mean says nothing about the next one."""
        return self.spread > _IRREGULAR * self.period

    def asked_every_s(self, now: float) -> float:
        """Returns the seconds between requests, as learned or, of a client that asks irregularly or in bursts, their
        mean lately; nan while too little is known.

        The mean says how much is asked, though nothing about the next request: one that floods is read in bursts.
        """
        if math.isnan(self.counted_at):
            self.counted, self.counted_at = self.intervals, now
        elif now - self.counted_at >= (_FIRST_COUNTED_S if math.isnan(self.mean) else _COUNTED_S):
            count = self.intervals - self.counted
            self.mean = (now - self.counted_at) / count if count else math.nan
            self.counted, self.counted_at = self.intervals, now
        steady = self.intervals >= STEADY_AFTER and not self.is_irregular
        return self.period if steady and not self.mean > _BURSTS * self.period else self.mean

    def overdue_from(self, multiplier: float) -> float:
        """Returns when the next request is overdue; infinite where the intervals are too irregular to tell."""
        if self.is_irregular:
            return math.inf
        lately = [pause_s for interval, pause_s in self.pauses if interval > self.intervals - _PAUSES_WITHIN]
        pause_s = max(lately) if len(lately) >= _PAUSES else 0.0
        return self._heard_at() + max(self._lasting_s(multiplier), multiplier * pause_s)

    def paused(self, pause_s: float) -> None:
        """Notes that the client was taken for overdue, and asked again after so long."""
        self.pauses = (*self.pauses[1 - _PAUSES_KEPT :], (self.intervals, pause_s))

    def _heard_at(self) -> float:
        return max(self.last, self.renewed_at)

    def _lasting_s(self, multiplier: float) -> float:
        return max(multiplier * self.period, self.period + _SPREADS * self.spread)

    def may_come(self, now: float, until: float, multiplier: float) -> bool:
        """Returns whether the next request may come from now until then; one that is overdue is not waited for."""
        earliest = self.last if self.is_irregular else self.last + self.period - _EARLY * self.spread
        return earliest < until and now < self._heard_at() + self._lasting_s(multiplier)

    def on_answer(self, received_at: float, sent_at: float) -> None:
        """Notes the answer to a request; that to one before the newest says nothing of when its client asks again."""
        if received_at == self.last:
            self.answered_at = sent_at

    def learn_pause(self, now: float, alpha: float) -> None:
        """Updates the pause as the client asks again; to be called before the new request is the last one."""
        if self.answered_at >= self.last:
            pause = now - self.answered_at
            self.pause = pause if self.pause == math.inf else self.pause + alpha * (pause - self.pause)

    def learn(self, interval: float, alpha: float) -> None:
        """Updates the period with an interval, by the table above."""
        period = self.period
        if self.intervals == 0:
            self.period = interval
        elif interval <= PAUSE * period and interval * PAUSE >= period:  # first, as most are
            self.regular, self.long, self.short = self.regular + 1, 0, 0
            self.spread += alpha * (abs(interval - period) - self.spread)
            self.period = period + alpha * (interval - period)
        elif interval > period:
            paused = self.regular >= _SETTLED
            self.long, self.short, self.regular = self.long + 1, 0, 0
            if self.long >= _SLOWER:
                self.period, self.long, self.spread = interval, 0, 0.0
            elif paused:
                return
            else:
                self.spread += alpha * ((PAUSE - 1) * period - self.spread)
                self.period = period + alpha * (PAUSE - 1) * period
        else:
            self.short, self.long, self.regular = self.short + 1, 0, 0
            if self.short >= _FASTER:
                self.period, self.short, self.spread = interval, 0, 0.0
            else:
                self.period = period + alpha * (interval - period)
        self.intervals += 1

    def learn_all(self, interval: float, alpha: float, count: int) -> None:
        """Does what `learn` does with the same interval again and again, in one step where that is of the rhythm."""
        period = self.period
        if not (self.intervals and interval <= PAUSE * period and interval * PAUSE >= period):
            for _ in range(count):
                self.learn(interval, alpha)
            return
        # What is left of the distance after each: 1 - alpha of it, which the spread follows one step behind.
        left = (1 - alpha) ** count
        before = (1 - alpha) ** (count - 1)
        self.spread = left * self.spread + alpha * count * before * abs(interval - period)
        self.period = interval + left * (period - interval)
        self.regular, self.long, self.short = self.regular + count, 0, 0
        self.intervals += count


_NO_RHYTHMS: Mapping[str, Rhythm] = {}


class CadenceTracker:
    """Learns the period of each client and model, and from it when the next request is due.

    Args:
        alpha: weight of the newest interval, 0 to 1.
        overdue_multiplier: number of periods without a request after which a client is overdue.
    """

    def __init__(self, alpha: float = 0.3, overdue_multiplier: float = 1.5) -> None:
        self.alpha = alpha
        self.overdue_multiplier = overdue_multiplier
        self._clients: dict[str, dict[str, Rhythm]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def on_request(self, client_id: str, model_id: str = "", now: float | None = None) -> float | None:
        """Records a request; returns the seconds since the one before, None for the first."""
        return self.note(client_id, model_id, time.monotonic() if now is None else now)[1]

    def on_renewal(self, client_id: str, model_id: str, now: float) -> None:
        """Records an observation that takes the place of one that waits: its client is there, and asks nothing more."""
        rhythm = self._clients.get(client_id, {}).get(model_id)
        if rhythm is not None:
            rhythm.renewed_at = now

    def note(self, client_id: str, model_id: str, now: float) -> tuple[Rhythm, float | None, float | None]:
        """Records a request; returns rhythm, seconds since the one before, and the period learned before it."""
        models = self._clients.get(client_id)
        if models is None:
            models = self._clients[client_id] = {}
        rhythm = models.get(model_id)
        if rhythm is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            rhythm = models[model_id] = Rhythm(now)
            return rhythm, None, None
        before = rhythm.period if rhythm.intervals else None
        interval = now - rhythm.last
        rhythm.last = now
        rhythm.learn(interval, self.alpha)
        return rhythm, interval, before

    def time_until_next(self, client_id: str, model_id: str = "", now: float | None = None) -> float:
        """Returns seconds until the next request is due, negative once it is overdue; 0 while the rhythm is unknown."""
        rhythm = self.rhythm(client_id, model_id)
        if rhythm is None:
            return 0.0
        return rhythm.period - ((time.monotonic() if now is None else now) - rhythm.last)

    def is_overdue(self, client_id: str, model_id: str = "", now: float | None = None) -> bool:
        """Returns whether more than `overdue_multiplier` periods have passed since the last request."""
        return (time.monotonic() if now is None else now) > self.overdue_from(client_id, model_id)

    def time_since_last(self, client_id: str, model_id: str = "", now: float | None = None) -> float:
        """Returns seconds since the last request; infinite before the first."""
        rhythm = self._clients.get(client_id, {}).get(model_id)
        return math.inf if rhythm is None else (time.monotonic() if now is None else now) - rhythm.last

    def learned_cadence(self, client_id: str, model_id: str = "") -> float | None:
        """Returns the learned period in seconds; None before the second request."""
        rhythm = self.rhythm(client_id, model_id)
        return None if rhythm is None else rhythm.period

    def confidence(self, client_id: str, model_id: str = "") -> float:
        """Returns 0 before the second request, rising to 1 after ten intervals; less for irregular ones."""
        rhythm = self.rhythm(client_id, model_id)
        return 0.0 if rhythm is None else rhythm.confidence

    def rhythms(self, client_id: str) -> Mapping[str, Rhythm]:
        """Returns a client's rhythms by model; one with 0 intervals has no period yet."""
        return self._clients.get(client_id, _NO_RHYTHMS)

    def overdue_from(self, client_id: str, model_id: str = "") -> float:
        """Returns the `time.monotonic()` from which `is_overdue` is true; infinite while the rhythm is unknown."""
        rhythm = self.rhythm(client_id, model_id)
        return math.inf if rhythm is None else rhythm.overdue_from(self.overdue_multiplier)

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)

    def rhythm(self, client_id: str, model_id: str) -> Rhythm | None:
        """Returns a client's rhythm; None before its second request."""
        rhythm = self._clients.get(client_id, {}).get(model_id)
        return rhythm if rhythm is not None and rhythm.intervals else None
