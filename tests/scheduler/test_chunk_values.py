"""Calls of robots that play chunks: the arithmetic on arrays agrees with the same written out for each request."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import chunk_values as values
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

NOW = 100.0


def gain_and_lost(
    column: Sequence[float], ends_at: float, next_s: float, stands_from: float | None, varies_s: float = 0.0
) -> tuple[float, float]:
    """What an answer that is sent then gains, and what of it is lost if it comes `next_s` later."""
    runs_out, covers, lasts_s, most_s, least_s, steps_at, step_s = column[: values.STEP + 1]
    answered_at = ends_at
    if step_s > values.LEAST_STEP_S:
        blurred = step_s < 2 * varies_s
        answered_at = ends_at + step_s / 2 if blurred else math.ceil((ends_at - steps_at) / step_s) * step_s + steps_at
    begins_at = max(runs_out, answered_at)
    counts_from = answered_at if stands_from is None else min(answered_at, max(runs_out, stands_from))
    ends = counts_from + lasts_s
    plays_whole = stands_from is not None and runs_out > stands_from and ends <= covers
    gain = max(min(min(ends, covers) - begins_at, most_s), least_s)
    lost = min(max(answered_at + next_s - begins_at, 0.0), gain)
    return (lost if plays_whole else gain), lost


def chosen_one_by_one(
    columns: Sequence[Sequence[float]], profile: LatencyProfile, limit: int, turn: int | None, size: int
) -> list[int]:
    """What `choose` returns, slowly."""
    limit = min(limit, len(columns))
    takes_s = profile.typical(min(size, limit) or limit)

    def value(place: int) -> float:
        column = columns[place]
        gain, lost = gain_and_lost(column, NOW + takes_s, takes_s / 2, None)
        return (gain + lost) * (column[values.AGES] * NOW + column[values.WORTH])

    order = sorted(range(len(columns)), key=value, reverse=True)
    if turn is not None:
        order = [turn, *(place for place in order if place != turn)]
    order = order[:limit]
    if limit == 1 or not profile.known:
        return order
    latency_s = [profile.typical(rows) for rows in range(1, limit + 1)]
    efficient = max(range(limit), key=lambda place: (place + 1) / latency_s[place]) + 1
    varies_s = profile.high(limit) - latency_s[-1]
    starving = sum(column[values.RUNS_OUT] <= NOW for column in columns)
    stands_from = NOW if starving <= efficient else None

    def rate(rows: int) -> float:
        total = 0.0
        for column in (columns[place] for place in order[:rows]):
            gain, _ = gain_and_lost(column, NOW + latency_s[rows - 1], latency_s[-1] / 2, stands_from, varies_s)
            total += gain * (column[values.WEIGHT] / column[values.LASTS])
        return total / latency_s[rows - 1]

    return order[: max(range(1, limit + 1), key=rate)]


def columns_of(
    chance: random.Random, count: int, left_s: float, *, with_steps: bool, whole: float
) -> list[list[float]]:
    found = []
    for _ in range(count):
        lasts_s, observed_at = chance.uniform(0.1, 1.0), NOW - chance.uniform(0.0, 0.4)
        plays_whole = chance.random() < whole
        chunk = ChunkTime(
            runs_out_at=NOW + chance.uniform(left_s - 0.5, left_s),
            covers_until=math.inf if plays_whole else observed_at + lasts_s,
            lasts_s=lasts_s,
            most_s=chance.uniform(0.0, 1.0) if chance.random() < 0.3 else math.inf,
            steps_at=observed_at,
            step_s=chance.choice([0.02, 0.05]) if with_steps else 0.0,
        )
        column = values.column(
            chunk,
            observed_at=observed_at,
            weight=chance.choice([0.25, 0.5, 1.0, 2.0]),
            since=NOW - chance.random(),
            starvation_s=math.inf,
            starved=chance.random(),
            old_from=math.inf,
            renewed_from=math.inf,
            refused_from=math.inf,
            comes_at=-math.inf,
        )
        found.append(column)
    return found


@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.sampled_from([1, 2, 7, 8, 9, 64, 127, 129, 200]),
    limit=st.integers(1, 20),
    left_s=st.sampled_from([-0.1, 0.2, 0.5, 0.8]),
    size=st.integers(0, 20),
    with_steps=st.booleans(),
    whole=st.sampled_from([0.0, 0.5, 1.0]),
    has_turn=st.booleans(),
    is_known=st.booleans(),
    varies=st.sampled_from([1.0, 1.1, 1.5]),
)
@settings(max_examples=200, deadline=None)
def test_arrays_choose_what_one_request_after_the_other_would(
    seed: int,
    count: int,
    limit: int,
    left_s: float,
    size: int,
    with_steps: bool,
    whole: float,
    has_turn: bool,
    is_known: bool,
    varies: float,
) -> None:
    chance = random.Random(seed)
    profile, latency_ms = LatencyProfile(), 0.0
    for rows in range(1, limit + 1) if is_known else ():
        latency_ms += chance.uniform(1.0, 80.0 / rows)
        profile.load(rows, latency_ms / 1e3, latency_ms * varies / 1e3)
    columns = columns_of(chance, count, left_s, with_steps=with_steps, whole=whole)
    turn = chance.randrange(count) if has_turn else None
    places = values.choose(values.Columns(np.array(columns).T), profile, limit, NOW, turn, size)
    assert places == chosen_one_by_one(columns, profile, limit, turn, size)


@pytest.mark.parametrize("count", [8, 9])
def test_robots_that_are_alike_are_served_in_order_of_arrival(count: int) -> None:
    profile = LatencyProfile()
    for rows in range(1, count + 1):
        profile.load(rows, (50 + rows) / 1e3, (50 + rows) / 1e3)
    (column,) = columns_of(random.Random(0), 1, -0.1, with_steps=False, whole=0.0)
    places = values.choose(values.Columns(np.array([column] * 20).T), profile, count, NOW)
    assert places == list(range(count))
