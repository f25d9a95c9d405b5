"""Plans of the next calls: what waits and what is expected, on one replica."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from inferential.scheduler.lookahead import Planned, PlannedCall, next_call

LATENCY_S = (0.10, 0.11)


def planned(*arrivals: float, within_s: float = 0.15) -> list[Planned]:
    return [Planned(at, at + within_s) for at in arrivals]


@pytest.mark.parametrize(
    ("arrivals", "call"),
    [
        ((0.0,), PlannedCall(0.0, 0, 1)),
        ((0.0, 0.03), PlannedCall(0.03, 0, 2)),  # a call waits for what comes in time for both
        ((0.0, 0.05), PlannedCall(0.0, 0, 1)),  # not where the first would be late
        ((0.0, 0.04, 0.08), PlannedCall(0.04, 0, 2)),
        ((-0.1,), None),  # nothing can be in time
        ((), None),
    ],
)
def test_the_first_call_of_the_best_plan(arrivals: Sequence[float], call: PlannedCall | None) -> None:
    assert next_call(planned(*arrivals), 0.0, LATENCY_S) == call


def test_a_request_is_left_out_that_would_cost_two_others() -> None:
    assert next_call(planned(0.0, 0.045, 0.05), 0.04, LATENCY_S) == PlannedCall(0.05, 1, 2)


def test_a_call_begins_when_its_replica_is_free() -> None:
    assert next_call(planned(0.0, 0.01), 0.03, LATENCY_S) == PlannedCall(0.03, 0, 2)


def most_in_time(requests: Sequence[Planned], free_at: float, latency_s: Sequence[float], handled: int = 0) -> int:
    """The most that any schedule answers in time that takes requests in order and leaves out what it likes."""
    most = 0
    for first in range(handled, len(requests)):
        starts_at = free_at
        for rows, takes_s in enumerate(latency_s[: len(requests) - first], 1):
            starts_at = max(starts_at, requests[first + rows - 1].arrives_at)
            if starts_at + takes_s <= requests[first].deadline:
                most = max(most, rows + most_in_time(requests, starts_at + takes_s, latency_s, first + rows))
    return most


@given(
    gaps_ms=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    latency_ms=st.lists(st.integers(1, 60), min_size=1, max_size=3),
    within_ms=st.integers(20, 200),
)
@example(gaps_ms=[0, 1, 0, 5, 28], latency_ms=[28], within_ms=50)  # two that are late stand before one in time
@example(gaps_ms=[0, 1, 0, 33, 34], latency_ms=[34], within_ms=34)
@settings(max_examples=150, deadline=None)
def test_calls_one_after_the_other_by_plan_answer_as_many_as_can_be_less_one(
    gaps_ms: list[int], latency_ms: list[int], within_ms: int
) -> None:
    """All that comes is known, so that only what the search leaves out, and its care for what follows, costs one."""
    arrivals = [total / 1e3 for total in itertools.accumulate(gaps_ms)]
    latency_s = [total / 1e3 for total in itertools.accumulate(latency_ms)]
    requests = planned(*arrivals, within_s=within_ms / 1e3)
    most, answered, free_at = most_in_time(requests, 0.0, latency_s), 0, 0.0
    while (call := next_call(requests, free_at, latency_s)) is not None:
        assert call.begins_at >= max(one.arrives_at for one in requests[call.first : call.first + call.rows])
        free_at = call.begins_at + latency_s[call.rows - 1]
        assert free_at <= requests[call.first].deadline
        answered += call.rows
        requests = requests[call.first + call.rows :]
    assert most - 1 <= answered <= most
