"""What a request waited for, by when its model's calls began."""

from __future__ import annotations

import pytest

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import Profiles
from inferential.server.call_times import CallTimes


def answered(received_at: float, dispatched_at: float, rows: int = 1) -> InferenceRequest:
    made = InferenceRequest("arm", "m", b"arm", b"", b"", received_at, 0.0, None, 0.0, 50.0, 1)
    made.dispatched_at, made.rows, made.inference_ms, made.sent_at = dispatched_at, rows, 3.0, 10.6
    return made


@pytest.mark.parametrize(
    ("received_at", "first_call_at"),
    [
        (10.05, 10.1),  # the first of those after it
        (10.1, 10.1),
        (9.0, 10.0),
        (10.45, 10.5),  # its own, which is not noted yet
    ],
)
def test_the_first_call_after_a_requests_arrival_is_found(received_at: float, first_call_at: float) -> None:
    times = CallTimes(Profiles())
    for at in range(5):
        times.began(Batch("m", [answered(9.0, 10.0)], "", 10.0 + at / 10))
        times.began(Batch("other", [answered(9.0, 10.0)], "", 10.05 + at / 10))
    (found,) = times.of([answered(received_at, 10.5)])
    assert found.first_call_at == pytest.approx(first_call_at)
    assert found[:4] == (received_at, 10.5, 10.6, pytest.approx(received_at + 0.05))


def test_of_one_that_did_not_wait_it_is_its_own() -> None:
    times = CallTimes(Profiles())
    times.began(Batch("m", [answered(10.0, 10.0)], "", 10.0004))
    (found,) = times.of([answered(10.0, 10.0005)])
    assert found.first_call_at == 10.0005


def test_what_a_call_takes_alone_is_that_of_one_row_where_it_has_more() -> None:
    profiles = Profiles()
    times = CallTimes(profiles)
    assert [one.alone_ms for one in times.of([answered(10.0, 10.0, rows=2)] * 2)] == [3.0, 3.0]  # nothing is known
    profiles.of("m").load(1, 0.002, 0.002)
    assert [one.alone_ms for one in times.of([answered(10.0, 10.0, rows=2)] * 2)] == [pytest.approx(2.0)] * 2
    assert [one.alone_ms for one in times.of([answered(10.0, 10.0)])] == [3.0]
