"""Looking for the answer of a short call in place of sleeping: for how long, and when not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from inferential.replica import busy_polling
from inferential.replica.busy_polling import LOOK_S, BusyPolling, Usefulness

FIRST_PAUSE, LONGEST_PAUSE = 16, 1024


def looked(useful: Usefulness, seconds: float = 50e-6, ran: float = 50e-6, *, answered: bool = True) -> None:
    assert useful.begins()
    useful.ended(seconds, ran, answered=answered)


def paused(useful: Usefulness) -> int:
    """For how many calls it does not look."""
    calls = 0
    while not useful.begins():
        calls += 1
    return calls


def test_it_looks_for_every_answer_that_comes_in_time() -> None:
    useful = Usefulness()
    for _ in range(100):
        looked(useful)


def test_answers_that_take_longer_end_it_for_some_calls() -> None:
    useful = Usefulness()
    for _ in range(3):
        looked(useful, LOOK_S, LOOK_S, answered=False)
    looked(useful)  # one in time between them
    for _ in range(4):
        looked(useful, LOOK_S, LOOK_S, answered=False)
    assert paused(useful) == FIRST_PAUSE


@pytest.mark.parametrize("answered", [True, False])
def test_another_thread_that_wants_the_processor_ends_it_at_once_and_longer_each_time(answered: bool) -> None:
    useful = Usefulness()
    pauses = []
    for _ in range(8):
        useful.ended(3e-3, 1e-4, answered=answered)
        pauses.append(paused(useful))
    assert pauses == [16, 32, 64, 128, 256, 512, LONGEST_PAUSE, LONGEST_PAUSE]


def test_after_one_time_that_paid_the_next_pause_is_short_again() -> None:
    useful = Usefulness()
    for _ in range(3):
        useful.ended(3e-3, 1e-4, answered=True)
        paused(useful)
    looked(useful)
    useful.ended(3e-3, 1e-4, answered=True)
    assert paused(useful) == FIRST_PAUSE


class Loop:
    """An event loop whose turns take 10 us of a clock that the test has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.ran = 0.0
        self.scheduled: list[tuple[Callable[..., None], Any]] = []
        monkeypatch.setattr(busy_polling.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(busy_polling.time, "thread_time", lambda: self.ran)
        monkeypatch.setattr(busy_polling.os, "cpu_count", lambda: 2)

    def call_soon(self, callback: Callable[..., None], *args: Any) -> None:
        self.scheduled.append((callback, args))

    def turns(self) -> int:
        """Runs turns until the loop would sleep; returns how many."""
        count = 0
        while self.scheduled:
            self.now, self.ran, count = self.now + 10e-6, self.ran + 10e-6, count + 1
            (callback, args), self.scheduled = self.scheduled[0], self.scheduled[1:]
            callback(*args)
        return count


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Loop(monkeypatch)


def test_the_loop_sleeps_once_the_answer_is_there(loop: Any) -> None:
    left = [True] * 5
    BusyPolling(lambda: bool(left.pop() if left else False)).begin(loop)
    assert loop.turns() == 6


def test_the_loop_sleeps_after_a_while_without_an_answer(loop: Any) -> None:
    polling = BusyPolling(lambda: True)
    polling.begin(loop)
    assert loop.turns() == pytest.approx(LOOK_S / 10e-6, abs=1)
    assert not loop.scheduled


def test_a_call_that_follows_meanwhile_adds_to_the_time_and_nothing_else(loop: Any) -> None:
    polling = BusyPolling(lambda: True)
    polling.begin(loop)
    loop.now += LOOK_S / 2
    polling.begin(loop)
    assert len(loop.scheduled) == 1
    assert loop.turns() == pytest.approx(LOOK_S / 10e-6, abs=1)


def test_with_one_processor_it_never_looks(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy_polling.os, "cpu_count", lambda: 1)
    BusyPolling(lambda: True).begin(loop)
    assert not loop.scheduled
