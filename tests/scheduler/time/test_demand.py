"""How much is asked: a rate that is right from the first second on, and by which client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.scheduler.time.demand import Demand


def test_nothing_is_asked_before_the_first_request() -> None:
    assert (Demand().per_second(1.0), Demand().clients(1.0)) == (0.0, 0)


@given(st.integers(20, 500), st.floats(0.5, 20.0))
def test_a_steady_rate_is_known_within_a_tenth_after_half_a_second(per_second: int, seconds: float) -> None:
    demand = Demand()
    now = 0.0
    for number in range(int(per_second * seconds)):
        now = 100.0 + number / per_second
        demand.note(f"c{number % 7}", now)
    assert demand.per_second(now) == pytest.approx(per_second, rel=0.2)
    assert demand.clients(now) == 7


def test_who_was_silent_for_a_second_counts_no_more() -> None:
    demand = Demand()
    demand.note("a", 1.0)
    demand.note("b", 1.9)
    assert demand.clients(2.5) == 1
    assert demand.per_second(100.0) < 1e-9


def test_the_last_rate_stays_while_nothing_comes() -> None:
    demand = Demand()
    for number in range(10):
        demand.note("a", 100.0 + number / 10)
    rate = demand.last_per_second()
    assert rate == demand.per_second(100.9)
    assert demand.per_second(102.0) < rate == demand.last_per_second()
