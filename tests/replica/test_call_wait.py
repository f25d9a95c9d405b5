"""Waiting for a call: asleep, or looking for one."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from inferential.replica import call_wait
from inferential.replica.call_wait import LOOK_S, CallWait

LOOK_TAKES_S = 1e-6


class Poll:
    """Notes how long it may wait each time; time goes on with each look."""

    def __init__(self, finds_after: int) -> None:
        self.finds_after = finds_after
        self.timeouts: list[float | None] = []

    def register(self, stream: Any, events: int) -> None:
        pass

    def poll(self, timeout: float | None = None) -> list[Any]:
        self.timeouts.append(timeout)
        return [] if timeout == 0 and len(self.timeouts) <= self.finds_after else [(0, 1)]

    def now(self) -> float:
        return 1.0 + len(self.timeouts) * LOOK_TAKES_S


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], tuple[CallWait, Poll]]]:
    ours, theirs = socket.socketpair()

    def make(finds_after: int) -> tuple[CallWait, Poll]:
        poll = Poll(finds_after)
        monkeypatch.setattr(select, "poll", lambda: poll)
        monkeypatch.setattr(call_wait, "perf_counter", poll.now)
        return CallWait(ours), poll

    with ours, theirs:
        yield make


def test_it_sleeps_until_there_is_something_to_read(waiting: Any) -> None:
    wait, poll = waiting(0)
    wait.sleep()
    assert poll.timeouts == [None]


def test_it_finds_what_comes_in_time_without_sleeping(waiting: Any) -> None:
    wait, poll = waiting(20)
    assert wait.look()
    assert poll.timeouts == [0] * 21


def test_it_looks_no_longer_for_what_does_not_come(waiting: Any) -> None:
    wait, poll = waiting(10_000)
    assert not wait.look()
    assert set(poll.timeouts) == {0}
    assert len(poll.timeouts) == pytest.approx(LOOK_S / LOOK_TAKES_S, abs=2)
