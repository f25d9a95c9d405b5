"""Robots in closed loop in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sim.virtual.conftest import simulated

from inferential.config.schema import SchedulingConfig
from inferential.scheduler import InferenceRequest, base, register_scheduler, scheduler_names
from inferential.scheduler.round_robin import RoundRobinScheduler
from inferential.sim.virtual.closed import ANSWERED, OUTDATED, RobotLoop
from inferential.sim.virtual.fleet_file import Fleet
from inferential.sim.virtual.mirror import Mirror
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.starvation import play_of
from inferential.sim.virtual.world import ChunkedRobot, ModelSpec, Run

MODEL = ModelSpec("m", (0.090, 0.110))
ROBOT = ChunkedRobot("a", "m", "arm", period_s=0.05, horizon_steps=10, ask="threshold", index="time")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies that a test registers are unknown to the next one."""
    monkeypatch.setattr(base, "factories", dict(base.factories))


def run(*robots: ChunkedRobot, strategy: str = "round_robin", seconds: float = 10.0, model: ModelSpec = MODEL) -> Run:
    return simulate([model], [], strategy, seconds=seconds, seed=0, robots=robots)


def shares(done: Run) -> dict[str, tuple[int, int]]:
    return {played.robot.client_id: (played.steps, played.executed) for played in done.played}


def test_a_robot_that_asks_when_nothing_is_left_starves_for_its_round_trip() -> None:
    # It asks at step 0, is answered 90 ms later, plays the 8 actions whose steps have not passed, and asks again.
    (played,) = run(ROBOT).played
    assert played.executed / played.steps == pytest.approx(8 / 10, abs=0.01)
    assert played.longest_gap_s == pytest.approx(0.1)


def test_a_chunk_indexed_by_executed_actions_is_played_whole() -> None:
    (played,) = run(replace(ROBOT, index="executed")).played
    assert played.executed / played.steps == pytest.approx(10 / 12, abs=0.02)


def test_a_robot_that_asks_early_enough_never_starves() -> None:
    (played,) = run(replace(ROBOT, ask_at_steps=3)).played
    assert played.steps == played.executed > 190


def test_the_runtimes_own_rule_asks_by_its_round_trips() -> None:
    (played,) = run(replace(ROBOT, ask="runtime")).played
    assert played.steps - played.executed <= 3  # at the end of its first chunk, when it knows none yet
    assert 20 <= played.issued <= 35


def test_a_runtime_that_stood_plays_its_late_chunk_from_where_it_stands() -> None:
    # A call takes longer than a chunk lasts, so that nothing of one that is aligned by time would be left.
    slow = ModelSpec("m", (0.6,))
    robot = replace(ROBOT, ask="runtime")
    (by_time,) = run(robot, model=slow).played
    (as_it_does,) = run(replace(robot, index="executed"), model=slow).played
    assert by_time.executed == 0
    assert as_it_does.executed / as_it_does.steps == pytest.approx(10 / 22, abs=0.05)


def test_the_network_delays_each_way() -> None:
    # 40 ms and 40 ms around a call of 90: the answer comes 170 ms after the observation, in time for the fourth step.
    (played,) = run(replace(ROBOT, delay_s=0.04)).played
    assert played.executed / played.steps == pytest.approx(6 / 10, abs=0.02)


def test_a_lost_message_ends_in_another_request() -> None:
    (played,) = run(replace(ROBOT, ask="runtime", loss=0.05, seed="3"), seconds=60).played
    assert played.issued > played.in_slo > 0
    assert 0.5 < played.executed / played.steps < 1.0


def test_a_refreshed_observation_is_as_fresh_as_the_call_that_answers_it() -> None:
    crowd = [replace(ROBOT, client_id=name, ask="runtime", starts_at=0.01 * at) for at, name in enumerate("abcdefgh")]
    plain, fresh = run(*crowd), run(*(replace(robot, refresh=True) for robot in crowd))
    stale, young = play_of(plain), play_of(fresh)
    assert stale is not None
    assert young is not None
    assert young.starved < stale.starved / 2
    assert young.action_age_ms[0] < stale.action_age_ms[0]


def test_a_refreshed_observation_that_comes_after_its_turn_is_dropped() -> None:
    done = run(replace(ROBOT, refresh=True, ask_at_steps=5), seconds=5)
    assert {outcome.end for outcome in done.outcomes} == {"answered"}
    assert len(done.outcomes) == pytest.approx(done.played[0].issued, abs=1)


def test_an_observation_that_a_robot_was_asked_for_and_comes_after_its_turn_is_a_request_of_its_own() -> None:
    loop = RobotLoop(replace(ROBOT, ask="runtime", index="executed"), 100.0)
    first = loop.tick(100.0, 1, 0.0)
    assert first is not None
    loop.deliver(100.04, "outdated", first)
    second = loop.tick(100.05, 2, 0.0)
    assert second is not None
    assert second.ask is first.ask
    loop.asks_again(second)  # on the server the first one runs by now
    loop.deliver(100.09, "answered", first)
    loop.tick(100.1, 3, 0.0)
    loop.deliver(100.19, "answered", second)
    loop.tick(100.2, 4, 0.0)
    assert loop.played(100.2).issued == 2
    assert loop.player.stats.chunks == 2


@pytest.mark.parametrize("ask", ["runtime", "threshold"])
def test_a_robot_that_waited_a_second_plays_the_answer_to_the_observation_that_it_renewed(ask: str) -> None:
    """It gave up once an answer to its first request took so long, but the one to the newest is about to come."""
    robot = replace(ROBOT, ask=ask, horizon_steps=50, period_s=0.02)
    loop = RobotLoop(robot, 0.0)
    sent = []
    for step in range(60):
        now = step * 0.02
        if step == 45:
            loop.deliver(now, OUTDATED, sent[0])
        if step == 55:
            loop.deliver(now, ANSWERED, sent[1])
        observation = loop.tick(now, step, 0.0)
        if observation is not None:
            sent.append(observation)
    assert [one.step for one in sent if one.step < 55] == [0, 45]
    assert loop.played(1.2).executed == 5


def test_an_answer_that_comes_after_all_is_played() -> None:
    loop = RobotLoop(replace(ROBOT, horizon_steps=50), 0.0)
    sent = [loop.tick(step * 0.05, step, 0.0) for step in range(25)]
    first, second = (one for one in sent if one is not None)
    loop.deliver(1.25, ANSWERED, first)
    for step in range(25, 30):
        loop.tick(step * 0.05, step, 0.0)
    assert second.at > 1.0
    assert loop.played(1.5).executed == 5


def test_robots_and_open_arrivals_share_the_models(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(
        arm={"count": 2},
        hand={"kind": "chunked", "horizon_steps": 10, "budget_ms": None, "delay_ms": 2},
    )
    done = simulated(fleet, profiled=False)
    assert {outcome.arrival.robot_class for outcome in done.outcomes} == {"arm", "hand"}
    assert [played.robot.robot_class for played in done.played] == ["hand", "hand"]
    assert list(done.outcomes) == sorted(done.outcomes, key=lambda outcome: outcome.arrival.at)


def test_robots_join_and_leave() -> None:
    (played,) = run(replace(ROBOT, starts_at=2.0, stops_at=4.0)).played
    assert played.steps == pytest.approx(38, abs=1)


def test_a_robot_that_gets_no_answer_starves_all_the_time() -> None:
    slow = ModelSpec("m", (60.0,))
    (played,) = run(ROBOT, model=slow).played
    assert (played.steps, played.executed) == (200, 0)
    assert played.longest_gap_s == pytest.approx(10.0)


def test_tasks_last_from_their_first_request_to_their_last_action() -> None:
    (played,) = run(replace(ROBOT, ask_at_steps=3, task_steps=40)).played
    assert played.tasks_s[0] == pytest.approx(0.1 + 40 * 0.05)
    assert played.tasks_s[1:] == pytest.approx([40 * 0.05] * (len(played.tasks_s) - 1))


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(1, 12),
    horizon=st.integers(1, 12),
    ask=st.sampled_from(["runtime", "threshold", "every_step"]),
    refresh=st.booleans(),
    index=st.sampled_from(["time", "executed"]),
    loss=st.sampled_from([0.0, 0.1]),
    strategy=st.sampled_from([name for name in scheduler_names() if name in ("round_robin", "deadline_aware")]),
)
def test_every_robots_steps_and_requests_add_up(
    count: int, horizon: int, ask: Any, refresh: bool, index: Any, loss: float, strategy: str
) -> None:
    robots = [
        replace(
            ROBOT,
            client_id=f"r{number}",
            horizon_steps=horizon,
            ask=ask,
            refresh=refresh,
            index=index,
            loss=loss,
            delay_s=0.01,
            delay_jitter_s=0.005,
            starts_at=number * 0.013,
            seed=str(number),
        )
        for number in range(count)
    ]
    first, second = (run(*robots, strategy=strategy, seconds=6) for _ in range(2))
    assert shares(first) == shares(second)
    for played in first.played:
        assert 0 <= played.executed <= played.steps <= 6 / 0.05 + 1
        assert len(played.ages_ms) == played.executed
        assert played.in_slo <= played.issued + 1
        assert all(age >= 0 for age in played.ages_ms)


def test_the_player_counts_the_same_steps_without_an_action() -> None:
    loop = RobotLoop(replace(ROBOT, ask="runtime"), 0.0)
    starved = 0
    for number in range(200):
        now = loop.next_tick_at
        observation = loop.tick(now, number, 0.0)
        if observation is not None and number % 3:
            loop.deliver(now + 0.27, "answered", observation)
        starved = loop.player.stats.starved_steps
    played = loop.played(loop.next_tick_at)
    assert starved == played.steps - played.executed > 0


def test_a_robot_does_not_ask_at_once_for_having_waited_long() -> None:
    """As a runtime that was called at each step meanwhile; one that was not begins anew."""
    loop = RobotLoop(replace(ROBOT, ask="runtime", horizon_steps=40), 0.0)
    asked = []
    for number in range(45):
        now = loop.next_tick_at
        observation = loop.tick(now, number, 0.0)
        if observation is not None:
            asked.append(now)
            loop.deliver(now + 0.8, ANSWERED, observation)
    assert asked == pytest.approx([0.0, (40 - 17) * 0.05])  # a round trip takes 16 steps


def test_a_mirror_says_when_a_robot_runs_out_and_what_an_answer_adds() -> None:
    loop = RobotLoop(replace(ROBOT, delay_s=0.02), 100.0)
    mirror = Mirror({"a": loop})
    view = mirror.robot("a")
    assert view is loop
    assert mirror.robot("b") is None
    observation = loop.tick(100.0, 1, 0.0)
    assert observation is not None
    assert view.runs_out_at() == 100.0
    # Actions until 100.5, the first at 100.13.
    assert view.gained_s(1, 100.11) == pytest.approx(0.37)
    assert view.gained_s(1, 100.11, until=100.33) == pytest.approx(0.2)
    loop.deliver(100.11, "answered", observation)
    assert view.runs_out_at() == pytest.approx(100.5)
    assert view.wait_ratio(100.1) == 1.0


def test_a_strategy_that_sees_robots_is_given_the_mirror_and_may_set_their_pace(registry: None) -> None:
    class Paced(RoundRobinScheduler):
        mirror: Mirror | None = None

        def see(self, mirror: Mirror) -> None:
            Paced.mirror = mirror

        def interval_s(self, client_id: str, model_id: str) -> float:
            return 2.0

    register_scheduler("paced")(Paced)
    (played,) = run(replace(ROBOT, ask="every_step"), strategy="paced").played
    assert Paced.mirror is not None
    assert Paced.mirror.robot("a") is not None
    assert played.issued == 5


def test_a_strategy_that_promises_work_and_gives_none_does_not_stop_the_clock(registry: None) -> None:
    class Liar(RoundRobinScheduler):
        may_defer = True

        def next_batch_for_model(self, model_id: str, limit: int | None = None) -> list[InferenceRequest]:
            return []

    def liar(config: SchedulingConfig) -> Liar:
        return Liar(config)

    register_scheduler("liar")(liar)
    assert run(ROBOT, strategy="liar").calls == []


def test_starved_robots_with_chunks_leave_other_models_of_their_device_their_turn() -> None:
    """Forty robots that starve had all calls but one in seven, and the others two answers in three late."""
    described = Fleet.model_validate(
        {
            "models": {
                "policy": {"fixed_ms": 60, "per_row_ms": 10, "max_batch_size": 8, "device": "gpu0"},
                "safety": {"fixed_ms": 20, "per_row_ms": 5, "max_batch_size": 8, "device": "gpu0"},
            },
            "robots": {
                "arm": {"model": "policy", "count": 40, "kind": "chunked", "rate_hz": 20, "horizon_steps": 20},
                "watcher": {"model": "safety", "count": 10, "rate_hz": 2, "budget_ms": 250},
            },
        }
    )
    run = simulated(described, seconds=6.0)
    answered = [one.end == "answered" for one in run.outcomes if one.arrival.robot_class == "watcher"]
    assert sum(answered) / len(answered) > 0.75


def test_robots_that_follow_the_suggested_horizon_do_not_starve_for_having_asked_late(
    make_fleet: Callable[..., Fleet],
) -> None:
    """They join within a second: the first are answered at once, in small calls, and know nothing of full ones."""
    models = {"m": {"fixed_ms": 65.4, "per_row_ms": 10.57, "max_batch_size": 8, "replicas": 2, "turnaround_ms": 0}}
    arm = {"kind": "chunked", "rate_hz": 50, "horizon_steps": 50, "delay_ms": 5, "count": 48, "budget_ms": None}
    arm["index"] = "time"
    starved = {}
    for objective in ("robot_time", "answers"):  # which suggests none
        fleet = make_fleet(models, arm=arm)
        run = simulated(fleet, seconds=4.0, options={"objective": objective})
        starved[objective] = sum(one.steps - one.executed for one in run.played) / sum(one.steps for one in run.played)
    assert starved["robot_time"] < 0.0005
    assert starved["answers"] > 0.002
