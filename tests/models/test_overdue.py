"""Calls that robots cannot wait for, of a version that another one can answer for."""

from __future__ import annotations

import math

import pytest
from tests.models.floor import Floor

from inferential.models.overdue import LEAST_S, MOST_S, overdue_at
from inferential.models.routing import PATIENCE_S
from inferential.scheduler.request import ANSWERED, DISPATCHED, QUEUED, REFUSED, InferenceRequest, RefusalKind
from inferential.scheduler.running import Batch
from inferential.scheduler.time.profile import LatencyProfile

ABORT = {"error_rate": 0.02, "deadline_misses": 0.05, "latency_ratio": 1.5, "min_requests": 200}
TRIED = {
    "versions": {"a": {"target": "p:A"}, "b": {"target": "p:B"}},
    "active": "a",
    "rollout": {"b": {"clients": ["arm-b", "arm-c"]}},
}


def profile(*latencies_s: float) -> LatencyProfile:
    found = LatencyProfile()
    for latency_s in latencies_s:
        found.note(1, latency_s)
    return found


@pytest.mark.parametrize(
    ("budget_ms", "own", "other", "expected"),
    [
        (100.0, profile(0.002), profile(0.002), 0.098),  # it can just be in time elsewhere
        (10.0, profile(0.002), profile(0.002), LEAST_S),
        (100.0, profile(), profile(0.002), 0.098),
        (100.0, profile(0.03, 0.03, 0.03), profile(0.002), 0.15),  # it is slow every time
        (100.0, profile(0.03, 0.03), profile(0.002), 0.098),  # which two calls do not tell
        (100.0, profile(0.002), profile(0.03), 0.15),
        (60_000.0, profile(0.002), profile(0.002), MOST_S),
        (60_000.0, profile(0.5, 0.5, 0.5), profile(0.002), 2.5),
        (100.0, profile(0.002), profile(), math.inf),  # the other one has answered nothing yet
    ],
)
def test_a_call_is_overdue_when_its_requests_can_just_be_in_time_elsewhere(
    budget_ms: float, own: LatencyProfile, other: LatencyProfile, expected: float
) -> None:
    request = InferenceRequest("arm", "m", b"arm", b"", b"", 100.0, 0.0, None, 0.0, budget_ms, 1)
    assert overdue_at(Batch("m@b", [request], "", 100.0), own, other) == pytest.approx(100.0 + expected)


def tried(**more: object) -> Floor:
    """A floor whose active version answers within 2 ms."""
    floor = Floor({**TRIED, **more})
    floor.serve("arm-a", 0.002, times=3)
    return floor


def test_a_hanging_call_of_a_version_on_trial_is_answered_by_the_active_one_in_time() -> None:
    floor = tried()
    request = floor.ask("arm-b")
    hanging = floor.work()["m@b"]
    due = floor.models.due_at()
    assert due is not None
    floor.now = due - 0.001
    floor.expire()
    assert request.state is DISPATCHED
    floor.now = due
    floor.expire()
    assert (request.state, request.pool) == (QUEUED, "m@a")
    answering = floor.work()["m@a"]
    floor.now += 0.002
    assert floor.end(answering) == [request]
    assert floor.now <= request.deadline + 1e-9
    assert floor.end(hanging) == []  # what it answers still is no one's
    assert request.state is ANSWERED


def test_robots_go_to_the_active_version_while_a_call_hangs_and_back_with_their_next_episode() -> None:
    floor = tried()
    floor.ask("arm-b")
    hanging = floor.work()["m@b"]
    floor.now += 0.02
    behind = floor.ask("arm-c")
    assert floor.work() == {}
    floor.now += 0.09
    floor.expire()
    assert behind.pool == "m@a"
    assert {one.client_id for one in floor.work()["m@a"].requests} == {"arm-b", "arm-c"}
    assert floor.ask("arm-c").pool == "m@a"
    floor.now += 0.5
    floor.end(hanging)
    assert floor.ask("arm-b").pool == "m@a"  # it would change back and forth
    assert floor.ask("arm-b", episode=1).pool == "m@b"
    assert floor.ask("arm-c").pool == "m@a"
    floor.now += PATIENCE_S
    assert floor.ask("arm-c").pool == "m@b"


def test_a_robot_that_was_handed_over_goes_on_to_another_version_that_becomes_active() -> None:
    floor = tried()
    floor.ask("arm-b")
    hanging = floor.work()["m@b"]
    floor.now += 0.11
    floor.expire()
    floor.end(floor.work()["m@a"])
    floor.end(hanging)
    floor.configure({**TRIED, "active": "b", "rollout": {}})
    assert floor.ask("arm-b").pool == "m@b"


def test_of_a_robot_with_a_newer_observation_that_one_is_answered() -> None:
    floor = tried()
    older = floor.ask("arm-b")
    floor.work()
    floor.now += 0.02
    newer = floor.ask("arm-b")
    floor.now += 0.09
    floor.expire()
    assert floor.work()["m@a"].requests == [newer]
    assert older.state is REFUSED
    assert older.refusal is not None
    assert older.refusal.kind is RefusalKind.SUPERSEDED
    assert floor.engine.ended() == [older]


def test_of_a_robot_whose_every_observation_counts_all_are_answered_in_order() -> None:
    floor = tried()
    older = floor.ask("arm-b", takes_latest=False)
    floor.work()
    newer = floor.ask("arm-b", takes_latest=False)
    floor.now += 0.11
    floor.expire()
    assert floor.work()["m@a"].requests == [older, newer]


def test_a_version_whose_call_hangs_is_taken_back_and_its_robots_stay() -> None:
    floor = tried(abort=ABORT)
    floor.ask("arm-b")
    hanging = floor.work()["m@b"]
    while "b" in floor.models.lineup.plans["m"].trials:
        floor.now += 0.25
        floor.expire()
        assert floor.now < 103.0
    floor.end(hanging)
    assert floor.ask("arm-b").pool == "m@a"


def test_what_was_handed_over_counts_as_late_for_its_version_and_not_for_the_active_one() -> None:
    floor = tried(abort=ABORT)
    for episode in range(3):
        floor.ask("arm-b", episode=episode)
        hanging = floor.work()["m@b"]
        floor.now += 0.3  # the timer was late, and so is the answer
        floor.expire()
        (answering,) = floor.work().values()
        floor.now += 0.002
        floor.end(answering)
        floor.end(hanging)
    own, active = floor.models.trials.counts("m", "b"), floor.models.trials.counts("m", "a")
    assert own is not None
    assert active is not None
    assert (own.requests, own.misses, own.errors) == (3, 3, 0)
    assert active.misses == 0


def test_nothing_is_handed_over_while_the_active_version_is_the_one_that_is_slow() -> None:
    floor = tried()
    floor.serve("arm-a", 0.5, times=6)
    request = floor.ask("arm-b")
    floor.work()
    floor.now += 1.0
    floor.expire()
    assert request.state is DISPATCHED


def test_the_active_version_hands_nothing_over() -> None:
    floor = tried()
    request = floor.ask("arm-a")
    floor.work()
    floor.now += 10.0
    floor.expire()
    assert request.state is DISPATCHED


def test_a_robot_whose_state_is_lost_with_a_hanging_version_is_served_on_by_the_active_one() -> None:
    floor = Floor(TRIED, stateful=["m@a", "m@b"])
    floor.serve("arm-a", 0.002, times=3)
    first = floor.ask("arm-b")
    hanging = floor.work()["m@b%0"]
    second = floor.ask("arm-b", takes_latest=False)
    assert floor.work() == {}  # in order, one at a time
    floor.now += 0.11
    floor.expire()
    answering = floor.work()["m@a%0"]
    assert answering.requests == [first]
    assert floor.end(hanging) == []
    assert floor.work() == {}  # the end of the call that hung is not that of this one
    assert floor.end(answering) == [first]
    assert floor.work()["m@a%0"].requests == [second]


def test_a_robot_that_leaves_a_version_with_state_for_one_without_is_held_up_no_longer() -> None:
    floor = Floor({**TRIED, "abort": {"error_rate": 0.0}}, stateful=["m@b"])
    floor.serve("arm-a", 0.002, times=3)
    floor.ask("arm-b")
    running = floor.work()["m@b%0"]
    waiting = floor.ask("arm-b")
    floor.end(running, error="it is bad")
    batch = floor.work()["m@a"]
    assert batch.requests == [waiting]
    floor.end(batch)
    assert floor.ask("arm-b").pool == "m@a"
    assert len(floor.work()["m@a"].requests) == 1


def test_nothing_of_a_call_that_was_handed_over_is_refused_again_by_a_server_that_ends() -> None:
    floor = tried()
    request = floor.ask("arm-b")
    floor.work()
    floor.now += 0.2
    floor.expire()
    floor.end(floor.work()["m@a"])
    assert request.state is ANSWERED
    assert floor.engine.running() == []
    assert floor.engine.inflight("m@b") == 1


def test_what_waits_for_a_replica_that_has_gone_goes_where_its_robot_does() -> None:
    floor = Floor({"target": "p:A"}, stateful=["m"], up={"m": ("0", "1")})
    running = floor.ask("arm")
    assert floor.work()[running.pool].requests == [running]
    waiting = floor.ask("arm", takes_latest=False)
    other = {"0": "1", "1": "0"}[waiting.pool[-1]]
    floor.backend.up["m"] = (other,)
    with floor.clock():
        floor.models.refresh()
    assert floor.ask("arm", takes_latest=False).pool == f"m%{other}"
    assert waiting.pool == f"m%{other}"
