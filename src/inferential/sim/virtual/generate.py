"""From a fleet to what is simulated: models with their times, and the observations of all robots.

All chance comes from the seed; each robot has its own, so that more robots leave the others as they are.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from inferential.sim.virtual.fleet_file import Fleet, FleetModel, RobotClass
from inferential.sim.virtual.world import Arrival, ModelSpec


def models(fleet: Fleet) -> list[ModelSpec]:
    """The models of a fleet."""
    return [
        ModelSpec(
            model_id,
            _latency_s(model),
            model.spread,
            (1.0,) * model.replicas if isinstance(model.replicas, int) else tuple(model.replicas),
            model.max_inflight,
            model.device,
        )
        for model_id, model in fleet.models.items()
    ]


def arrivals(fleet: Fleet, *, seconds: float, seed: int, load: float = 1.0) -> list[Arrival]:
    """The observations of a fleet, in order of time.

    Args:
        fleet: who asks.
        seconds: for how long.
        seed: of phases, jitter and gaps.
        load: how many times as many robots of each class as the fleet says; rounded, at least one.
    """
    found: list[Arrival] = []
    for name, robots in fleet.robots.items():
        for number in range(max(1, round(robots.count * load))):
            found.extend(_observations(f"{name}-{number}", name, robots, seconds, seed))
    return sorted(found, key=lambda arrival: (arrival.at, arrival.client_id))


def _observations(robot: str, name: str, robots: RobotClass, seconds: float, seed: int) -> Iterator[Arrival]:
    chance = random.Random(f"{seed}/{robot}")
    end = min(seconds, robots.stop_s if robots.stop_s is not None else seconds)
    for moment in _moments(robots, end, chance):
        at = max(moment + chance.gauss(0.0, robots.jitter_ms / 1e3), 0.0)
        if at < end:
            yield Arrival(
                at=at,
                client_id=robot,
                model_id=robots.model,
                robot_class=name,
                deadline=at + robots.time_s,
                priority=robots.priority,
                urgency=robots.urgency,
                latest=robots.queue == "latest",
                late=robots.late,
                steps_remaining=robots.ask_at_steps if robots.kind == "chunked" else None,
            )


def _moments(robots: RobotClass, end: float, chance: random.Random) -> Iterator[float]:
    period_s = robots.period_s
    if robots.kind == "irregular":
        moment = robots.start_s + chance.expovariate(1 / period_s)
        while moment < end:
            yield moment
            moment += chance.expovariate(1 / period_s)
        return
    first = robots.start_s + chance.random() * period_s
    number = 0
    while (moment := first + number * period_s) < end:
        yield moment
        number += 1


def _latency_s(model: FleetModel) -> tuple[float, ...]:
    if model.profile is None:
        fixed_ms, per_row_ms = model.fixed_ms or 0.0, model.per_row_ms or 0.0
        return tuple((fixed_ms + per_row_ms * rows) / 1e3 for rows in range(1, model.max_batch_size + 1))
    figures = {size.batch_size: size.median_ms / 1e3 for size in model.profile}
    known = sorted(figures)
    latencies = []
    for rows in range(1, known[-1] + 1):
        above = next(size for size in known if size >= rows)
        below = max((size for size in known if size <= rows), default=above)
        share = 0.0 if above == below else (rows - below) / (above - below)
        latencies.append(figures[below] + share * (figures[above] - figures[below]))
    return tuple(latencies)
