"""Scheduling rules of other systems, written anew from their descriptions, as strategies of the simulator.

Each gives whole calls. What a rule needs beyond the requests (when a robot's actions run out, what an answer would
add) it gets from the simulator's mirror of the robots' queues, which is exact. Where a description leaves something
open, the docstring says how it is read here. Latencies are the medians of the profile of the replica that is free.

    edf_full            Armory's max-batch: the earliest deadline first, full batches
    greedy_deadline     Armory's: the largest batch that the earliest deadline allows
    starvation_fair     Armory's: debt that grows with time
    action_deficit      Armory's: credits for actions
    lookahead           Armory's, L = 1: robot time gained within half a second, per second of the call
    wait_ratio          Kairos': the robot that waits most of its time
    rosa_rate           ROSA's: the highest rate that profiles and SLO allow, which robots then follow
    earliest_head       Robion's queues: the model whose head has least time left, first come first served
    one_request         vLLM-Omni's: one request a call, first come first served
    robot_time          not published: robot time gained per second of the call, without a window; a bar for ours
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, ModelAwareScheduler, register_scheduler
from inferential.sim.virtual.mirror import Mirror, RobotView

if TYPE_CHECKING:
    from inferential.scheduler.time.availability import ReplicaSlot

NAMES = (
    "edf_full",
    "greedy_deadline",
    "starvation_fair",
    "action_deficit",
    "lookahead",
    "wait_ratio",
    "rosa_rate",
    "earliest_head",
    "one_request",
    "robot_time",
)
WINDOW_S = 0.5
"""Of lookahead: how far ahead robot time counts."""
ALPHA = 1.0
"""Of starvation_fair and action_deficit: how much more a larger debt, or demand, counts."""


class FleetRule(ModelAwareScheduler):
    """Keeps the waiting requests of each model in order of arrival; `choose` makes the next call of them."""

    name: ClassVar[str]
    window = 1

    def __init__(self, config: SchedulingConfig) -> None:
        self._waiting: dict[str, dict[InferenceRequest, None]] = {}
        self._mirror = Mirror({})

    @abstractmethod
    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        """Returns the requests of the next call, at least one of those that wait (in order of arrival)."""

    def served(self, request: InferenceRequest, now: float) -> None:
        """A request was given to its model."""

    # What a strategy is

    def see(self, mirror: Mirror) -> None:
        """Takes the mirror of the robots' queues."""
        self._mirror = mirror

    def submit(self, request: InferenceRequest) -> None:
        self._waiting.setdefault(request.model_id, {})[request] = None

    def next_batch_on(self, slot: ReplicaSlot, filled: int = 0) -> list[InferenceRequest]:
        requests = self._waiting.get(slot.model_id)
        if not requests or filled:
            return []
        now = time.monotonic()
        batch = list(self.choose(sorted(requests, key=lambda one: one.arrival), slot, now))
        for request in batch:
            self.remove(request)
            self.served(request, now)
        return batch

    def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
        raise NotImplementedError("rules of the benchmark are run by the simulator's engine only")

    def remove(self, request: InferenceRequest) -> bool:
        requests = self._waiting.get(request.model_id, {})
        if request not in requests:
            return False
        del requests[request]
        if not requests:
            del self._waiting[request.model_id]
        return True

    def models(self) -> list[str]:
        return list(self._waiting)

    def queue_len_for_model(self, model_id: str) -> int:
        return len(self._waiting.get(model_id, ()))

    def queue_len(self) -> int:
        return sum(map(len, self._waiting.values()))

    def tick(self) -> int | None:
        return None

    def status(self) -> dict[str, Any]:
        return {"strategy": self.name, "queue_size": self.queue_len()}

    # What rules have in common

    def robot(self, request: InferenceRequest) -> RobotView | None:
        """Returns the robot of a request, None in open loop."""
        return self._mirror.robot(request.client_id)

    def weight(self, request: InferenceRequest) -> float:
        """Returns the value of an action of the request's robot."""
        robot = self.robot(request)
        return 1.0 if robot is None else robot.weight

    def deadline(self, request: InferenceRequest) -> float:
        """Returns when the robot's actions run out, those on their way included; in open loop, the deadline."""
        robot = self.robot(request)
        return request.deadline if robot is None else robot.runs_out_at()

    def gained_s(self, request: InferenceRequest, answered_at: float, until: float = math.inf) -> float:
        """Returns the robot time that an answer adds; in open loop the request's time where it is in time, else 0."""
        robot = self.robot(request)
        if robot is not None:
            return robot.gained_s(request.request_id, answered_at, until)
        return request.deadline - request.received_at if answered_at <= request.deadline else 0.0

    def by_deadline(self, waiting: Sequence[InferenceRequest]) -> list[InferenceRequest]:
        """Returns them, the earliest deadline first; equals in order of arrival."""
        return sorted(waiting, key=self.deadline)


def sizes(waiting: Sequence[InferenceRequest], slot: ReplicaSlot) -> Iterator[tuple[int, float]]:
    """Yields batch sizes that the requests fill, each with its median latency in seconds."""
    for rows in range(1, min(len(waiting), slot.max_batch_size) + 1):
        yield rows, max(slot.profile.typical(rows), 1e-6)


class EdfFull(FleetRule):
    """Takes the earliest deadlines, as many as there are and a call takes."""

    name = "edf_full"

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        return self.by_deadline(waiting)[: slot.max_batch_size]


class GreedyDeadline(FleetRule):
    """Takes the earliest deadlines, as many as leave the first in time; where none does, the most efficient size."""

    name = "greedy_deadline"

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        ordered = self.by_deadline(waiting)
        earliest = self.deadline(ordered[0])
        fitting = [rows for rows, latency_s in sizes(ordered, slot) if now + latency_s <= earliest]
        if fitting:
            return ordered[: max(fitting)]
        rows, _ = max(sizes(ordered, slot), key=lambda size: size[0] / size[1])
        return ordered[:rows]


class StarvationFair(FleetRule):
    """Takes the robots and the size that reduce the sum of debt^(1 + alpha) most per second of the call.

    A robot's debt grows by rate / horizon a second and falls by 1 when it is served (our reading: not below 0).
    """

    name = "starvation_fair"

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._debts: dict[str, tuple[float, float]] = {}  # and since when it grows

    def _debt(self, request: InferenceRequest, now: float) -> float:
        debt, since = self._debts.get(request.client_id, (0.0, request.received_at))
        robot = self.robot(request)
        lasts_s = request.deadline - request.received_at if robot is None else robot.period_s * robot.horizon_steps
        return debt + (now - since) / max(lasts_s, 1e-6)

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        for request in waiting:
            self._debts.setdefault(request.client_id, (0.0, request.received_at))
        relief = {request: self._relief(request, now) for request in waiting}
        ordered = sorted(waiting, key=lambda request: -relief[request])
        best, most = 1, -math.inf
        total = 0.0
        for rows, latency_s in sizes(ordered, slot):
            total += relief[ordered[rows - 1]]
            if total / latency_s > most:
                best, most = rows, total / latency_s
        return ordered[:best]

    def _relief(self, request: InferenceRequest, now: float) -> float:
        debt = self._debt(request, now)
        return self.weight(request) * float(debt ** (1 + ALPHA) - max(debt - 1, 0.0) ** (1 + ALPHA))

    def served(self, request: InferenceRequest, now: float) -> None:
        self._debts[request.client_id] = max(self._debt(request, now) - 1, 0.0), now


class ActionDeficit(FleetRule):
    """Takes the robots with the most credit, in full batches.

    Our reading: a robot earns weight x (actions a second)^alpha a second, and pays for the actions that it is given.
    """

    name = "action_deficit"

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._credits: dict[str, tuple[float, float]] = {}  # and since when it grows

    def _credit(self, request: InferenceRequest, now: float) -> float:
        credit, since = self._credits.get(request.client_id, (0.0, request.received_at))
        robot = self.robot(request)
        demand = 1 / max(request.deadline - request.received_at, 1e-6) if robot is None else 1 / robot.period_s
        return credit + self.weight(request) * demand**ALPHA * (now - since)

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        for request in waiting:
            self._credits.setdefault(request.client_id, (0.0, request.received_at))
        self._latency_s = slot.profile.typical(min(len(waiting), slot.max_batch_size))
        return sorted(waiting, key=lambda request: -self._credit(request, now))[: slot.max_batch_size]

    def served(self, request: InferenceRequest, now: float) -> None:
        robot = self.robot(request)
        actions = 1.0 if robot is None else self.gained_s(request, now + self._latency_s) / robot.period_s
        self._credits[request.client_id] = self._credit(request, now) - actions, now


class Lookahead(FleetRule):
    """Takes the batch that gains most robot time within half a second, per second of the call (L = 1).

    Candidates: of each weight, the earliest deadlines, 1 to a full batch of them. Our reading: where no candidate gains
    anything within the window, the earliest deadlines in a full batch.
    """

    name = "lookahead"
    window_s: ClassVar[float] = WINDOW_S

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        ordered = self.by_deadline(waiting)
        best: Sequence[InferenceRequest] = ordered[: slot.max_batch_size]
        most = 0.0
        for weight in sorted({self.weight(request) for request in ordered}, reverse=True):
            tier = [request for request in ordered if self.weight(request) == weight]
            for rows, latency_s in sizes(tier, slot):
                gained_s = sum(self.gained_s(request, now + latency_s, now + self.window_s) for request in tier[:rows])
                if weight * gained_s / latency_s > most:
                    best, most = tier[:rows], weight * gained_s / latency_s
        return best


class RobotTime(FleetRule):
    """Takes, of each size, the robots that gain most, and the size with the most robot time per second of the call."""

    name = "robot_time"

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        best: Sequence[InferenceRequest] = self.by_deadline(waiting)[: slot.max_batch_size]
        most = 0.0
        for rows, latency_s in sizes(waiting, slot):
            gains = [
                (self.weight(request) * self.gained_s(request, now + latency_s), -number, request)
                for number, request in enumerate(waiting)
            ]
            gains.sort(reverse=True)
            total = sum(gain for gain, _, _ in gains[:rows])
            if total / latency_s > most:
                best, most = [request for _, _, request in gains[:rows]], total / latency_s
        return best


class WaitRatio(FleetRule):
    """Takes the robots that spend most of their time waiting, in full batches.

    Kairos' formula is not public. Our reading: time with a request open / (that + time executing), highest first.
    """

    name = "wait_ratio"

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        def ratio(request: InferenceRequest) -> float:
            robot = self.robot(request)
            return now - request.waiting_since if robot is None else robot.wait_ratio(now)

        return sorted(waiting, key=ratio, reverse=True)[: slot.max_batch_size]


class FirstComeFullBatch(FleetRule):
    """Takes the oldest requests, as many as there are and a call takes."""

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        return waiting[: slot.max_batch_size]


class EarliestHead(FirstComeFullBatch):
    """Serves, of models that share a device, that whose oldest request has least time left; each in order of arrival.

    Robion's two streams on one GPU (VLM stage beside action stage) are not simulated.
    """

    name = "earliest_head"

    def in_turn(self, model_ids: Sequence[str]) -> Sequence[str]:
        return sorted(model_ids, key=lambda model_id: self.deadline(next(iter(self._waiting[model_id]))))


class OneRequest(FleetRule):
    """Takes the oldest request, alone."""

    name = "one_request"

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        return waiting[:1]


class RosaRate(FleetRule):
    """Tells all robots the highest rate at which profiles let every call meet the SLO; in order of arrival.

    ROSA searches offline: robots per replica and batch size from profiles, a binary search on the rate. Our reading for
    one class of robots and one model, with n robots a replica and calls of b rows that take l(b):

        f = max over b of UTILISATION b / (n l(b)),    2 l(b) <= SLO: the call before, and its own

    Where no b meets the SLO, b = 1. Calls take b rows at most, and a robot asks as often as f, however much it has
    left; one that asks once it has nothing left asks no more often. In open loop no rate is set, and calls are full.
    """

    name = "rosa_rate"
    utilisation: ClassVar[float] = 0.95

    def __init__(self, config: SchedulingConfig) -> None:
        super().__init__(config)
        self._plans: dict[str, tuple[int, float]] = {}  # by model, rows of a call and seconds between requests

    def choose(self, waiting: Sequence[InferenceRequest], slot: ReplicaSlot, now: float) -> Sequence[InferenceRequest]:
        rows, _ = self._plans.get(slot.model_id, (slot.max_batch_size, 0.0))
        return waiting[:rows]

    def interval_s(self, client_id: str, model_id: str) -> float:
        """Returns the time between two requests of a robot."""
        if model_id not in self._plans:
            self._plans[model_id] = self._search(client_id, model_id)
        return self._plans[model_id][1]

    def _search(self, client_id: str, model_id: str) -> tuple[int, float]:
        model, robot = self._mirror.model(model_id), self._mirror.robot(client_id)
        assert robot is not None
        robots = len(self._mirror) / sum(model.speeds) / self.utilisation
        slo_s = robot.slo_s if robot.slo_s is not None else robot.period_s * robot.horizon_steps
        calls = list(enumerate(model.latency_s, 1))
        within = [(rows, latency_s) for rows, latency_s in calls if 2 * latency_s <= slo_s] or calls[:1]
        rows, latency_s = min(within, key=lambda call: call[1] / call[0])
        return rows, robots * latency_s / rows


def register() -> None:
    """Registers the rules as strategies, in the process that runs them; an importer's strategies stay as they are."""
    for rule in (
        EdfFull,
        GreedyDeadline,
        StarvationFair,
        ActionDeficit,
        Lookahead,
        RobotTime,
        WaitRatio,
        EarliestHead,
        OneRequest,
        RosaRate,
    ):
        register_scheduler(rule.name)(rule)
