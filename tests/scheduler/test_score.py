"""The score by hand, its line against its value, and policies that fail."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.config.schema import DeadlineAwareConfig
from inferential.scheduler import InferenceRequest
from inferential.scheduler.score import GuardedPolicy, Weights, line_of, score_of

MakeRequest = Callable[..., InferenceRequest]
DEFAULT = Weights.of(DeadlineAwareConfig())


@pytest.mark.parametrize(
    ("fields", "now", "points"),
    [
        ({}, 100.0, 9.0),
        ({"priority": 0}, 100.0, 10.0),
        ({"priority": 99}, 100.0, 0.0),
        ({"urgency": 0.5}, 100.0, 9.0 + 12.5),
        ({"urgency": math.nan}, 100.0, 9.0),
        ({"steps_remaining": 0}, 100.0, 9.0 + 15.0),
        ({"steps_remaining": 2}, 100.0, 9.0 + 10.5),
        ({"steps_remaining": 4}, 100.0, 9.0 + 6.0),
        ({"steps_remaining": 5}, 100.0, 9.0),
        ({"time_until_next": -0.2}, 100.0, 9.0 + 90.0),
        ({"time_until_next": 0.1}, 100.3, 9.0 + 90.0 + 15.0),
        ({"time_until_next": 60.0, "overdue_after_s": 1.0}, 101.5, 9.0 + 225.0 + 15.0),
        ({"time_until_next": math.nan, "overdue_after_s": 1.0}, 101.5, 9.0 + 225.0 + 15.0),
        ({"time_until_next": math.inf}, 200.0, 9.0 + 15.0),
        ({"time_until_next": math.nan}, 200.0, 9.0 + 15.0),
        ({}, 100.025, 9.0 + 7.5),
        ({}, 100.5, 9.0 + 15.0),
        ({"waiting_since": 100.4}, 100.425, 9.0 + 7.5),
        ({"latency_budget_ms": 0.0}, 100.1, 9.0 + 15.0),
        ({"latency_budget_ms": math.nan}, 100.1, 9.0 + 15.0),
        ({"latency_budget_ms": math.inf}, 100.1, 9.0),
        ({}, 99.0, 9.0),
    ],
)
def test_the_score_is_the_sum_of_its_parts(
    fields: dict[str, float], now: float, points: float, make_request: MakeRequest
) -> None:
    request = make_request(received_at=100.0, **fields)
    assert score_of(request, now, DEFAULT) == pytest.approx(points)
    slope, value, _ = line_of(request, now, DEFAULT)
    assert slope * now + value == pytest.approx(points)


weights = st.floats(0, 100)


@given(
    parts=st.builds(Weights, weights, weights, weights, weights, weights),
    waiting_since=st.floats(0, 10),
    until_next=st.floats(-10, 10),
    budget_ms=st.floats(0.001, 10_000),
    now=st.floats(0, 30),
)
def test_a_line_tells_the_score_until_it_ends(
    parts: Weights, waiting_since: float, until_next: float, budget_ms: float, now: float, make_request: MakeRequest
) -> None:
    request = make_request(received_at=waiting_since, time_until_next=until_next, latency_budget_ms=budget_ms)
    for _ in range(4):
        slope, value, until = line_of(request, now, parts)
        assert until > now
        end = min(until, now + 1.0)
        for at in (now, (now + end) / 2, end):
            # A budget of 1 us makes slopes of 1e7 points a second: what rounding makes of them is not much.
            assert slope * at + value == pytest.approx(score_of(request, at, parts), rel=1e-9, abs=1e-6 + slope * 1e-14)
        if until == math.inf:
            return
        now = until
    pytest.fail("more than three changes of slope")


def test_requests_that_are_alike_have_the_same_line_whenever_they_are_asked(make_request: MakeRequest) -> None:
    request = make_request(received_at=0.1, time_until_next=0.2, latency_budget_ms=700.0)
    assert line_of(request, 0.33, DEFAULT) == line_of(request, 0.77, DEFAULT)


def test_a_policy_that_fails_is_logged_once_and_the_built_in_score_stands_in(
    make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def policy(request: InferenceRequest) -> float:
        if request.client_id == "raises":
            raise RuntimeError("no idea")
        return {"nan": math.nan, "text": "ten", "number": 7.0}[request.client_id]  # type: ignore[return-value]

    guarded = GuardedPolicy("flaky", policy, DEFAULT)
    with caplog.at_level(logging.ERROR, logger="inferential.scheduler"):
        scores = {who: guarded(make_request(who, received_at=1.0), 1.0) for who in ("raises", "nan", "text", "number")}
    assert scores == {"raises": 9.0, "nan": 9.0, "text": 9.0, "number": 7.0}
    assert [record.getMessage().split(";")[0] for record in caplog.records] == ["policy 'flaky' failed"]
    assert caplog.records[0].exc_info is not None


@pytest.mark.parametrize(("now", "seen"), [(100.0, 0.2), (100.05, 0.15), (100.5, -0.3)])
def test_a_policy_sees_the_time_until_the_next_observation_run_out(
    now: float, seen: float, make_request: Callable[..., InferenceRequest]
) -> None:
    request = make_request(received_at=100.0, time_until_next=0.2)
    policy = GuardedPolicy("as seen", lambda request: request.time_until_next, Weights.of(DeadlineAwareConfig()))
    assert policy(request, now) == pytest.approx(seen)
    assert request.time_until_next == 0.2


def test_a_policy_sees_zero_while_the_cadence_is_unknown(make_request: Callable[..., InferenceRequest]) -> None:
    request = make_request(received_at=100.0, time_until_next=0.0)
    assert (
        GuardedPolicy("as seen", lambda request: request.time_until_next, Weights.of(DeadlineAwareConfig()))(
            request, 200.0
        )
        == 0.0
    )


def test_a_failing_policy_leaves_the_time_until_the_next_observation_as_it_was(
    make_request: Callable[..., InferenceRequest],
) -> None:
    request = make_request(received_at=100.0, time_until_next=0.2)
    score = GuardedPolicy("broken", lambda request: 1 / 0, Weights.of(DeadlineAwareConfig()))(request, 100.5)
    assert request.time_until_next == 0.2
    assert score == score_of(request, 100.5, Weights.of(DeadlineAwareConfig()))
