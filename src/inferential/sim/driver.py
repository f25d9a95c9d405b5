"""Drives one robot in real time: its control loop on one side, its connection to the server on the other.

Physics are stepped once a control period for the time that has passed; an action holds from the step at which it
arrived, not from the next period on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from inferential.sim.link import Link, Refused

if TYPE_CHECKING:  # it imports the physics engine, which a process that only watches does not need
    from inferential.sim.robots import Robot


@dataclass(slots=True)
class RobotReport:
    """State of one robot, sent to the process that shows it.

    Attributes:
        name, kind, control_rate_hz, deadline_ms: who it is.
        up: whether it does its job just now.
        falls: how often it has failed.
        up_share: share of the time that it was up, 0 to 1.
        periods: control periods so far.
        fresh: new actions that arrived in them.
        on_time: of the periods, those at whose end the observation behind the action in force was within the deadline.
        behind: of the periods, those that began more than half a period late: this machine, not the server, was slow.
        ages_ms: age of the observation behind the action in force, at the end of each period since the last report.
        refused: errors by type.
    """

    name: str
    kind: str
    control_rate_hz: float
    deadline_ms: float
    up: bool = True
    falls: int = 0
    up_share: float = 1.0
    periods: int = 0
    fresh: int = 0
    on_time: int = 0
    behind: int = 0
    ages_ms: list[float] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)


class Driver:
    """Runs a robot against the server that `link` connects it to."""

    def __init__(self, robot: Robot, name: str, link: Link) -> None:
        self.name = name
        self._robot = robot
        self._link = link
        self._arrived: deque[tuple[float, float, Any]] = deque()  # when, of which observation's time, the action
        self._observed_at = -math.inf  # of the observation behind the action in force
        self._report = RobotReport(name, robot.kind, robot.control_rate_hz, robot.deadline_ms)
        self._refused: Counter[str] = Counter()
        self._over = False

    async def run(self, start: float, seconds: float) -> None:
        """Drives the robot from `start` (seconds of `time.monotonic()`) for so long."""
        async with self._link:
            control = asyncio.create_task(self._control(start, round(seconds * self._robot.control_rate_hz)))
            receiving = asyncio.create_task(self._receive())
            try:
                await asyncio.wait((control, receiving), return_when=asyncio.FIRST_COMPLETED)
                if receiving.done():
                    receiving.result()  # it ends by an error only
                control.result()
            finally:
                self._over = True  # a link may miss the cancellation: asyncio.wait_for before Python 3.12 does at times
                control.cancel()
                receiving.cancel()
                await asyncio.gather(control, receiving, return_exceptions=True)

    def report(self) -> RobotReport:
        """Returns its state; the ages are those since the last report."""
        report, robot = self._report, self._robot
        report.up, report.falls = robot.up, robot.falls
        report.up_share = robot.up_s / robot.time_s if robot.time_s else 1.0
        report.refused = dict(self._refused)
        copy = RobotReport(**{name: getattr(report, name) for name in RobotReport.__slots__})
        report.ages_ms = []
        return copy

    async def _control(self, start: float, periods: int) -> None:
        period_s = 1 / self._robot.control_rate_hz
        physics_at = start
        for number in range(periods):
            due = start + number * period_s
            await asyncio.sleep(max(due - time.monotonic(), 0.0))
            self._report.behind += time.monotonic() - due > period_s / 2
            fresh = 0
            while physics_at < due:
                fresh += self._apply(physics_at)
                self._robot.step()
                physics_at += self._robot.physics_step_s
            if number:
                self._note(due, fresh)
            await self._link.observe(self._robot.observe())

    def _apply(self, now: float) -> int:
        """Puts the newest action that had arrived by `now` in force; gives how many had."""
        count = 0
        while self._arrived and self._arrived[0][0] <= now:
            _, self._observed_at, action = self._arrived.popleft()
            self._robot.act(action)
            count += 1
        return count

    def _note(self, now: float, fresh: int) -> None:
        age_ms = (now - self._observed_at) * 1e3
        self._report.periods += 1
        self._report.fresh += fresh
        self._report.on_time += age_ms <= self._robot.deadline_ms
        if math.isfinite(age_ms):
            self._report.ages_ms.append(age_ms)

    async def _receive(self) -> None:
        while not self._over:
            try:
                received = await self._link.receive()
            except Refused as error:
                self._refused[str(error)] += 1
                continue
            if received is not None:
                self._arrived.append((time.monotonic(), *received))
