"""Which strategy fits what was asked, how many robots it carries, and what else would help."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.sim.virtual.test_happened import fleet, happened_in

from inferential.sim.virtual.advice import GOOD, LOADS, Advice, advise, simulations
from inferential.sim.virtual.asked import asking_at_once
from inferential.sim.virtual.happened import Happened, run_of
from inferential.sim.virtual.simulation import simulate
from inferential.sim.virtual.world import ModelSpec

QUICK = ModelSpec("pi0", (0.01, 0.011, 0.012, 0.013))
SLOW = ModelSpec("pi0", (0.09,))
STRATEGIES = ["deadline_aware", "slo_aware"]


def advice_for(model: ModelSpec, robots: int, in_force: str | None = "deadline_aware") -> Advice:
    run = simulate([model], fleet(robots, 0.2, 0.15), "deadline_aware", seconds=10.0, seed=0)
    return advise(happened_in(run), STRATEGIES, in_force)


def test_a_strategy_that_serves_well_stays_and_more_robots_fit() -> None:
    found = advice_for(QUICK, 8)
    assert found.best == "deadline_aware"
    assert found.robots == 8
    assert found.shares["deadline_aware"][0] >= GOOD
    assert found.carried >= 16
    assert "is in force" in found.sentence()
    assert f"{found.carried - 8} more than now" in found.sentence()


def test_beyond_capacity_the_busiest_model_is_named_and_a_replica_tried() -> None:
    found = advice_for(SLOW, 4)
    assert found.carried == 0
    assert found.busiest[0] == "pi0"
    assert found.busiest[1] > 0.9
    assert found.with_more is not None
    assert found.with_more > found.shares[found.best][0] + 0.2
    assert "out of reach for 4 robots: pi0 is busy" in found.sentence()


def test_a_model_that_takes_longer_than_robots_wait_is_the_reason_however_idle_it_is() -> None:
    robots = [replace(one, budget_ms=5.0 if one.client_id == "arm-0" else 100.0) for one in clients(3, 0.2)]
    found = advise(robots, STRATEGIES, "deadline_aware")
    assert found.busiest[1] < 0.3
    assert found.too_slow is not None
    assert (found.too_slow[0], round(found.too_slow[2], 2)) == ("pi0", 0.33)
    assert "out of reach for 3 robots: a call of pi0 takes 9" in found.sentence()
    assert found.sentence().endswith(" ms, and 33% are due before that")
    assert advice_for(SLOW, 4).too_slow is None


def test_figures_far_below_what_the_server_gave_are_doubted() -> None:
    found = advice_for(SLOW, 4)
    assert "but the server gave" not in found.sentence()
    assert "; but the server gave 100.0%: robots are repeated" in replace(found, was=1.0).sentence()
    assert "which of them share a call" in replace(found, was=1.0, robots_waiting=4).sentence()


def test_requests_that_failed_are_held_against_no_strategy() -> None:
    asked = [replace(one, end="model_failed") if number % 2 else one for number, one in enumerate(clients(3, 0.2))]
    found = advise(asked, STRATEGIES, None)
    assert (found.was, found.failed) == (1.0, 150)
    assert found.sentence().endswith("; 150 requests failed, which no strategy changes")


def test_robots_that_wait_for_each_other_all_the_time_are_not_in_time_in_the_simulation_either() -> None:
    turn = (182.0, 121.0, 60.7, 1, 170.0)  # each of three waits for the two others
    asked = [Happened(0.0607 * number, f"arm-{number % 3}", "arm", "pi0", "answered", *turn) for number in range(90)]
    found = advise(asked, ["deadline_aware"], "deadline_aware")
    assert found.was == 0.0
    assert found.shares["deadline_aware"][0] < 0.1
    assert "out of reach for 3 robots: pi0 is busy" in found.sentence()
    assert found.with_more is not None
    assert found.with_more > 0.9


def test_where_the_simulation_is_unlike_what_happened_the_advice_says_so() -> None:
    slow = [
        replace(one, inference_ms=200.0, server_ms=one.queue_ms + 200.0) if one.client_id == "arm-0" else one
        for one in clients(3, 0.25)
    ]
    found = advise(slow, ["deadline_aware"], "deadline_aware")
    assert found.was == pytest.approx(2 / 3, abs=0.01)
    assert "; but the server gave 66.7% with deadline_aware: a call is taken to be as long as" in found.sentence()
    assert "but the server" not in advise(clients(3, 0.25), ["deadline_aware"], "deadline_aware").sentence()


def test_robots_carried_are_as_many_as_a_simulation_of_them_says() -> None:
    found = advice_for(ModelSpec("pi0", (0.02,)), 6)
    assert 6 <= found.carried <= 10
    assert found.shares[found.best][LOADS.index(2.0)] < GOOD


def test_figures_are_plain_values_and_count_their_work() -> None:
    steps: list[None] = []
    run = simulate([QUICK], fleet(3, 0.2, 0.15), "deadline_aware", seconds=5.0, seed=0)
    found = advise(happened_in(run), STRATEGIES, None, advance=lambda: steps.append(None))
    assert found.as_dict()["loads"] == LOADS
    assert found.as_dict()["advice"] == found.sentence()
    assert 0 < len(steps) <= simulations(len(STRATEGIES))


@pytest.mark.parametrize("happened", [[], [Happened(0, "a", "arm", "pi0", "expired", 10, 0, 0, 0, 5)]])
def test_without_an_answer_there_is_no_advice(happened: list[Happened]) -> None:
    with pytest.raises(ValueError, match="nothing was answered"):
        advise(happened, STRATEGIES)


def clients(count: int, period_s: float | None, model_ms: float = 10.0) -> list[Happened]:
    """Returns what robots ask of a model alone for a while, at a rate; None: again as soon as they are answered."""
    random = np.random.default_rng(4)
    found = []
    for number in range(count):
        at = 0.03 * number
        for _ in range(100):
            took_ms = model_ms * random.uniform(0.9, 1.3)
            times = (took_ms, 0.1 * took_ms, 0.8 * took_ms, 1, 2 * took_ms)
            found.append(Happened(at, f"arm-{number}", "arm", "pi0", "answered", *times))
            at += took_ms / 1e3 + random.uniform(2e-4, 4e-4) if period_s is None else period_s
    return found


@pytest.mark.parametrize("model_ms", [0.1, 10.0])
def test_clients_that_ask_again_as_soon_as_they_are_answered_are_no_load_to_advise_on(model_ms: float) -> None:
    with pytest.raises(ValueError, match="every client asks again as soon as it is answered"):
        advise(clients(1, None, model_ms), STRATEGIES)


def test_beside_robots_such_clients_are_left_out_and_named() -> None:
    fast = [replace(one, client_id="bench", at=one.at + 0.002) for one in clients(1, None)]
    found = advise([*clients(2, 0.2), *fast], STRATEGIES, "deadline_aware")
    assert (found.robots, found.requests, found.left_out) == (2, 200, ("bench",))
    assert found.sentence().endswith("; without bench, which asked again as soon as it was answered")


@pytest.mark.parametrize("period_s", [0.012, 0.02, 0.1])
def test_robots_that_keep_a_rate_are_none_of_them_however_short_their_pauses_are(period_s: float) -> None:
    assert asking_at_once(run_of(clients(1, period_s, 9.0))) == set()


def test_a_strategy_that_helps_with_more_robots_alone_is_said_to() -> None:
    shares = {"deadline_aware": (1.0, 0.5, 0.4), "slo_aware": (1.0, 0.9, 0.6)}
    found = Advice(4, 100, 10.0, 1.0, (4, 6, 8), shares, "deadline_aware", "slo_aware", 5, ("pi0", 0.5), None)
    assert found.sentence() == (
        "set scheduling.strategy: slo_aware: it answers 90.0% of the observations in time with 6 robots, and "
        "deadline_aware, which is in force, 50.0%; 98% hold up to about 5 robots, 1 more than now"
    )


def test_robots_are_counted_as_they_are_simulated() -> None:
    assert advise(clients(1, 0.2), STRATEGIES).robots_at == (1, 2, 2)
    assert advise(clients(3, 0.2), STRATEGIES).robots_at == (3, 4, 6)
