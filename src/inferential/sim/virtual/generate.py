"""Turns a fleet into what is simulated: models with their times, observations in open loop, robots in closed loop.

All chance comes from the seed; each robot has its own, so that more robots leave the others as they are.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from inferential.sim.virtual.fleet_file import Fleet, FleetModel, RobotClass
from inferential.sim.virtual.world import Arrival, ChunkedRobot, ModelSpec

MOST_EVENTS = 50_000_000
"""Observations in open loop and control steps of robots in closed loop that are simulated: beyond them memory ends."""


def models(fleet: Fleet) -> list[ModelSpec]:
    """Returns the models of a fleet."""
    return [
        ModelSpec(
            model_id,
            latencies_s(model),
            model.spread,
            (1.0,) * model.replicas if isinstance(model.replicas, int) else tuple(model.replicas),
            model.max_inflight,
            model.device,
            model.turnaround_ms / 1e3,
        )
        for model_id, model in fleet.models.items()
    ]


def arrivals(fleet: Fleet, *, seconds: float, seed: int, load: float = 1.0) -> list[Arrival]:
    """Returns the observations of a fleet's robots in open loop, in order of time.

    Args:
        fleet: the robots.
        seconds: for how long.
        seed: of phases, jitter and gaps.
        load: how many times as many robots of each class as the fleet says; rounded, at least one.

    Raises:
        ValueError: there would be more than MOST_EVENTS, those of robots in closed loop counted.
    """
    _check_events(fleet, seconds, load)
    found: list[Arrival] = []
    for name, robots in fleet.robots.items():
        if not robots.is_closed:
            for number in range(_count(robots, load)):
                found.extend(_observations(f"{name}-{number}", name, robots, seconds, seed))
    return sorted(found, key=lambda arrival: (arrival.at, arrival.client_id))


def chunked_robots(fleet: Fleet, *, seed: int, load: float = 1.0) -> list[ChunkedRobot]:
    """Returns the robots of a fleet in closed loop; each joins at a random moment of its first chunk's time.

    Args: as those of `arrivals`.
    """
    return [
        _chunked(f"{name}-{number}", name, robots, seed)
        for name, robots in fleet.robots.items()
        if robots.is_closed
        for number in range(_count(robots, load))
    ]


def events(fleet: Fleet, *, seconds: float, load: float = 1.0) -> dict[str, float]:
    """Returns how many observations, or control steps of robots in closed loop, each class makes.

    Args: as those of `arrivals`.
    """
    return {
        name: _count(robots, load) * seconds / (robots.step_s if robots.is_closed else robots.period_s)
        for name, robots in fleet.robots.items()
    }


def _check_events(fleet: Fleet, seconds: float, load: float) -> None:
    found = events(fleet, seconds=seconds, load=load)
    if sum(found.values()) > MOST_EVENTS:
        name = max(found, key=found.__getitem__)
        raise ValueError(
            f"robots.{name}: {_count(fleet.robots[name], load):,} robots make {found[name]:,.0f} "
            f"{'control steps' if fleet.robots[name].is_closed else 'observations'} in {seconds:g} s, and "
            f"{MOST_EVENTS:,} in all can be simulated: expected fewer robots, a lower rate or fewer seconds"
        )


def _count(robots: RobotClass, load: float) -> int:
    return max(1, round(robots.count * load))


def _chunked(robot: str, name: str, robots: RobotClass, seed: int) -> ChunkedRobot:
    horizon_steps = robots.horizon_steps or 1
    slo_ms = robots.slo_ms if robots.slo_ms is not None else robots.budget_ms
    phase = random.Random(f"{seed}/{robot}").random()
    return ChunkedRobot(
        client_id=robot,
        model_id=robots.model,
        robot_class=name,
        period_s=robots.step_s,
        horizon_steps=horizon_steps,
        ask=robots.ask or ("threshold" if robots.ask_at_steps else "runtime"),
        ask_at_steps=robots.ask_at_steps,
        refresh=robots.refresh,
        index=robots.index,
        chunk_steps=robots.chunk_steps,
        delay_s=robots.delay_ms / 1e3,
        delay_jitter_s=robots.jitter_ms / 1e3,
        loss=robots.loss,
        budget_s=None if robots.budget_ms is None else robots.budget_ms / 1e3,
        slo_s=None if slo_ms is None else slo_ms / 1e3,
        priority=robots.priority,
        urgency=robots.urgency,
        late=robots.late,
        weight=robots.value,
        task_steps=robots.task_steps,
        starts_at=robots.start_s + phase * horizon_steps * robots.step_s,
        stops_at=math.inf if robots.stop_s is None else robots.stop_s,
        seed=f"{seed}/{robot}/network",
    )


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


def latencies_s(model: FleetModel) -> tuple[float, ...]:
    """Returns the seconds that a call of 1, 2, ... rows of a model takes."""
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
