"""The accelerator's time, on a clock of our own."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from inferential.sim.accelerator import AcceleratedModel, Accelerator, Cost, MeasuredCost, cost_for_load


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Policy:
    max_batch_size = 8

    def __init__(self, clock: Clock, takes_s: float) -> None:
        self.clock, self.takes_s = clock, takes_s

    def infer_batch(self, observations: Any) -> list[Any]:
        self.clock.now += self.takes_s
        return list(observations)


def test_a_call_takes_its_fixed_cost_and_one_for_each_row() -> None:
    clock = Clock()
    accelerator = Accelerator(Cost(10.0, 1.0), clock.time, clock.sleep)
    assert accelerator.run(Policy(clock, 0.004), [1, 2, 3]) == [1, 2, 3]
    assert clock.now == pytest.approx(0.013)
    assert clock.slept == [pytest.approx(0.009)]


def test_a_policy_slower_than_its_cost_is_not_hurried() -> None:
    clock = Clock()
    Accelerator(Cost(1.0, 0.0), clock.time, clock.sleep).run(Policy(clock, 0.05), [1])
    assert clock.now == pytest.approx(0.05)


def test_at_load_one_full_batches_take_all_the_time_there_is() -> None:
    cost = cost_for_load(1.0, {50.0: 6, 30.0: 12})
    # Six robots fill one call, twelve take two.
    assert 50 * cost.of(6) + 30 * (cost.of(8) + cost.of(4)) == pytest.approx(1000.0)
    assert cost.fixed_ms / cost.per_row_ms == pytest.approx(10.0)
    twice = cost_for_load(2.0, {50.0: 6, 30.0: 12})
    assert twice.fixed_ms == pytest.approx(2 * cost.fixed_ms)


def test_models_that_share_it_run_one_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()

    class Busy:
        max_batch_size = 4

        def infer_batch(self, observations: Any) -> list[Any]:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            threading.Event().wait(0.002)
            with lock:
                running -= 1
            return list(observations)

    accelerator = Accelerator(Cost(0.0, 0.0))
    models = [AcceleratedModel(Busy(), accelerator) for _ in range(3)]
    threads = [threading.Thread(target=model.infer_batch, args=([1],)) for model in models for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert models[0].max_batch_size == 4


def test_a_measured_cost_is_that_of_the_rows() -> None:
    assert [MeasuredCost((73.0, 110.0)).of(rows) for rows in (1, 2)] == [73.0, 110.0]
