"""The versions of a model as plain values, for status, page, metrics and command line."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from inferential.models.lineup import Pool

if TYPE_CHECKING:
    from inferential.models.manager import ModelManager


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version of a model.

    Attributes:
        version: its name; "" of a model without versions.
        pool: its name in the log and in `Server.profiles`.
        role: active, rollout, shadow, coming (it loads, to take over), former (it ends), or idle (it is not loaded).
        state, since, why: what it is at, as for the model, or why answers in the shadow are not comparable.
        robots: robots that it answers; None where it answers all.
        share: of the robots that no trial names, what its trial is to have; None where it is not on trial.
        waiting, in_flight: requests in the queue for it, and its running calls.
        requests, errors, deadline_misses: of its trial so far, or compared with the shadow; None where they are not
            counted: there is no other version beside it.
        latency_ms: median of its calls in its trial or in the shadow; None before the first.
        compared: answers that were compared with those of the active version.
        difference_mean, difference_max: by action dimension, in the shadow.
    """

    version: str
    pool: str
    role: str
    state: str
    since: float | None = None
    why: str = ""
    robots: int | None = None
    requests: int | None = None
    errors: int | None = None
    deadline_misses: int | None = None
    latency_ms: float | None = None
    compared: int = 0
    difference_mean: list[float] = field(default_factory=list)
    difference_max: list[float] = field(default_factory=list)
    share: float | None = None
    waiting: int = 0
    in_flight: int = 0


def versions_of(models: ModelManager, model_id: str) -> list[VersionStatus]:
    """Returns the versions of a model, the active one first; those that are not loaded last."""
    plan = models.lineup.plans.get(model_id)
    if plan is None:
        return []
    loaded = [pool for pool in models.lineup.pools() if pool.model_id == model_id]
    found = [_of(models, pool) for pool in loaded]
    names = {pool.version for pool in loaded}
    for version in plan.listed:
        if version not in names:
            why = models.trials.aborted.get((model_id, version), "")
            state = "stopped"
            found.append(VersionStatus(version, "", "idle", state, why=why and f"taken back: {why}"))
    roles = ["active", "rollout", "shadow", "coming", "former", "idle"]
    return sorted(found, key=lambda one: (roles.index(one.role), one.version))


def _of(models: ModelManager, pool: Pool) -> VersionStatus:
    condition = models.condition_of(pool.pool_id)
    since = condition.since_unix(time.monotonic(), time.time())
    role = models.lineup.role(pool)
    counts = models.trials.counts(pool.model_id, pool.version)
    comparison = models.trials.comparison(pool.model_id)
    robots = models.robots(pool.model_id)
    why = condition.why
    if (taken_back := models.trials.aborted.get((pool.model_id, pool.version))) is not None:
        why = f"taken back: {taken_back}"
    status = VersionStatus(
        pool.version,
        pool.pool_id,
        role,
        condition.state.value,
        since,
        why,
        robots=None if robots is None else robots.get(pool.version, 0),
        requests=None if counts is None else counts.requests,
        errors=None if counts is None else counts.errors,
        deadline_misses=None if counts is None else counts.misses,
        latency_ms=None if counts is None else counts.latency_ms,
    )
    plan = models.lineup.plans.get(pool.model_id)
    trial = None if plan is None or role != "rollout" else plan.trials.get(pool.version)
    waiting, in_flight = models.load_of(pool.pool_id)
    status = replace(status, share=None if trial is None else trial.share, waiting=waiting, in_flight=in_flight)
    if comparison is None or plan is None or pool.version not in (plan.shadow, plan.active):
        return status
    is_shadow = pool.version == plan.shadow
    if is_shadow and comparison.last_problem and not status.why:
        status = replace(status, why=f"not comparable: {comparison.last_problem}")
    side = comparison.shadow if is_shadow else comparison.active
    return replace(
        status,
        requests=status.requests or side.requests,
        errors=status.errors or side.errors,
        latency_ms=status.latency_ms or side.latency_ms,
        compared=comparison.compared,
        difference_mean=comparison.mean() if is_shadow else [],
        difference_max=comparison.max() if is_shadow else [],
    )
