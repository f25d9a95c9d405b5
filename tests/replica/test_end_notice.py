"""When the end of a call is announced to the server."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from inferential.replica import end_notice
from inferential.replica.end_notice import LEAD_NS, SHORT_NS, CallLengths, EndNotice

MS = 1_000_000
WAIT_S = 60


def lengths_of(*took_ns: int) -> CallLengths:
    lengths = CallLengths()
    for one in took_ns:
        lengths.note(4, one)
    return lengths


def test_calls_that_took_alike_are_announced_before_their_end() -> None:
    assert lengths_of(7 * MS, *[10 * MS] * 6, 30 * MS).notice_after_ns(4) == 10 * MS - LEAD_NS


def test_of_a_short_call_no_more_than_a_fifth_is_left() -> None:
    assert lengths_of(*[3 * MS] * 8).notice_after_ns(4) == 3 * MS * 4 // 5


@pytest.mark.parametrize(
    ("took_ns", "why"),
    [
        ([10 * MS] * 7, "there are too few"),
        ([10 * MS] * 6 + [13 * MS] * 2, "two took longer"),
        ([SHORT_NS + 1] * 8, "they are short"),
    ],
)
def test_others_are_not(took_ns: list[int], why: str) -> None:
    assert lengths_of(*took_ns).notice_after_ns(4) is None, why


def test_calls_of_other_sizes_say_nothing() -> None:
    assert lengths_of(*[10 * MS] * 8).notice_after_ns(3) is None


def test_long_calls_are_forgotten_after_some_that_took_alike() -> None:
    assert lengths_of(30 * MS, 30 * MS, *[10 * MS] * 8).notice_after_ns(4) is not None


class Clock:
    def __init__(self) -> None:
        self.now_ns = 1

    def perf_counter_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(end_notice, "perf_counter_ns", made.perf_counter_ns)
    yield made
    made.now_ns = 1 << 62  # the thread waits for nothing


class Announced:
    def __init__(self) -> None:
        self.calls: list[int] = []
        self.came = threading.Event()

    def __call__(self, call: int) -> None:
        self.calls.append(call)
        self.came.set()


def run(notice: EndNotice, clock: Clock, call: int, took_ns: int, *, announces: bool = True) -> None:
    notice.begin(call, 4)
    clock.now_ns += took_ns
    assert notice.end(announces=announces) == took_ns


def run_alike(notice: EndNotice, clock: Clock) -> None:
    """Runs calls enough, all of 10 ms, that the next one's end is announced before it comes."""
    for call in range(1, 9):
        run(notice, clock, call, 10 * MS)


def test_the_first_calls_are_announced_at_their_end(clock: Clock) -> None:
    sent = Announced()
    notice = EndNotice(sent)
    run(notice, clock, 1, 10 * MS)
    run(notice, clock, 2, 10 * MS, announces=False)
    run(notice, clock, 3, SHORT_NS)
    run(notice, clock, 0, 10 * MS)
    notice.begin(5, 4)
    assert notice.cancel() == 5
    assert sent.calls == [1]


def test_later_ones_are_announced_once_while_they_run(clock: Clock) -> None:
    sent = Announced()
    notice = EndNotice(sent)
    run_alike(notice, clock)
    sent.calls.clear()
    sent.came.clear()
    notice.begin(9, 4)
    clock.now_ns += 10 * MS - LEAD_NS
    assert sent.came.wait(WAIT_S)
    clock.now_ns += LEAD_NS
    notice.end(announces=True)
    assert sent.calls == [9]


def test_a_call_that_is_over_is_not_announced_later(clock: Clock) -> None:
    sent = Announced()
    notice = EndNotice(sent)
    run_alike(notice, clock)
    notice.begin(9, 4)
    notice.cancel()
    clock.now_ns += 10 * MS
    sent.calls.clear()
    sent.came.clear()
    notice.begin(10, 4)
    clock.now_ns += 10 * MS
    assert sent.came.wait(WAIT_S)
    assert sent.calls == [10]
    notice.end(announces=True)
