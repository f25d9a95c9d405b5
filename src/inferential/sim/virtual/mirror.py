"""Shows a strategy the robots in closed loop: a mirror of their queues of actions, beside their requests.

A server could keep one if robots acknowledged the first action that they execute of each chunk. In the simulation it is
exact. A strategy that has a method `see` is given it before the first request; one that has `interval_s` sets the pace
at which robots ask.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from inferential.sim.virtual.world import ModelSpec


class RobotView(Protocol):
    """Shows one robot, as its server could know it. Times are seconds of `time.monotonic()`."""

    @property
    def period_s(self) -> float:
        """Seconds of a control step."""

    @property
    def horizon_steps(self) -> int:
        """Actions in a chunk."""

    @property
    def weight(self) -> float:
        """Value of an action."""

    @property
    def slo_s(self) -> float | None:
        """Seconds from asking to an answer within which it is in SLO; None where it goes by the actions left."""

    def runs_out_at(self) -> float:
        """Returns when its actions run out, those on their way included; in the past where it has none."""

    def gained_s(self, number: int, answered_at: float, until: float = math.inf) -> float:
        """Returns the seconds of robot time until `until` that an answer to request `number` at `answered_at` adds."""

    def wait_ratio(self, now: float) -> float:
        """Returns the share of its time so far that it spent waiting for answers, of waiting and executing."""


class Mirror:
    """Holds the robots in closed loop, by client id, and the models as they were profiled.

    Args:
        robots: by client id.
        models: by model id.
    """

    def __init__(self, robots: Mapping[str, RobotView], models: Mapping[str, ModelSpec] | None = None) -> None:
        self._robots = robots
        self._models = models or {}

    def robot(self, client_id: str) -> RobotView | None:
        """Returns a robot; None for a client in open loop."""
        return self._robots.get(client_id)

    def model(self, model_id: str) -> ModelSpec:
        """Returns the replicas of a model and how long calls take.

        Raises:
            KeyError: it is not simulated.
        """
        return self._models[model_id]

    def __len__(self) -> int:
        return len(self._robots)


@runtime_checkable
class SeesRobots(Protocol):
    """A strategy that decides by the robots' queues."""

    def see(self, mirror: Mirror) -> None:
        """Takes the mirror, once, before the first request."""


@runtime_checkable
class PacesRobots(Protocol):
    """A strategy that says how often a robot asks."""

    def interval_s(self, client_id: str, model_id: str) -> float:
        """Returns the shortest time between two requests of a robot; 0: no limit."""
