"""What the books say of requests, whether they were written at once or after the calls were made."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential.config import ResponseTrackingConfig
from inferential.dispatch.base import DispatchResult
from inferential.metrics import MetricsCollector, names
from inferential.metrics.recorder import Recorder
from inferential.scheduler.outlook import ALONE
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.running import Batch
from inferential.scheduler.shares import FairShares
from inferential.server.accounting import Books
from inferential.server.ingress import Arrival
from inferential.tracking.fleet import Fleet
from inferential.tracking.response import ResponseState

GONE = Refusal(RefusalKind.REJECTED, "the client cannot be reached", "client_gone")
START = 100.0


class Office:
    """Books with what they are written in, and a clock that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.fleet = Fleet(ResponseTrackingConfig())
        self.metrics = MetricsCollector()
        self.shares = FairShares(ALONE)
        self.greeted: list[str] = []
        self.books = Books(self.fleet, Recorder(self.metrics), self.shares, lambda _request: 1.0, self.greeted.append)
        self._numbers = itertools.count()

    def arrival(
        self, client_id: str = "arm", *, told_budget_ms: float | None = None, identity: bytes | None = None
    ) -> Arrival:
        request = InferenceRequest(
            client_id,
            "policy",
            client_id.encode() if identity is None else identity,
            b"",
            b"1234",
            self.now,
            0.0,
            None,
            0.0,
            50.0 if told_budget_ms is None else told_budget_ms,
            1,
            response_id=f"response-{next(self._numbers)}",
        )
        return Arrival(request, "franka", None, 0.0, told_budget_ms, None)

    def known(self, client_id: str = "arm", period_s: float = 0.02, times: int = 10) -> None:
        """A client that observes in a rhythm."""
        for _ in range(times):
            self.books.arrived(self.arrival(client_id))
            self.now += period_s

    def run(self, arrival: Arrival) -> Batch:
        """The request goes to its model."""
        request = arrival.request
        request.move(RequestState.QUEUED)
        request.move(RequestState.DISPATCHED)
        return Batch(request.model_id, [request], "", self.now)

    def count(self, name: str) -> int:
        return len(self.metrics.snapshot().metrics.get(name, ()))


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> Office:
    return Office(monkeypatch)


def result(arrival: Arrival, values: dict[str, Any] | None = None) -> DispatchResult:
    return DispatchResult(arrival.request, 8.0, arrival.request.response_id, b"", b"", values)


def test_a_client_that_was_not_there_is_greeted_once_and_at_once(office: Office) -> None:
    arrival = office.arrival()
    assert not office.books.later(arrival)
    office.books.arrived(arrival)
    office.books.arrived(office.arrival())
    assert office.greeted == ["arm"]


def test_what_is_left_for_later_is_written_when_it_is_kept_and_once(office: Office) -> None:
    office.known(times=1)
    assert office.books.later(office.arrival())
    assert office.count(names.PAYLOAD_SIZE_BYTES) == 1
    assert office.books.behind
    office.books.keep()
    office.books.keep()
    assert office.count(names.PAYLOAD_SIZE_BYTES) == 2
    assert not office.books.behind


@pytest.mark.parametrize("told_budget_ms", [None, 7.0])
def test_a_request_has_the_same_deadline_whenever_it_is_written_down(
    monkeypatch: pytest.MonkeyPatch, told_budget_ms: float | None
) -> None:
    deadlines = []
    for late in (False, True):
        office = Office(monkeypatch)
        office.known()
        arrival = office.arrival(told_budget_ms=told_budget_ms)
        if late:
            assert office.books.later(arrival)
            office.now += 0.005
            office.books.keep()
        else:
            office.books.arrived(arrival)
        deadlines.append((arrival.request.deadline, arrival.request.time_until_next))
    assert deadlines[0] == deadlines[1]
    assert deadlines[0][0] != pytest.approx(START + 10 * 0.02 + 0.05)  # which is what it has before


def test_an_arrival_is_written_before_what_becomes_of_it(office: Office) -> None:
    office.known()
    first = office.arrival()
    assert office.books.later(first)
    office.books.dispatched(office.run(first), 0)
    office.now += 0.03  # past its deadline, which is its cadence
    office.books.answered(result(first), office.now)
    active = office.fleet.responses.get_active("arm", "policy")
    assert active is not None
    assert active.response_id == first.request.response_id
    assert active.state is ResponseState.ISSUED
    assert office.count(names.DEADLINE_MISSES) == 1
    assert office.count(names.BATCH_SIZE) == 1
    assert office.fleet.tallies.of("arm", "policy").in_time == 0


def test_a_later_observation_that_is_not_written_yet_does_not_use_up_an_answer_that_comes_after_it(
    office: Office,
) -> None:
    office.known(times=1)
    first, second = office.arrival(), office.arrival()
    office.books.arrived(first)
    office.run(first)
    assert office.books.later(second)
    office.books.answered(result(first), office.now)
    office.books.keep()
    active = office.fleet.responses.get_active("arm", "policy")
    assert active is not None
    assert active.state is ResponseState.ISSUED


@pytest.mark.parametrize("end", [Books.refused, Books.void], ids=["refused", "void"])
def test_an_end_that_comes_before_the_arrival_was_written_is_not_waited_for_again(
    office: Office, end: Callable[[Books, InferenceRequest, Refusal], None]
) -> None:
    arrival = office.arrival()
    office.books.arrived(office.arrival())
    assert office.books.later(arrival)
    office.run(arrival)
    arrival.request.refuse(GONE)
    end(office.books, arrival.request, GONE)
    assert office.count(names.INVALIDATION_COUNT) == 1
    office.books.keep()
    assert not office.fleet.responses.on_invalidated("arm", "again", arrival.request.response_id, "policy")


def test_whoever_speaks_for_a_client_from_another_connection_is_written_at_once(office: Office) -> None:
    office.books.arrived(office.arrival(identity=b"\0nameless"))
    arrival = office.arrival()
    assert not office.books.later(arrival)
    office.books.arrived(arrival)
    assert office.fleet.owner("arm") == b"arm"


def test_books_that_are_asked_for_while_they_are_written_are_written_to_the_end_first(office: Office) -> None:
    office.known(times=1)
    arrivals = [office.arrival() for _ in range(3)]
    for arrival in arrivals:
        assert office.books.later(arrival)
        arrival.request.deadline = float("nan")
    found: list[bool] = []

    def ask(name: str, value: float, labels: dict[str, str]) -> None:
        office.books.keep()
        found.append(all(arrival.request.deadline == arrival.request.deadline for arrival in arrivals))

    office.metrics.on_metric(ask)
    office.books.keep()
    assert found
    assert all(found)
    assert office.count(names.PAYLOAD_SIZE_BYTES) == 4


def test_superseded_is_told_apart_from_refused(office: Office) -> None:
    office.known(times=1)
    for kind in (RefusalKind.SUPERSEDED, RefusalKind.EXPIRED, RefusalKind.REJECTED):
        arrival, refusal = office.arrival(), Refusal(kind, "because", "cause")
        office.books.arrived(arrival)
        arrival.request.refuse(refusal)
        office.books.refused(arrival.request, refusal)
    tally = office.fleet.tallies.of("arm", "policy")
    assert (tally.superseded, tally.refused, tally.answered) == (1, 2, 0)


def test_nothing_is_kept_of_a_client_that_has_gone_meanwhile(office: Office) -> None:
    arrival = office.arrival()
    office.books.arrived(arrival)
    office.run(arrival)
    office.now += 3600
    assert office.fleet.sweep(office.now).gone == ["arm"]
    office.books.answered(result(arrival), office.now)
    assert office.fleet.client("arm") is None
    office.known(times=1)
    assert office.fleet.tallies.of("arm", "policy").answered == 0


def test_a_chunk_of_actions_tells_when_its_robot_runs_out_of_them(office: Office) -> None:
    heard: list[tuple[Any, ...]] = []
    office.fleet.runway.on_answer = lambda *told: heard.append(told)  # type: ignore[method-assign]
    arrival = office.arrival()
    office.books.arrived(arrival)
    office.books.answered(result(arrival, {"actions": np.zeros((16, 7), np.float32)}), office.now)
    assert heard == [("arm", "policy", 16, START)]


def test_what_a_client_is_told_of_its_share_is_known_before_its_arrival_is_written(office: Office) -> None:
    office.known(times=1)
    office.shares._intervals_ms["arm", "policy"] = 40.0
    arrival = office.arrival()
    assert office.books.later(arrival)
    assert arrival.request.serve_interval_ms == 40.0


def test_a_request_that_is_tried_again_has_its_deadline(office: Office) -> None:
    office.known()
    arrival = office.arrival()
    assert office.books.later(arrival)
    office.books.retried(arrival.request)
    assert arrival.request.deadline == pytest.approx(office.now + 0.02)
    assert office.count(names.DISPATCH_RETRIES) == 1
