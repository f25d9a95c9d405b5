"""How a model's endpoint has been doing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferential.dispatch import EndpointHealth


def test_before_the_first_call_nothing_is_known() -> None:
    health = EndpointHealth("m")
    assert (health.model_id, health.avg_latency_ms, health.error_rate) == ("m", 0.0, 0.0)
    assert (health.total_requests, health.last_error) == (0, None)


@pytest.mark.parametrize(("success", "rate"), [(True, 0.0), (False, 0.2)])
def test_the_averages_start_from_zero(success: bool, rate: float) -> None:
    health = EndpointHealth("m")
    health.update(80.0, success)
    assert (health.avg_latency_ms, health.error_rate, health.total_requests) == (
        pytest.approx(16.0),
        pytest.approx(rate),
        1,
    )


def test_later_samples_move_the_averages_by_a_fifth() -> None:
    health = EndpointHealth("m")
    for latency_ms, success in ((100.0, True), (50.0, False), (50.0, True)):
        health.update(latency_ms, success)
    assert health.avg_latency_ms == pytest.approx(0.8 * (0.8 * 0.2 * 100 + 0.2 * 50) + 0.2 * 50)
    assert health.error_rate == pytest.approx(0.8 * 0.2)
    assert health.total_requests == 3


def test_the_latest_failure_is_remembered_through_later_successes() -> None:
    health = EndpointHealth("m")
    health.update(1.0, False, "out of memory")
    health.update(1.0, True)
    assert health.last_error == "out of memory"
    health.update(1.0, False)
    assert health.last_error == "call 3 failed"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), min_size=1, max_size=50))
def test_averages_stay_between_zero_and_the_greatest_sample(samples: list[tuple[float, bool]]) -> None:
    health = EndpointHealth("m")
    for latency_ms, success in samples:
        health.update(latency_ms, success)
    latencies = [latency_ms for latency_ms, _ in samples]
    assert 0.0 <= health.avg_latency_ms <= max(latencies) * (1 + 1e-9) + 1e-9
    assert 0.0 <= health.error_rate <= 1.0
    assert health.total_requests == len(samples)
