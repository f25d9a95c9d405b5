"""Who waits for each answer before asking again, and that it is simulated so."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.sim.virtual.test_happened import fleet, happened_in

from inferential.sim.virtual.advice import advise
from inferential.sim.virtual.asked import Asked, asked_in, waiting_text
from inferential.sim.virtual.happened import run_of
from inferential.sim.virtual.measures import measure
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import Arrival, ModelSpec, Run, WaitingClient

SECONDS = 20.0
POLICY = ModelSpec("pi0", (0.05,), 0.1)


def waiting(robots: int, pause_s: float = 0.1, budget_s: float = 0.45, jitter_s: float = 2e-3) -> list[WaitingClient]:
    """Robots that observe, wait for the answer, act and pause; no two pauses are quite the same."""
    chance = random.Random(robots)
    found = []
    for number in range(robots):
        at = chance.random() * pause_s
        pauses_s = [pause_s + chance.uniform(-jitter_s, jitter_s) for _ in range(500)]
        asks = [Arrival(at, f"arm-{number}", "pi0", "arm", at + budget_s)] * len(pauses_s)
        found.append(WaitingClient(asks, pauses_s, SECONDS))
    return found


def recorded(
    clients: Sequence[WaitingClient], models: Sequence[ModelSpec] = (POLICY,), arrivals: Sequence[Arrival] = ()
) -> Run:
    return simulate(models, arrivals, "round_robin", seconds=SECONDS, seed=1, waiting=clients)


def test_a_client_that_waits_asks_a_pause_after_each_answer_and_never_before() -> None:
    (client,) = waiting(1)
    run = recorded([client])
    asked_at = [one.arrival.at for one in run.outcomes]
    ended_at = [one.ended_at for one in run.outcomes]
    assert [after - end for after, end in zip(asked_at[1:], ended_at, strict=False)] == pytest.approx(
        client.pauses_s[: len(asked_at) - 1]
    )
    assert len(asked_at) == pytest.approx(SECONDS / 0.15, rel=0.05)


def test_robots_that_wait_are_known_from_what_they_asked() -> None:
    asked = asked_in(recorded(waiting(8)))
    assert not asked.arrivals
    assert {client.asks[0].client_id for client in asked.waiting} == {f"arm-{number}" for number in range(8)}
    assert (asked.robots(), asked.robots_waiting()) == (8, 8)


def test_robots_that_keep_a_rate_are_repeated_at_the_times_at_which_they_asked() -> None:
    chance = random.Random(0)
    arrivals = [replace(one, at=one.at + chance.uniform(0, 2e-3)) for one in fleet(6, 0.5, 0.4, SECONDS)]
    asked = asked_in(recorded([], arrivals=sorted(arrivals, key=lambda one: one.at)))
    assert not asked.waiting
    assert len(asked.arrivals) == len(arrivals)


def test_one_that_asks_before_it_is_answered_does_not_wait() -> None:
    slow = ModelSpec("pi0", (0.3,), 0.3)
    asked = asked_in(recorded([], [slow], fleet(3, 0.2, 5.0, SECONDS, latest=False)))
    assert not asked.waiting


def test_a_long_pause_now_and_then_hides_no_robot_that_waits() -> None:
    (client,) = waiting(1)
    between_episodes = [5.0 if number % 40 == 39 else pause_s for number, pause_s in enumerate(client.pauses_s)]
    others = waiting(3)[1:]
    run = recorded([WaitingClient(client.asks, between_episodes, SECONDS), *others])
    assert asked_in(run).robots_waiting() == 3


def test_a_few_requests_say_nothing() -> None:
    (client,) = waiting(1, pause_s=2.5)
    assert not asked_in(recorded([client])).waiting


@pytest.mark.parametrize("strategy", ["deadline_aware", "slo_aware"])
def test_robots_that_wait_fare_in_the_simulation_as_they_did(strategy: str) -> None:
    run = recorded(waiting(8))
    was = measure(run).overall
    found = advise(happened_in(run), [strategy], strategy)
    assert was.in_time == was.ends["answered"]
    assert found.robots_waiting == 8
    assert found.shares[strategy][0] > 0.97
    assert "but the server gave" not in found.sentence()


def test_beyond_what_fits_they_are_late_and_ask_less_often() -> None:
    happened = happened_in(recorded(waiting(8)))
    asked = asked_in(run_of(happened)).times(2.0)
    run = recorded(asked.waiting)
    assert asked.robots() == 16
    assert len(run.outcomes) == pytest.approx(SECONDS / 0.05, rel=0.05)  # the model is busy all the time
    assert measure(run).overall.in_time < 0.1 * len(run.outcomes)


@pytest.mark.parametrize(("load", "robots", "waits"), [(0.5, 2, 1), (1.0, 4, 2), (1.5, 6, 3), (2.0, 8, 4)])
def test_more_robots_are_copies_of_both_kinds(load: float, robots: int, waits: int) -> None:
    rated = [replace(one, client_id=f"rated-{one.client_id}") for one in fleet(2, 0.5, 0.4, SECONDS)]
    asked = Asked(rated, waiting(2, pause_s=0.05), SECONDS).times(load)
    assert asked.robots() == robots
    assert asked.robots_waiting() == waits
    assert len({one.client_id for one in asked.arrivals}) == robots - waits


def test_what_is_refused_at_once_is_asked_again_later() -> None:
    (client,) = waiting(1)
    hasty = WaitingClient([replace(one, late="refuse", deadline=one.at + 1e-3) for one in client.asks[:1]], [1e-4])
    run = simulate([POLICY], [], "slo_aware", seconds=0.5, seed=0, waiting=[hasty], profiled=True)
    assert {one.end for one in run.outcomes} <= {"expired", "answered", "open"}


@pytest.mark.parametrize(
    ("waits", "robots", "text"),
    [
        (0, 3, ""),
        (1, 1, "the robot waits for each answer before it asks again, and is simulated so"),
        (2, 3, "2 of 3 robots wait for each answer before they ask again, and are simulated so"),
    ],
)
def test_it_is_said_in_words(waits: int, robots: int, text: str) -> None:
    assert waiting_text(waits, robots) == text
