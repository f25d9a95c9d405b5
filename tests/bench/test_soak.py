"""The checks of a soak, with counts that hold and that do not; and a soak of a few seconds."""

from __future__ import annotations

import pytest
from bench.soak import checks
from bench.soak.__main__ import markdown, soak, totals

PAGE = """\
# TYPE inferential_payload_size_bytes histogram
inferential_payload_size_bytes_bucket{le="+Inf",model="m"} 7.0
inferential_payload_size_bytes_count{model="m"} 7.0
inferential_payload_size_bytes_sum{model="m"} 70.0
# TYPE inferential_responses_served_total counter
inferential_responses_served_total{model="m"} 4.0
# TYPE inferential_dispatch_errors_total counter
inferential_dispatch_errors_total{error="ValueError",model="m"} 2.0
inferential_dispatch_errors_total{error="unknown_model",model="n"} 5.0
# TYPE inferential_observation_errors_total counter
inferential_observation_errors_total{error="invalid",model=""} 9.0
inferential_observation_errors_total{error="image",model="m"} 1.0
# TYPE inferential_queue_requests gauge
inferential_queue_requests{model="m"} 0.0
"""


def samples(values: list[float]) -> list[checks.Sample]:
    return [checks.Sample(float(at), value, 10, 3) for at, value in enumerate(values)]


def test_requests_that_became_none_are_not_counted_as_ends() -> None:
    counts = totals(PAGE)
    assert counts["arrived"] == 7
    assert counts["failed"] == 3
    assert checks.books_balance(counts).holds


@pytest.mark.parametrize(
    ("served", "unsent", "holds"), [(4, 0, True), (3, 0, False), (3, 1, True), (4, 1, False), (5, 9, False)]
)
def test_counters_add_up_but_for_what_could_not_be_sent(served: int, unsent: int, holds: bool) -> None:
    counts = {"arrived": 7.0, "failed": 3.0, "responses_served": served, "unsent_results": unsent}
    assert checks.books_balance(counts).holds == holds


@pytest.mark.parametrize(("ends", "twice", "holds"), [(3, 0, True), (2, 0, False), (3, 1, False)])
def test_each_request_must_end_once(ends: int, twice: int, holds: bool) -> None:
    assert checks.conserved("raw", 3, {"result": ends}, twice).holds == holds


def test_memory_that_grows_is_found_and_a_warm_up_is_not() -> None:
    assert not checks.memory_is_flat(samples([60.0 + at for at in range(100)])).holds
    assert checks.memory_is_flat(samples([30.0 + at for at in range(25)] + [60.0] * 75)).holds


def test_latency_that_grows_is_found() -> None:
    steady = [(at / 10, 5.0 + at % 3) for at in range(300)]
    assert checks.latency_does_not_drift(steady).holds
    assert not checks.latency_does_not_drift([(at, ms + 5 * at) for at, ms in steady]).holds


AT = "2026-01-02 10:00:00,123"


def test_a_traceback_in_the_log_is_found() -> None:
    traceback = "Traceback (most recent call last):\n  File x\nRuntimeError: as asked for"
    late, failed = f"{AT} WARNING inferential: a robot is late", f"{AT} ERROR inferential.dispatch: model moody failed "
    assert checks.nothing_unexpected(late).holds
    assert checks.nothing_unexpected(f"{late}\n{failed}for client a:\n{traceback}\n{late}").holds
    for own in (f"{AT} ERROR asyncio: x\n{traceback}", traceback):
        found = checks.nothing_unexpected(f"{own}\n{failed}for client a:\n{traceback}\n{late}")
        assert not found.holds
        assert "1 of them a failure" in found.found


@pytest.mark.slow
def test_a_short_soak_finds_every_request_ended_and_leaves_no_process() -> None:
    report = soak(3.0, seed=1)
    timed = "latency does not drift"  # means nothing within seconds
    assert [one for one in report["checks"] if not one["holds"] and one["name"] != timed] == []
    assert "each request ends once" in markdown(report)
