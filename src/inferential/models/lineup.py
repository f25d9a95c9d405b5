"""The pools of each model's versions: which answer, which are on their way, and which are on their way out.

No I/O and no clock: it loads and ends pools through functions, and asks what they are at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from inferential.models.catalog import Plan, Wanted

Key = tuple[str, str]
"""A model's id and a version."""


@dataclass(eq=False, slots=True)
class Pool:
    """One version of one model, as it is or was loaded.

    Attributes:
        pool_id: its name in the engine and the backend.
        model_id, version: whose.
        wanted: as it was to be.
        generation: how often the version has been loaded, from 1.
    """

    pool_id: str
    model_id: str
    version: str
    wanted: Wanted
    generation: int


class Backend(Protocol):
    """What a lineup does and asks."""

    def load(self, pool: Pool) -> None:
        """Begins to load a pool."""

    def end(self, pool: Pool) -> None:
        """Ends a pool that has nothing to do any more."""

    def is_ready(self, pool_id: str) -> bool:
        """Returns whether a pool answers."""
        ...

    def is_idle(self, pool_id: str) -> bool:
        """Returns whether a pool that drains may end: no request waits for or runs on it, or it has had its time."""
        ...

    def is_used(self, model_id: str, version: str) -> bool:
        """Returns whether robots still have a version that the plan does not want any more."""
        ...


class Lineup:
    """The pools, and the plans that they follow.

    Args:
        backend: loads and ends them.
        on_change: called with a line of text when a version has taken over or gone.
    """

    def __init__(self, backend: Backend, on_change: Callable[[str], None]) -> None:
        self._backend = backend
        self._say = on_change
        self.plans: dict[str, Plan] = {}
        self.active: dict[str, str] = {}
        """The version in force of each model: that of its plan once it is ready."""
        self._current: dict[Key, Pool] = {}
        self._coming: dict[Key, Pool] = {}
        self._draining: dict[str, Pool] = {}
        self._after: dict[str, Pool] = {}  # by the pool that must end before
        self._generations: dict[str, int] = {}

    @property
    def changing(self) -> bool:
        """Whether `settle` may have something to do though no pool comes to another state: some drain, or are left."""
        return bool(self._draining) or any(not self._is_wanted(key) for key in self._current)

    def versions(self, model_id: str) -> list[str]:
        """Returns the versions of a model that are loaded or load, without the active one."""
        active = self.active.get(model_id)
        return [version for one, version in self._current if one == model_id and version != active]

    def draining(self) -> list[Pool]:
        """Returns the pools that end once they have nothing to do any more."""
        return list(self._draining.values())

    def pool(self, model_id: str, version: str | None = None) -> str | None:
        """Returns the pool of a version, of the active one by default; None where it is not loaded."""
        found = self._current.get((model_id, self.active.get(model_id, "") if version is None else version))
        return None if found is None else found.pool_id

    def pools(self) -> list[Pool]:
        """Returns all pools, those that load or drain included."""
        return [*self._current.values(), *self._coming.values(), *self._draining.values()]

    def fallbacks(self, model_id: str) -> list[str]:
        """Returns the models that answer for one that cannot, in this order."""
        found: list[str] = []
        plan = self.plans.get(model_id)
        while plan is not None and plan.fallback is not None and plan.fallback not in (model_id, *found):
            found.append(plan.fallback)
            plan = self.plans.get(plan.fallback)
        return found

    def role(self, pool: Pool) -> str:
        """Returns what a pool is for: active, rollout, shadow, coming or former."""
        if pool.pool_id in self._draining:
            return "former"
        if self._coming.get((pool.model_id, pool.version)) is pool:
            return "coming"
        plan = self.plans.get(pool.model_id)
        if pool.version == self.active.get(pool.model_id):
            return "active"
        if plan is not None and pool.version in plan.trials:
            return "rollout"
        return "shadow" if plan is not None and pool.version == plan.shadow else "coming"

    def apply(self, plans: Mapping[str, Plan]) -> None:
        """Takes other plans and begins to load what they want; `settle` ends what they do not want any more."""
        self.plans = dict(plans)
        for model_id, plan in self.plans.items():
            if model_id not in self.active or plan.in_place:
                self.active[model_id] = plan.active
        for model_id, plan in self.plans.items():
            for version, wanted in plan.versions.items():
                self._want((model_id, version), wanted, plan)
        for model_id in self.active.keys() - self.plans.keys():
            del self.active[model_id]
            self._say(f"model {model_id} is not served any more")

    def _want(self, key: Key, wanted: Wanted, plan: Plan) -> None:
        current, coming = self._current.get(key), self._coming.get(key)
        if coming is not None:
            if coming.wanted.fingerprint == wanted.fingerprint:
                return
            self._drain(self._coming.pop(key))
        if current is not None and current.wanted.fingerprint == wanted.fingerprint:
            return
        pool = self._new(key, wanted)
        if current is None:
            self._current[key] = pool
            former = self._former_active(key, plan)
            if former is not None:
                self._after[former.pool_id] = pool
            else:
                self._backend.load(pool)
        elif plan.in_place:
            self._current[key] = pool
            self._after[current.pool_id] = pool
            self._drain(current)
        else:
            self._coming[key] = pool
            self._backend.load(pool)

    def _former_active(self, key: Key, plan: Plan) -> Pool | None:
        """Returns the pool that a new active version must wait for, as both have no room."""
        if not plan.in_place or key[1] != plan.active:
            return None
        others = [pool for other, pool in self._current.items() if other[0] == key[0] and other[1] not in plan.versions]
        return others[0] if others else None

    def _new(self, key: Key, wanted: Wanted) -> Pool:
        model_id, version = key
        base = f"{model_id}@{version}" if version else model_id
        generation = self._generations[base] = self._generations.get(base, 0) + 1
        pool_id = base if generation == 1 else f"{base}#{generation}"
        return Pool(pool_id, model_id, version, wanted, generation)

    def _is_wanted(self, key: Key) -> bool:
        plan = self.plans.get(key[0])
        return plan is not None and (key[1] in plan.versions or key[1] == self.active.get(key[0]))

    def _is_left_slowly(self, key: Key) -> bool:
        """Returns whether a version stays until its robots have ended their chunks or episodes."""
        plan = self.plans.get(key[0])
        if (
            plan is None
            or plan.in_place
            or key in self._coming
            or not self._backend.is_ready(self._current[key].pool_id)
        ):
            return False
        return self._backend.is_used(*key)

    def drop(self, model_id: str, version: str) -> None:
        """Ends a version, whatever the plan says."""
        for table in (self._coming, self._current):
            pool = table.pop((model_id, version), None)
            if pool is not None:
                self._drain(pool)

    def _drain(self, pool: Pool) -> None:
        self._draining[pool.pool_id] = pool

    def settle(self) -> list[tuple[str, str]]:
        """Lets versions take over that are ready, and ends what has drained; to be called when pools have changed.

        Returns:
            Former and new pool of each that was replaced.
        """
        replaced = []
        for key, pool in list(self._coming.items()):
            if self._backend.is_ready(pool.pool_id):
                former = self._current[key]
                del self._coming[key]
                self._current[key] = pool
                self._drain(former)
                replaced.append((former.pool_id, pool.pool_id))
                self._say(f"model {pool.model_id}: {pool.pool_id} has taken over from {former.pool_id}")
        for model_id, plan in self.plans.items():
            former_version = self.active.get(model_id)
            if former_version != plan.active:
                next_pool = self._current.get((model_id, plan.active))
                if next_pool is not None and self._backend.is_ready(next_pool.pool_id):
                    self.active[model_id] = plan.active
                    self._say(f"model {model_id}: version {plan.active or next_pool.pool_id} is active now")
        for key in list(self._current):
            if not self._is_wanted(key) and not self._is_left_slowly(key):
                self.drop(*key)
        for pool_id, pool in list(self._draining.items()):
            if self._backend.is_idle(pool_id):
                del self._draining[pool_id]
                self._backend.end(pool)
                following = self._after.pop(pool_id, None)
                if following is not None:
                    self._backend.load(following)
        return replaced
