"""What a request waited for, by when its model's calls began."""

from __future__ import annotations

import pytest

from inferential.scheduler.request import InferenceRequest
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import Profiles
from inferential.server.call_times import CallTimes


def request(received_at: float, dispatched_at: float, rows: int = 1) -> InferenceRequest:
    made = InferenceRequest("arm", "m", b"arm", b"", b"", received_at, 0.0, None, 0.0, 50.0, 1)
    made.dispatched_at, made.rows = dispatched_at, rows
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
        times.began(Batch("m", [request(9.0, 10.0)], "", 10.0 + at / 10))
        times.began(Batch("other", [request(9.0, 10.0)], "", 10.05 + at / 10))
    assert times.of(request(received_at, 10.5), 3.0, 10.6, {}).first_call_at == pytest.approx(first_call_at)


def test_of_one_that_did_not_wait_it_is_its_own() -> None:
    times = CallTimes(Profiles())
    times.began(Batch("m", [request(10.0, 10.0)], "", 10.0004))
    assert times.of(request(10.0, 10.0005), 3.0, 10.6, {}).first_call_at == 10.0005


def test_what_a_call_takes_alone_is_looked_up_once_for_all_answers_of_a_moment() -> None:
    profiles, found = Profiles(), dict[str, float]()
    profiles.of("m").load(1, 0.002, 0.002)
    times = CallTimes(profiles)
    assert times.of(request(10.0, 10.0, rows=4), 3.0, 10.6, found).alone_ms == pytest.approx(2.0)
    assert found == {"m": pytest.approx(2.0)}
    assert times.of(request(10.0, 10.0, rows=4), 3.0, 10.6, {"m": 1.5}).alone_ms == 1.5
    assert times.of(request(10.0, 10.0), 3.0, 10.6, {}).alone_ms == 3.0
