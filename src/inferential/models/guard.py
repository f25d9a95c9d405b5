"""Whether a version on trial is as good as the active one, and if not, why. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median, quantiles

LONGEST_WINDOW = 1000
"""The newest requests of a version by which it is judged however long it was good: `min_requests`, or so many."""
_EARLY = 20  # answers of each, before a version can be called slow ahead of its last request
LEAST_SLOWER_MS = 2.0
"""A version that is slower by less is not called slow: calls differ by as much where one finds its caches cold."""
STUCK_S = 1.0
"""A call of a version on trial that runs for longer, and far longer than those of the active one, is the end of it."""
_STUCK_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version on trial must keep to; None: it need not.

    Attributes:
        error_rate, deadline_misses: shares of its requests, 0 to 1.
        latency_ratio: its median latency over that of the active version, where it is LEAST_SLOWER_MS more at least.
        min_requests: it is judged after so many; or before, where these cannot change the verdict any more.
    """

    error_rate: float | None = None
    deadline_misses: float | None = None
    latency_ratio: float | None = None
    min_requests: int = 200


class Recent:
    """The newest outcomes of a version, of which so many failed and so many came late.

    Args:
        window: how many.
    """

    def __init__(self, window: int) -> None:
        self._outcomes: deque[tuple[bool, bool]] = deque(maxlen=window)
        self.errors: int = 0
        self.misses: int = 0

    def __len__(self) -> int:
        return len(self._outcomes)

    @property
    def full(self) -> bool:
        """Whether as many are known as are looked at."""
        return len(self._outcomes) == self._outcomes.maxlen

    def note(self, *, failed: bool, missed: bool) -> None:
        """Adds one."""
        if self.full:
            old_failed, old_missed = self._outcomes[0]
            self.errors -= old_failed
            self.misses -= old_missed
        self._outcomes.append((failed, missed))
        self.errors += failed
        self.misses += missed


@dataclass(slots=True)
class Counts:
    """What became of the requests of one version since a trial began.

    Attributes:
        window: how many of them `recent` and the latencies are of.
        requests, errors, misses: all, those that failed, and those whose answers came late.
    """

    window: int = 200
    requests: int = 0
    errors: int = 0
    misses: int = 0
    last_error: str = ""
    latencies_ms: deque[float] = field(init=False)
    recent: Recent = field(init=False)

    def __post_init__(self) -> None:
        self.window = max(min(self.window, LONGEST_WINDOW), 1)
        self.latencies_ms = deque(maxlen=self.window)
        self.recent = Recent(self.window)

    def note(self, latency_ms: float | None, *, missed: bool, error: str | None = None) -> None:
        """Adds a request.

        Args:
            latency_ms: of its call; None where it was never answered.
            missed: whether its answer came after its deadline.
            error: why the model failed; None where it did not.
        """
        self.requests += 1
        self.misses += missed
        self.recent.note(failed=error is not None, missed=missed)
        if error is not None:
            self.errors += 1
            self.last_error = error
        elif latency_ms is not None:
            self.latencies_ms.append(latency_ms)

    @property
    def error_rate(self) -> float:
        """Share of the requests that failed."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def miss_rate(self) -> float:
        """Share of the requests whose answer came late."""
        return self.misses / self.requests if self.requests else 0.0

    @property
    def latency_ms(self) -> float | None:
        """Median latency of its calls; None before the first."""
        return median(self.latencies_ms) if self.latencies_ms else None


def verdict(limits: Limits, trial: Counts, active: Counts) -> str | None:
    """Returns why a version on trial is to be taken back; None: it is not, so far."""
    least = limits.min_requests
    of = max(trial.requests, least)
    if limits.error_rate is not None:
        if trial.errors > limits.error_rate * of and trial.error_rate > active.error_rate:
            return (
                f"{trial.errors} of {trial.requests} requests failed, more than error_rate {limits.error_rate:g} "
                f"of {of}; the last: {trial.last_error}"
            )
        recent, other = trial.recent, active.recent
        if (
            recent.full
            and recent.errors > _burst(limits.error_rate) * len(recent)
            and _worse(recent.errors, len(recent), other.errors, len(other))
        ):
            return f"{recent.errors} of the last {len(recent)} requests failed; the last: {trial.last_error}"
    if limits.deadline_misses is not None:
        # The active version under the same load is what it must be as good as.
        margin = limits.deadline_misses / 2
        if trial.misses > limits.deadline_misses * of and trial.miss_rate > active.miss_rate + margin:
            return (
                f"{trial.misses} of {trial.requests} answers came after their deadlines, more than deadline_misses "
                f"{limits.deadline_misses:g} of {of}; of the active version's {active.misses} of {active.requests}"
            )
        recent, other = trial.recent, active.recent
        if (
            recent.full
            and recent.misses > _burst(limits.deadline_misses) * len(recent)
            and _worse(recent.misses, len(recent), other.misses, len(other))
        ):
            return (
                f"{recent.misses} of the last {len(recent)} answers came after their deadlines; of the active "
                f"version's {other.misses} of {len(other)}"
            )
    return _slowness(limits, trial, active, done=trial.requests >= least)


def _burst(rate: float) -> float:
    """Returns the share of the newest requests from which on a version has turned bad that was good before.

    Far enough from the limit that chance alone does not reach it, however long the trial is.
    """
    return min(2 * rate, (1 + rate) / 2)


def _worse(trial: int, of: int, active: int, of_active: int) -> bool:
    """Returns whether a version has clearly more than the active one: what ails both is not its fault."""
    return trial * of_active > 2 * active * of if of_active else True


def stuck(limits: Limits, running_s: float, active: Counts) -> str | None:
    """Returns why a version is to be taken back whose call has not ended yet; None: it may go on.

    Args:
        limits: of the trial; without one of time there is nothing to keep to.
        running_s: for how long the call runs.
        active: of the active version.
    """
    if limits.latency_ratio is None and limits.deadline_misses is None:
        return None
    usual_ms = active.latency_ms
    if usual_ms is None or running_s < max(STUCK_S, _STUCK_RATIO * usual_ms / 1e3):
        return None
    return f"a call has not ended after {running_s:.1f} s, and those of the active version take {usual_ms:.1f} ms"


def _slowness(limits: Limits, trial: Counts, active: Counts, *, done: bool) -> str | None:
    ratio, own, other = limits.latency_ratio, trial.latency_ms, active.latency_ms
    if ratio is None or own is None or other is None or own <= ratio * other or own - other < LEAST_SLOWER_MS:
        return None
    if not done:
        if min(len(trial.latencies_ms), len(active.latencies_ms)) < _EARLY:
            return None
        fast, slow = quantiles(trial.latencies_ms, n=4)[0], quantiles(active.latencies_ms, n=4)[2]
        if fast <= ratio * slow:
            return None  # they overlap: it may be chance
    return (
        f"its calls take {own:.1f} ms, those of the active version {other:.1f} ms: more than latency_ratio {ratio:g} "
        f"({trial.requests} requests)"
    )
