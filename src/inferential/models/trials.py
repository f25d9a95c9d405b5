"""What becomes of the requests of each version, and what follows: versions taken back, models not asked for a while.

No I/O and no clock: the manager tells it of calls, and does what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from inferential.models.breaker import Breaker, BreakerLimits
from inferential.models.catalog import Plan
from inferential.models.guard import Counts, stuck, verdict
from inferential.models.shadow import Comparison


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request of a call.

    Attributes:
        client_id: whose.
        error: why the model failed; None where it answered.
        missed: whether it ended after its deadline.
        latency_ms: of the call; None where it has not ended.
    """

    client_id: str
    error: str | None
    missed: bool
    latency_ms: float | None


class Trials:
    """The versions on trial and the breakers of all models."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, Counts]] = {}  # by model and version, of models with a trial
        self._breakers: dict[str, Breaker] = {}
        self._limits: dict[str, BreakerLimits] = {}
        self._comparisons: dict[str, Comparison] = {}
        self.aborted: dict[tuple[str, str], str] = {}
        """Why versions were taken back, by model and version."""

    def limit(self, model_id: str, failures: int | None, pause_s: float) -> None:
        """Sets when the breakers of a model open."""
        self._limits[model_id] = BreakerLimits(failures, pause_s)

    def begin(self, model_id: str, plan: Plan, *, anew: bool) -> None:
        """Takes a model's plan; with `anew` what was counted and taken back before is forgotten."""
        if anew:
            self._counts.pop(model_id, None)
            self._comparisons.pop(model_id, None)
            self.aborted = {key: why for key, why in self.aborted.items() if key[0] != model_id}
        if plan.trials:
            self._counts.setdefault(model_id, {})
        if plan.shadow is not None:
            self._comparisons.setdefault(model_id, Comparison())

    def forget(self, model_id: str) -> None:
        """Forgets a model that is not served any more."""
        for table in (self._counts, self._comparisons, self._limits):
            table.pop(model_id, None)
        self.aborted = {key: why for key, why in self.aborted.items() if key[0] != model_id}

    def counts(self, model_id: str, version: str) -> Counts | None:
        """Returns what became of a version's requests since its trial began; None where there is no trial."""
        return self._counts.get(model_id, {}).get(version)

    def comparison(self, model_id: str) -> Comparison | None:
        """Returns how the version in the shadow compares; None where there is none."""
        return self._comparisons.get(model_id)

    def note(self, model_id: str, version: str, plan: Plan, outcomes: Sequence[Outcome], active: str) -> str | None:
        """Counts the outcomes of one call; returns why its version is to be taken back, None if it is not."""
        by_version = self._counts.get(model_id)
        if by_version is None:
            return None
        window = 200 if plan.limits is None else plan.limits.min_requests
        counts = by_version.setdefault(version, Counts(window))
        for one in outcomes:
            counts.note(one.latency_ms, missed=one.missed, error=one.error)
        if version == active or version not in plan.trials or plan.limits is None:
            return None  # such as the one before, which some robots have still
        if (model_id, version) in self.aborted:
            return None
        why = verdict(plan.limits, counts, by_version.setdefault(active, Counts(window)))
        if why is not None:
            self.aborted[model_id, version] = why
        return why

    def note_running(self, model_id: str, version: str, plan: Plan, running_s: float, active: str) -> str | None:
        """Takes for how long a call of a version runs; returns why it is to be taken back, None if it is not."""
        counts = self.counts(model_id, active)
        if plan.limits is None or counts is None or version not in plan.trials:
            return None
        return stuck(plan.limits, running_s, counts)

    # Breakers, by pool

    def breaker(self, pool: str) -> Breaker | None:
        """Returns the breaker of a pool that has failed before."""
        return self._breakers.get(pool)

    def note_pool(
        self,
        pool: str,
        model_id: str,
        outcomes: Sequence[Outcome],
        now: float,
        lately: Callable[[], Collection[str]],
    ) -> bool:
        """Counts the outcomes of one call; returns whether the pool is not to be asked any more."""
        breaker = self._breakers.get(pool)
        opened = False
        for one in outcomes:
            if one.error is not None:
                if breaker is None:
                    breaker = self._breakers[pool] = Breaker(self._limits.get(model_id, BreakerLimits()))
                opened = breaker.failed(one.client_id, one.error, now, lately) or opened
            elif breaker is not None:
                breaker.succeeded()
                if not breaker.open:
                    self._breakers.pop(pool, None)
                    breaker = None
        return opened

    def drop_pool(self, pool: str) -> None:
        """Forgets a pool that has ended."""
        self._breakers.pop(pool, None)

    @property
    def observe(self) -> bool:
        """Whether outcomes of calls that succeed matter."""
        return bool(self._counts or self._comparisons or self._breakers)

    def begin_probes(self, now: float) -> Iterator[str]:
        """Yields the pools that are to be probed now; each counts as begun."""
        for pool, breaker in self.open_breakers().items():
            at = breaker.probe_at()
            if at is not None and at <= now:
                breaker.probe_begun()
                yield pool

    @property
    def any_breakers(self) -> bool:
        """Whether a pool has failed lately."""
        return bool(self._breakers)

    def open_breakers(self) -> dict[str, Breaker]:
        """Returns the breakers of the pools that are not asked."""
        return {pool: one for pool, one in self._breakers.items() if one.open}
