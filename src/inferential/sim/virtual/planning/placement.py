"""Places models on devices by estimates from their latencies; `search` tries the best placements in the simulator.

A placement gives each model whole devices of its own, or lets several models share one. The estimate of a group is

    sum over classes of robots of value * rate * share of what is asked that is answered

by the rates of `scheduler.time.planned_rates`. Over all partitions of the models that is a multiple-choice knapsack,
which dynamic programming over subsets of models and numbers of devices solves exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from inferential.scheduler.time.planned_rates import LEAST_RATE_HZ, ClassRate, RateRequest, planned
from inferential.sim.virtual.fleet_file import Fleet, FleetModel, RobotClass
from inferential.sim.virtual.generate import latencies_s

MOST_MODELS = 10
"""Models of a fleet that can be placed: the subsets of more are too many."""
UTILISATION = 0.9
"""The share of its time that a device is planned to be busy."""
_KEPT = 6  # placements of each subset and number of devices
_MISSES = 10.0  # what an unmet minimum rate weighs against value


@dataclass(frozen=True, slots=True)
class Group:
    """Models that share devices: one model on its own, or several on one device.

    Attributes:
        models: in the fleet's order.
        devices: how many.
        batch_sizes: of each model, the most rows of a call.
        estimate: the value that it is expected to gain in a second.
    """

    models: tuple[str, ...]
    devices: int
    batch_sizes: tuple[int, ...]
    estimate: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Groups that hold every model once."""

    groups: tuple[Group, ...]

    @property
    def estimate(self) -> float:
        """The value that it is expected to gain in a second."""
        return sum(group.estimate for group in self.groups)

    @property
    def devices(self) -> int:
        """How many devices it uses."""
        return sum(group.devices for group in self.groups)

    def batch_size(self, model_id: str) -> int:
        """Returns the most rows of a model's calls."""
        group = self.group(model_id)
        return group.batch_sizes[group.models.index(model_id)]

    def group(self, model_id: str) -> Group:
        """Returns the group of a model. Raises KeyError if it has none."""
        for group in self.groups:
            if model_id in group.models:
                return group
        raise KeyError(model_id)


def placements(fleet: Fleet, devices: int, load: float = 1.0) -> list[Placement]:
    """Returns the placements with the highest estimates, the best first; they use all the devices they can.

    Args:
        fleet: the models, whose own replicas and devices are not looked at, and the robots.
        devices: how many there are, all alike.
        load: how many times as many robots of each class as the fleet says.

    Raises:
        ValueError: the fleet has more than MOST_MODELS models.
    """
    models = list(fleet.models)
    if len(models) > MOST_MODELS:
        raise ValueError(f"models: expected at most {MOST_MODELS}, got {len(models)}; plan parts of the fleet")
    options = list(_options(fleet, models, devices, load))
    whole = (1 << len(models)) - 1
    best: dict[tuple[int, int], list[Placement]] = {(0, count): [Placement(())] for count in range(devices + 1)}
    for mask in range(1, whole + 1):
        first = mask & -mask  # a group of each placement holds the first model: no placement is found twice
        for count in range(1, devices + 1):
            found = [
                Placement((*rest.groups, group))
                for members, group in options
                if members & first and members & ~mask == 0 and group.devices <= count
                for rest in best.get((mask ^ members, count - group.devices), ())
            ]
            # What is estimated alike but for rounding is better with the more devices.
            found.sort(key=lambda placement: (-float(f"{placement.estimate:.9g}"), -placement.devices))
            best[mask, count] = found[:_KEPT]
    return best[whole, devices]


def _options(fleet: Fleet, models: Sequence[str], devices: int, load: float) -> Iterator[tuple[int, Group]]:
    for place, model_id in enumerate(models):
        for count in range(1, devices + 1):
            yield 1 << place, _best(fleet, (model_id,), count, load)
    for size in range(2, len(models) + 1):
        for members in combinations(range(len(models)), size):
            group = _best(fleet, tuple(models[place] for place in members), 1, load)
            yield sum(1 << place for place in members), group


def _best(fleet: Fleet, members: tuple[str, ...], devices: int, load: float) -> Group:
    """Returns the group with the batch sizes of the highest estimate, found one model at a time."""
    most = [len(latencies_s(fleet.models[model_id])) for model_id in members]
    chosen = list(most)
    best = estimate_of(fleet, members, devices, chosen, load)
    for _ in range(2):
        for place, largest in enumerate(most):
            for rows in range(1, largest + 1):
                tried = [*chosen[:place], rows, *chosen[place + 1 :]]
                value = estimate_of(fleet, members, devices, tried, load)
                if value > best + 1e-9:
                    best, chosen = value, tried
    return Group(members, devices, tuple(chosen), best)


def estimate_of(fleet: Fleet, members: Sequence[str], devices: int, batch_sizes: Sequence[int], load: float) -> float:
    """Returns the value that models on shared devices gain in a second; an unmet minimum rate counts _MISSES times."""
    cost_s, call_s = {}, {}
    for model_id, rows in zip(members, batch_sizes, strict=True):
        call_s[model_id] = latencies_s(fleet.models[model_id])[rows - 1]
        cost_s[model_id] = cost_of(fleet.models[model_id], rows)
    robots = {name: one for name, one in fleet.robots.items() if one.model in cost_s}
    waits_s = sum(call_s.values()) if len(call_s) > 1 else next(iter(call_s.values()))  # for the calls before its own
    total = 0.0
    for name, rate in rates(robots, cost_s, call_s, devices, load).items():
        one = robots[name]
        count = max(1, round(one.count * load))
        total += count * one.value * _gained(one, rate, call_s[one.model], waits_s)
        total -= _MISSES * count * one.value * max(min(one.min_rate_hz, needed_hz(one, call_s[one.model])) - rate, 0.0)
    return total


def cost_of(model: FleetModel, rows: int) -> float:
    """Returns the seconds of a device for an answer, in calls of so many rows."""
    return (latencies_s(model)[rows - 1] + model.turnaround_ms / 1e3) / rows


def rates(
    robots: Mapping[str, RobotClass],
    cost_s: Mapping[str, float],
    call_s: Mapping[str, float],
    devices: int,
    load: float,
    utilisation: float = UTILISATION,
) -> dict[str, float]:
    """Returns the answers a second that a robot of each class is due: minimum rates first, then value.

    Args:
        robots: classes by name.
        cost_s: by model, seconds of a device for an answer.
        call_s: by model, seconds of a call.
        devices: how many the models share.
        load: how many times as many robots of each class as the fleet says.
        utilisation: the share of its time that a device is planned to be busy.
    """
    requests = []
    for name, one in robots.items():
        # One request for all robots of a class: they are alike, and a class is what has a minimum and a value.
        count = max(1, round(one.count * load))
        requests.append(RateRequest(name, one.model, count * needed_hz(one, call_s[one.model]), 1.0, name))
    classes = {
        name: ClassRate(
            max(one.min_rate_hz, LEAST_RATE_HZ) * max(1, round(one.count * load)),
            _value_of_answer(one, call_s[one.model]),
        )
        for name, one in robots.items()
    }
    found = planned(requests, cost_s, classes, utilisation * devices)
    return {
        request.client_id: rate / max(1, round(robots[request.client_id].count * load))
        for request, rate in zip(requests, found, strict=True)
    }


def needed_hz(robots: RobotClass, call_s: float) -> float:
    """Returns how often a robot asks, by itself or so that its actions never run out."""
    if not robots.is_closed:
        return 1 / robots.period_s
    return 1 / max(_lasts_s(robots, call_s), robots.step_s)


def _way_s(robots: RobotClass, call_s: float) -> float:
    """Returns the time from an observation to the first action of its answer."""
    return call_s + 2 * robots.delay_ms / 1e3 + robots.step_s


def _lasts_s(robots: RobotClass, call_s: float) -> float:
    """Returns for how long an answer gives actions to a robot that never runs out: it plays on while one is made."""
    horizon_s, way_s = (robots.horizon_steps or 1) * robots.step_s, _way_s(robots, call_s)
    spare_s = ((robots.chunk_steps or 0) - (robots.horizon_steps or 0)) * robots.step_s
    return horizon_s - max(way_s - max(spare_s, 0.0), 0.0)


def _share_with_action(robots: RobotClass, rate: float, call_s: float) -> float:
    """Returns the share of its control steps that a robot has an action for, which is answered so often.

    By time, each answer loses what passes while it is made. A robot that goes on where it stood loses only what it
    plays meanwhile, `kept_s`: the more often it is answered, the more has it left when it is observed, up to all that
    time. It is answered again once it has stood for the rest of that, and played its chunk so far that as much is left.
    """
    lasts_s = _lasts_s(robots, call_s)
    if rate <= 0 or robots.index == "time" or robots.chunk_steps is not None:
        return min(rate * max(lasts_s, 0.0), 1.0)
    horizon_s, way_s = (robots.horizon_steps or 1) * robots.step_s, _way_s(robots, call_s)
    kept_s = min(max((way_s + horizon_s - 1 / rate) / 2, 0.0), way_s, horizon_s / 2)
    often = min(rate, 1 / (way_s + horizon_s - 2 * kept_s))
    return min(often * (horizon_s - kept_s), 1.0)


def _value_of_answer(robots: RobotClass, call_s: float) -> float:
    if not robots.is_closed:
        return robots.value
    return robots.value * max(_lasts_s(robots, call_s), robots.step_s / 100) / robots.step_s


def _gained(robots: RobotClass, rate: float, call_s: float, waits_s: float) -> float:
    """Returns actions a second of a robot in closed loop, answers in time a second of one in open loop."""
    if robots.is_closed:
        return _share_with_action(robots, rate, call_s) / robots.step_s
    return rate * min(max((robots.time_s - call_s) / waits_s, 0.0), 1.0)
