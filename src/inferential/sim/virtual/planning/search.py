"""Finds the plan that is best in the simulator, beginning with the best placements by estimate.

Better is what keeps more of the minimum rates, and then what gains more value a second: executed actions of robots that
play chunks, answers in time of the others.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from inferential.sim.virtual import generate
from inferential.sim.virtual.fleet_file import Fleet, FleetModel, RobotClass
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.planning.placement import Group, Placement, cost_of, needed_hz, placements, rates
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.starvation import play_by_class
from inferential.sim.virtual.world import Run

TRIED = 4
"""Placements that are simulated."""
_KEEPS = 0.95  # of a minimum rate, the share that counts as kept
_BUSY = (1.0, 0.65)  # shares of their time that devices are planned to be busy, where robots have rates
_ALIKE = 0.95  # of a value, what counts as no less
MOST_EVENTS = 2_000_000
"""Of one simulation with more robots than the fleet has: it takes about a minute."""
_ROBOT_EVENTS, _STEP_EVENTS = 20, 0.01  # that a robot takes as much time as, and a step of its chunk as much memory
_CLOSE = 0.02  # how exactly the number of robots is found that devices carry
Progress = Callable[[], None]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Where a model runs.

    Attributes:
        devices: the numbers of its devices, from 0 on.
        replicas: one on each device.
        max_batch_size: the most rows of a call.
        shares_with: models on the same device.
    """

    devices: tuple[int, ...]
    replicas: int
    max_batch_size: int
    shares_with: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """What robots of one class get.

    Attributes:
        robots: how many.
        model: which they ask.
        rate_hz: answers a second of each, as simulated.
        serve_interval_ms: the shortest interval at which each may ask; 0: no limit.
        execution_horizon: actions of a chunk that each plays at that interval; None of robots without chunks.
        with_action: share of their control steps with an action; of robots without chunks, of their observations that
            were answered in time.
        worst: that of the robot with the least; of robots without chunks the same as `with_action`.
        keeps_min_rate: whether each gets its minimum rate.
    """

    robots: int
    model: str
    rate_hz: float
    serve_interval_ms: float
    execution_horizon: int | None
    with_action: float
    worst: float
    keeps_min_rate: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """A fleet on devices, as simulated.

    Attributes:
        devices: how many.
        models, robots: by name.
        value_per_s: executed actions and answers in time, times their values, in a second.
    """

    devices: int
    models: dict[str, ModelPlan]
    robots: dict[str, ClassPlan]
    value_per_s: float

    def as_dict(self) -> dict[str, Any]:
        """Returns plain values, for JSON."""
        return asdict(self)

    @property
    def order(self) -> tuple[int, float]:
        """What a better plan has more of."""
        return sum(one.keeps_min_rate for one in self.robots.values()), self.value_per_s

    def carries(self, target: float) -> bool:
        """Returns whether every class has an action (or an answer in time) for this share of what it plays or asks."""
        return all(one.with_action >= target for one in self.robots.values())


class Search:
    """Searches plans of one fleet.

    Args:
        fleet: models and robots; replicas, devices and calls at once of its models are not looked at.
        strategy: the strategy that schedules.
        seconds: virtual time of each simulation.
        seed: of phases, gaps and latencies.
        progress: called after each simulation.
    """

    def __init__(
        self, fleet: Fleet, strategy: str, *, seconds: float, seed: int, progress: Progress = lambda: None
    ) -> None:
        self._fleet = fleet
        self._strategy = strategy
        self._seconds = seconds
        self._seed = seed
        self._progress = progress

    def best(self, devices: int, load: float = 1.0) -> Plan:
        """Returns the best plan found for so many devices.

        Raises:
            ValueError: the fleet has too many models, or a class asks less than once in a simulation.
        """
        self._check_asks(load)
        plan, placed, busy = self._best_placement(devices, load)
        for place, group in enumerate(placed.groups):
            for member in range(len(group.models)):
                for rows in self._other_sizes(group, member):
                    sizes = (*group.batch_sizes[:member], rows, *group.batch_sizes[member + 1 :])
                    changed = replace(placed.groups[place], batch_sizes=sizes)
                    tried = Placement((*placed.groups[:place], changed, *placed.groups[place + 1 :]))
                    other = self._simulated(tried, devices, load, busy=busy)
                    if other.order > plan.order:
                        plan, placed = other, tried
        return plan

    def _check_asks(self, load: float) -> None:
        for name, one in self._fleet.robots.items():
            count = max(1, round(one.count * load))
            if count * self._seconds < one.period_s:
                raise ValueError(
                    f"robots.{name}: {count} of them ask once in {one.period_s / count:.4g} s in all, and a simulation "
                    f"takes {self._seconds:g} s: expected more seconds, or robots that ask more often"
                )

    def _best_placement(self, devices: int, load: float) -> tuple[Plan, Placement, float | None]:
        found = placements(self._fleet, devices, load)[:TRIED]
        tried = [
            (self._simulated(placed, devices, load, busy=busy), placed, busy)
            for placed in found
            for busy in (None, *_BUSY)
            if busy is None or self._limits(placed, load, busy)
        ]
        best = max(tried, key=lambda one: one[0].order)
        if best[2] is None:  # rates that cost nothing save what would be superseded
            kept, value = best[0].order
            for one in tried:
                if one[1] is best[1] and one[2] is not None and one[0].order >= (kept, _ALIKE * value):
                    return one
        return best

    def _other_sizes(self, group: Group, member: int) -> list[int]:
        most = len(generate.latencies_s(self._fleet.models[group.models[member]]))
        now = group.batch_sizes[member]
        return sorted({max(now // 2, 1), min(now * 2, most), most} - {now})

    def _limits(self, placed: Placement, load: float, busy: float) -> dict[str, float]:
        """Returns the rates of the classes that are due less than they ask."""
        found: dict[str, float] = {}
        for group in placed.groups:
            call_s = {
                model_id: generate.latencies_s(self._fleet.models[model_id])[rows - 1]
                for model_id, rows in zip(group.models, group.batch_sizes, strict=True)
            }
            cost_s = {
                model_id: cost_of(self._fleet.models[model_id], rows)
                for model_id, rows in zip(group.models, group.batch_sizes, strict=True)
            }
            robots = {name: one for name, one in self._fleet.robots.items() if one.model in call_s}
            due = rates(robots, cost_s, call_s, group.devices, load, busy)
            found |= {
                name: rate
                for name, rate in due.items()
                if rate < 0.98 * needed_hz(robots[name], call_s[robots[name].model])
            }
        return found

    def _simulated(self, placed: Placement, devices: int, load: float, *, busy: float | None) -> Plan:
        limits = {} if busy is None else self._limits(placed, load, busy)
        where = _devices(placed)
        run = self._run(placed, where, limits, load)
        played, asked = play_by_class(run), measure(run).classes
        answered = Counter(one.arrival.robot_class for one in run.outcomes if one.end == "answered")
        classes, value = {}, 0.0
        for name, one in self._fleet.robots.items():
            count = max(1, round(one.count * load))
            rate, play = answered[name] / run.seconds / count, played.get(name)
            interval_s = 1 / limits[name] if name in limits else 0.0
            if play is not None:
                with_action, worst = 1 - play.starved, 1 - play.starved_worst
                value += one.value * play.executed_per_s
                steps = one.horizon_steps or 1
                horizon = min(max(math.ceil(interval_s / one.step_s - 1e-9), 1), steps) if interval_s else steps
            else:
                in_time, decided = 0, 0
                if name in asked:
                    in_time, decided = asked[name].in_time, asked[name].offered - asked[name].open_yet
                asks = min(limits[name] * one.period_s, 1.0) if name in limits else 1.0
                with_action = worst = asks * in_time / decided if decided else asks
                value += one.value * in_time / run.seconds
                horizon = None
            classes[name] = ClassPlan(
                robots=count,
                model=one.model,
                rate_hz=round(rate, 3),
                serve_interval_ms=round(interval_s * 1e3, 1),
                execution_horizon=horizon,
                with_action=round(with_action, 4),
                worst=round(worst, 4),
                keeps_min_rate=rate >= _KEEPS * min(one.min_rate_hz, needed_hz(one, 0.0)),
            )
        plans = {
            model_id: ModelPlan(
                tuple(where[model_id]),
                len(where[model_id]),
                placed.batch_size(model_id),
                tuple(other for other in placed.group(model_id).models if other != model_id),
            )
            for model_id in self._fleet.models
        }
        return Plan(devices, plans, classes, round(value, 2))

    def _run(
        self, placed: Placement, where: Mapping[str, Sequence[int]], limits: Mapping[str, float], load: float
    ) -> Run:
        """Simulates the fleet with its models on these devices, and these rates for some of its classes."""
        models = {}
        for model_id, model in self._fleet.models.items():
            shared = f"device {where[model_id][0]}" if len(placed.group(model_id).models) > 1 else None
            models[model_id] = _cut(model, len(where[model_id]), placed.batch_size(model_id), shared)
        robots = {
            name: one
            if one.is_closed or name not in limits
            else one.model_copy(update={"rate_hz": limits[name], "every_s": None})
            for name, one in self._fleet.robots.items()
        }
        fleet = Fleet.model_construct(models=models, robots=robots)
        closed = [
            replace(robot, interval_s=1 / limits[robot.robot_class]) if robot.robot_class in limits else robot
            for robot in generate.chunked_robots(fleet, seed=self._seed, load=load)
        ]
        run = simulate(
            generate.models(fleet),
            generate.arrivals(fleet, seconds=self._seconds, seed=self._seed, load=load),
            self._strategy,
            seconds=self._seconds,
            seed=self._seed,
            robots=closed,
            profiled=True,
        )
        self._progress()
        return run

    def most_robots(self, devices: int, target: float) -> int:
        """Returns how many robots, in the fleet's proportions, devices carry so that each class has its share.

        Args:
            devices: how many.
            target: the share of its control steps with an action, or of its observations answered in time.

        Returns:
            Where `is_limit` of it, so many and perhaps more.
        """
        total = sum(one.count for one in self._fleet.robots.values())

        def carried(load: float) -> bool:
            (placed, *_) = placements(self._fleet, devices, load)
            return self._simulated(placed, devices, load, busy=None).carries(target)

        few, many = 0.0, 1.0
        while carried(many):
            few, many = many, 2 * many
            if self._events(many) > MOST_EVENTS:
                return _robots(self._fleet, few)
        while (many - few) * total > max(1.0, _CLOSE * many * total):
            middle = (few + many) / 2
            few, many = (middle, many) if carried(middle) else (few, middle)
        return _robots(self._fleet, few) if few else 0

    def is_limit(self, robots: int) -> bool:
        """Returns whether so many robots are the most that are simulated to find how many devices carry."""
        load = robots / sum(one.count for one in self._fleet.robots.values())
        return load >= 1 and self._events(2 * load) > MOST_EVENTS

    def _events(self, load: float) -> float:
        """Returns how much is simulated, in observations and control steps; a robot and its chunk count for some."""
        made = generate.events(self._fleet, seconds=self._seconds, load=load)
        return sum(
            max(made[name], max(1, round(one.count * load)) * max(_ROBOT_EVENTS, _chunk_steps(one) * _STEP_EVENTS))
            for name, one in self._fleet.robots.items()
        )


def _chunk_steps(robots: RobotClass) -> int:
    return robots.chunk_steps or robots.horizon_steps or 0


def _robots(fleet: Fleet, load: float) -> int:
    return sum(max(1, round(one.count * load)) for one in fleet.robots.values())


def _devices(placed: Placement) -> dict[str, list[int]]:
    """Returns the numbers of each model's devices."""
    found: dict[str, list[int]] = {}
    following = 0
    for group in placed.groups:
        numbers = list(range(following, following + group.devices))
        following += group.devices
        found.update(dict.fromkeys(group.models, numbers))
    return found


def _cut(model: FleetModel, replicas: int, rows: int, device: str | None) -> FleetModel:
    """Returns a model with so many replicas, on each of which one call of so many rows runs at a time."""
    changes: dict[str, Any] = {"replicas": replicas, "max_inflight": 1, "device": device}
    if model.profile is None:
        changes["max_batch_size"] = rows
    else:
        kept = generate.latencies_s(model)[:rows]
        size = model.profile[0].__class__
        changes["profile"] = [size(batch_size=number, median_ms=one * 1e3) for number, one in enumerate(kept, 1)]
    return model.model_copy(update=changes)
