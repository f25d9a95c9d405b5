"""The calls that a worker process has been sent and has not answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from inferential.replica.outcomes import Died
from inferential.replica.pending import Pending
from inferential.replica.shared import ALL_ROWS

OnEnding = Callable[[], None]


def ignore() -> None:
    """Does nothing as a call ends."""


@dataclass(slots=True)
class Call:
    """One call: how many rows it has, what waits for their outcomes, and what is called as it ends."""

    rows: int
    future: Pending[list[Any]]
    on_ending: OnEnding


def note_ending(calls: Mapping[int, Call], number: bytes | memoryview) -> None:
    """Takes that a call ends, whose results will follow."""
    call = calls.get(int.from_bytes(number, "little"))
    if call is not None and not call.future.done():
        call.on_ending()


def end_lost(calls: Mapping[int, Call], marked: tuple[int, int], reason: str, *, timed_out: bool) -> None:
    """Ends calls whose process has ended.

    Args:
        calls: by number.
        marked: number of the call and of the row that the process began last.
        reason: what became of the process.
        timed_out: whether it was ended because that row took too long.
    """
    for number, call in calls.items():
        if call.future.done():
            continue
        ran = [number == marked[0] and marked[1] in (ALL_ROWS, row) for row in range(call.rows)]
        call.future.set_result([Died(reason, one, one and timed_out) for one in ran])
