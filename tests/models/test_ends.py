"""Every request ends once, whatever becomes of versions meanwhile, and a version that no robot has any more ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.models.floor import Floor

from inferential.dispatch.base import REPLICA_LOST
from inferential.models.routing import PATIENCE_S
from inferential.scheduler.engine import Batch
from inferential.scheduler.request import ANSWERED

VERSIONS = {name: {"target": f"p:{name}"} for name in ("a", "b", "c")}
ABORT = {"error_rate": 0.02, "deadline_misses": 0.05, "latency_ratio": 1.5, "min_requests": 5}
NEVER = {"failures": 1_000_000}
PLANS: list[dict[str, Any]] = [
    {"versions": VERSIONS, "active": "a"},
    {"versions": VERSIONS, "active": "b"},
    {"versions": VERSIONS, "active": "a", "rollout": {"b": {"share": 0.5}}, "abort": ABORT},
    {"versions": VERSIONS, "active": "a", "rollout": {"b": {"share": 0.5}, "c": {"clients": ["arm-0"]}}},
    {"versions": VERSIONS, "active": "b", "rollout": {"a": {"share": 1.0}}, "abort": ABORT},
    {"versions": VERSIONS, "active": "c", "swap": "in_place"},
    {"versions": {**VERSIONS, "a": {"target": "p:a", "args": {"anew": 1}}}, "active": "a"},
]


class Ends(RuleBasedStateMachine):
    """Robots that ask while versions come, go, hang, fail and are taken back."""

    @initialize(stateful=st.sampled_from([[], ["m@b"], ["m@a", "m@b", "m@c", "m@a#2", "m@b#2"]]))
    def begins(self, stateful: list[str]) -> None:
        self.floor = Floor({**PLANS[0], "breaker": NEVER}, stateful)
        self.running: list[Batch] = []

    @rule(client=st.integers(0, 3), latest=st.booleans())
    def asks(self, client: int, latest: bool) -> None:
        self.floor.ask(f"arm-{client}", takes_latest=latest)

    @rule()
    def works(self) -> None:
        self.running += self.floor.work().values()

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 9), outcome=st.sampled_from(["", "", "", "it failed", REPLICA_LOST]))
    def a_call_ends(self, which: int, outcome: str) -> None:
        batch = self.running.pop(which % len(self.running))
        self.floor.end(batch, outcome or None, outcome)

    @rule(seconds=st.sampled_from([0.001, 0.02, 0.2, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.floor.now += seconds
        self.floor.expire()

    @rule(plan=st.sampled_from(PLANS))
    def is_configured(self, plan: dict[str, Any]) -> None:
        self.floor.configure({**plan, "breaker": NEVER})

    @rule(pools=st.sets(st.sampled_from(["m@a", "m@b", "m@c"]), max_size=2))
    def some_fail(self, pools: set[str]) -> None:
        self.floor.backend.down = pools
        self.floor.looks()

    @invariant()
    def none_waits_for_what_is_not_there(self) -> None:
        pools = {pool.pool_id for pool in self.floor.models.lineup.pools()}
        waiting = {one.pool.partition("%")[0] for one in self.floor.engine.waiting_requests()}
        assert waiting <= pools

    def goes_on(self) -> None:
        for _ in range(50):
            self.time_passes(0.02)
            self.works()
            while self.running:
                self.a_call_ends(0, "")

    def teardown(self) -> None:
        if not hasattr(self, "floor"):
            return
        self.some_fail(set())
        self.goes_on()
        asked = [self.floor.ask(f"arm-{client}", takes_latest=False) for client in range(4)]
        self.goes_on()
        assert all(one.state is ANSWERED for one in asked)
        assert all(one.over for one in self.floor.requests)
        assert self.floor.engine.waiting() == 0
        assert self.floor.engine.running() == []


TestEnds = Ends.TestCase
TestEnds.settings = settings(max_examples=8, stateful_step_count=25)


@pytest.mark.parametrize("asks", [True, False], ids=["it asks on", "it is silent"])
def test_a_version_that_is_not_active_any_more_ends_when_its_robot_has_left_or_has_had_its_time(asks: bool) -> None:
    floor = Floor(PLANS[0])
    floor.backend.down = {"m@b"}
    floor.configure(PLANS[1])
    floor.serve("arm", 0.002)
    floor.backend.down = set()
    floor.looks()
    assert set(floor.backend.pools) == {"m@a", "m@b"}
    if asks:
        floor.serve("arm", 0.002)
    else:
        floor.now += PATIENCE_S - 0.1
        floor.expire()
        assert set(floor.backend.pools) == {"m@a", "m@b"}
        floor.now += 0.2
    floor.expire()
    assert set(floor.backend.pools) == {"m@b"}
