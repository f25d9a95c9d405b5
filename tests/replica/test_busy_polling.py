"""Looking for the answer of a short call, and for the next call, in place of sleeping: for how long, and when not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from inferential.replica.busy_polling import LOOK_S, BusyPolling, Usefulness

FIRST_PAUSE, LONGEST_PAUSE = 16, 1024


def looked(useful: Usefulness, seconds: float = 50e-6, ran: float = 50e-6, *, came: bool = True) -> None:
    assert useful.begins()
    useful.ended(seconds, ran, came=came)


def missed(useful: Usefulness) -> None:
    looked(useful, LOOK_S, LOOK_S, came=False)


def paused(useful: Usefulness) -> int:
    """For how many calls it does not look."""
    calls = 0
    while not useful.begins():
        calls += 1
    return calls


def test_it_looks_for_all_that_comes_in_time() -> None:
    useful = Usefulness()
    for _ in range(100):
        looked(useful)


def test_it_goes_on_where_half_of_it_comes_in_time() -> None:
    useful = Usefulness()
    for _ in range(100):
        missed(useful)
        looked(useful)


def test_more_that_takes_longer_than_comes_in_time_ends_it_for_some_calls() -> None:
    useful = Usefulness()
    for _ in range(3):
        missed(useful)
    looked(useful)
    missed(useful)
    missed(useful)
    assert paused(useful) == FIRST_PAUSE


@pytest.mark.parametrize("came", [True, False])
def test_another_thread_that_wants_the_processor_ends_it_at_once_and_longer_each_time(came: bool) -> None:
    useful = Usefulness()
    pauses = []
    for _ in range(8):
        useful.ended(3e-3, 1e-4, came=came)
        pauses.append(paused(useful))
    assert pauses == [16, 32, 64, 128, 256, 512, LONGEST_PAUSE, LONGEST_PAUSE]


def test_after_one_time_that_paid_the_next_pause_is_short_again() -> None:
    useful = Usefulness()
    for _ in range(3):
        useful.ended(3e-3, 1e-4, came=True)
        paused(useful)
    looked(useful)
    useful.ended(3e-3, 1e-4, came=True)
    assert paused(useful) == FIRST_PAUSE


TURN_S = 10e-6


class Loop:
    """An event loop whose turns take 10 us of a clock that the test has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.ran = 0.0
        self.scheduled: list[tuple[Callable[..., None], Any]] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "thread_time", lambda: self.ran)
        monkeypatch.setattr(os, "cpu_count", lambda: 2)

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.scheduled.append((callback, args))

    def turns(self, most: int = 1000) -> int:
        """Runs turns until the loop would sleep, or so many; returns how many."""
        count = 0
        while self.scheduled and count < most:
            self.now, self.ran, count = self.now + TURN_S, self.ran + TURN_S, count + 1
            (callback, args), self.scheduled = self.scheduled[0], self.scheduled[1:]
            callback(*args)
        return count


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Loop(monkeypatch)


def test_the_loop_sleeps_after_a_while_without_an_answer(loop: Any) -> None:
    BusyPolling().call_sent(loop)
    assert loop.turns() == pytest.approx(LOOK_S / TURN_S, abs=1)
    assert not loop.scheduled


def test_the_loop_sleeps_after_a_while_without_another_call(loop: Any) -> None:
    polling = BusyPolling()
    polling.call_sent(loop)
    assert loop.turns(5) == 5
    polling.all_answered(loop)
    assert len(loop.scheduled) == 1
    assert loop.turns() == pytest.approx(LOOK_S / TURN_S, abs=1)
    assert not loop.scheduled


def test_a_robot_that_asks_at_once_is_looked_for_again_and_again(loop: Any) -> None:
    polling = BusyPolling()
    for _ in range(100):
        polling.call_sent(loop)
        assert loop.turns(5) == 5
        polling.all_answered(loop)
        assert loop.turns(15) == 15


def test_robots_with_a_longer_period_are_not_looked_for_while_their_answers_are(loop: Any) -> None:
    polling = BusyPolling()
    waited = []
    for _ in range(10):
        polling.call_sent(loop)
        assert loop.turns(5) == 5
        polling.all_answered(loop)
        waited.append(loop.turns())
        loop.now += 20e-3
    assert min(waited[:4]) >= LOOK_S / TURN_S - 1
    assert max(waited[4:]) <= 1


def test_a_call_that_follows_meanwhile_adds_to_the_time_and_nothing_else(loop: Any) -> None:
    polling = BusyPolling()
    polling.call_sent(loop)
    loop.now += LOOK_S / 2
    polling.call_sent(loop)
    assert len(loop.scheduled) == 1
    assert loop.turns() == pytest.approx(LOOK_S / TURN_S, abs=1)


def test_the_end_of_the_process_ends_it(loop: Any) -> None:
    polling = BusyPolling()
    polling.call_sent(loop)
    polling.stop()
    assert loop.turns() == 1
    assert not loop.scheduled


def test_it_looks_on_another_loop_after_its_process_has_ended_with_the_former_one(loop: Any) -> None:
    polling = BusyPolling()
    polling.call_sent(loop)
    polling.stop()
    loop.scheduled.clear()  # it was closed
    polling.call_sent(loop)
    assert loop.scheduled


def test_with_one_processor_it_never_looks(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    polling = BusyPolling()
    polling.call_sent(loop)
    polling.all_answered(loop)
    assert not loop.scheduled


def looking(loop: Any) -> BusyPolling:
    """It looks for the next call."""
    polling = BusyPolling()
    polling.call_sent(loop)
    polling.all_answered(loop)
    return polling


def test_a_call_that_was_looked_for_is_announced(loop: Any) -> None:
    polling = looking(loop)
    for _ in range(100):
        loop.turns(5)
        assert polling.announces()
        polling.call_sent(loop)
        loop.turns(5)
        polling.all_answered(loop)


def test_no_call_is_announced_for_which_the_loop_has_slept(loop: Any) -> None:
    polling = looking(loop)
    loop.turns()
    assert not polling.announces()


def test_no_call_is_announced_while_another_runs(loop: Any) -> None:
    polling = looking(loop)
    polling.call_sent(loop)
    assert not polling.announces()


def test_calls_that_do_not_follow_are_announced_no_more(loop: Any) -> None:
    polling = looking(loop)
    assert [polling.announces() for _ in range(4 + FIRST_PAUSE)] == [True] * 4 + [False] * FIRST_PAUSE


def test_with_one_processor_no_call_is_announced(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert not looking(loop).announces()
