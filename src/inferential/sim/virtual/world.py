"""Values of a simulation: models, arrivals and robots that go in, outcomes that come out.

`virtual.simulation` runs them; `virtual.bound` computes the most that any schedule could have answered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

_HIGH = 1.645  # the 95th percentile, in standard deviations


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model, as far as time is concerned.

    Attributes:
        model_id: its name.
        latency_s: seconds that a call of 1, 2, ... rows takes at speed 1 (the median); as many as a call takes rows.
        spread: sigma of the lognormal factor that each call's latency varies by; 0: none.
        speeds: of its replicas; a replica of speed 2 takes half the time.
        max_inflight: calls at once on each replica.
        device: models with the same device run one call at a time among them; None: it shares with no other.
        turnaround_s: seconds from the end of a call, when its answers are sent, until its replica can begin the next.
    """

    model_id: str
    latency_s: tuple[float, ...]
    spread: float = 0.0
    speeds: tuple[float, ...] = (1.0,)
    max_inflight: int = 1
    device: str | None = None
    turnaround_s: float = 0.0

    def profile(self) -> list[dict[str, float]]:
        """Returns how long calls of each size keep a replica of speed 1, as a file of profiles says it."""
        turnaround_ms, high = self.turnaround_s * 1e3, math.exp(_HIGH * self.spread)
        return [
            {
                "batch_size": rows,
                "median_ms": latency_s * 1e3 + turnaround_ms,
                "high_ms": latency_s * 1e3 * high + turnaround_ms,
            }
            for rows, latency_s in enumerate(self.latency_s, 1)
        ]

    @property
    def max_batch_size(self) -> int:
        """Rows that a call takes."""
        return len(self.latency_s)

    @property
    def least_row_s(self) -> float:
        """The least time of a replica that one row takes at speed 1: that of a row in the most efficient batch.

        The time until the next call can begin is a part of it, as much as it is at the lowest speed.
        """
        turnaround_s = self.turnaround_s * min(self.speeds)
        return min((latency_s + turnaround_s) / rows for rows, latency_s in enumerate(self.latency_s, 1))


@dataclass(frozen=True, slots=True)
class Arrival:
    """One observation, as it reaches the server.

    Attributes:
        at: seconds since the beginning.
        client_id, model_id: the client and the model that it asks.
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
class WaitingClient:
    """One client that waits for each answer: when it asks depends on when it was answered.

    Attributes:
        asks: what it asks, one after the other, and from the beginning again; of their times only the first counts.
        pauses_s: of each, the seconds from its end to the next one.
        stops_at: seconds since the beginning, after which it asks no more.
    """

    asks: Sequence[Arrival]
    pauses_s: Sequence[float]
    stops_at: float = math.inf


@dataclass(frozen=True, slots=True)
class ChunkedRobot:
    """One robot in closed loop: it plays chunks of actions, and when it asks depends on what it was answered.

    Attributes:
        client_id, model_id: which robot asks which model.
        robot_class: the class of the fleet file that it belongs to, for the report.
        period_s: seconds of a control step.
        horizon_steps: actions in a chunk; with `chunk_steps`, the most that are played of it.
        chunk_steps: actions in a chunk where that is more than the horizon: then the horizon counts from the first
            action played, and else from the observation.
        ask: "runtime": as `ChunkRuntime` asks, when the steps left are as few as a round trip may take; "threshold":
            when `ask_at_steps` or fewer actions are left; "every_step": at each control step.
        ask_at_steps: of "threshold".
        refresh: whether an observation that waits is replaced by a newer one at each step; the server drops one that
            reaches it after the request was dispatched.
        renews: whether it observes anew when its observation is refused as outdated, as `ChunkRuntime` does.
        index: which action of a chunk is played first: by "executed" actions, those are skipped that were executed
            since the observation, as `ChunkRuntime` does by default; by "time", all whose steps passed since.
        delay_s, delay_jitter_s: of the network, each way: mean and standard deviation. Messages stay in order.
        loss: share of the messages that are lost, each way.
        interval_s: the shortest time between two requests; 0: no limit.
        budget_s: time from an observation's arrival to its deadline; None: until the robot's actions run out.
        slo_s: time from asking to the answer's arrival within which it counts as in SLO; None: until the actions that
            were left at asking have run out.
        priority, urgency, late: of its requests.
        weight: value of one of its actions.
        task_steps: executed actions that make a task.
        starts_at, stops_at: seconds since the beginning.
        seed: of the network's chance.
    """

    client_id: str
    model_id: str
    robot_class: str
    period_s: float
    horizon_steps: int
    ask: Literal["runtime", "threshold", "every_step"] = "runtime"
    ask_at_steps: int = 0
    refresh: bool = False
    renews: bool = True
    index: Literal["executed", "time"] = "executed"
    chunk_steps: int | None = None
    delay_s: float = 0.0
    delay_jitter_s: float = 0.0
    loss: float = 0.0
    interval_s: float = 0.0
    budget_s: float | None = None
    slo_s: float | None = None
    priority: int = 1
    urgency: float = 0.0
    late: Literal["serve", "refuse"] = "serve"
    weight: float = 1.0
    task_steps: int = 500
    starts_at: float = 0.0
    stops_at: float = math.inf
    seed: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What one robot in closed loop did.

    Attributes:
        robot: which.
        steps: control steps from its first action on; of a robot that never got one, all since it joined.
        executed: of them, those with an action.
        longest_gap_s: the longest time without an action among them.
        ages_ms: of each executed action, the age of the observation behind it.
        qualified: executed actions whose answer was in SLO.
        issued: requests; a refreshed observation is one request with the one that it replaced.
        in_slo: of them, those answered in SLO.
        tasks_s: of each task completed, the time from its first request to its last action.
    """

    robot: ChunkedRobot
    steps: int
    executed: int
    longest_gap_s: float
    ages_ms: Sequence[float]
    qualified: int
    issued: int
    in_slo: int
    tasks_s: Sequence[float]


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
        played: what each robot in closed loop did.
    """

    strategy: str
    seconds: float
    outcomes: Sequence[Outcome]
    calls: Sequence[Call]
    decision_us: tuple[float, float]
    played: Sequence[Played] = ()
