"""The life of responses."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.tracking import ResponseRecord, ResponseState, ResponseTracker


def test_a_response_is_pending_issued_and_consumed_by_the_next_observation() -> None:
    tracker = ResponseTracker()
    tracker.on_request("robot", "r1", now=0.0)
    assert tracker.get_active("robot") is None
    tracker.on_response_sent("robot", "r1", 8.0, now=0.1)
    record = tracker.get_active("robot")
    assert record is not None
    assert (record.state, record.latency_ms, record.created_at, record.issued_at) == (
        ResponseState.ISSUED,
        8.0,
        0.0,
        0.1,
    )
    tracker.on_request("robot", "r2", now=0.2)
    assert record.state is ResponseState.CONSUMED
    assert tracker.counts() == {ResponseState.CONSUMED: 1}
    assert tracker.connected_clients == {"robot"}


def test_a_response_without_a_pending_id_is_issued() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0)
    record = tracker.get_active("robot")
    assert record is not None
    assert record.state is ResponseState.ISSUED


def test_a_refused_request_invalidates_its_pending_response() -> None:
    tracker = ResponseTracker()
    tracker.on_request("robot", "r1")
    assert tracker.on_invalidated("robot", "superseded", "r1")
    assert not tracker.on_invalidated("robot", "superseded", "r1")
    assert tracker.counts() == {ResponseState.INVALIDATED: 1}


def test_the_active_response_is_invalidated_where_no_other_is_named() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0)
    assert tracker.on_invalidated("robot", "the robot was reset")
    record = tracker.get_active("robot")
    assert record is not None
    assert record.state is ResponseState.INVALIDATED
    assert record.reason == "the robot was reset"


def test_a_newer_response_makes_an_unused_one_void() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0)
    first = tracker.get_active("robot")
    tracker.on_response_sent("robot", "r2", 8.0)
    assert first is not None
    assert first.state is ResponseState.INVALIDATED


def test_models_of_one_client_are_kept_apart() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0, "policy")
    tracker.on_response_sent("robot", "r2", 8.0, "vlm")
    tracker.on_request("robot", "r3", "policy")
    states = {
        model: record.state for model in ("policy", "vlm") if (record := tracker.get_active("robot", model)) is not None
    }
    assert states == {"policy": ResponseState.CONSUMED, "vlm": ResponseState.ISSUED}


def test_what_is_open_too_long_expires_once() -> None:
    tracker = ResponseTracker(disconnect_timeout_s=1.0)
    tracker.on_request("robot", "r1", now=0.0)
    tracker.on_request("robot", "r2", now=0.5)
    tracker.on_response_sent("robot", "r1", 8.0, now=0.9)
    assert [record.response_id for record in tracker.expire(1.6)] == ["r2"]
    assert [record.response_id for record in tracker.expire(2.0)] == ["r1"]
    assert tracker.expire(9.0) == []
    assert tracker.counts() == {ResponseState.EXPIRED: 2}


def test_an_expired_response_is_active_no_more() -> None:
    tracker = ResponseTracker(disconnect_timeout_s=1.0)
    tracker.on_response_sent("robot", "r1", 8.0, now=0.0)
    assert tracker.expires_at() == 1.0
    (record,) = tracker.expire(1.0)
    assert record.state is ResponseState.EXPIRED
    assert tracker.get_active("robot") is None
    assert tracker.expires_at() is None
    assert tracker.sizes()["responses_active"] == 0


def test_an_issued_response_is_invalidated_by_its_id_but_by_no_other() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0)
    assert not tracker.on_invalidated("robot", "why not", "r0")
    assert tracker.on_invalidated("robot", "it could not be delivered", "r1")
    assert not tracker.on_invalidated("robot", "again", "r1")
    assert not tracker.on_invalidated("unknown", "why not")


def test_an_id_that_is_pending_is_opened_once() -> None:
    tracker = ResponseTracker(disconnect_timeout_s=1.0)
    tracker.on_request("robot", "r1", now=0.0)
    tracker.on_request("robot", "r1", now=0.9)
    assert [record.created_at for record in tracker.expire(1.0)] == [0.0]
    assert tracker.counts() == {ResponseState.EXPIRED: 1}


def test_a_client_that_floods_has_a_bounded_number_of_pending_responses() -> None:
    tracker = ResponseTracker()
    tracker.on_request("good", "g", now=0.0)
    for n in range(1000):
        tracker.on_request("flood", f"r{n}", now=0.0)
    assert tracker.sizes()["responses_open"] == 256 + 1
    assert tracker.counts() == {ResponseState.INVALIDATED: 1000 - 256}
    assert tracker.on_invalidated("flood", "superseded", "r999")
    assert not tracker.on_invalidated("flood", "superseded", "r0")


def test_one_that_was_answered_and_never_asked_is_not_connected() -> None:
    tracker = ResponseTracker()
    tracker.on_response_sent("robot", "r1", 8.0)
    assert tracker.connected_clients == set()
    tracker.on_request("robot")
    tracker.connected_clients.clear()
    assert tracker.connected_clients == {"robot"}


def test_a_forgotten_client_leaves_nothing() -> None:
    tracker = ResponseTracker()
    tracker.on_request("robot", "r1")
    tracker.on_response_sent("robot", "r2", 8.0)
    tracker.forget("robot")
    assert tracker.connected_clients == set()
    assert not any(tracker.sizes().values())
    assert tracker.counts() == {ResponseState.EXPIRED: 2}


LEGAL = {
    (ResponseState.PENDING, ResponseState.ISSUED),
    (ResponseState.PENDING, ResponseState.INVALIDATED),
    (ResponseState.PENDING, ResponseState.EXPIRED),
    (ResponseState.ISSUED, ResponseState.CONSUMED),
    (ResponseState.ISSUED, ResponseState.INVALIDATED),
    (ResponseState.ISSUED, ResponseState.EXPIRED),
}
OPEN = {ResponseState.PENDING, ResponseState.ISSUED}


class ResponseMachine(RuleBasedStateMachine):
    """Any order of events: no illegal step, and every response is open or has ended once."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ResponseTracker(disconnect_timeout_s=1.0)
        self.now = 0.0
        self.asked: list[tuple[str, str, str]] = []
        self.states: dict[ResponseRecord, ResponseState] = {}  # every record that ever was, as it was last seen

    clients: Any = st.sampled_from("ab")
    models: Any = st.sampled_from("mn")

    @rule(client=clients, model=models)
    def request(self, client: str, model: str) -> None:
        name = f"r{len(self.asked)}"
        self.asked.append((client, name, model))
        before = self.tracker.get_active(client, model)
        self.tracker.on_request(client, name, model, now=self.now)
        assert before is None or before.state is not ResponseState.ISSUED

    @rule(data=st.data())
    def request_again(self, data: Any) -> None:
        if self.asked:
            client, name, model = data.draw(st.sampled_from(self.asked))
            self.tracker.on_request(client, name, model, now=self.now)

    @rule(data=st.data())
    def send(self, data: Any) -> None:
        if self.asked:
            client, name, model = data.draw(st.sampled_from(self.asked))
            self.tracker.on_response_sent(client, name, 1.0, model, now=self.now)
            active = self.tracker.get_active(client, model)
            assert active is not None
            assert (active.response_id, active.state, active.issued_at) == (name, ResponseState.ISSUED, self.now)

    @rule(data=st.data(), named=st.booleans())
    def invalidate(self, data: Any, named: bool) -> None:
        if self.asked:
            client, name, model = data.draw(st.sampled_from(self.asked))
            before = self.tracker.counts().get(ResponseState.INVALIDATED, 0)
            ended = self.tracker.on_invalidated(client, "why not", name if named else None, model)
            assert self.tracker.counts().get(ResponseState.INVALIDATED, 0) == before + ended

    @rule(seconds=st.floats(0, 0.8))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for record in self.tracker.expire(self.now):
            since = record.created_at if record.issued_at is None else record.issued_at
            assert since + 1.0 <= self.now
            assert self.tracker.get_active(record.client_id, record.model_id) is not record
        at = self.tracker.expires_at()
        assert at is None or at > self.now

    @rule(client=clients)
    def forget(self, client: str) -> None:
        self.tracker.forget(client)
        assert not {
            record for record, state in self.states.items() if record.client_id == client and record.state in OPEN
        }
        assert client not in self.tracker.connected_clients

    @invariant()
    def every_response_takes_legal_steps_and_is_open_or_has_ended_once(self) -> None:
        for record, state in self.states.items():
            assert record.state is state or (state, record.state) in LEGAL
        self.states |= {record: record.state for record in [*self.states, *self.tracker.open_responses()]}
        ended = Counter(state for state in self.states.values() if state not in OPEN)
        assert self.tracker.counts() == ended
        assert {record for record, state in self.states.items() if state in OPEN} == set(self.tracker.open_responses())

    @invariant()
    def keeps_what_is_open_and_active_only(self) -> None:
        found = self.tracker.open_responses()
        active = [self.tracker.get_active(client, model) for client in "ab" for model in "mn"]
        issued = {record for record in active if record is not None and record.state in OPEN}
        assert {record for record in found if record.state is ResponseState.ISSUED} == issued
        sizes = self.tracker.sizes()
        assert sizes["responses_open"] == len(found)
        assert sizes["responses_pending"] == len(found) - len(issued)
        assert sizes["responses_active"] == sum(record is not None for record in active)


TestResponseMachine = ResponseMachine.TestCase
TestResponseMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
