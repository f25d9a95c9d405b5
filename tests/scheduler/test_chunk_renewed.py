"""The fast path for robots that are alike plans what the slow one does, and is taken just where all are."""

from __future__ import annotations

import math
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import chunk_alike, chunk_sizes, chunk_values
from inferential.scheduler import chunk_columns as columns
from inferential.scheduler.chunk_renewed import RenewedAlike
from inferential.scheduler.chunk_table import ChunkTable
from inferential.scheduler.chunk_values import choose, renewed
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

TRANSIT_S = 0.004


def column(
    chance: random.Random,
    now: float,
    *,
    step_s: float = 0.02,
    renews: bool = True,
    more_s: float = 0.0,
    most_left_s: float = 0.4,
) -> list[float]:
    """The column of a robot that goes on with what it has not executed; `more_s`: what it gains beyond its chunk."""
    left_s = max(chance.uniform(-0.2, most_left_s), 0.0)
    chunk = ChunkTime(
        now + left_s - TRANSIT_S,
        math.inf,
        0.5,
        0.5 - left_s + more_s,
        renews=renews,
        lead_s=TRANSIT_S + step_s if renews else 0.0,
        steps_at=now - TRANSIT_S,
        step_s=step_s,
    )
    return columns.column(
        chunk,
        observed_at=now,
        weight=chance.choice([0.5, 1.0, 2.0]),
        since=now - chance.random(),
        starvation_s=0.3,
        owed=chance.random(),
        old_from=now,
        renewed_from=math.inf,
        refused_from=math.inf,
        comes_at=-math.inf,
    )


def profile_of(chance: random.Random) -> LatencyProfile:
    profile = LatencyProfile()
    varies_s = chance.choice([0.0, 0.001, 0.004, 0.03])
    for rows in range(1, 9):
        takes_s = (chance.choice([10, 60]) + chance.uniform(1, 12) * rows) / 1e3
        profile.load(rows, takes_s, takes_s + varies_s)
    return profile


@given(seed=st.integers(0, 2**32 - 1), count=st.sampled_from([1, 7, 30, 200]))
@settings(max_examples=60, deadline=None)
def test_robots_that_are_alike_are_planned_as_by_the_slow_path(seed: int, count: int) -> None:
    chance, table, now = random.Random(seed), ChunkTable(), 100.0
    profile = profile_of(chance)
    for _ in range(count):
        now += chance.uniform(0, 0.3 / count)
        table.add(column(chance, now), now)
    if count > 1:
        table.remove(np.array([chance.randrange(count)]))
    assert table.alike
    begins_at = now + chance.uniform(0.0, 0.1)
    by = begins_at - chance.uniform(0.0, 0.005)
    slow = columns.Columns(renewed(table.rows, by, now), len(table))
    fast = RenewedAlike(table, by, now)
    taken = [place for place in range(table.rows.shape[1]) if table.row[columns.WORTH][place] != -1.0]
    for row in (columns.ASKS, columns.MOST):
        assert fast.row[row][taken].tolist() == slow.row[row][taken].tolist()
    for limit in (1, 8):
        assert choose(fast, profile, limit, begins_at).tolist() == choose(slow, profile, limit, begins_at).tolist()
        anew = columns.Columns(table.rows, len(table))
        assert choose(table, profile, limit, now).tolist() == choose(anew, profile, limit, now).tolist()


@given(seed=st.integers(0, 2**32 - 1), left_s=st.sampled_from([-0.2, 0.1, 0.4]), count=st.sampled_from([1, 8, 40]))
@settings(max_examples=60, deadline=None)
def test_robots_that_are_alike_are_worth_what_they_are_by_the_slow_path(seed: int, left_s: float, count: int) -> None:
    chance, table, now = random.Random(seed), ChunkTable(), 100.0
    for _ in range(count):
        observed_at = now - chance.uniform(0.0, 0.2)
        table.add(column(chance, observed_at, most_left_s=left_s), observed_at)
    profile, places = profile_of(chance), np.array(range(table.rows.shape[1]))
    taken = places[table.row[columns.WORTH] != -1.0]
    takes_s, varies_s = profile.typical(4), profile.high(4) - profile.typical(4)
    limit = min(count, 8)
    sizes = profile.sizes_up_to(limit, 32)
    for is_short in (False, True):
        fast = chunk_alike.values(table, now, takes_s, varies_s, is_short=is_short)
        slow = chunk_values.values(table, now, takes_s, varies_s, is_short=is_short)
        np.testing.assert_allclose(fast[taken], slow[taken], rtol=1e-9, atol=1e-12)
        assert (np.delete(fast, taken) > 0).all()  # what is vacant comes after all that waits
        first = taken[fast[taken].argsort(kind="stable")[:limit]]
        rows = chunk_alike.best_size(table, first, now, sizes, is_short=is_short)
        assert rows == chunk_sizes.best_of_all(table, first, now, sizes, is_short=is_short)


def test_robots_are_alike_while_each_that_waits_is_common_and_has_the_same_step() -> None:
    chance, table = random.Random(0), ChunkTable()
    table.add(column(chance, 100.0), 100.0)
    assert table.alike
    for odd in (column(chance, 100.0, step_s=0.05), column(chance, 100.0, renews=False)):
        place = table.add(odd, 100.0)
        assert not table.alike
        table.remove(np.array([place]))
        assert table.alike


def test_robots_of_another_step_are_alike_once_the_others_are_gone() -> None:
    chance, table = random.Random(0), ChunkTable()
    first = table.add(column(chance, 100.0), 100.0)
    second = table.add(column(chance, 100.0, step_s=0.05), 100.0)
    table.remove(np.array([first]))
    table.add(column(chance, 100.0, step_s=0.05), 100.0)
    assert not table.alike  # the second counts as another until it is served
    table.remove(np.array([second]))
    assert table.alike


def test_a_robot_that_may_gain_more_than_its_chunk_is_not_like_others() -> None:
    chance, table = random.Random(0), ChunkTable()
    table.add(column(chance, 100.0), 100.0)
    table.add(column(chance, 100.0, more_s=0.2), 100.0)
    assert not table.alike
