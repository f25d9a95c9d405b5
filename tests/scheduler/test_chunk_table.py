"""The table of waiting requests: what it keeps is what counting anew would give, whatever came and went."""

from __future__ import annotations

import math
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import chunk_columns as values
from inferential.scheduler.chunk_table import ChunkTable
from inferential.scheduler.chunk_values import choose
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime


def column(chance: random.Random, now: float, kinds: str) -> list[float]:
    """A request's column; `kinds`: with control steps ("s"), a bound on what it gains ("m"), a chunk longer than what
    is played ("r")."""
    kind = chance.choice(kinds)
    chunk = ChunkTime(
        now + chance.uniform(-0.5, 0.5),
        now + (1.0 if kind == "r" else chance.choice([0.49, 0.5])),
        0.5,
        most_s=chance.random() if kind == "m" else math.inf,
        steps_at=now,
        step_s=0.02 if kind == "s" else 0.0,
    )
    return values.column(
        chunk,
        observed_at=now,
        weight=chance.choice([0.5, 1.0, 2.0]),
        since=now - chance.random(),
        starvation_s=chance.choice([0.0, 0.2, 1.0]),
        owed=chance.random(),
        old_from=math.inf,
        renewed_from=math.inf,
        refused_from=math.inf,
        comes_at=-math.inf,
    )


@given(seed=st.integers(0, 2**32 - 1), kinds=st.sampled_from(["p", "s", "m", "r", "psmr"]))
@settings(max_examples=60, deadline=None)
def test_what_a_table_keeps_is_what_counting_anew_gives(seed: int, kinds: str) -> None:
    chance, now = random.Random(seed), 100.0
    profile = LatencyProfile()
    for rows in range(1, 9):
        latency_s = (60 + chance.uniform(1, 12) * rows) / 1e3
        profile.load(rows, latency_s, latency_s)
    table, expected = ChunkTable(), dict[int, list[float]]()
    for _ in range(chance.choice([60, 200])):
        now += chance.choice([0.0, 0.001, 0.1])
        what = chance.random()
        if what < chance.choice([0.4, 0.6]) or not expected:
            made = column(chance, now, kinds)
            place = table.add(made[:], now)
            assert place not in expected
            expected[place] = made
        elif what < 0.8:
            places = chance.sample(sorted(expected), chance.randint(1, min(len(expected), 8)))
            table.remove(np.array(places))
            expected = {place: one for place, one in expected.items() if place not in places}
            if table.is_sparse:
                expected = {now_at: expected[before] for now_at, before in enumerate(table.compact())}
        else:
            place = chance.choice(sorted(expected))
            covered_until = now + chance.uniform(-0.3, 0.5)
            table.serve(place, covered_until, now, 0.3)
            values.serve(expected[place], covered_until, now, 0.3)
        assert len(table) == len(expected)
        if not expected:
            continue
        taken = sorted(expected)
        columns = [expected[place] for place in taken]
        assert table.rows[:, taken].T.tolist() == columns
        assert table.briefs(np.array(taken)) == [one[: values.BRIEF] for one in columns]
        anew = values.Columns(np.array(columns).T)
        assert table.longest_step_s >= anew.longest_step_s
        anew.longest_step_s, anew.with_most = table.longest_step_s, table.with_most
        enough, asked_at = chance.randint(1, 12), now - chance.choice([0.0, 0.2])
        assert table.starve(asked_at, enough) == anew.starve(asked_at, enough)
        turns = {place: one[values.TURN] for place, one in expected.items()}
        first = min(turns.values())
        due = table.due(now)
        assert due is None if first > now else turns[due or 0] == first
        for limit in (1, 8, 12):
            found = choose(table, profile, limit, now).tolist()
            assert found == [taken[place] for place in choose(anew, profile, limit, now)]


def test_a_table_has_room_for_as_many_as_come_and_gives_it_back() -> None:
    chance, table = random.Random(0), ChunkTable()
    places = [table.add(column(chance, 100.0, "p"), 100.0) for _ in range(1000)]
    assert sorted(places) == list(range(1000))
    while len(places) > 3:
        table.remove(np.array([places.pop()]))
        if table.is_sparse:
            moved = {before: place for place, before in enumerate(table.compact())}
            places = [moved[place] for place in places]
    assert len(table) == 3
    assert table.rows.shape[1] < 100
