"""Which version answers a robot, in any order of events: exact shares, few moves, none in the middle of a chunk."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from inferential.models.routing import PATIENCE_S, Router, Trial

ROBOTS = st.sampled_from([f"arm-{number}" for number in range(12)])
TYPES = st.sampled_from(["", "so101"])
SHARES = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5])
TRIALS = st.fixed_dictionaries(
    {},
    optional={
        version: st.builds(Trial, SHARES, st.frozensets(ROBOTS, max_size=2), st.frozensets(TYPES, max_size=1))
        for version in ("b", "c")
    },
)


def quota(share: float, robots: int) -> int:
    """How many of so many robots a share is, to the nearest one; of a half, the lower."""
    return math.ceil(share * robots - 0.5)


class Fleet(RuleBasedStateMachine):
    """Robots that come, ask and go, while what should answer them and what can answer them change."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router("a")
        self.trials: dict[str, Trial] = {}
        self.active, self.available = "a", frozenset[str]()
        self.now = 0.0
        self.has: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self.episodes: dict[str, int] = {}

    def ask(self, robot: str, **how: Any) -> str:
        self.has[robot] = self.router.version_of(
            robot, self.types[robot], episode=self.episodes[robot], now=self.now, **how
        )
        return self.has[robot]

    @rule(robot=ROBOTS, kind=TYPES)
    def asks_within_a_chunk(self, robot: str, kind: str) -> None:
        known, version = robot in self.has, self.has.get(robot)
        self.types[robot] = kind
        self.episodes.setdefault(robot, 0)
        found = self.ask(robot, between_chunks=False)
        if not known:
            assert found == self.active
        elif version == self.active or version in self.available:
            assert found == version
        else:
            assert found == self.active or found in self.available

    @rule(robot=ROBOTS, new_episode=st.booleans())
    def asks_at_an_end(self, robot: str, new_episode: bool) -> None:
        self.types.setdefault(robot, "")
        self.episodes[robot] = self.episodes.get(robot, 0) + (new_episode and robot in self.has)
        found = self.ask(robot, between_chunks=not (new_episode and robot in self.has and self.episodes[robot] > 0))
        assert found == self.active or found in self.available

    @rule(robot=ROBOTS)
    def goes(self, robot: str) -> None:
        self.router.forget(robot)
        for table in (self.has, self.types, self.episodes):
            table.pop(robot, None)

    @rule(trials=TRIALS, active=st.sampled_from("ad"))
    def is_configured(self, trials: dict[str, Trial], active: str) -> None:
        self.trials, self.active = trials, active
        self.router.configure(active, trials)

    @rule(available=st.frozensets(st.sampled_from("abcd"), max_size=4))
    def versions_come_and_go(self, available: frozenset[str]) -> None:
        self.available = available
        self.router.offer(available)

    @rule(offered=st.just(frozenset("abcd")), chunks_end=st.booleans())
    def all_ask(self, offered: frozenset[str], chunks_end: bool) -> None:
        """Once each robot has come to an end, or time has passed, the shares are exact."""
        self.versions_come_and_go(offered)
        for _ in range(2):
            for robot in list(self.has):
                self.ask(robot, between_chunks=chunks_end)
            self.now += PATIENCE_S
        named = {}
        for robot in self.has:
            for version, trial in self.trials.items():
                if robot in trial.clients or self.types[robot] in trial.client_types:
                    named[robot] = version
                    break
        assert all(self.has[robot] == version for robot, version in named.items())
        left = others = len(self.has) - len(named)
        for version, trial in self.trials.items():
            found = sum(self.has[robot] == version for robot in self.has if robot not in named)
            assert found == min(quota(trial.share, others), left)
            left -= found
        assert sum(self.has[robot] == self.active for robot in self.has if robot not in named) == left

    @invariant()
    def counts_all(self) -> None:
        counts = self.router.counts()
        assert sum(counts.values()) == len(self.has)
        assert all(self.router.has(version) for version in counts)
        assert not self.router.has("x")


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=60, stateful_step_count=30)


@given(robots=st.sets(st.text(max_size=8), max_size=40), shares=st.lists(st.floats(0, 1), min_size=2, max_size=4))
@settings(max_examples=60)
def test_a_share_that_changes_moves_only_the_robots_between(robots: set[str], shares: list[float]) -> None:
    router = Router("a", {"b": Trial(0.0)})
    router.offer("b")
    former: set[str] = set()

    def on_trial() -> set[str]:
        for _ in range(2):  # the first time they become known
            versions = {
                robot: router.version_of(robot, "", episode=0, between_chunks=True, now=0.0) for robot in robots
            }
        return {robot for robot, version in versions.items() if version == "b"}

    for share in shares:
        router.configure("a", {"b": Trial(share)})
        found = on_trial()
        assert len(found) == quota(share, len(robots))
        assert found <= former or former <= found
        former = found
