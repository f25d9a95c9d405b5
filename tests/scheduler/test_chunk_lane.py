"""Robots that play chunks: who makes the next call, by robot time, and that no robot waits for ever."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inferential.scheduler import InferenceRequest
from inferential.scheduler.chunk_lane import OWN_SHARE, WAKE_S, ChunkLane, limits_of
from inferential.scheduler.time.availability import ReplicaSlot
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

NOW = 100.0
LATENCIES_MS = (76, 86, 97, 108, 118, 129, 139, 150)
FREE = [ReplicaSlot("m", "0", 8, LatencyProfile())]
MakeRequest = Callable[..., InferenceRequest]


@pytest.fixture(scope="session")
def profile() -> LatencyProfile:
    """Calls of 76 to 150 ms."""
    found = LatencyProfile()
    for rows, latency_ms in enumerate(LATENCIES_MS, 1):
        found.load(rows, latency_ms / 1e3, latency_ms / 1e3)
    return found


@pytest.fixture
def lane() -> ChunkLane:
    """An empty lane."""
    return ChunkLane(1.0, weighted=True)


@pytest.fixture(scope="session")
def ask(make_request: MakeRequest) -> Callable[..., InferenceRequest]:
    """`ask("a", left_s=0.2, age_s=0.1)`: an observation of a robot with chunks of 0.5 s."""

    def ask(client: str, left_s: float = 0.0, age_s: float = 0.0, lasts_s: float = 0.5, **fields: Any) -> Any:
        observed_at = NOW - age_s
        chunk = ChunkTime(NOW + left_s, observed_at + lasts_s, lasts_s)
        return make_request(client, received_at=observed_at, chunk=chunk, **fields)

    return ask


def names(batch: list[InferenceRequest]) -> list[str]:
    return [request.client_id for request in batch]


@pytest.mark.parametrize(
    ("chunk", "gained_s"),
    [
        (ChunkTime(NOW + 0.3, NOW + 0.5, 0.5), 0.2),  # it still has actions when the answer comes
        (ChunkTime(NOW - 1.0, NOW + 0.5, 0.5), 0.4),  # it has none: the steps until the answer are lost
        (ChunkTime(NOW - 1.0, NOW + 0.05, 0.5), 0.0),  # all its actions would be past
        (ChunkTime(NOW + 0.6, NOW + 0.5, 0.5), 0.0),  # a chunk under way covers it
        (ChunkTime(NOW - 1.0, math.inf, 0.5, 0.4), 0.4),  # plays the next action, however late the answer is
        (ChunkTime(NOW + 0.2, math.inf, 0.5, 0.5), 0.4),  # plays 0.5 s of it at most, 0.1 s of them covered
    ],
)
def test_an_answer_gains_the_time_that_it_covers_and_nothing_else_did(chunk: ChunkTime, gained_s: float) -> None:
    assert chunk.gained_s(NOW + 0.1) == pytest.approx(gained_s)


def test_of_robots_that_starve_the_newest_observation_goes_first(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    for client, age_s in (("old", 0.3), ("new", 0.02), ("older", 0.35)):
        lane.push(ask(client, age_s=age_s, waiting_since=NOW))
    assert names(lane.take(profile, 1, NOW)) == ["new"]


def test_a_robot_with_actions_left_waits_for_one_without(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    lane.push(ask("plays", left_s=0.3))
    lane.push(ask("starves", age_s=0.1))
    assert names(lane.take(profile, 1, NOW)) == ["starves"]


def test_priority_weighs(lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile) -> None:
    lane.push(ask("low", priority=2))
    lane.push(ask("high", priority=0, age_s=0.1))
    assert names(lane.take(profile, 1, NOW)) == ["high"]


def test_an_observation_that_gains_nothing_is_not_worth_a_larger_call(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    lane.push(ask("starves"))
    lane.push(ask("too old", age_s=0.49, waiting_since=NOW))
    assert names(lane.take(profile, 8, NOW)) == ["starves"]
    assert names(lane.take(profile, 8, NOW)) == ["too old"]


def test_a_second_observation_of_a_robot_counts_what_the_first_covers(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    lane.push(ask("twice", age_s=0.01))
    lane.push(ask("twice"))
    lane.push(ask("other", age_s=0.3, waiting_since=NOW))
    assert names(lane.take(profile, 1, NOW)) == ["twice"]
    assert names(lane.take(profile, 1, NOW)) == ["other"]
    assert len(lane) == 1


def test_robots_with_short_chunks_do_not_starve_for_those_with_long_ones(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    for number in range(8):
        lane.push(ask(f"long {number}", lasts_s=1.0, waiting_since=NOW))
    lane.push(ask("short", lasts_s=0.3, age_s=0.0, waiting_since=NOW - 0.6))
    assert "short" in names(lane.take(profile, 8, NOW))


def test_a_robot_is_asked_once_for_a_newer_observation_and_waits_on(
    lane: ChunkLane, ask: Callable[..., InferenceRequest]
) -> None:
    lane.push(first := ask("a"), NOW + 0.2, NOW + 0.2)
    lane.push(ask("b"))
    assert lane.due_at(FREE) == NOW + 0.2
    assert lane.take_outdated(NOW + 0.1, FREE) == []
    assert lane.take_outdated(NOW + 0.2, FREE) == [first]
    assert lane.take_outdated(NOW + 0.3, FREE) == []
    assert lane.due_at(FREE) == math.inf
    assert len(lane) == 2


def renewing(ask: Callable[..., InferenceRequest], client: str, lead_s: float, **fields: Any) -> InferenceRequest:
    request = ask(client, **fields)
    request.chunk = replace(request.chunk, renews=True, lead_s=lead_s)
    return request


def test_robots_are_asked_before_the_call_that_is_theirs_and_no_others(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Three wait, two of them for a call of two that can begin in 0.1 s, and one for that of another replica."""
    busy = [ReplicaSlot("m", "0", 2, profile, NOW + 0.1), ReplicaSlot("m", "1", 2, profile, NOW + 0.15)]
    for client, since in (("a", 0.4), ("b", 0.3), ("c", 0.2)):
        lane.push(renewing(ask, client, 0.03, age_s=0.2, waiting_since=NOW - since), NOW)
    assert lane.due_at(busy) == pytest.approx(NOW + 0.07 - WAKE_S)
    assert lane.take_outdated(NOW + 0.05, busy) == []
    first = lane.take_outdated(NOW + 0.075, busy)
    assert sorted(names(first)) == ["a", "b"]
    assert [request.turn_at for request in first] == [NOW + 0.1] * 2
    assert lane.take_outdated(NOW + 0.08, busy) == []
    assert lane.due_at(busy) == pytest.approx(NOW + 0.12 - WAKE_S)
    for request in first:  # their observations come, and the call begins
        lane.discard(request)
        lane.push(renewing(ask, request.client_id, 0.03, waiting_since=request.waiting_since), NOW + 0.2)
    assert sorted(names(lane.take(profile, 2, NOW + 0.1))) == ["a", "b"]
    busy[0] = ReplicaSlot("m", "0", 2, profile, NOW + 0.2)
    assert names(lane.take_outdated(NOW + 0.125, busy)) == ["c"]
    assert lane.due_at(busy) == math.inf


def test_where_calls_vary_robots_are_asked_in_time_for_one_that_ends_a_little_earlier(
    lane: ChunkLane, ask: Callable[..., InferenceRequest]
) -> None:
    profile = LatencyProfile()
    profile.load(1, 0.1, 0.12)
    busy = [ReplicaSlot("m", "0", 1, profile, NOW + 0.1)]
    lane.push(renewing(ask, "a", 0.03, age_s=0.2), NOW)
    assert lane.due_at(busy) == pytest.approx(NOW + 0.07 - WAKE_S - 0.01)
    assert lane.take_outdated(NOW + 0.055, busy) == []
    (asked,) = lane.take_outdated(NOW + 0.06, busy)
    assert asked.turn_at == NOW + 0.1


def test_a_call_that_varies_more_is_planned_for_before_one_that_ends_sooner(
    lane: ChunkLane, ask: Callable[..., InferenceRequest]
) -> None:
    """Else the scheduler would be woken for it over and over."""
    steady, varying = LatencyProfile(), LatencyProfile()
    steady.load(1, 0.1, 0.1)
    varying.load(1, 0.1, 0.16)
    busy = [ReplicaSlot("m", "0", 1, steady, NOW + 0.1), ReplicaSlot("m", "1", 1, varying, NOW + 0.11)]
    for client in ("a", "b"):
        lane.push(renewing(ask, client, 0.03, age_s=0.2), NOW)
    due_at = lane.due_at(busy)
    assert due_at == pytest.approx(NOW + 0.08 - WAKE_S - 0.03)
    lane.take_outdated(due_at + 1e-6, busy)
    assert lane.due_at(busy) > due_at + 1e-6


def test_while_a_call_takes_longer_than_was_to_be_expected_robots_are_asked_too(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """It was to end at NOW, when the observation was made that waits for the next one."""
    busy = [ReplicaSlot("m", "0", 2, profile, NOW)]
    request = renewing(ask, "a", 0.03, age_s=0.0)
    request.chunk = replace(request.chunk, steps_at=NOW, step_s=0.02)  # type: ignore[type-var]
    lane.push(request, NOW + 0.05)
    assert lane.take_outdated(NOW, busy) == []
    now, asked = NOW, list[InferenceRequest]()
    while not asked:
        now = max(lane.due_at(busy), now + 1e-6)
        assert now < NOW + 0.3
        asked = lane.take_outdated(now, busy)
    assert asked == [request]
    assert now > NOW + 0.03


def test_an_observation_that_is_new_enough_is_not_asked_for_again(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    busy = [ReplicaSlot("m", "0", 2, profile, NOW + 0.1)]
    lane.push(renewing(ask, "a", 0.03), NOW + 0.2)
    assert lane.take_outdated(NOW + 0.09, busy) == []


def test_a_call_has_a_new_observation_of_a_robot_that_has_actions_left(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Its actions last beyond the call, so that no call would begin for it alone; but this one takes it."""
    busy = [ReplicaSlot("m", "0", 2, profile, NOW + 0.1)]
    request = renewing(ask, "a", 0.03, age_s=0.2, left_s=0.2)
    old_from, renewed_from, _ = limits_of(request, request.chunk, busy)  # type: ignore[arg-type]
    assert old_from < NOW + 0.1 < renewed_from
    lane.push(request, old_from, renewed_from)
    assert lane.take_outdated(NOW + 0.075, busy) == [request]


def going_on(ask: Callable[..., InferenceRequest], client: str, left_s: float, **fields: Any) -> InferenceRequest:
    """A robot that plays of a chunk of 0.5 s what it has not executed, with `left_s` of the last one at NOW."""
    request = renewing(ask, client, 0.03, left_s=left_s, **fields)
    assert request.chunk is not None
    left_then_s = max(NOW + left_s - request.received_at, 0.0)
    request.chunk = replace(request.chunk, covers_until=math.inf, most_s=max(0.5 - left_then_s, 0.0))
    return request


def test_a_robot_that_stands_is_not_asked_for_a_new_observation_where_it_goes_on_all_the_same(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """All are 0.2 s old: of one the robot has executed 0.1 s since, of the others nothing, or nothing yet to be."""
    busy = [ReplicaSlot("m", "0", 4, profile, NOW + 0.1)]
    for client, left_s in (("stands", -0.2), ("stood", -0.1), ("plays", 0.2)):
        request = going_on(ask, client, left_s, age_s=0.2)
        assert request.chunk is not None
        lane.push(request, *limits_of(request, request.chunk, busy))
    assert sorted(names(lane.take_outdated(NOW + 0.075, busy))) == ["plays", "stood"]
    assert lane.due_at(busy) == math.inf


@pytest.mark.parametrize(
    ("lasts_s", "step_s", "old_after_s"), [(0.05, 0.02, math.inf), (0.5, 0.1, 0.1), (0.5, 0.02, 0.021)]
)
def test_no_observation_is_asked_for_that_would_give_no_more_or_that_cannot_be_made_yet(
    ask: Callable[..., InferenceRequest], profile: LatencyProfile, lasts_s: float, step_s: float, old_after_s: float
) -> None:
    """A call takes longer than the short chunk lasts; of the long one an observation loses a twentieth in 21 ms."""
    slots = [ReplicaSlot("m", "0", 1, profile, NOW)]
    request = renewing(ask, "a", 0.03, lasts_s=lasts_s)
    chunk = replace(request.chunk, step_s=step_s)  # type: ignore[type-var]
    old_from, renewed_from, _ = limits_of(request, chunk, slots)
    assert old_from - request.received_at == pytest.approx(old_after_s, abs=1e-3)
    assert renewed_from >= old_from


def test_an_observation_of_a_robot_that_goes_on_is_never_too_late(
    ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    slots = [ReplicaSlot("m", "0", 4, profile, NOW)]
    request = going_on(ask, "a", -0.3, age_s=0.3)
    request.late = "refuse"
    assert limits_of(request, request.chunk, slots) == (math.inf,) * 3  # type: ignore[arg-type]


def test_what_a_robot_goes_on_with_is_less_by_what_another_answer_gives_it(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Both of its observations are new: nothing of the chunk of the second is left after that of the first."""
    lane.push(going_on(ask, "twice", -0.2, age_s=0.01))
    lane.push(going_on(ask, "twice", -0.2))
    lane.push(going_on(ask, "other", 0.1, waiting_since=NOW))
    assert names(lane.take(profile, 1, NOW)) == ["twice"]
    assert names(lane.take(profile, 1, NOW)) == ["other"]


def test_a_robot_is_not_asked_for_an_observation_that_cannot_come_before_the_call(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Its control steps are 0.2 s apart, the last one was 0.08 s before the call."""
    busy = [ReplicaSlot("m", "0", 2, profile, NOW + 0.1)]
    for client, step_s in (("slow", 0.2), ("fast", 0.02)):
        request = renewing(ask, client, 0.03, age_s=-0.02)
        request.chunk = replace(request.chunk, steps_at=NOW + 0.02, step_s=step_s)  # type: ignore[type-var]
        lane.push(request, NOW)
    assert names(lane.take_outdated(NOW + 0.075, busy)) == ["fast"]


def test_each_robot_is_asked_shortly_before_the_step_from_which_its_observation_comes_in_time(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """An answer and an observation take 10 ms together; one robot once heard late, which is no matter to the others."""
    busy = [ReplicaSlot("m", "0", 4, profile, NOW + 0.1)]
    for client, age_s, lead_s in (("a", 0.07, 0.06), ("b", 0.04, 0.06), ("late", 0.05, 0.5)):
        request = renewing(ask, client, lead_s, age_s=age_s)
        steps_at = request.received_at - 0.01
        request.chunk = replace(request.chunk, steps_at=steps_at, step_s=0.05)  # type: ignore[type-var]
        lane.push(request, NOW)
    asked, now = dict[str, float](), NOW - 0.05
    while (at := lane.due_at(busy)) < math.inf:
        now = max(at, now + 1e-6)
        for request in lane.take_outdated(now, busy):
            assert request.turn_at == NOW + 0.1
            asked[request.client_id] = now
    # They come at NOW + 0.08, 0.06 and 0.05, leave 10 ms before, and are asked 5 ms before that, or half a step.
    assert asked == pytest.approx({"a": NOW + 0.065, "b": NOW + 0.045, "late": NOW + 0.015}, abs=1e-5)


def test_an_answer_that_comes_just_before_a_control_step_goes_first(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Of two that are alike, one plays the answer when it comes, and the other has to wait for most of a step."""
    for client, before_s in (("waits", 0.01), ("plays", -0.01)):
        request = ask(client)
        steps_at = NOW + profile.typical(1) - before_s
        request.chunk = replace(request.chunk, steps_at=steps_at, step_s=0.1)  # type: ignore[type-var]
        lane.push(request)
    assert names(lane.take(profile, 1, NOW)) == ["plays"]


@pytest.mark.parametrize("ends_at", [-math.inf, NOW - 5.0, NOW, NOW + 1e9, math.inf])
def test_turns_end_whatever_the_times_of_slots_are(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], ends_at: float
) -> None:
    slots = [ReplicaSlot("m", str(number), 2, LatencyProfile(), ends_at) for number in range(3)]
    for number in range(9):
        lane.push(renewing(ask, str(number), 0.03, age_s=0.2), NOW)
    for _ in range(8):
        asked = lane.take_outdated(NOW, slots)
        if not asked:
            break
    assert lane.take_outdated(NOW, slots) == []
    assert lane.due_at(slots) > NOW


def test_a_request_is_too_late_from_when_its_caller_says(lane: ChunkLane, ask: Callable[..., InferenceRequest]) -> None:
    lane.push(first := ask("a"), refused_from=NOW + 0.2)
    lane.push(ask("b"))
    assert lane.due_at(FREE) == NOW + 0.2
    assert lane.too_late(NOW + 0.1) == []
    assert lane.too_late(NOW + 0.2) == [first]


def test_a_call_is_worth_it_for_robots_that_starve_or_gain_much(
    lane: ChunkLane, ask: Callable[..., InferenceRequest]
) -> None:
    lane.push(ask("starves", age_s=0.45))
    lane.push(ask("gains much", left_s=0.3))
    lane.push(ask("covered", left_s=0.49))
    assert lane.worth_a_call(NOW + 0.1, 9) == 2


def test_no_call_waits_beyond_a_turn_for_actions_that_a_robot_says_it_has(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    lane.push(ask("liar", left_s=1e6, waiting_since=NOW))
    assert lane.waits_until(profile, 1, NOW) == pytest.approx(NOW + 0.5 + 1.0 * (2 - 0.5))
    assert names(lane.take(profile, 8, NOW + 2.1)) == ["liar"]


def test_memory_of_clients_is_bounded(lane: ChunkLane, ask: Callable[..., InferenceRequest]) -> None:
    for number in range(5_000):
        request = ask(f"c{number}")
        lane.push(request)
        lane.discard(request)
    assert len(lane) == 0
    assert lane.clients_remembered() <= 4_097


@given(seed=st.integers(0, 2**32 - 1), robots=st.integers(2, 24), limit=st.sampled_from([1, 2, 8]))
@settings(max_examples=40, deadline=None)
def test_no_client_is_abandoned(
    ask: Callable[..., InferenceRequest], profile: LatencyProfile, seed: int, robots: int, limit: int
) -> None:
    """Robots ask again as soon as they are served, some with observations that never gain anything; the lowest
    priority is served too: after its patience, and a call for each robot whose turn may come before."""
    chance = random.Random(seed)
    lane = ChunkLane(0.5, weighted=True)
    priorities = [chance.choice([0, 1, 8, 40]) for _ in range(robots)]
    late = [chance.random() < 0.3 for _ in range(robots)]
    now, served = NOW, [NOW] * robots
    call_s = LATENCIES_MS[limit - 1] / 1e3
    bound_s = 0.5 + 2 * 0.5 + 2 * robots * call_s * (OWN_SHARE if limit == 1 else 1) + call_s

    def observation(robot: int) -> InferenceRequest:
        covers_until = now - 1.0 if late[robot] else now + 0.5
        request = ask(str(robot), priority=priorities[robot])
        request.received_at = request.waiting_since = now
        request.chunk = ChunkTime(now + chance.choice([0.0, 0.2]), covers_until, 0.5)
        return request

    for robot in range(robots):
        lane.push(observation(robot))
    for _ in range(30 * robots):
        batch = lane.take(profile, limit, now)
        assert 1 <= len(batch) <= limit
        assert len({request.client_id for request in batch}) == len(batch)
        now += profile.typical(len(batch))
        for request in batch:
            robot = int(request.client_id)
            served[robot] = now
            lane.push(observation(robot))
        assert now - min(served) <= bound_s
        assert len(lane) == robots


def test_a_robot_that_starved_more_than_others_goes_before_them(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    """Both were served at the same time; one was without an action for long before."""
    lane.push(ask("unlucky", age_s=0.0, left_s=-2.0))
    lane.push(ask("lucky", left_s=0.4))
    assert len(lane.take(profile, 8, NOW)) == 2
    for client in ("lucky", "unlucky"):
        lane.push(ask(client))
    assert names(lane.take(profile, 1, NOW + 0.01)) == ["unlucky"]


def whole(ask: Callable[..., InferenceRequest], client: str, left_s: float) -> InferenceRequest:
    """A robot that plays 0.5 s of whatever chunk comes."""
    request = ask(client, waiting_since=NOW)
    request.chunk = ChunkTime(NOW + left_s, math.inf, 0.5, 5.0)
    return request


def test_a_call_is_smaller_where_robots_would_stand_for_a_larger_one(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    for number in range(4):
        lane.push(whole(ask, f"soon {number}", left_s=0.11))
    for number in range(4):
        lane.push(whole(ask, f"later {number}", left_s=0.4))
    assert sorted(names(lane.take(profile, 8, NOW))) == [f"soon {number}" for number in range(4)]


def test_a_call_is_as_efficient_as_it_can_be_where_no_robot_would_stand(
    lane: ChunkLane, ask: Callable[..., InferenceRequest], profile: LatencyProfile
) -> None:
    for number in range(6):
        lane.push(whole(ask, str(number), left_s=0.4))
    assert len(lane.take(profile, 8, NOW)) == 6


@pytest.mark.parametrize("waiting", [12, 40])
def test_calls_are_the_most_efficient_ones_where_more_starve_than_they_take(
    waiting: int, lane: ChunkLane, ask: Callable[..., InferenceRequest]
) -> None:
    """16 rows are the most, and 8 the most efficient; the same with and without arrays."""
    steep = LatencyProfile()
    for rows in range(1, 17):
        steep.load(rows, 0.1 + 0.005 * rows + 0.05 * max(rows - 8, 0), 0.9)
    for number in range(waiting):
        lane.push(whole(ask, str(number), left_s=-0.1))
    assert len(lane.take(steep, 16 if waiting > 16 else 12, NOW)) == 8


ODD = [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-300, 1e300]


@given(data=st.data(), limit=st.sampled_from([1, 8, 40]))
@settings(max_examples=60, deadline=None)
def test_whatever_robots_say_every_request_is_served_once(
    ask: Callable[..., InferenceRequest], profile: LatencyProfile, data: Any, limit: int
) -> None:
    lane = ChunkLane(0.5, weighted=True)
    odd = st.one_of(st.floats(-0.5, 0.5), st.sampled_from(ODD))
    requests = []
    for number in range(data.draw(st.integers(1, 30))):
        request = ask(str(number % 20), urgency=data.draw(st.sampled_from([0.0, *ODD])))
        left_s, covers_s, lasts_s, most_s, lead_s = (data.draw(odd) for _ in range(5))
        request.chunk = ChunkTime(NOW + left_s, NOW + covers_s, lasts_s, most_s, True, lead_s)
        requests.append(request)
        lane.push(request, NOW + data.draw(odd), NOW + data.draw(odd))
    slots = [ReplicaSlot("m", "0", limit, profile, NOW + data.draw(odd))]
    lane.take_outdated(NOW, slots)
    served: list[InferenceRequest] = []
    while len(lane):
        batch = lane.take(profile, limit, NOW)
        assert 1 <= len(batch) <= limit
        served += batch
    assert sorted(map(id, served)) == sorted(map(id, requests))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_what_is_known_of_a_request_stays_with_it(
    ask: Callable[..., InferenceRequest], profile: LatencyProfile, data: st.DataObject
) -> None:
    """Requests come and go in any order, one at a time and in calls, and the others take their places."""
    lane, waiting, serial = ChunkLane(1.0, weighted=True), dict[InferenceRequest, float](), 0
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(1, 9))):
            serial += 1
            request = ask(f"c{data.draw(st.integers(0, 6))}", left_s=data.draw(st.floats(-1, 1)))
            waiting[request] = NOW + 1 + serial
            lane.push(request, refused_from=waiting[request])
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(list(waiting)))
            lane.discard(gone)
            del waiting[gone]
        else:
            for gone in lane.take(profile, data.draw(st.integers(1, 8)), NOW):
                del waiting[gone]
        assert len(lane) == len(waiting)
        assert all(request in lane for request in waiting)
        middle = NOW + 1 + serial / 2
        assert {*lane.too_late(middle)} == {one for one, refused_from in waiting.items() if refused_from <= middle}
        if waiting:
            assert lane.runs_out_at() >= min(request.chunk.runs_out_at for request in waiting)  # type: ignore[union-attr]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_call_that_is_noted_later_leaves_what_one_noted_at_once_does(
    seed: int, make_request: MakeRequest, profile: LatencyProfile
) -> None:
    """Of two lanes with the same requests one is asked for its first turn after each call, which notes that."""
    chance, now = random.Random(seed), NOW
    lanes = [ChunkLane(0.3, weighted=True), ChunkLane(0.3, weighted=True)]
    for _ in range(60):
        now += chance.uniform(0.0, 0.05)
        client, left_s, goes_on = f"c{chance.randrange(20)}", chance.uniform(-0.2, 0.3), chance.random() < 0.5
        chunk = ChunkTime(now + left_s, math.inf if goes_on else now + 0.5, 0.5, 0.4 if goes_on else math.inf)
        arrival = chance.randrange(10**9)
        for lane in lanes:
            lane.push(make_request(client, received_at=now, chunk=replace(chunk), arrival=arrival))
        if chance.random() < 0.3:
            within_s = (0.2, 0.4) if chance.random() < 0.5 else None
            limit = chance.choice([1, 3, 8])
            assert lanes[0].worth_a_call(now + 0.1, 3) == lanes[1].worth_a_call(now + 0.1, 3)
            calls = [lane.take(profile, limit, now, within_s) for lane in lanes]
            lanes[1].runs_out_at()
            assert names(calls[0]) == names(calls[1])
            reserves = [[request.chunk and request.chunk.reserve_s for request in call] for call in calls]
            assert reserves[0] == reserves[1]
        assert len(lanes[0]) == len(lanes[1])
        asked = chance.randrange(4)
        if asked == 0:
            assert lanes[0].waits_until(profile, 3, now) == lanes[1].waits_until(profile, 3, now)
        elif asked == 1:
            assert lanes[0].worth_a_call(now + 0.1, 3) == lanes[1].worth_a_call(now + 0.1, 3)
        elif asked == 2:
            assert lanes[0].starve(now, 2) == lanes[1].starve(now, 2)


def test_a_call_that_leaves_nothing_waiting_keeps_no_request(
    lane: ChunkLane, make_request: MakeRequest, profile: LatencyProfile
) -> None:
    request = make_request("a", received_at=NOW, chunk=ChunkTime(NOW, NOW + 0.5, 0.5))
    lane.push(request)
    lane.take(profile, 8, NOW)
    assert sys.getrefcount(request) == 2  # ours, and the argument
