"""What each pool is at, and what has changed since it was looked at last. No I/O and no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from inferential.replica.condition import HUNG_AFTER_S, UNKNOWN, Condition, ModelState, best_of


@dataclass(frozen=True, slots=True)
class Transition:
    """A pool's change of state.

    Attributes:
        pool: which.
        former, current: its conditions; `former` is None where the pool is new.
        logged: whether its replicas have logged all that there is to say of it.
    """

    pool: str
    former: Condition | None
    current: Condition
    logged: bool = False

    @property
    def went_down(self) -> bool:
        """Whether it answered before, and neither answers nor starts now."""
        former, current = self.former, self.current
        return former is not None and former.answers and not current.answers and not current.starts


def _is_logged(former: Condition | None, current: Condition, replicas: int) -> bool:
    """Returns whether lines of the replicas say all of a change: not that the last of several is gone, or the first up,
    and not that calls which were said to hang go on."""
    if not current.logged or former is None:
        return current.logged
    if former.state is ModelState.HUNG and not former.logged:
        return False
    return replicas == 1 or former.answers == current.answers


def _differ(former: Condition, current: Condition) -> bool:
    """Returns whether there is more to say of a condition than for how long it has lasted."""
    return (former.state, former.why, former.hopeless) != (current.state, current.why, current.hopeless)


class Conditions:
    """The condition of each pool.

    Attributes:
        starting: pools that load or warm up.
        down: pools that neither answer nor start.
        up_before: pools that have answered before.
    """

    def __init__(self) -> None:
        self._pools: dict[str, Condition] = {}
        self._overrides: dict[str, Condition] = {}
        self._released: dict[str, float] = {}
        self.starting: frozenset[str] = frozenset()
        self.down: frozenset[str] = frozenset()
        self.up_before: set[str] = set()

    def of(self, pool: str) -> Condition:
        """Returns the condition of a pool; of one that the backend says nothing of, that it answers."""
        return self._overrides.get(pool) or self._pools.get(pool, UNKNOWN)

    def knows(self, pool: str) -> bool:
        """Returns whether a pool has been looked at."""
        return pool in self._pools

    def is_overridden(self, pool: str) -> bool:
        """Returns whether `override` says what a pool is at."""
        return pool in self._overrides

    def is_hopeless(self, pool: str) -> bool:
        """Returns whether no request is to wait for a pool: a breaker is open, or its model cannot be loaded."""
        return self.is_overridden(pool) or self.of(pool).hopeless

    def override(self, pool: str, condition: Condition) -> None:
        """Sets what a pool is at, whatever its replicas say, until `release`: a breaker is open."""
        self._overrides[pool] = condition
        self._sort()

    def release(self, pool: str, now: float) -> None:
        """Has a pool go by its replicas again; it is ready since then."""
        if self._overrides.pop(pool, None) is not None and pool in self._pools:
            self._released[pool] = now
            self._pools[pool] = self._since_release(pool, self._pools[pool])
        self._sort()

    def update(
        self,
        replicas: Mapping[str, Sequence[Condition]],
        answering: Mapping[str, bool],
        now: float,
        hung: Mapping[str, float] = MappingProxyType({}),
    ) -> list[Transition]:
        """Takes what replicas are at now; returns which pools have changed.

        Args:
            replicas: the condition of each replica, by pool, where the backend says it.
            answering: by pool, for all pools there are: whether a call can begin on it.
            now: seconds.
            hung: pools of which no call ends any more, by when the first of them began.
        """
        changes = []
        for pool, takes_calls in answering.items():
            former = self._pools.get(pool)
            current = self._folded(pool, replicas.get(pool), takes_calls, now)
            if current.answers and pool in hung:
                current = Condition(ModelState.HUNG, hung[pool], f"a call has run for more than {HUNG_AFTER_S:.0f} s")
            current = self._pools[pool] = self._since_release(pool, current)
            if current.answers:
                self.up_before.add(pool)
            if former is None or _differ(former, current):
                changes.append(
                    Transition(pool, former, current, _is_logged(former, current, len(replicas.get(pool, ()))))
                )
        for pool in self._pools.keys() - answering.keys():
            former = self._pools.pop(pool)
            self.up_before.discard(pool)
            self._overrides.pop(pool, None)
            self._released.pop(pool, None)
            changes.append(Transition(pool, former, Condition(ModelState.STOPPED, now, "it is out of use")))
        self._sort()
        return changes

    def _since_release(self, pool: str, condition: Condition) -> Condition:
        released = self._released.get(pool)
        if released is None or condition.since >= released:
            return condition
        if not condition.answers:
            del self._released[pool]
            return condition
        return replace(condition, since=released)

    def _folded(self, pool: str, replicas: Sequence[Condition] | None, takes_calls: bool, now: float) -> Condition:
        former = self._pools.get(pool)
        if replicas is not None:
            found = best_of(replicas)
            if found.answers and not takes_calls:
                down = ModelState.FAILING if pool in self.up_before else ModelState.LOADING
                found = replace(found, state=ModelState.HUNG if found.why else down)
            # "Ready since" is since the first of its replicas was, whichever is up now.
            if former is not None and former.state is found.state and math.isfinite(former.since):
                found = replace(found, since=min(former.since, found.since))
            return found
        if takes_calls:
            state, why = ModelState.READY, ""
        elif pool in self.up_before:
            state, why = ModelState.FAILING, "no replica takes calls"
        else:
            state, why = ModelState.LOADING, "no replica takes calls yet"
        if former is not None and former.state is state:
            return former
        return Condition(state, now, why)

    def _sort(self) -> None:
        known = {pool: self.of(pool) for pool in self._pools}
        self.starting = frozenset(pool for pool, one in known.items() if one.starts)
        self.down = frozenset(pool for pool, one in known.items() if not one.starts and not one.answers)
