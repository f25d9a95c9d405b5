"""Whether a version on trial is as good as the active one, and if not, why. No I/O and no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median, quantiles

_WINDOW = 512
_EARLY = 20  # answers of each, before a version can be called slow ahead of its last request


@dataclass(frozen=True, slots=True)
class Limits:
    """What a version on trial must keep to; None: it need not.

    Attributes:
        error_rate, deadline_misses: shares of its requests, 0 to 1.
        latency_ratio: its median latency over that of the active version.
        min_requests: it is judged after so many; or before, where these cannot change the verdict any more.
    """

    error_rate: float | None = None
    deadline_misses: float | None = None
    latency_ratio: float | None = None
    min_requests: int = 200


@dataclass(slots=True)
class Counts:
    """What became of the requests of one version since a trial began."""

    requests: int = 0
    errors: int = 0
    misses: int = 0
    last_error: str = ""
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def note(self, latency_ms: float | None, *, missed: bool, error: str | None = None) -> None:
        """Adds a request.

        Args:
            latency_ms: of its call; None where it was never answered.
            missed: whether its answer came after its deadline.
            error: why the model failed; None where it did not.
        """
        self.requests += 1
        self.misses += missed
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
    done = trial.requests >= least
    if limits.error_rate is not None:
        allowed = limits.error_rate * max(trial.requests, least)
        if trial.errors > allowed and trial.error_rate > active.error_rate:
            return (
                f"{trial.errors} of {trial.requests} requests failed, more than error_rate {limits.error_rate:g} "
                f"of {max(trial.requests, least)}; the last: {trial.last_error}"
            )
    if limits.deadline_misses is not None:
        allowed = limits.deadline_misses * max(trial.requests, least)
        # The active version under the same load is what it must be as good as.
        if trial.misses > allowed and trial.miss_rate > active.miss_rate + limits.deadline_misses / 2:
            return (
                f"{trial.misses} of {trial.requests} answers came after their deadlines, more than deadline_misses "
                f"{limits.deadline_misses:g} of {max(trial.requests, least)}; of the active version's "
                f"{active.misses} of {active.requests}"
            )
    return _slowness(limits, trial, active, done=done)


def _slowness(limits: Limits, trial: Counts, active: Counts, *, done: bool) -> str | None:
    ratio, own, other = limits.latency_ratio, trial.latency_ms, active.latency_ms
    if ratio is None or own is None or other is None or own <= ratio * other:
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
