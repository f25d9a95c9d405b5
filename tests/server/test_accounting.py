"""What is recorded of requests, at once or deferred until after their calls were made."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.server.fakes import make_accounting

from inferential.config import ResponseTrackingConfig
from inferential.dispatch.base import DispatchResult
from inferential.metrics import MetricsCollector, names
from inferential.metrics.recorder import Recorder
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.running import Batch
from inferential.scheduler.time.availability import ALWAYS_AVAILABLE
from inferential.scheduler.time.fair_share import STEP, FairShares
from inferential.server.accounting import Accounting
from inferential.server.ingress import IncomingRequest
from inferential.tracking.fleet import Fleet

GONE = Refusal(RefusalKind.REJECTED, "the client cannot be reached", "client_gone")
START = 100.0


class Ledger:
    """Accounting with what it writes to, and a clock that stands still until it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        self.fleet = Fleet(ResponseTrackingConfig())
        self.metrics = MetricsCollector()
        self.shares = FairShares(ALWAYS_AVAILABLE)
        self.connected: list[str] = []
        self.accounting = make_accounting(self.fleet, Recorder(self.metrics), self.shares, self.connected.append)
        self._numbers = itertools.count()

    def arrival(
        self, client_id: str = "arm", *, explicit_budget_ms: float | None = None, identity: bytes | None = None
    ) -> IncomingRequest:
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
            50.0 if explicit_budget_ms is None else explicit_budget_ms,
            1,
            response_id=f"response-{next(self._numbers)}",
        )
        return IncomingRequest(request, 0.0, explicit_budget_ms, None)

    def known(self, client_id: str = "arm", period_s: float = 0.02, times: int = 10) -> None:
        """A client that observes in a rhythm."""
        for _ in range(times):
            self.accounting.arrived(self.arrival(client_id))
            self.now += period_s

    def run(self, arrival: IncomingRequest) -> Batch:
        """The request goes to its model."""
        request = arrival.request
        request.move(RequestState.QUEUED)
        request.move(RequestState.DISPATCHED)
        return Batch(request.model_id, [request], "", self.now)

    def count(self, name: str) -> int:
        return len(self.metrics.snapshot().metrics.get(name, ()))


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    return Ledger(monkeypatch)


def result(arrival: IncomingRequest, sent_at: float, values: dict[str, Any] | None = None) -> DispatchResult:
    """What was sent of a request's answer."""
    arrival.request.sent_at, arrival.request.inference_ms = sent_at, 8.0
    return DispatchResult(arrival.request, 8.0, arrival.request.response_id, b"", b"", values)


def test_a_new_client_is_reported_once_and_never_deferred(ledger: Ledger) -> None:
    arrival = ledger.arrival()
    assert not ledger.accounting.defer(arrival)
    ledger.accounting.arrived(arrival)
    ledger.accounting.arrived(ledger.arrival())
    assert ledger.connected == ["arm"]


def test_a_deferred_arrival_is_written_once_by_the_next_flush(ledger: Ledger) -> None:
    ledger.known(times=1)
    assert ledger.accounting.defer(ledger.arrival())
    assert ledger.count(names.PAYLOAD_SIZE_BYTES) == 1
    assert ledger.accounting.pending
    ledger.accounting.flush()
    ledger.accounting.flush()
    assert ledger.count(names.PAYLOAD_SIZE_BYTES) == 2
    assert not ledger.accounting.pending


@pytest.mark.parametrize("explicit_budget_ms", [None, 7.0])
def test_a_request_has_the_same_deadline_whether_its_arrival_is_deferred_or_not(
    monkeypatch: pytest.MonkeyPatch, explicit_budget_ms: float | None
) -> None:
    deadlines = []
    for late in (False, True):
        ledger = Ledger(monkeypatch)
        ledger.known()
        arrival = ledger.arrival(explicit_budget_ms=explicit_budget_ms)
        if late:
            assert ledger.accounting.defer(arrival)
            ledger.now += 0.005
            ledger.accounting.flush()
        else:
            ledger.accounting.arrived(arrival)
        deadlines.append((arrival.request.deadline, arrival.request.time_until_next))
    assert deadlines[0] == deadlines[1]
    assert deadlines[0][0] != pytest.approx(START + 10 * 0.02 + 0.05)  # which is what it has before


@pytest.mark.parametrize(("renews", "period_s"), [(True, 2.0), (False, 0.5), (None, 0.5)])
def test_what_renews_a_waiting_request_is_no_arrival_of_a_cadence(
    ledger: Ledger, renews: bool | None, period_s: float
) -> None:
    engine = ledger.accounting.engine
    other = ledger.arrival("other").request
    engine.offer(other, ledger.now)
    [call] = engine.work(ledger.now)  # which keeps the model busy
    for step in range(40):
        arrival = ledger.arrival()
        arrival.request.takes_latest, arrival.renews = True, renews
        ledger.accounting.arrived(arrival)
        engine.offer(arrival.request, ledger.now)
        assert engine.work(ledger.now) == []
        ledger.now += 0.5
        if step % 4 == 3:  # its call ends
            engine.finished(call, ledger.now)
            [call] = engine.work(ledger.now)
    assert ledger.fleet.cadence.learned_cadence("arm", "policy") == pytest.approx(period_s)


def test_a_deferred_arrival_is_written_before_its_answer(ledger: Ledger) -> None:
    ledger.known()
    first = ledger.arrival()
    assert ledger.accounting.defer(first)
    ledger.accounting.dispatched(ledger.run(first), 0)
    ledger.now += 0.03  # past its deadline, which is its cadence
    ledger.accounting.answered([result(first, ledger.now)])
    assert ledger.count(names.DEADLINE_MISSES) == 1
    assert ledger.count(names.BATCH_SIZE) == 1
    assert ledger.fleet.outcomes.of("arm", "policy").in_time == 0


@pytest.mark.parametrize(
    "end",
    [lambda subject, request: subject.refused(request, GONE), Accounting.invalidated],
    ids=["refused", "invalidated"],
)
def test_a_request_that_ends_before_its_deferred_arrival_is_written_ends_once(
    ledger: Ledger, end: Callable[[Accounting, InferenceRequest], None]
) -> None:
    arrival = ledger.arrival()
    ledger.accounting.arrived(ledger.arrival())
    assert ledger.accounting.defer(arrival)
    ledger.run(arrival)
    arrival.request.refuse(GONE)
    end(ledger.accounting, arrival.request)
    assert ledger.count(names.INVALIDATION_COUNT) == 1
    assert ledger.count(names.PAYLOAD_SIZE_BYTES) == 2


def test_only_a_client_that_waits_for_a_response_has_it_invalidated(ledger: Ledger) -> None:
    turned_away, of_former_life = ledger.arrival(), ledger.arrival()
    ledger.accounting.arrived(of_former_life)
    ledger.now += 3600
    assert ledger.fleet.sweep(ledger.now).gone == ["arm"]
    ledger.known(times=1)
    for arrival in (turned_away, of_former_life):
        arrival.request.refuse(GONE)
        ledger.accounting.refused(arrival.request, GONE)
    assert ledger.count(names.INVALIDATION_COUNT) == 0


def test_an_arrival_from_another_connection_of_the_client_is_not_deferred(ledger: Ledger) -> None:
    ledger.accounting.arrived(ledger.arrival(identity=b"\0nameless"))
    arrival = ledger.arrival()
    assert not ledger.accounting.defer(arrival)
    ledger.accounting.arrived(arrival)
    assert ledger.fleet.owner("arm") == b"arm"


def test_a_flush_within_a_flush_writes_all_deferred_records_first(ledger: Ledger) -> None:
    ledger.known(times=1)
    arrivals = [ledger.arrival() for _ in range(3)]
    for arrival in arrivals:
        assert ledger.accounting.defer(arrival)
        arrival.request.deadline = float("nan")
    found: list[bool] = []

    def ask(name: str, value: float, labels: dict[str, str]) -> None:
        ledger.accounting.flush()
        found.append(all(arrival.request.deadline == arrival.request.deadline for arrival in arrivals))

    ledger.metrics.on_metric(ask)
    ledger.accounting.flush()
    assert found
    assert all(found)
    assert ledger.count(names.PAYLOAD_SIZE_BYTES) == 4


def test_superseded_and_refused_requests_are_counted_apart(ledger: Ledger) -> None:
    ledger.known(times=1)
    for kind in (RefusalKind.SUPERSEDED, RefusalKind.EXPIRED, RefusalKind.REJECTED):
        arrival, refusal = ledger.arrival(), Refusal(kind, "because", "cause")
        ledger.accounting.arrived(arrival)
        arrival.request.refuse(refusal)
        ledger.accounting.refused(arrival.request, refusal)
    counts = ledger.fleet.outcomes.of("arm", "policy")
    assert (counts.superseded, counts.refused, counts.answered) == (1, 2, 0)


def test_an_answer_to_a_disconnected_client_leaves_no_record(ledger: Ledger) -> None:
    arrival = ledger.arrival()
    ledger.accounting.arrived(arrival)
    ledger.run(arrival)
    ledger.now += 3600
    assert ledger.fleet.sweep(ledger.now).gone == ["arm"]
    ledger.accounting.answered([result(arrival, ledger.now)])
    assert ledger.fleet.client("arm") is None
    ledger.known(times=1)
    assert ledger.fleet.outcomes.of("arm", "policy").answered == 0


def test_an_answered_chunk_updates_the_action_horizon(ledger: Ledger) -> None:
    heard: list[tuple[Any, ...]] = []
    ledger.fleet.action_horizon.on_answer = lambda *outcome: heard.append(outcome)  # type: ignore[method-assign]
    arrival = ledger.arrival()
    ledger.accounting.arrived(arrival)
    ledger.accounting.answered([result(arrival, ledger.now, {"actions": np.zeros((16, 7), np.float32)})])
    assert heard == [("arm", "policy", 16, START, 0, START)]


def test_a_deferred_arrival_has_the_serve_interval_of_its_client(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.known(times=1)
    ledger.shares.limits_any = True
    monkeypatch.setattr(ledger.shares, "interval_ms", lambda client_id, model_id: 40.0)
    arrival = ledger.arrival()
    assert ledger.accounting.defer(arrival)
    assert arrival.request.serve_interval_ms == 40.0


def test_a_request_that_is_tried_again_has_its_deadline(ledger: Ledger) -> None:
    ledger.known()
    arrival = ledger.arrival()
    assert ledger.accounting.defer(arrival)
    ledger.accounting.retried(arrival.request)
    assert arrival.request.deadline == pytest.approx(ledger.now + 0.02)
    assert ledger.count(names.DISPATCH_RETRIES) == 1


def test_a_client_that_the_server_has_not_read_yet_is_not_gone(ledger: Ledger) -> None:
    for client_id in ("unread", "silent"):
        ledger.accounting.arrived(ledger.arrival(client_id))
    ledger.now += 3600
    (found,) = ledger.accounting.sweep_steps(ledger.now, has_unread=lambda identity: identity == b"unread")
    assert found.gone == ["silent"]
    (found,) = ledger.accounting.sweep_steps(ledger.now)
    assert found.gone == ["unread"]


def test_a_client_that_asks_while_others_are_looked_at_is_not_gone(ledger: Ledger) -> None:
    for number in range(2 * STEP):
        ledger.accounting.arrived(ledger.arrival(f"robot-{number}"))
    ledger.now += 3600
    steps = ledger.accounting.sweep_steps(ledger.now)
    assert len(next(steps).gone) == STEP
    assert ledger.accounting.defer(ledger.arrival(f"robot-{STEP}"))
    (found,) = steps
    assert found.gone == [f"robot-{number}" for number in range(STEP + 1, 2 * STEP)]


def test_shares_are_updated_in_parts_that_end_also_where_robots_come_and_go_meanwhile(ledger: Ledger) -> None:
    def arrive(first: int) -> None:
        for number in range(first, first + 3 * STEP):
            ledger.accounting.arrived(ledger.arrival(f"robot-{number}"))

    for _ in range(5):
        arrive(0)
        ledger.now += 0.02
    steps = ledger.accounting.share_steps(ledger.now, lambda identity: False)
    next(steps)
    arrive(3 * STEP)
    ledger.now += 3600
    assert sum(len(found.gone) for found in ledger.accounting.sweep_steps(ledger.now)) == 6 * STEP
    assert len(list(steps)) >= 2
    assert list(ledger.accounting.share_steps(ledger.now - 3600, lambda identity: False)) == []  # not due yet
