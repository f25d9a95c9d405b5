"""Live and simulated robots are the same fleet, and both are measured."""

from __future__ import annotations

import pytest
from bench import fleet

from inferential.sim.virtual import generate


def test_the_overhead_is_added_to_calls_and_to_the_network() -> None:
    overhead = fleet.Overhead(in_call_ms=2.0, spread=0.01, around_ms=3.0, jitter_ms=2.0, turnaround_ms=0.5)
    described = fleet.fleet(overhead)
    (model,) = generate.models(described)
    robots = generate.chunked_robots(described, seed=0)
    assert model.latency_s[0] == pytest.approx(0.075)
    assert model.spread == 0.01
    assert model.turnaround_s == pytest.approx(0.0005)
    assert len(model.speeds) == fleet.REPLICAS
    assert len(robots) == fleet.ROBOTS
    assert robots[0].delay_s == pytest.approx(0.0015)
    assert robots[0].delay_jitter_s == pytest.approx(0.002 / 2**0.5)


def test_what_calls_take_longer_is_their_mean_however_many_rows_they_have() -> None:
    one, four = fleet.BY_ROWS_MS[0] + 1.0, fleet.BY_ROWS_MS[3] + 3.0
    assert fleet.in_call_ms([(1, one), *[(4, four)] * 4]) == pytest.approx(2.0)
    assert fleet.in_call_ms([(1, fleet.BY_ROWS_MS[0] - 1.0)]) == 0.0


def test_calls_vary_by_what_most_of_them_do() -> None:
    calls = [(1, fleet.BY_ROWS_MS[0] * factor) for factor in (0.99, 0.99, 0.99, 1.0, 1.0, 1.01, 1.01, 1.01, 3.0)]
    assert fleet.spread(calls) == pytest.approx(0.01, rel=0.1)


def test_a_replica_turns_around_from_the_end_of_a_call_to_the_next() -> None:
    first, second = [(0, 0.0, 100.0), (0, 101.0, 100.0), (0, 203.0, 100.0)], [(1, 50.0, 100.0), (1, 151.5, 100.0)]
    assert fleet.turnaround_ms([*first, *second, *first]) == pytest.approx(1.5)
    assert fleet.turnaround_ms([(0, 0.0, 100.0)]) == 0.0


@pytest.mark.slow
def test_robots_over_real_sockets_are_measured_as_the_simulated_ones_are() -> None:
    live, overhead = fleet.run_live("round_robin", 3.0)
    simulated = fleet.run_simulated("round_robin", 3.0, overhead)
    assert simulated is not None
    for row in (live, simulated):
        assert 0 < row.starved <= row.starved_worst <= 1
        assert row.executed_per_s > 0
        assert row.chunks_per_s > 0
