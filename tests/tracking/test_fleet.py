"""The fleet: who is there, who is late, who is gone; each told once, late before gone."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.config import ResponseTrackingConfig
from inferential.tracking import ClientRegistry, Fleet


def fleet(**options: float) -> Fleet:
    return Fleet(ResponseTrackingConfig(**options))  # type: ignore[arg-type]


def rhythmic(subject: Fleet, client: str = "robot", count: int = 12, period: float = 0.02) -> float:
    for n in range(count):
        subject.seen(client, "m", "arm", client.encode(), n * period)
    return (count - 1) * period


def test_a_client_is_new_once() -> None:
    subject = fleet()
    assert subject.seen("robot", "m", "arm", b"robot", 0.0).is_new
    sighting = subject.seen("robot", "m", "arm", b"robot", 0.02)
    assert not sighting.is_new
    assert sighting.learned_cadence_s == pytest.approx(0.02)
    assert sighting.time_until_next_s == pytest.approx(0.02)
    assert sighting.cadence_deviation_s is None
    assert subject.seen("robot", "m", "arm", b"robot", 0.05).cadence_deviation_s == pytest.approx(0.01)
    assert subject.active_count == 1
    assert subject.owner("robot") == b"robot"
    assert subject.owner("nobody") is None


def test_nobody_is_looked_for_while_nobody_is_there() -> None:
    subject = fleet(disconnect_timeout_s=1.0)
    assert subject.next_sweep_at() is None
    subject.seen("robot", "m", "", b"robot", 0.0)
    assert subject.next_sweep_at() == pytest.approx(0.25)
    subject.sweep(1.0)
    assert subject.next_sweep_at() is None


def test_a_silent_client_is_late_once_and_gone_once() -> None:
    subject = fleet()
    last = rhythmic(subject)
    assert subject.sweep(last + 0.02).overdue == []
    assert subject.sweep(last + 0.04).overdue == [("robot", "m")]
    assert subject.sweep(last + 5.0).overdue == []
    changes = subject.sweep(last + 10.0)
    assert (changes.overdue, changes.gone) == ([], ["robot"])
    assert subject.sweep(last + 20.0).gone == []
    assert subject.active_count == 0


def test_a_client_that_comes_back_can_be_late_again() -> None:
    subject = fleet()
    last = rhythmic(subject)
    subject.sweep(last + 1.0)
    subject.seen("robot", "m", "arm", b"robot", last + 1.0)
    assert subject.sweep(last + 1.01).overdue == []
    assert subject.sweep(last + 2.0).overdue == [("robot", "m")]


def test_a_client_without_a_rhythm_is_late_when_it_is_gone() -> None:
    subject = fleet()
    subject.seen("robot", "m", "", b"robot", 0.0)
    assert subject.sweep(5.0).overdue == []
    changes = subject.sweep(10.0)
    assert changes.overdue == [("robot", "m")]
    assert changes.gone == ["robot"]


def test_other_settings_hold_at_once() -> None:
    subject = fleet()
    last = rhythmic(subject)
    subject.configure(ResponseTrackingConfig(disconnect_timeout_s=1.0, overdue_multiplier=20.0))
    assert subject.sweep(last + 0.3).overdue == []
    assert subject.sweep(last + 1.0).gone == ["robot"]


def test_a_fleet_that_came_and_went_leaves_nothing() -> None:
    subject = fleet()
    for n in range(500):
        rhythmic(subject, f"robot-{n}", count=3)
        subject.responses.on_request(f"robot-{n}", f"r{n}", "m", now=0.0)
    subject.sweep(100.0)
    assert subject.registry.all_clients == {}
    tables = (subject.cadence._clients, subject.responses._active, subject.responses._pending, subject.responses._open)
    assert not any((*tables, subject._late, subject._quiet_until))


def test_the_registry_counts_and_copies() -> None:
    registry = ClientRegistry()
    assert registry.on_observation("robot", "m", now=1.0)
    assert not registry.on_observation("robot", "n", now=2.0)
    state = registry.get("robot")
    assert state is not None
    assert (state.total_requests, state.model_ids, state.first_seen, state.last_seen) == (2, {"m", "n"}, 1.0, 2.0)
    registry.all_clients.clear()
    assert registry.active_count == 1
    registry.forget("robot")
    assert registry.get("robot") is None


class FleetMachine(RuleBasedStateMachine):
    """Any sightings and sweeps: each life of a client is new once, late before gone, and gone at most once."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = fleet(disconnect_timeout_s=1.0)
        self.now = 0.0
        self.alive: dict[str, float] = {}
        self.told_late: Counter[str] = Counter()

    @rule(client=st.sampled_from("abc"), model=st.sampled_from("mn"))
    def see(self, client: str, model: str) -> None:
        sighting = self.fleet.seen(client, model, "", client.encode(), self.now)
        assert sighting.is_new == (client not in self.alive)
        self.alive[client] = self.now

    @rule(seconds=st.floats(0.0, 0.4))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        changes = self.fleet.sweep(self.now)
        for client, _ in changes.overdue:
            self.told_late[client] += 1
        for client in changes.gone:
            assert self.now - self.alive.pop(client) >= 1.0
            assert self.told_late.pop(client, 0) > 0
        assert all(self.now - seen < 1.0 for seen in self.alive.values())

    @invariant()
    def knows_who_is_there(self) -> None:
        assert set(self.fleet.registry.all_clients) == set(self.alive)
        assert (self.fleet.next_sweep_at() is None) == (not self.alive)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
