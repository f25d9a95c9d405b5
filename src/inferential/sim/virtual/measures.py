"""Sums up the requests of a run: answers in time, ages, fairness, waits.

`virtual.bound` has what could have been answered at best; `virtual.starvation` sums up what robots did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inferential.sim.virtual.world import Outcome, Run


@dataclass(frozen=True, slots=True)
class Group:
    """Some robots: those of one class, or all.

    Attributes:
        robots: how many asked.
        offered: their observations.
        ends: how many of them ended as what; "open" at the end of the run.
        in_time: answered by their deadline.
        goodput_per_s: those in a second.
        open_yet: those open at the end of the run that could still be answered in time.
        miss_rate: share of the offered that were not answered in time; `open_yet` does not count, nor do those that
            gave way to a newer observation of the same robot.
        age_ms: median, 95th and 99th percentile of the time from arrival to answer, of those answered.
        answers_per_s_per_robot: answers in time, of a robot on average.
        fairness: Jain's index of the robots' shares of their own observations answered in time; 1 where all
            have the same share (Jain, Chiu, Hawe, DEC-TR-301, 1984).
        longest_wait_s: of any robot, the longest time from an observation to the first answer in time to it or to a
            later one: how long it starved.
        wait_p95_s: the 95th percentile of the robots' longest ones.
        robots_without: robots that got no answer in time at all.
    """

    robots: int
    offered: int
    ends: dict[str, int]
    open_yet: int
    in_time: int
    goodput_per_s: float
    miss_rate: float
    age_ms: tuple[float, float, float]
    answers_per_s_per_robot: float
    fairness: float
    longest_wait_s: float
    wait_p95_s: float
    robots_without: int


@dataclass(frozen=True, slots=True)
class Measures:
    """A run, summed up.

    Attributes:
        strategy, seconds: of the run.
        overall: all robots.
        classes: by class.
        batch_size: mean, by model.
        utilisation: share of the time that its replicas were busy, by model.
        decision_us: mean and 99th percentile of a decision's wall time.
    """

    strategy: str
    seconds: float
    overall: Group
    classes: dict[str, Group]
    batch_size: dict[str, float]
    utilisation: dict[str, float]
    decision_us: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return asdict(self)


def measure(run: Run, replicas: dict[str, int] | None = None) -> Measures:
    """Sums a run up; `replicas` is how many each model has (1 where it is missing)."""
    classes: dict[str, list[Outcome]] = {}
    for outcome in run.outcomes:
        classes.setdefault(outcome.arrival.robot_class, []).append(outcome)
    rows: dict[str, list[int]] = {}
    busy_s: dict[str, float] = {}
    for call in run.calls:
        rows.setdefault(call.model_id, []).append(call.rows)
        busy_s[call.model_id] = busy_s.get(call.model_id, 0.0) + call.ended_at - call.started_at
    return Measures(
        run.strategy,
        run.seconds,
        _group(run.outcomes, run.seconds),
        {name: _group(outcomes, run.seconds) for name, outcomes in sorted(classes.items())},
        {model_id: float(np.mean(sizes)) for model_id, sizes in sorted(rows.items())},
        {
            model_id: spent_s / run.seconds / (replicas or {}).get(model_id, 1)
            for model_id, spent_s in sorted(busy_s.items())
        },
        run.decision_us,
    )


def _group(outcomes: Sequence[Outcome], seconds: float) -> Group:
    robots: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        robots.setdefault(outcome.arrival.client_id, []).append(outcome)
    ends = Counter(outcome.end for outcome in outcomes)
    in_time = sum(outcome.in_time for outcome in outcomes)
    open_yet = sum(one.end == "open" and one.arrival.deadline > seconds for one in outcomes)
    counted = len(outcomes) - open_yet - ends["superseded"]
    ages = [(one.ended_at - one.arrival.at) * 1e3 for one in outcomes if one.end == "answered"]
    percentiles = np.percentile(ages, (50, 95, 99)) if ages else (0.0, 0.0, 0.0)
    shares = np.array([sum(one.in_time for one in own) / len(own) for own in robots.values()])
    waits = [_longest_wait_s(own, seconds) for own in robots.values()]
    return Group(
        robots=len(robots),
        offered=len(outcomes),
        ends=dict(sorted(ends.items())),
        open_yet=open_yet,
        in_time=in_time,
        goodput_per_s=in_time / seconds,
        miss_rate=1 - in_time / counted if counted else 0.0,
        age_ms=(float(percentiles[0]), float(percentiles[1]), float(percentiles[2])),
        answers_per_s_per_robot=in_time / seconds / len(robots) if robots else 0.0,
        fairness=jain(shares),
        longest_wait_s=max(waits, default=0.0),
        wait_p95_s=float(np.percentile(waits, 95)) if waits else 0.0,
        robots_without=int((shares == 0).sum()),
    )


def jain(shares: Any) -> float:
    """Returns Jain's fairness index: 1 where all have the same, 1/n where one has all, 1 of nothing."""
    values = np.asarray(shares, dtype=float)
    squares = float((values**2).sum()) * len(values)
    return float(values.sum()) ** 2 / squares if squares > 0 else 1.0


def _longest_wait_s(own: Sequence[Outcome], seconds: float) -> float:
    """Returns a robot's longest time from an observation to the first answer in time to it or a later one."""
    numbers = {id(one): number for number, one in enumerate(own)}
    waits, first = [], 0
    for one in sorted((one for one in own if one.in_time), key=lambda one: one.ended_at):
        if numbers[id(one)] >= first:
            waits.append(one.ended_at - own[first].arrival.at)
            first = numbers[id(one)] + 1
    if first < len(own) and own[first].arrival.deadline <= seconds:
        waits.append(min(seconds, own[-1].arrival.deadline) - own[first].arrival.at)
    return max(waits, default=0.0)
