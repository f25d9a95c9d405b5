"""Announces to the server that a call of the model ends, so that the next one is there by then.

A server takes some tenths of a millisecond from there to the next call, in which the model stands idle. So a second
thread announces the end before it comes, where the latest calls took alike; else it is announced before the results are
written.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from time import perf_counter_ns  # not by way of the module: a model may replace what that has

LEAD_NS = 800_000
"""How long before the end of a short one of the latest calls a call is announced: the server takes half of that to send
the next one where it has a core at once."""
_LEAD_SHARE = 5  # of a call that is shorter, at most
SHORT_NS = 1_000_000
"""Calls up to this long are not announced."""
_AHEAD_FROM_NS = 2_000_000
_LATEST = 8
_ALIKE_NS = 2_000_000  # between the second shortest and the second longest of them
_REMEMBERED = 64  # numbers of rows


class CallLengths:
    """How long the latest calls took, by their rows; it reads no clock."""

    def __init__(self) -> None:
        self._latest: dict[int, deque[int]] = {}

    def note(self, rows: int, took_ns: int) -> None:
        """Takes in a call."""
        if rows not in self._latest and len(self._latest) >= _REMEMBERED:
            self._latest.clear()
        self._latest.setdefault(rows, deque(maxlen=_LATEST)).append(took_ns)

    def notice_after_ns(self, rows: int) -> int | None:
        """Returns when in a call of so many rows its end is announced; None: not before it comes."""
        latest = sorted(self._latest.get(rows, ()))
        if len(latest) < _LATEST or latest[-2] - latest[1] > _ALIKE_NS:
            return None
        took = latest[1]
        return took - min(LEAD_NS, took // _LEAD_SHARE) if took >= _AHEAD_FROM_NS else None


class EndNotice:
    """Announces the ends of the calls of one model, one after another.

    Args:
        send: sends the server that the call of this number ends. A second thread may call it between `begin` and `end`
            or `cancel`, and at no other time.
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self._lengths = CallLengths()
        self._has_long = False  # else there is nothing to look up
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._call = 0  # that is still to be announced
        self._due_ns = 0  # when the thread is to do so; 0: never
        self._rows = 0
        self._began_ns = 0

    def begin(self, call: int, rows: int) -> None:
        """Notes that a call begins; 0: one that is not to be announced."""
        self._call, self._rows, self._began_ns = call, rows, perf_counter_ns()
        if not call or not self._has_long:
            return
        after_ns = self._lengths.notice_after_ns(rows)
        if after_ns is None:
            return
        with self._changed:
            self._due_ns = self._began_ns + after_ns
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="inferential-end-notice", daemon=True)
            self._thread.start()

    def end(self, *, announces: bool) -> int:
        """Notes that a call has ended; returns how many nanoseconds it took.

        Args:
            announces: whether to announce it where that was not done before; not where a row failed, or where results
                are written as fast as it is announced.
        """
        took_ns = perf_counter_ns() - self._began_ns
        if took_ns > SHORT_NS:
            self._has_long = True
            self._lengths.note(self._rows, took_ns)
            if (call := self.cancel()) and announces:
                self._send(call)
        return took_ns

    def cancel(self) -> int:
        """Announces the call no more; returns its number where it was not announced, else 0."""
        if self._thread is None:
            call, self._call = self._call, 0
            return call
        with self._changed:
            call, self._call, self._due_ns = self._call, 0, 0
        return call

    def _watch(self) -> None:
        with self._changed:
            while True:
                wait_ns = self._due_ns - perf_counter_ns() if self._due_ns else None
                if wait_ns is None or wait_ns > 0:
                    self._changed.wait(None if wait_ns is None else wait_ns / 1e9)
                    continue
                call, self._call, self._due_ns = self._call, 0, 0
                with contextlib.suppress(OSError):  # the server has gone, which reading will tell
                    self._send(call)
