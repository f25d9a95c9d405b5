"""Gathers the reports of a run: the state of every robot now, and the summary at the end.

It shows nothing: `sim.table` and `sim.plot` do.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from inferential.sim.driver import RobotReport
from inferential.sim.fleet import Plan, Report, ServerReport


@dataclass(slots=True)
class KindSummary:
    """Robots of one kind over a run.

    Attributes:
        kind, robots: which, and how many.
        up_at_end: how many were up when it ended.
        up_share: share of all robots' time that they were up.
        falls: how often one failed.
        asked_hz, rate_hz: control rate, and fresh actions a second and robot.
        age_p50_ms, age_p95_ms: age of the observation behind the action in force; None where no action came.
        deadline_hits: share of control periods whose action came from an observation within the deadline.
    """

    kind: str
    robots: int
    up_at_end: int
    up_share: float
    falls: int
    asked_hz: float
    rate_hz: float
    age_p50_ms: float | None
    age_p95_ms: float | None
    deadline_hits: float


@dataclass(slots=True)
class Watch:
    """All reports of one run."""

    plan: Plan
    robots: dict[str, RobotReport] = field(default_factory=dict)
    server: ServerReport = field(default_factory=ServerReport)
    ages_ms: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recent_ages_ms: dict[str, list[float]] = field(default_factory=dict)
    batch_sizes: list[int] = field(default_factory=list)
    queue_depths: list[int] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False
    """Whether it was ended early."""

    def take(self, reports: list[Report]) -> None:
        """Adds reports."""
        for report in reports:
            if isinstance(report, ServerReport):
                self.server = report
                self.batch_sizes.extend(report.batches)
                self.queue_depths.append(report.queue_depth)
                continue
            for robot in report:
                self.robots[robot.name] = robot
                self.ages_ms[robot.name].extend(robot.ages_ms)
                if robot.ages_ms:
                    self.recent_ages_ms[robot.name] = robot.ages_ms
                self.seconds = max(self.seconds, robot.periods / robot.control_rate_hz)

    def count(self, name: str) -> int:
        """Returns how often the server recorded a metric."""
        return self.server.counts.get(name, 0)

    def refused(self) -> int:
        """Returns the requests that were answered with an error, superseded ones not counted."""
        return sum(sum(robot.refused.values()) for robot in self.robots.values())

    def behind(self) -> float:
        """Returns the share of control periods that began late because this machine was too busy."""
        periods = sum(robot.periods for robot in self.robots.values())
        return sum(robot.behind for robot in self.robots.values()) / periods if periods else 0.0

    def kinds(self) -> list[KindSummary]:
        """Returns the summary, kind by kind."""
        by_kind: dict[str, list[RobotReport]] = defaultdict(list)
        for robot in self.robots.values():
            by_kind[robot.kind].append(robot)
        return [self._summary(kind, robots) for kind, robots in sorted(by_kind.items())]

    def _summary(self, kind: str, robots: list[RobotReport]) -> KindSummary:
        ages = [age for robot in robots for age in self.ages_ms[robot.name]]
        p50, p95 = _p50_p95(ages)
        periods = sum(robot.periods for robot in robots) or 1
        return KindSummary(
            kind=kind,
            robots=len(robots),
            up_at_end=sum(robot.up for robot in robots),
            up_share=round(sum(robot.up_share for robot in robots) / len(robots), 4),
            falls=sum(robot.falls for robot in robots),
            asked_hz=robots[0].control_rate_hz,
            rate_hz=round(sum(robot.fresh for robot in robots) / periods * robots[0].control_rate_hz, 2),
            age_p50_ms=p50,
            age_p95_ms=p95,
            deadline_hits=round(sum(robot.on_time for robot in robots) / periods, 4),
        )

    def summary(self) -> dict[str, Any]:
        """Returns the whole run as plain values, for JSON."""
        p50, p95 = _p50_p95([age for ages in self.ages_ms.values() for age in ages])
        return {
            "plan": asdict(self.plan),
            "seconds": round(self.seconds, 2),
            "interrupted": self.interrupted,
            "kinds": [asdict(kind) for kind in self.kinds()],
            "age_p50_ms": p50,
            "age_p95_ms": p95,
            "mean_batch_size": round(float(np.mean(self.batch_sizes)), 2) if self.batch_sizes else 0.0,
            "mean_queue_depth": round(float(np.mean(self.queue_depths)), 2) if self.queue_depths else 0.0,
            "served": self.count("responses_served"),
            "superseded": self.count("requests_superseded"),
            "refused": self.refused(),
            "behind": round(self.behind(), 4),
            "robots": [
                {name: value for name, value in asdict(robot).items() if name != "ages_ms"}
                for robot in self.robots.values()
            ],
        }


def _p50_p95(ages_ms: list[float]) -> tuple[float | None, float | None]:
    if not ages_ms:
        return None, None
    p50, p95 = np.percentile(ages_ms, [50, 95])
    return round(float(p50), 1), round(float(p95), 1)
