"""A robot's observations go to a model that keeps state in order, one at a time and none twice, whatever happens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.models.floor import Floor

from inferential.dispatch.base import REPLICA_LOST
from inferential.models.routing import STATE_PATIENCE_S
from inferential.scheduler.engine import Batch
from inferential.scheduler.request import (
    ANSWERED,
    CANCELLED,
    REFUSED,
    InferenceRequest,
    Refusal,
    RefusalKind,
)

A, B = {"target": "p:A"}, {"target": "p:B"}
TWO_REPLICAS = ("0", "1")
VERSIONS = {"a": A, "b": B}
TOO_LATE = Refusal(RefusalKind.EXPIRED, "it waited too long", "ttl")


def asks_all(floor: Floor, client_id: str = "arm", **fields: Any) -> InferenceRequest:
    return floor.ask(client_id, takes_latest=False, **fields)


def goes_on(floor: Floor, *running: Batch) -> list[InferenceRequest]:
    """Ends all calls, one after another, and returns what was answered meanwhile."""
    answered: list[InferenceRequest] = []
    calls = list(running)
    while calls:
        floor.now += 0.002
        answered += floor.end(calls.pop(0))
        calls += floor.begin()
        floor.looks()
        calls += floor.begin()
    return answered


def test_what_a_dying_replica_had_not_begun_goes_before_newer_observations() -> None:
    floor = Floor(A, stateful=["m"], up={"m": TWO_REPLICAS})
    lost = asks_all(floor)
    (batch,) = floor.begin()
    newer = asks_all(floor)
    floor.backend.up["m"] = tuple(one for one in TWO_REPLICAS if one != lost.pool[-1])
    floor.looks()
    newest = asks_all(floor)
    assert floor.begin() == []
    floor.end(batch, "its process ended", REPLICA_LOST)
    (again,) = floor.begin()
    assert again.requests == [lost]
    assert goes_on(floor, again) == [lost, newer, newest]


def test_a_robot_does_not_follow_itself_beside_another_robot() -> None:
    floor = Floor(A, stateful=["m"], inflight=2)
    first = asks_all(floor)
    (batch,) = floor.begin()
    beside, behind = asks_all(floor, "other"), asks_all(floor)
    (other,) = floor.begin()
    assert other.requests == [beside]
    assert goes_on(floor, batch, other) == [first, beside, behind]


@pytest.mark.parametrize(
    ("stateful", "model"),
    [
        (["m", "m#2"], {"target": "p:A2"}),
        (["m", "m#2"], {"target": "p:A2", "swap": "in_place"}),
        (["m"], {"target": "p:A2"}),
        (["m#2"], {"target": "p:A2"}),
    ],
    ids=["beside", "in place", "to one without state", "to one with state"],
)
def test_what_came_before_another_version_took_over_is_answered_before_what_came_after(
    stateful: list[str], model: dict[str, Any]
) -> None:
    floor = Floor(A, stateful=stateful)
    early = [asks_all(floor) for _ in range(3)]
    running = floor.begin()
    floor.configure(model)
    late = [asks_all(floor) for _ in range(2)]
    assert goes_on(floor, *running, *floor.begin()) == [*early, *late]


def test_so_it_is_where_a_version_is_taken_back() -> None:
    tried = {"versions": VERSIONS, "active": "a", "rollout": {"b": {"clients": ["arm", "bad"]}}}
    floor = Floor(tried | {"abort": {"error_rate": 0.0, "min_requests": 1}}, stateful=["m@a", "m@b"], inflight=2)
    early = [asks_all(floor) for _ in range(2)]
    running = floor.begin()
    asks_all(floor, "bad")
    (failing,) = floor.begin()
    floor.end(failing, "it is bad")
    late = asks_all(floor)
    assert late.pool == "m@a%0"
    assert goes_on(floor, *running, *floor.begin()) == [*early, late]


@pytest.mark.parametrize("stateful", [["m", "n"], ["m"], ["n"]])
def test_so_it_is_where_another_model_answers_and_answers_no_longer(stateful: list[str]) -> None:
    floor = Floor({**A, "fallback": "n"}, stateful=stateful, n=B)
    asked = [asks_all(floor) for _ in range(2)]
    running = floor.begin()
    floor.backend.down = {"m"}
    floor.looks()
    asked.append(asks_all(floor))
    running += floor.begin()
    floor.backend.down = set()
    floor.looks()
    asked.append(asks_all(floor))
    assert goes_on(floor, *running, *floor.begin()) == asked


def test_so_it_is_where_an_episode_ends_and_the_robots_version_with_it() -> None:
    tried = {"versions": VERSIONS, "active": "a"}
    floor = Floor({**tried, "rollout": {"b": {"clients": ["other"]}}}, stateful=["m@a", "m@b"])
    asked = [asks_all(floor), asks_all(floor)]
    running = floor.begin()
    floor.configure({**tried, "rollout": {"b": {"clients": ["arm"]}}})
    asked.append(asks_all(floor, episode=1))
    assert asked[2].pool == "m@b%0"
    assert asked[1].state is REFUSED  # of an episode that is over
    assert goes_on(floor, *running, *floor.begin()) == [asked[0], asked[2]]


def test_a_robot_that_connects_again_waits_for_what_runs_of_it() -> None:
    floor = Floor(A, stateful=["m"], inflight=2)
    first = asks_all(floor, connection=1)
    running = floor.begin()
    floor.engine.connection_gone(1, floor.now)
    second = asks_all(floor, connection=2)
    assert floor.begin() == []
    assert goes_on(floor, *running) == [first, second]


def test_what_a_replaced_version_had_not_begun_is_run_by_its_successor() -> None:
    floor = Floor(A, stateful=["m", "m#2"])
    first = asks_all(floor)
    running = floor.begin()
    floor.configure({"target": "p:A2"})
    second = asks_all(floor)
    assert second.pool == "m#2%0"
    floor.backend.down = {"m"}
    floor.looks()
    floor.end(running[0], "its process ended", REPLICA_LOST)
    assert first.pool == "m#2%0"
    assert goes_on(floor, *floor.begin()) == [first, second]


@pytest.mark.parametrize("lost", [[0, 1], [1, 0]])
@pytest.mark.parametrize("begins_between", [True, False])
def test_what_one_without_state_had_not_begun_runs_in_order_on_its_successor(
    lost: list[int], begins_between: bool
) -> None:
    floor = Floor(A, stateful=["m#2"], inflight=2)
    asked, batches = [], []
    for _ in range(2):
        asked.append(asks_all(floor))
        batches += floor.begin()
    floor.configure({"target": "p:A2"})
    running: list[Batch] = []
    for which in lost:
        floor.end(batches[which], "its process ended", REPLICA_LOST)
        running += floor.begin() if begins_between else []
    running += floor.begin()
    assert [len(batch.requests) for batch in running] == [1]
    begun = [asked[which] for which in lost] if begins_between else asked
    assert goes_on(floor, *running) == begun


PLANS: list[dict[str, Any]] = [
    A,
    {"target": "p:A2"},
    {"target": "p:A3", "swap": "in_place", "fallback": "n"},
    {**A, "fallback": "n"},
    {"versions": VERSIONS, "active": "a", "rollout": {"b": {"share": 0.5}}},
    {"versions": VERSIONS, "active": "b", "rollout": {"a": {"clients": ["arm-0"]}}, "fallback": "n"},
    {"versions": VERSIONS, "active": "a", "rollout": {"b": {"share": 1.0}}, "abort": {"min_requests": 3}},
]
POOLS = ["m", "m#2", "m#3", "m@a", "m@b", "m@a#2", "m@b#2", "n"]


class Order(RuleBasedStateMachine):
    """Robots whose every observation counts, while replicas die and come back, and versions and models change."""

    @initialize(
        stateful=st.sampled_from([POOLS, POOLS[:-1], ["m", "m@a", "n"], ["m#2", "m@b"]]),
        several=st.sets(st.sampled_from(POOLS)),
        inflight=st.sampled_from([1, 2, 2]),
        plan=st.sampled_from(PLANS),
    )
    def begins(self, stateful: list[str], several: set[str], inflight: int, plan: dict[str, Any]) -> None:
        self.several = several
        self.floor = Floor(plan, stateful, dict.fromkeys(several, TWO_REPLICAS), inflight, n=B)
        self.running: list[Batch] = []
        self.about_to_end: set[Batch] = set()
        self.numbers: dict[InferenceRequest, int] = {}
        self.begun: dict[str, int] = {}  # by robot, the newest that a model has begun with
        self.answered: dict[str, int] = {}  # and the newest that was answered
        self.early: set[InferenceRequest] = set()  # that a pool had begun with when none kept state
        self.episodes: dict[str, int] = {}

    @rule(robot=st.integers(0, 2), times=st.integers(1, 3), connection=st.integers(1, 2))
    def asks(self, robot: int, times: int, connection: int) -> None:
        client_id = f"arm-{robot}"
        for _ in range(times):
            episode = self.episodes.get(client_id, 0)
            request = asks_all(self.floor, client_id, episode=episode, connection=2 * robot + connection)
            self.numbers[request] = len(self.numbers)

    @rule()
    def all_ask(self) -> None:
        for robot in (2, 1, 0):
            self.asks(robot, 1, 1)

    @rule(robot=st.integers(0, 2))
    def begins_an_episode(self, robot: int) -> None:
        self.episodes[f"arm-{robot}"] = self.episodes.get(f"arm-{robot}", 0) + 1

    @rule()
    def works(self) -> None:
        for batch in self.floor.begin():
            for request in batch.requests:
                if request.in_order is None:
                    self.early.add(request)  # none of the model's pools keeps state now
                    continue
                calls = [call for call in self.running if not call.handed_over] + [batch]
                beside = [one for call in calls for one in call.requests if one is not request and not one.over]
                assert all(one.client_id != request.client_id for one in beside if one.in_order)
                if request not in self.early:
                    assert self.numbers[request] >= self.begun.get(request.client_id, -1)
                    self.begun[request.client_id] = self.numbers[request]
            self.running.append(batch)

    def ends(self, batch: Batch, error: str | None = None, cause: str = "RuntimeError") -> None:
        self.running.remove(batch)
        self.about_to_end.discard(batch)
        for request in self.floor.end(batch, error, cause):
            if request.state is ANSWERED and request.in_order and request not in self.early:
                assert self.numbers[request] > self.answered.get(request.client_id, -1)
                self.answered[request.client_id] = self.numbers[request]

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9), error=st.sampled_from([None, None, None, "it failed"]))
    def a_call_ends(self, which: int, error: str | None) -> None:
        self.ends(self.running[which % len(self.running)], error)

    @precondition(lambda self: self.about_to_end < set(self.running))
    @rule(which=st.integers(0, 9))
    def a_call_is_about_to_end(self, which: int) -> None:
        others = [batch for batch in self.running if batch not in self.about_to_end]
        batch = others[which % len(others)]
        self.about_to_end.add(batch)
        self.floor.engine.ending(batch, self.floor.now)
        self.works()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9), has_begun=st.booleans())
    def a_replica_dies(self, which: int, has_begun: bool) -> None:
        first = self.running[which % len(self.running)]
        pool, _, name = first.model_id.partition("%")
        name = name or first.replica
        if self.floor.backend.up.get(pool) == TWO_REPLICAS and name in TWO_REPLICAS:
            self.floor.backend.up[pool] = tuple(one for one in TWO_REPLICAS if one != name)
        else:
            self.floor.backend.down.add(pool)
        self.looks()
        for batch in [one for one in self.running if (one.model_id, one.replica) == (first.model_id, first.replica)]:
            if batch is first and has_begun:
                self.ends(batch, "its process ended while it ran this", "WorkerDied")
            else:
                self.ends(batch, "its process ended", REPLICA_LOST)

    @rule()
    def all_come_back(self) -> None:
        self.floor.backend.down = set()
        self.floor.backend.up = dict.fromkeys(self.several, TWO_REPLICAS)
        self.looks()

    def looks(self) -> None:
        self.floor.looks()
        self.works()

    @rule(plan=st.sampled_from(PLANS))
    def is_configured(self, plan: dict[str, Any]) -> None:
        self.floor.configure(plan)
        self.works()

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.2, 2.0, STATE_PATIENCE_S]))
    def time_passes(self, seconds: float) -> None:
        self.floor.now += seconds
        self.floor.expire()
        self.works()

    @precondition(lambda self: self.floor.engine.waiting())
    @rule(which=st.integers(0, 9), cancelled=st.booleans())
    def one_ends_that_waits(self, which: int, cancelled: bool) -> None:
        waiting = self.floor.engine.waiting_requests()
        self.floor.engine.refuse(waiting[which % len(waiting)], CANCELLED if cancelled else TOO_LATE, self.floor.now)

    def teardown(self) -> None:
        if not hasattr(self, "floor"):
            return
        self.all_come_back()
        for _ in range(50):
            self.time_passes(0.02)
            while self.running:
                self.a_call_ends(0, None)
                self.works()
        assert all(one.over for one in self.numbers)
        assert self.floor.engine.waiting() == 0


TestOrder = Order.TestCase
TestOrder.settings = settings(max_examples=15, stateful_step_count=30)
