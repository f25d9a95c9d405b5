"""Deadlines and restarts of a worker process, by a made-up clock."""

from __future__ import annotations

import math

from inferential.replica.lifecycle import FIRST_DELAY_S, FORGIVEN_AFTER_S, LONGEST_DELAY_S, Lifecycle


def test_loading_has_a_deadline_until_the_model_is_there() -> None:
    life = Lifecycle(load_timeout_s=10.0, call_timeout_s=None)
    assert life.deadline() == math.inf
    life.started(100.0)
    assert life.deadline() == 110.0
    life.loaded(101.0)
    assert life.deadline() == math.inf


def test_a_calls_time_begins_when_the_one_before_it_ends() -> None:
    life = Lifecycle(load_timeout_s=10.0, call_timeout_s=2.0)
    life.started(0.0)
    life.loaded(1.0)
    life.call_sent(5.0)
    life.call_sent(5.5)
    assert life.deadline() == 7.0
    life.call_answered(6.5, more=True)
    assert life.deadline() == 8.5
    life.call_answered(7.0, more=False)
    assert life.deadline() == math.inf


def test_each_row_of_a_call_has_the_time_of_a_call() -> None:
    life = Lifecycle(load_timeout_s=10.0, call_timeout_s=2.0)
    life.started(0.0)
    life.loaded(1.0)
    life.call_sent(5.0)
    assert life.deadline(row_began_at=4.0) == 7.0  # that of a former call
    assert life.deadline(row_began_at=6.5) == 8.5
    life.call_answered(7.0, more=False)
    assert life.deadline(row_began_at=6.5) == math.inf


def test_restarts_wait_longer_each_time_up_to_a_limit() -> None:
    life = Lifecycle(10.0, None)
    delays = []
    for at in range(12):
        life.started(float(at))
        delays.append(life.ended(at + 0.5))
    assert delays[:4] == [FIRST_DELAY_S, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S, 8 * FIRST_DELAY_S]
    assert delays[-1] == LONGEST_DELAY_S


def test_a_process_that_was_up_for_long_is_started_again_at_once() -> None:
    life = Lifecycle(10.0, None)
    for _ in range(5):
        life.started(0.0)
        life.ended(0.0)
    life.started(0.0)
    life.loaded(1.0)
    assert life.ended(1.0 + FORGIVEN_AFTER_S) == 0.0


def test_a_process_that_ends_for_the_first_time_is_started_again_at_once_and_then_not() -> None:
    life = Lifecycle(10.0, None)
    delays = []
    for at in (0.0, 2.0, 4.0):
        life.started(at)
        life.loaded(at + 1.0)
        delays.append(life.ended(at + 1.5))
    assert delays == [0.0, 2 * FIRST_DELAY_S, 4 * FIRST_DELAY_S]


def test_a_model_is_broken_once_it_cannot_be_loaded() -> None:
    life = Lifecycle(10.0, None)
    assert not life.broken
    life.started(0.0)
    life.ended(1.0, "no weights")
    assert life.broken
    life.started(2.0)
    assert life.broken
    life.loaded(3.0)
    assert not life.broken


def test_of_a_model_that_was_up_one_process_that_ends_while_it_loads_decides_nothing() -> None:
    life = Lifecycle(10.0, None)
    life.started(0.0)
    life.loaded(1.0)
    broken = []
    for at in (2.0, 3.0, 4.0):
        life.ended(at, "killed")
        broken.append(life.broken)
        life.started(at)
    assert broken == [False, False, True]
