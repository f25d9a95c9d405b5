"""Sums up what robots in closed loop did: steps without an action, ages, tasks.

`virtual.measures` sums up the requests of the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from inferential.sim.virtual.measures import jain
from inferential.sim.virtual.world import Played, Run


@dataclass(frozen=True, slots=True)
class Play:
    """Robots in closed loop: those of one class, or all.

    Attributes:
        robots: how many.
        steps: control steps, each robot's from its first action on (all of a robot that never got one).
        starved: share of them without an action.
        starved_worst: that of the robot that has the largest.
        longest_gap_s: the longest time that any robot had no action.
        executed_per_s: executed actions in a second, of all robots.
        action_age_ms: median and 95th percentile of the age of the observation behind an executed action.
        fairness: Jain's index of the robots' shares of steps with an action.
        in_slo: answers in SLO, as a share of the requests issued (Robion's attainment); 1 where none was.
        qualified_per_s: value of the executed actions whose answer was in SLO, in a second (ROSA's productivity).
        tasks: tasks completed.
        task_s: their mean time, from the first request to the last action (Kairos' task latency); None without one.
    """

    robots: int
    steps: int
    starved: float
    starved_worst: float
    longest_gap_s: float
    executed_per_s: float
    action_age_ms: tuple[float, float]
    fairness: float
    in_slo: float
    qualified_per_s: float
    tasks: int
    task_s: float | None

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return asdict(self)


def play_of(run: Run) -> Play | None:
    """Sums up all robots in closed loop; None where there are none."""
    return _play(run.played, run.seconds) if run.played else None


def play_by_class(run: Run) -> dict[str, Play]:
    """Sums up the robots in closed loop of each class, by its name."""
    classes: dict[str, list[Played]] = {}
    for played in run.played:
        classes.setdefault(played.robot.robot_class, []).append(played)
    return {name: _play(robots, run.seconds) for name, robots in sorted(classes.items())}


def starved_share(played: Played) -> float:
    """Returns the share of a robot's control steps without an action; 0 where it had no step."""
    return 1 - played.executed / played.steps if played.steps else 0.0


def _play(robots: Sequence[Played], seconds: float) -> Play:
    steps = sum(one.steps for one in robots)
    executed = sum(one.executed for one in robots)
    issued = sum(one.issued for one in robots)
    ages = np.concatenate([np.asarray(one.ages_ms, dtype=float) for one in robots])
    p50, p95 = np.percentile(ages, (50, 95)) if len(ages) else (0.0, 0.0)
    tasks = [task_s for one in robots for task_s in one.tasks_s]
    return Play(
        robots=len(robots),
        steps=steps,
        starved=1 - executed / steps if steps else 0.0,
        starved_worst=max(starved_share(one) for one in robots),
        longest_gap_s=max(one.longest_gap_s for one in robots),
        executed_per_s=executed / seconds,
        action_age_ms=(float(p50), float(p95)),
        fairness=jain([1 - starved_share(one) for one in robots]),
        in_slo=min(sum(one.in_slo for one in robots) / issued, 1.0) if issued > 0 else 1.0,
        qualified_per_s=sum(one.robot.weight * one.qualified for one in robots) / seconds,
        tasks=len(tasks),
        task_s=float(np.mean(tasks)) if tasks else None,
    )
