"""The table of waiting requests: what it keeps is what counting anew would give, whatever came and went."""

from __future__ import annotations

import math
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import chunk_values as values
from inferential.scheduler.chunk_table import ChunkTable
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
        starved=chance.random(),
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
    table, expected = ChunkTable(), list[list[float]]()
    for _ in range(60):
        now += chance.choice([0.0, 0.001, 0.1])
        what = chance.random()
        if what < 0.6 or not expected:
            expected.append(column(chance, now, kinds))
            table.add(expected[-1][:], now)
        elif what < 0.8:
            places = chance.sample(range(len(expected)), chance.randint(1, min(len(expected), 8)))
            moved = dict(table.remove(places))
            kept = len(expected) - len(places)
            expected = [expected[moved.get(place, place)] for place in range(kept)]
        else:
            place = chance.randrange(len(expected))
            covered_until = now + chance.uniform(-0.3, 0.5)
            table.serve(place, covered_until, now, 0.3)
            values.serve(expected[place], covered_until, now, 0.3)
        assert len(table) == len(expected)
        if not expected:
            continue
        assert table.rows.T.tolist() == expected
        anew = values.Columns(np.array(expected).T)
        anew.with_steps, anew.with_most = table.with_steps, table.with_most
        assert anew.with_rest
        enough, asked_at = chance.randint(1, 12), now - chance.choice([0.0, 0.2])
        assert table.starve(asked_at, enough) == anew.starve(asked_at, enough)
        turns = [one[values.TURN] for one in expected]
        assert table.due(now) == (turns.index(min(turns)) if min(turns) <= now else None)
        for limit in (1, 8, 12):
            assert values.choose(table, profile, limit, now) == values.choose(anew, profile, limit, now)


@given(
    seed=st.integers(0, 2**32 - 1),
    kinds=st.sampled_from(["p", "s", "m", "r", "psmr"]),
    varies_s=st.sampled_from([0.0, 0.02]),
)
@settings(max_examples=100, deadline=None)
def test_an_earlier_answer_gains_no_more_than_the_time_and_a_step(seed: int, kinds: str, varies_s: float) -> None:
    """The bound by which sizes of a call are left out that cannot be better."""
    chance = random.Random(seed)
    one, last = column(chance, 100.0, kinds)[: values.TURN + 1], 100.0 + chance.uniform(-0.2, 0.5)
    factor = one[values.WEIGHT] / one[values.LASTS]
    (at_last,) = values.gains_of([one], last, varies_s)
    for _ in range(20):
        earlier_s = chance.uniform(0.0, 1.0)
        (gain,) = values.gains_of([one], last - earlier_s, varies_s)
        assert gain <= at_last + (earlier_s + one[values.STEP]) * factor + 1e-9
