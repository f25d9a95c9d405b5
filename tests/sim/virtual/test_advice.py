"""Which strategy fits what was asked, how many robots it carries, and what else would help."""

from __future__ import annotations

import pytest
from tests.sim.virtual.test_happened import fleet, happened_in

from inferential.sim.virtual.advice import GOOD, LOADS, Advice, advise, simulations
from inferential.sim.virtual.happened import Happened
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
