"""Bounds how many answers any schedule could have given in time, the future known.

No schedule does better; whether one does as well is only known for small cases (`virtual.exact`).

The bound is that of a fluid. An answered request is a row of a call that begins at or after its arrival and ends by its
deadline, so that its share of the call's time, at least `least_row_s` (a row of the most efficient batch), lies between
the two. What a replica needs from there to its next call (`turnaround_s`) is a part of that share, and may come after
the deadline by so much. Let work be divisible, be done at any moment in between, by all replicas together, and be paid
by the part: all that a schedule can do is still allowed, so the most that can be paid is no less than any schedule's
answers.

The most work that can be done of some requests is what the earliest deadline first does of them: if at some moment
another request is worked on while one with an earlier deadline waits, exchanging the two loses nothing, as the other
may be done later. Where models that share a device differ in the work of a row, the amounts of work that can be done of
each request form a polymatroid (it is a flow through the moments between arrival and deadline; Megiddo, 1974), and
greed is optimal on it (Edmonds, 1970): with r(k) the most work of the k models with the least work per row, the bound
is the sum of (r(k) - r(k - 1)) / work of a row of the kth.

Latencies that vary do so around a median of `latency_s`, by a lognormal factor whose mean is above 1: on average, calls
take more than the bound takes them to. A lucky run may exceed it by what its calls were luckier than that.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

from inferential.sim.virtual.world import Arrival, ModelSpec, Run

_Job = tuple[float, float, float]
"""Arrival, deadline, work in seconds at speed 1."""


def upper_bound(models: Sequence[ModelSpec], arrivals: Iterable[Arrival], seconds: float) -> int:
    """Returns the most arrivals that any schedule answers by their deadline and within so many seconds.

    Args:
        models: what is served.
        arrivals: what is asked.
        seconds: when it ends.
    """
    jobs = _jobs(models, arrivals, seconds)
    total = 0.0
    for group in _groups(models):
        done_before, together = 0.0, []
        for model in sorted(group, key=lambda model: model.least_row_s):
            together += jobs[model.model_id]
            done = _most_work(sorted(together), _capacity(group))
            total += (done - done_before) / model.least_row_s
            done_before = done
    return math.floor(total + 1e-6)


def work_bound(models: Sequence[ModelSpec], arrivals: Iterable[Arrival], seconds: float) -> float:
    """Returns the most that answers in time can be worth, each its `least_row_s`, in seconds.

    Of models that share a device, the most answers are those of the cheap rows alone; counted by their work, an answer
    of the dear model is worth as much more as it takes, and a schedule need not starve it to do well.
    """
    jobs = _jobs(models, arrivals, seconds)
    return sum(
        _most_work(sorted(job for model in group for job in jobs[model.model_id]), _capacity(group))
        for group in _groups(models)
    )


def work_in_time(models: Sequence[ModelSpec], run: Run) -> float:
    """Returns what the answers in time of a run were worth, each its `least_row_s`, in seconds."""
    worth_s = {model.model_id: model.least_row_s for model in models}
    return sum(worth_s[outcome.arrival.model_id] for outcome in run.outcomes if outcome.in_time)


def _jobs(models: Sequence[ModelSpec], arrivals: Iterable[Arrival], seconds: float) -> dict[str, list[_Job]]:
    """Returns the arrivals that can be answered in time by a call of their own, by model."""
    jobs: dict[str, list[_Job]] = {model.model_id: [] for model in models}
    alone_s = {model.model_id: model.latency_s[0] / max(model.speeds) for model in models}
    work_s = {model.model_id: model.least_row_s for model in models}
    turnaround_s = {model.model_id: model.turnaround_s for model in models}
    for arrival in arrivals:
        until = min(arrival.deadline, seconds)
        # Half a nanosecond: a call that ends at the deadline, rounded up, is in time.
        if arrival.at + alone_s[arrival.model_id] <= until + 5e-10:
            until += turnaround_s[arrival.model_id]
            jobs[arrival.model_id].append((arrival.at, until + 1e-9, work_s[arrival.model_id]))
    return jobs


def _groups(models: Sequence[ModelSpec]) -> list[list[ModelSpec]]:
    """Models that share a device together, the others alone."""
    groups: dict[str, list[ModelSpec]] = {}
    for model in models:
        groups.setdefault(f"device {model.device}" if model.device is not None else model.model_id, []).append(model)
    return list(groups.values())


def _capacity(group: Sequence[ModelSpec]) -> float:
    """Seconds of work at speed 1 that are done in a second."""
    if group[0].device is not None:
        return max(max(model.speeds) for model in group)
    return sum(group[0].speeds) * group[0].max_inflight


def _most_work(jobs: Sequence[_Job], capacity: float) -> float:
    """Returns the most work that can be done of jobs in order of arrival: the earliest deadline first, in parts."""
    waiting: list[tuple[float, float]] = []
    now, done, following = 0.0, 0.0, 0
    while following < len(jobs) or waiting:
        if not waiting:
            now = max(now, jobs[following][0])
        while following < len(jobs) and jobs[following][0] <= now:
            _, until, work = jobs[following]
            heapq.heappush(waiting, (until, work))
            following += 1
        next_at = jobs[following][0] if following < len(jobs) else math.inf
        while waiting and now < next_at:
            until, left = waiting[0]
            spent = min(left / capacity, next_at - now, until - now)
            if spent > 0:
                now += spent
                done += spent * capacity
                left -= spent * capacity
            if left <= 1e-12 or now >= until or spent <= 0:
                heapq.heappop(waiting)
            else:
                heapq.heapreplace(waiting, (until, left))
    return done
