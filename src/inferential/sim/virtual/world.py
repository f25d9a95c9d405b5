"""What is simulated and what came of it: models, arrivals, outcomes.

It runs nothing: `virtual.simulation` does, `virtual.bound` says what could have been done at best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, as far as time is concerned.

    Attributes:
        model_id: its name.
        latency_s: seconds that a call of 1, 2, ... rows takes at speed 1 (the median); as many as a call takes rows.
        spread: sigma of the lognormal factor that each call's latency varies by; 0: none.
        speeds: of its replicas; a replica of speed 2 takes half the time.
        max_inflight: calls at once on each replica.
        device: models with the same device run one call at a time among them; None: it shares with nobody.
    """

    model_id: str
    latency_s: tuple[float, ...]
    spread: float = 0.0
    speeds: tuple[float, ...] = (1.0,)
    max_inflight: int = 1
    device: str | None = None

    @property
    def max_batch_size(self) -> int:
        """Rows that a call takes."""
        return len(self.latency_s)

    @property
    def least_row_s(self) -> float:
        """The least time that one row takes at speed 1: that of a row in the most efficient batch."""
        return min(latency_s / rows for rows, latency_s in enumerate(self.latency_s, 1))


@dataclass(frozen=True, slots=True)
class Arrival:
    """One observation, as it reaches the server.

    Attributes:
        at: seconds since the beginning.
        client_id, model_id: who asks which model.
        robot_class: the class of the fleet file that it belongs to, for the report.
        deadline: seconds since the beginning at which its answer must leave the server.
        priority, urgency: what a miss costs.
        latest: a newer observation of the same client and model takes its place while it waits.
        late: what becomes of it where it cannot be in time.
        steps_remaining: actions that the robot has left, where it tells.
    """

    at: float
    client_id: str
    model_id: str
    robot_class: str
    deadline: float
    priority: int = 1
    urgency: float = 0.0
    latest: bool = True
    late: Literal["serve", "refuse"] = "serve"
    steps_remaining: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an arrival.

    Attributes:
        arrival: which.
        ended_at: when, in seconds since the beginning; the end of the simulation where it was still open.
        end: "answered", a refusal's kind ("expired", "superseded", "rejected", ...), or "open".
        started_at: when its call began; None where it never ran.
    """

    arrival: Arrival
    ended_at: float
    end: str
    started_at: float | None = None

    @property
    def in_time(self) -> bool:
        """Whether it was answered by its deadline (a nanosecond is rounding)."""
        return self.end == "answered" and self.ended_at <= self.arrival.deadline + 1e-9


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a model, for pictures and batch sizes.

    Attributes:
        model_id, replica: where it ran; the replica is its number.
        started_at, ended_at: seconds since the beginning.
        rows: how many requests.
        in_time: how many of them were answered by their deadline.
    """

    model_id: str
    replica: int
    started_at: float
    ended_at: float
    rows: int
    in_time: int


@dataclass(frozen=True, slots=True)
class Run:
    """One strategy on one sequence of arrivals.

    Attributes:
        strategy: its name.
        seconds: simulated time.
        outcomes: one for each arrival, in their order.
        calls: in the order in which they began.
        decision_us: mean and 99th percentile of the wall time that one decision of the engine took.
    """

    strategy: str
    seconds: float
    outcomes: Sequence[Outcome]
    calls: Sequence[Call]
    decision_us: tuple[float, float]
