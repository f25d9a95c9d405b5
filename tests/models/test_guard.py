"""When a version on trial is taken back, and when a model is not asked: over any order of outcomes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inferential.config import InferentialConfig
from inferential.models.breaker import LONGEST_PAUSE_S, Breaker, BreakerLimits
from inferential.models.catalog import plans_of
from inferential.models.guard import Counts, Limits, stuck, verdict
from inferential.models.trials import Outcome, Trials

GOOD = (10.0, False, None)
FAULTS = {
    "fails": (10.0, False, "no"),
    "late": (10.0, True, None),
    "slow": (40.0, False, None),
    "fails late": (10.0, True, "no"),
}


def noted(counts: Counts, outcome: tuple[float, bool, str | None], times: int = 1) -> None:
    latency_ms, missed, error = outcome
    for _ in range(times):
        counts.note(latency_ms, missed=missed, error=error)


@given(
    fault=st.sampled_from(list(FAULTS)),
    good_before=st.integers(0, 3000),
    active=st.integers(20, 2000),
    min_requests=st.integers(40, 400),
)
@settings(max_examples=60)
def test_a_version_that_turns_bad_is_taken_back_within_the_bound_however_long_it_was_good(
    fault: str, good_before: int, active: int, min_requests: int
) -> None:
    limits = Limits(0.02, 0.05, 1.5, min_requests)
    trial, others = Counts(min_requests), Counts(min_requests)
    noted(others, GOOD, active)
    noted(trial, GOOD, good_before)
    assert verdict(limits, trial, others) is None
    for _ in range(min_requests):
        noted(trial, FAULTS[fault])
        if verdict(limits, trial, others) is not None:
            return
    raise AssertionError(f"still on trial after {min_requests} requests of which each {fault}")


@given(st.lists(st.sampled_from([GOOD, *FAULTS.values()]), max_size=300), st.integers(1, 250))
@settings(max_examples=60)
def test_what_happens_to_both_versions_alike_is_no_fault_of_the_new_one(outcomes: list[Any], min_requests: int) -> None:
    limits = Limits(0.02, 0.05, 1.5, min_requests)
    trial, active = Counts(min_requests), Counts(min_requests)
    for outcome in outcomes:
        noted(active, outcome)
        noted(trial, outcome)
        assert verdict(limits, trial, active) is None


@pytest.mark.parametrize(
    ("limits", "errors", "of", "expected"),
    [
        (Limits(0.0), 1, 1, True),
        (Limits(0.02), 4, 4, False),
        (Limits(0.02), 5, 5, True),
        (Limits(0.02), 4, 200, False),
        (Limits(0.02), 5, 200, True),
        (Limits(1.0), 200, 200, False),
        (Limits(None, 0.05, 1.5), 200, 200, False),
        (Limits(0.02, min_requests=1), 1, 1, True),
    ],
)
def test_the_share_of_errors_is_of_the_requests_that_it_is_judged_by(
    limits: Limits, errors: int, of: int, expected: bool
) -> None:
    trial, active = Counts(limits.min_requests), Counts(limits.min_requests)
    noted(active, GOOD, 200)
    noted(trial, GOOD, of - errors)
    noted(trial, FAULTS["fails"], errors)
    assert (verdict(limits, trial, active) is not None) == expected


@pytest.mark.parametrize(("own_ms", "other_ms", "slow"), [(2.8, 1.7, False), (4.0, 1.7, True), (28.0, 17.0, True)])
def test_a_version_is_slow_where_robots_could_notice(own_ms: float, other_ms: float, slow: bool) -> None:
    trial, active = Counts(), Counts()
    for _ in range(200):
        trial.note(own_ms, missed=False)
        active.note(other_ms, missed=False)
    assert (verdict(Limits(latency_ratio=1.5), trial, active) is not None) is slow


def test_a_call_that_does_not_end_is_measured_by_those_of_the_active_version() -> None:
    active = Counts()
    assert stuck(Limits(0.02, 0.05, 1.5), 100.0, active) is None  # nothing to compare it with
    noted(active, GOOD)
    assert stuck(Limits(0.02, 0.05, 1.5), 0.9, active) is None
    assert "has not ended after 1.1 s" in str(stuck(Limits(0.02, 0.05, 1.5), 1.1, active))
    assert stuck(Limits(0.02, None, None), 100.0, active) is None
    noted(active, (1000.0, False, None), 3)
    assert stuck(Limits(0.02, 0.05, 1.5), 19.0, active) is None


MODEL = {
    "versions": {"a": {"target": "p:A"}, "b": {"target": "p:B"}, "c": {"target": "p:C"}},
    "active": "a",
    "rollout": {"b": {"share": 0.25}, "c": {"share": 0.25}},
    "abort": {"min_requests": 50},
}


class Guard(RuleBasedStateMachine):
    """Two versions on trial; each is taken back once, and not again before the model's settings change."""

    def __init__(self) -> None:
        super().__init__()
        self.trials = Trials()
        self.number = 0
        self.out: set[str] = set()
        self.changes()

    @rule()
    def changes(self) -> None:
        self.number += 1
        model = {**MODEL, "abort": {"min_requests": 50 + self.number}}
        config = InferentialConfig.model_validate({"models": {"known": {"m": model}}})
        self.plan = plans_of(config.models)["m"]
        self.trials.begin("m", self.plan, anew=True)
        self.out = set()

    @rule()
    def is_read_again(self) -> None:
        self.trials.begin("m", self.plan, anew=False)
        assert {version for _, version in self.trials.aborted} == self.out

    @rule(
        version=st.sampled_from("abc"),
        outcome=st.sampled_from([GOOD, *FAULTS.values()]),
        times=st.integers(1, 30),
    )
    def answers(self, version: str, outcome: tuple[float, bool, str | None], times: int) -> None:
        latency_ms, missed, error = outcome
        for _ in range(times):
            why = self.trials.note("m", version, self.plan, [Outcome("arm", error, missed, latency_ms)], "a")
            if why is not None:
                assert version != "a"
                assert version not in self.out
                self.out.add(version)

    @invariant()
    def what_was_taken_back_is_left_out(self) -> None:
        left = self.plan.without(sorted(self.out))
        assert set(left.trials) == {"b", "c"} - self.out
        assert set(left.versions) == {"a", "b", "c"} - self.out
        assert left.active == "a"


TestGuard = Guard.TestCase
TestGuard.settings = settings(max_examples=25, stateful_step_count=25)


class Circuit(RuleBasedStateMachine):
    """A breaker over any order of outcomes and probes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(BreakerLimits(3, 1.0))
        self.now = 0.0
        self.probing = False
        self.lately = {"arm-0", "arm-1"}

    @rule(seconds=st.floats(0, 60))
    def passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(client=st.sampled_from(["arm-0", "arm-1"]))
    def fails(self, client: str) -> None:
        was_open = self.breaker.open
        opened = self.breaker.failed(client, "no", self.now, lambda: self.lately)
        assert opened == (self.breaker.open and not was_open)

    @rule()
    def answers(self) -> None:
        was_open = self.breaker.open
        self.breaker.succeeded()
        assert self.breaker.open == was_open  # a call that was under way proves nothing: the probe does

    @precondition(lambda self: self.breaker.probe_at() is not None)
    @rule()
    def is_probed(self) -> None:
        assert not self.probing
        self.now = max(self.now, self.breaker.probe_at() or 0.0)
        self.breaker.probe_begun()
        self.probing = True

    @precondition(lambda self: self.probing)
    @rule(ok=st.booleans())
    def is_answered(self, ok: bool) -> None:
        self.breaker.probe_ended(self.now, ok=ok, why="" if ok else "no")
        self.probing = False
        assert self.breaker.open == (not ok)

    @invariant()
    def has_one_probe_and_is_never_stuck(self) -> None:
        at = self.breaker.probe_at()
        if not self.breaker.open or self.probing:
            assert at is None
        else:
            assert at is not None
            assert math.isfinite(at)
            assert at <= self.now + LONGEST_PAUSE_S


TestCircuit = Circuit.TestCase
TestCircuit.settings = settings(max_examples=40, stateful_step_count=30)


def test_a_robot_whose_observations_fail_alone_opens_nothing() -> None:
    breaker = Breaker(BreakerLimits(3, 1.0))
    assert not any(breaker.failed("bad", "no", 0.0, lambda: {"bad", "good"}) for _ in range(20))
    assert breaker.failed("good", "no", 0.0, lambda: {"bad", "good"})
