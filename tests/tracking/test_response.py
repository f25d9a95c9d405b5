"""The life of responses."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.tracking import ResponseState, ResponseTracker


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


def test_a_response_that_nobody_asked_for_by_id_is_issued_all_the_same() -> None:
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


def test_a_forgotten_client_leaves_nothing() -> None:
    tracker = ResponseTracker()
    tracker.on_request("robot", "r1")
    tracker.on_response_sent("robot", "r2", 8.0)
    tracker.forget("robot")
    assert tracker.connected_clients == set()
    assert not tracker._open
    assert not tracker._pending
    assert tracker.counts() == {ResponseState.EXPIRED: 2}


class ResponseMachine(RuleBasedStateMachine):
    """Any order of events: no illegal step, and every response is open or has ended once."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ResponseTracker(disconnect_timeout_s=1.0)
        self.now = 0.0
        self.opened = 0
        self.asked: list[tuple[str, str, str]] = []

    clients: Any = st.sampled_from("ab")
    models: Any = st.sampled_from("mn")

    @rule(client=clients, model=models)
    def request(self, client: str, model: str) -> None:
        name = f"r{len(self.asked)}"
        self.asked.append((client, name, model))
        self.opened += 1
        self.tracker.on_request(client, name, model, now=self.now)

    @rule(data=st.data())
    def send(self, data: Any) -> None:
        if self.asked:
            client, name, model = self.asked[data.draw(st.integers(0, len(self.asked) - 1))]
            known = name in self.tracker._pending.get(client, {})
            self.opened += not known
            self.tracker.on_response_sent(client, name, 1.0, model, now=self.now)

    @rule(data=st.data(), named=st.booleans())
    def invalidate(self, data: Any, named: bool) -> None:
        if self.asked:
            client, name, model = self.asked[data.draw(st.integers(0, len(self.asked) - 1))]
            self.tracker.on_invalidated(client, "why not", name if named else None, model)

    @rule(seconds=st.floats(0, 0.8))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.tracker.expire(self.now)

    @rule(client=clients)
    def forget(self, client: str) -> None:
        self.tracker.forget(client)

    @invariant()
    def every_response_is_open_or_has_ended_once(self) -> None:
        assert self.opened == len(self.tracker._open) + sum(self.tracker.counts().values())


TestResponseMachine = ResponseMachine.TestCase
TestResponseMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
