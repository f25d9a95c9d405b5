"""Calls of robots that play chunks: fast arithmetic agrees with the rule written out for each request."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import chunk_columns as values
from inferential.scheduler.chunk_sizes import UNLOST
from inferential.scheduler.chunk_values import choose
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

NOW = 100.0


def played_from(ends_at: float, steps_at: float, step_s: float, varies_s: float) -> float:
    """When an answer is played that is sent about then: the mean over all moments within `varies_s` of it."""
    if step_s <= values.LEAST_STEP_S:
        return ends_at
    if 2 * varies_s >= step_s:
        return ends_at + step_s / 2
    steps = (ends_at - steps_at) / step_s
    if not varies_s:
        return steps_at + math.ceil(steps) * step_s
    boundary = round(steps)
    after = min(max((steps - boundary) * step_s / (2 * varies_s) + 0.5, 0.0), 1.0)
    return steps_at + (boundary + after) * step_s


def gain_and_lost(
    column: Sequence[float],
    ends_at: float,
    next_s: float,
    stands_from: float | None,
    varies_s: float,
    *,
    is_short: bool,
) -> tuple[float, float]:
    """What an answer that is sent then gains, and what of it is lost if it comes `next_s` later."""
    runs_out, covers, lasts_s = (column[row] for row in (values.RUNS_OUT, values.COVERS, values.LASTS))
    if column[values.MOST] < values.MOST_S and not is_short:
        covers = min(covers, max(runs_out, NOW) + column[values.MOST])
    answered_at = played_from(ends_at, column[values.BEGINS], column[values.STEP], varies_s)
    begins_at = max(runs_out, answered_at)
    counts_from = answered_at if stands_from is None else min(answered_at, max(runs_out, stands_from))
    ends = counts_from + lasts_s
    plays_whole = stands_from is not None and runs_out > stands_from and ends <= covers
    gain = max(min(min(ends, covers) - begins_at, column[values.MOST]), column[values.LEAST])
    lost = min(max(answered_at + next_s - begins_at, 0.0), gain)
    return (lost + UNLOST * (gain - lost) if plays_whole else gain), lost


def is_short(columns: Sequence[Sequence[float]], profile: LatencyProfile, limit: int) -> bool:
    """Whether more robots starve than the most efficient call takes."""
    if limit == 1 or not profile.known:
        return False
    efficient = max(range(1, limit + 1), key=lambda rows: rows / profile.typical(rows))
    return sum(column[values.RUNS_OUT] <= NOW for column in columns) > efficient


def may_cover_more(column: Sequence[float]) -> bool:
    """Whether an answer may cover more than is played of it from when it comes on, as `ChunkTable` knows of each."""
    until = min(column[values.COVERS], max(column[values.RUNS_OUT], NOW) + column[values.MOST])
    return until - NOW > column[values.LASTS] + values.ROUNDING_S


def in_order(
    columns: Sequence[Sequence[float]], profile: LatencyProfile, limit: int, turn: int | None, size: int
) -> list[int]:
    """The places that go first, by value."""
    short = is_short(columns, profile, limit)
    rows = min(size, limit) or limit
    takes_s = profile.typical(rows)

    def value(place: int) -> float:
        column = columns[place]
        varies_s = profile.high(rows) - takes_s
        gain, lost = gain_and_lost(column, NOW + takes_s, takes_s / 2, None, varies_s, is_short=short)
        return (gain + lost) * (column[values.AGES] * NOW + column[values.WORTH])

    order = sorted(range(len(columns)), key=value, reverse=True)
    if turn is not None:
        order = [turn, *(place for place in order if place != turn)]
    return order[:limit]


def rates_of(columns: Sequence[Sequence[float]], order: Sequence[int], profile: LatencyProfile) -> list[float]:
    """What calls of the first 1, 2, ... of them gain per second."""
    limit = len(order)
    latency_s = [profile.typical(rows) for rows in range(1, limit + 1)]
    short = is_short(columns, profile, limit)
    stands_from = None if short else NOW
    varies_s = profile.high(limit) - latency_s[-1]

    def rate(rows: int) -> float:
        total = 0.0
        for column in (columns[place] for place in order[:rows]):
            answered_at, next_s = NOW + latency_s[rows - 1], latency_s[-1] / 2
            gain, _ = gain_and_lost(column, answered_at, next_s, stands_from, varies_s, is_short=short)
            total += gain * column[values.SHARE]
        return total / latency_s[rows - 1]

    return [rate(rows) for rows in range(1, limit + 1)]


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
            most_s=chance.uniform(0.0, 1.0) if chance.random() < (0.7 if plays_whole else 0.0) else math.inf,
            steps_at=observed_at,
            step_s=chance.choice([0.02, 0.05]) if with_steps else 0.0,
        )
        column = values.column(
            chunk,
            observed_at=observed_at,
            weight=chance.choice([0.25, 0.5, 1.0, 2.0]),
            since=NOW - chance.random(),
            starvation_s=math.inf,
            owed=chance.random(),
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
    varies=st.sampled_from([1.0, 1.05, 1.5]),
    are_plain=st.booleans(),
    goes_on=st.booleans(),
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
    are_plain: bool,
    goes_on: bool,
) -> None:
    chance = random.Random(seed)
    profile, latency_ms = LatencyProfile(), 0.0
    for rows in range(1, limit + 1) if is_known else ():
        latency_ms += chance.uniform(1.0, 80.0 / rows)
        profile.load(rows, latency_ms / 1e3, latency_ms * varies / 1e3)
    columns = columns_of(chance, count, left_s, with_steps=with_steps, whole=0.0 if are_plain else whole)
    if are_plain:
        for column in columns:
            if goes_on:
                left_s = max(column[values.RUNS_OUT] - column[values.BEGINS], 0.0)
                column[values.COVERS] = values.MOST_S
                column[values.MOST] = max(column[values.LASTS] - left_s, 0.0)
    turn = chance.randrange(count) if has_turn else None
    known = values.Columns(np.array(columns).T)
    known.with_rest = any(map(may_cover_more, columns))
    places = choose(known, profile, limit, NOW, turn, size).tolist()
    order = in_order(columns, profile, min(limit, count), turn, size)
    assert places == order[: len(places)]
    if len(order) == 1 or not is_known:
        assert places == order
    else:
        rates = rates_of(columns, order, profile)
        assert rates[len(places) - 1] >= max(rates) * (1 - 1e-9)


@pytest.mark.parametrize("count", [8, 9])
def test_robots_that_are_alike_are_served_in_order_of_arrival(count: int) -> None:
    profile = LatencyProfile()
    for rows in range(1, count + 1):
        profile.load(rows, (50 + rows) / 1e3, (50 + rows) / 1e3)
    (column,) = columns_of(random.Random(0), 1, -0.1, with_steps=False, whole=0.0)
    places = choose(values.Columns(np.array([column] * 20).T), profile, count, NOW)
    assert places.tolist() == list(range(count))
