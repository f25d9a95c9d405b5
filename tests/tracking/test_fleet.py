"""The fleet: who is there, who is late, who is gone; each reported once, late before gone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.config import ResponseTrackingConfig
from inferential.tracking import CadenceTracker, ClientRegistry, Fleet
from inferential.tracking.action_horizon import ActionHorizonTracker


def fleet(**options: float) -> Fleet:
    return Fleet(ResponseTrackingConfig(**options))


def rhythmic(subject: Fleet, client: str = "robot", count: int = 12, period: float = 0.02) -> float:
    for n in range(count):
        subject.on_observation(client, "m", "arm", client.encode(), n * period)
    return (count - 1) * period


def test_a_client_is_new_once() -> None:
    subject = fleet()
    assert subject.on_observation("robot", "m", "arm", b"robot", 0.0).is_new
    update = subject.on_observation("robot", "m", "arm", b"robot", 0.02)
    assert not update.is_new
    assert update.learned_cadence_s == pytest.approx(0.02)
    assert update.time_until_next_s == pytest.approx(0.02)
    assert update.cadence_deviation_s is None
    assert subject.on_observation("robot", "m", "arm", b"robot", 0.05).cadence_deviation_s == pytest.approx(0.01)
    assert subject.active_count == 1
    assert subject.owner("robot") == b"robot"
    assert subject.owner("unknown") is None


def test_without_clients_no_sweep_is_due() -> None:
    subject = fleet(disconnect_timeout_s=1.0)
    assert subject.next_sweep_at() is None
    subject.on_observation("robot", "m", "", b"robot", 0.0)
    assert subject.next_sweep_at() == pytest.approx(0.25)
    subject.sweep(1.0)
    assert subject.next_sweep_at() is None


def test_a_silent_client_is_overdue_once_and_gone_once() -> None:
    subject = fleet()
    last = rhythmic(subject)
    assert subject.sweep(last + 0.02).overdue == []
    assert subject.overdue_count == 0
    assert subject.sweep(last + 0.04).overdue == [("robot", "m")]
    assert subject.overdue_count == 1
    assert subject.sweep(last + 5.0).overdue == []
    changes = subject.sweep(last + 10.0)
    assert (changes.overdue, changes.gone) == ([], ["robot"])
    assert subject.sweep(last + 20.0).gone == []
    assert subject.active_count == 0


def test_a_client_of_which_not_all_is_read_is_not_silent() -> None:
    subject = fleet()
    last = rhythmic(subject)
    for later in (0.1, 10.0, 60.0):
        changes = subject.sweep(last + later, is_behind=lambda client_id: True)
        assert (changes.overdue, changes.gone) == ([], [])
    changes = subject.sweep(last + 61.0)
    assert (changes.overdue, changes.gone) == ([("robot", "m")], ["robot"])


def test_a_client_that_waits_for_an_answer_is_not_gone_however_long_it_is_silent() -> None:
    subject = fleet()
    last = rhythmic(subject)
    for later in (10.0, 11.0, 60.0):
        assert subject.sweep(last + later, lambda client_id: client_id == "robot").gone == []
        assert subject.next_sweep_at() is not None
    assert subject.active_count == 1
    assert subject.sweep(last + 61.0).gone == ["robot"]


def test_a_client_that_comes_back_can_be_late_again() -> None:
    subject = fleet()
    last = rhythmic(subject)
    subject.sweep(last + 1.0)
    subject.on_observation("robot", "m", "arm", b"robot", last + 1.0)
    assert subject.sweep(last + 1.01).overdue == []
    assert subject.sweep(last + 2.0).overdue == [("robot", "m")]


def test_a_sighting_tells_the_interval_and_the_end_of_a_silence() -> None:
    subject = fleet()
    first = subject.on_observation("robot", "m", "arm", b"robot", 0.0)
    assert (first.interval_s, first.returned) == (None, False)
    last = rhythmic(subject, "arm")
    subject.on_observation("arm", "other", "arm", b"arm", last)
    subject.sweep(last + 1.0)
    assert not subject.on_observation("arm", "other", "arm", b"arm", last + 1.0).returned
    back = subject.on_observation("arm", "m", "arm", b"arm", last + 1.5)
    assert (back.is_new, back.returned) == (False, True)
    assert back.interval_s == pytest.approx(1.5)
    assert back.learned_cadence_s == pytest.approx(0.02)  # a pause is no rhythm
    assert not subject.on_observation("arm", "m", "arm", b"arm", last + 1.52).returned


def test_what_is_kept_of_a_client_that_asks_ever_other_models_is_bounded() -> None:
    subject = fleet()
    now = 0.0
    for n in range(300):
        for _ in range(5):  # often enough to be late for it afterwards
            now += 0.001
            subject.on_observation("robot", f"m{n}", "", b"robot", now)
        subject.sweep(now + 0.01)
    state = subject.client("robot")
    assert state is not None
    sizes = subject.sizes()
    known = len(state.model_ids), len(subject.cadence.rhythms("robot")), sizes["models_overdue"], sizes["tracks"]
    assert max(known) <= 64


def test_a_client_without_a_rhythm_is_overdue_when_it_is_gone() -> None:
    subject = fleet()
    subject.on_observation("robot", "m", "", b"robot", 0.0)
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
    subject.sweep(100.0)
    assert subject.registry.all_clients == {}
    assert {name for name, size in subject.sizes().items() if size} == {"clients_departed"}


def test_a_command_that_has_left_is_no_robot_that_is_gone() -> None:
    subject = fleet()
    for name, kind in (("arm", "franka"), ("client-1", "inferential call"), ("bench-1", "inferential bench")):
        subject.on_observation(name, "model", kind, name.encode(), 0.0)
    assert set(subject.sweep(100.0).gone) == {"arm", "client-1", "bench-1"}
    assert list(subject.departed) == ["arm"]


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
    """Any updates and sweeps: each life of a client is new once, late before gone, and gone at most once."""

    TIMEOUT_S = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.fleet = fleet(disconnect_timeout_s=self.TIMEOUT_S)
        self.now = 0.0
        self.alive: dict[str, float] = {}
        self.asked: dict[str, set[str]] = {}
        self.late: set[tuple[str, str]] = set()
        self.began, self.ended = 0, 0

    @rule(client=st.sampled_from("abc"), model=st.sampled_from("mn"))
    def see(self, client: str, model: str) -> None:
        update = self.fleet.on_observation(client, model, "", client.encode(), self.now)
        assert update.is_new == (client not in self.alive)
        assert update.returned == ((client, model) in self.late)
        assert (update.interval_s is None) == (model not in self.asked.get(client, ()))
        self.late.discard((client, model))
        self.alive[client] = self.now
        self.asked.setdefault(client, set()).add(model)
        self.began += update.is_new

    @rule(client=st.sampled_from("abc"), period=st.floats(0.001, 0.1), count=st.integers(5, 12))
    def see_in_rhythm(self, client: str, period: float, count: int) -> None:
        for _ in range(count):
            self.see(client, "m")
            self.now += period

    @rule(seconds=st.floats(0.0, 0.4))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.sweep()

    @rule()
    def wait_for_the_timer(self) -> None:
        at = self.fleet.next_sweep_at()
        if at is not None:
            self.now = max(self.now, at)
            self.sweep()

    def sweep(self) -> None:
        changes = self.fleet.sweep(self.now)
        assert not self.late.intersection(changes.overdue)  # once for each silence
        assert len(set(changes.overdue)) == len(changes.overdue)
        self.late.update(changes.overdue)
        for client in changes.gone:
            assert self.now - self.alive.pop(client) >= self.TIMEOUT_S
            models = {(client, model) for model in self.asked.pop(client)}
            assert models <= self.late
            self.late -= models
        self.ended += len(changes.gone)
        assert all(self.now - seen < self.TIMEOUT_S for seen in self.alive.values())

    @invariant()
    def knows_who_is_there(self) -> None:
        assert set(self.fleet.registry.all_clients) == set(self.alive)
        assert self.fleet.active_count == self.began - self.ended
        assert all(self.fleet.owner(client) == (client.encode() if client in self.alive else None) for client in "abc")
        sizes = self.fleet.sizes()
        assert sizes["cadences"] == sizes["client_sweeps"] == len(self.alive)
        assert all(self.fleet.cadence.rhythms(client) for client in self.alive)

    @invariant()
    def looks_again_soon_while_a_client_is_there(self) -> None:
        at = self.fleet.next_sweep_at()
        assert (at is None) == (not self.alive)


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_observations_that_were_overtaken_count_for_the_rhythm_as_if_spread_over_the_time() -> None:
    subject = fleet()
    for number in range(20):
        at = float(number)
        subject.on_overtaken("robot", "m", 9, at)
        subject.on_observation("robot", "m", "", b"robot", at)
    learned = subject.cadence.learned_cadence("robot", "m")
    assert learned is not None
    assert abs(learned - 0.1) < 0.01


@pytest.mark.parametrize(
    ("after_s", "within_s", "expected"),
    [
        (0.001, 0.01, False),
        (0.001, 0.03, True),
        (0.015, 0.01, True),
        (0.025, 0.001, True),  # it is late
        (0.04, 0.001, False),  # it is overdue, and nothing tells when it comes
    ],
)
def test_an_observation_is_expected_by_the_steady_cadence_of_its_client(
    after_s: float, within_s: float, expected: bool
) -> None:
    subject = fleet()
    last = rhythmic(subject)
    assert subject.expects(last + after_s, within_s) is expected


def test_a_client_with_irregular_intervals_may_ask_at_any_time_until_it_is_overdue() -> None:
    subject = fleet()
    at = 0.0
    for number in range(20):
        at += (0.01, 0.03)[number % 2]
        subject.on_observation("robot", "m", "arm", b"robot", at)
    assert subject.expects(at + 0.001, 0.001)
    assert not subject.expects(at + 0.2, 0.1)


def test_no_observation_is_expected_of_clients_that_have_hardly_asked() -> None:
    subject = fleet()
    assert not subject.expects(0.0, 10.0)
    for at in (0.0, 0.01, 0.5):
        subject.on_observation("robot", "m", "arm", b"robot", at)
    assert not subject.expects(0.501, 10.0)


_GAPS: dict[str, Callable[[random.Random, int], float]] = {
    "uniform": lambda draws, n: draws.uniform(1, 20),
    "exponential": lambda draws, n: draws.expovariate(1 / 5),
    "log-normal": lambda draws, n: draws.lognormvariate(1.4, 0.5),
    "heavy-tailed": lambda draws, n: min(draws.paretovariate(1.5), 20),
    "now and then long": lambda draws, n: (15 if draws.random() < 0.1 else 2) * draws.uniform(0.9, 1.1),
    "now and then twice": lambda draws, n: (8 if draws.random() < 0.1 else 4) * draws.uniform(0.95, 1.05),
    "ten, and a pause": lambda draws, n: (15 if n % 11 == 10 else 1) * draws.uniform(0.9, 1.1),
    "three rates": lambda draws, n: (1, 5, 15)[n // 25 % 3] * draws.uniform(0.7, 1.3),
}


@pytest.mark.parametrize("kind", _GAPS)
def test_a_client_that_makes_pauses_is_hardly_ever_overdue_but_is_once_it_stays_away(kind: str) -> None:
    draws, subject = random.Random(1), fleet(disconnect_timeout_s=1000.0)
    now, alarms, longest = 0.0, 0, 0.0

    def alarms_until(until: float) -> int:
        count = 0
        while (at := subject.next_sweep_at()) is not None and at < until:
            count += len(subject.sweep(at).overdue)
        return count

    for n in range(200):
        subject.on_observation("vlm", "m", "", b"vlm", now)
        gap = _GAPS[kind](draws, n)
        alarms += alarms_until(now + gap)
        now, longest = now + gap, max(longest, gap)
    assert alarms <= 4
    for n in range(20):
        subject.on_observation("vlm", "m", "", b"vlm", now + n)
    assert alarms_until(now + 20 + 2 * longest) == 1


def test_pauses_of_long_ago_do_not_count() -> None:
    subject, now = fleet(), 0.0

    def ask(count: int) -> None:
        nonlocal now
        for _ in range(count):
            now += 0.02
            subject.on_observation("robot", "m", "arm", b"robot", now)

    ask(20)
    for _ in range(2):
        now += 5.0
        assert subject.sweep(now).overdue == [("robot", "m")]
        ask(20)
    now += 5.0
    assert subject.sweep(now).overdue == []
    ask(1100)
    assert subject.sweep(now + 0.031).overdue == [("robot", "m")]


@given(st.lists(st.tuples(st.floats(0.001, 3.0), st.booleans()), min_size=4, max_size=30))
def test_a_client_is_reported_when_it_becomes_overdue_whatever_its_rhythm_was(
    steps: list[tuple[float, bool]],
) -> None:
    subject, now = fleet(), 100.0
    subject.on_observation("robot", "m", "arm", b"robot", now)
    for interval, swept in steps:
        if swept:
            subject.sweep(now + interval / 2)
        now += interval
        subject.on_observation("robot", "m", "arm", b"robot", now)
    due = subject.cadence.overdue_from("robot", "m")
    silent_until = min(due, now + 9.0)
    assert subject.sweep(silent_until - 1e-6).overdue == []
    assert subject.sweep(silent_until).overdue == ([("robot", "m")] if due == silent_until else [])


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(0, 70),
            st.floats(0.001, 1.0),
            st.none() | st.integers(0, 30),
            st.none() | st.floats(0.01, 0.1),
        ),
        max_size=200,
    )
)
def test_what_is_tracked_together_is_what_each_table_finds_by_itself(
    events: list[tuple[str, int, float, int | None, float | None]],
) -> None:
    subject, now = fleet(), 100.0
    registry, cadence, horizons = ClientRegistry(), CadenceTracker(), ActionHorizonTracker()
    for client, number, interval_s, steps, period_s in events:
        model, now = f"m{number}", now + interval_s
        update = subject.on_observation(client, model, "arm", client.encode(), now, steps, period_s)
        assert update.is_new == registry.on_observation(client, model, "arm", client.encode(), now)
        assert update.interval_s == cadence.on_request(client, model, now)
        assert update.learned_cadence_s == cadence.learned_cadence(client, model)
        assert update.runs_out_at == horizons.on_request(client, model, steps, period_s, now)
        assert subject.client(client) == registry.get(client)
        assert update.track.counts is subject.outcomes.of(client, model)


def test_what_renews_a_waiting_request_tells_no_interval_and_that_the_client_is_there() -> None:
    subject = Fleet(ResponseTrackingConfig())
    for n in range(10):
        subject.on_observation("robot", "m", "arm", b"robot", 2.0 * n)
    renewal = subject.on_observation("robot", "m", "arm", b"robot", 18.3, renews=True)
    assert (renewal.interval_s, renewal.cadence_deviation_s) == (None, None)
    assert renewal.time_until_next_s == renewal.learned_cadence_s == pytest.approx(2.0)
    client = subject.client("robot")
    assert client is not None
    assert client.last_seen == 18.3
