"""Whether a model's calls are so short that handing them over one by one costs more than running them.

It reads no clock: the duration of each call is passed in.
"""

from __future__ import annotations

SHARED_ROWS = 8
"""Observations that are handed over together to a model whose calls are short, which runs them one after another."""
SHORT_S = 125e-6
"""A call up to this long is short: SHARED_ROWS of them take a millisecond."""
_LONG_S = 2 * SHORT_S
_IN_A_ROW = 4  # calls that change the judgement: a pause of the system makes one call long
LARGE_BYTES = 1024 * 1024
"""Of an observation above this, moving it alone takes as long as a short call: SHARED_ROWS of them keep all others
waiting, and of hundreds of megabytes for seconds."""
_APART = 4096  # calls after one that was large: its robot may come a few times a second, others a thousand times


HEAVY_S = 1e-3
"""A model whose calls take its cores for longer gives way to those who share them."""


class Pace:
    """Judges a model's calls by the latest of them; a model is not quick until it has shown so."""

    __slots__ = ("_apart", "_contrary", "_heavy", "_total_ns", "_total_rows", "quick", "shares")

    def __init__(self) -> None:
        self.quick: bool = False
        """Whether calls are short."""
        self.shares: bool = False
        """Whether calls are short, and observations have been small: several had better be handed over together."""
        self._apart = 0
        self._contrary = 0
        self._heavy = 0
        self._total_ns = self._total_rows = 0

    @property
    def heavy(self) -> bool:
        """Whether the latest calls took longer than HEAVY_S."""
        return self._heavy >= _IN_A_ROW

    def note_total(self, nanoseconds: int, rows: int) -> bool:
        """Takes in for how long, and how many rows, a model has run in all; returns what `note` does."""
        more_ns, more_rows = nanoseconds - self._total_ns, rows - self._total_rows
        self._total_ns, self._total_rows = nanoseconds, rows
        return more_rows > 0 and self.note(more_ns / more_rows / 1e9)

    def note(self, seconds: float) -> bool:
        """Takes in the duration of one call; returns whether `shares` has changed by it."""
        if self._apart:
            return self._note_apart(seconds)
        self._heavy = self._heavy + 1 if seconds > HEAVY_S else 0
        if seconds <= SHORT_S if not self.quick else seconds > _LONG_S:
            self._contrary += 1
            if self._contrary == _IN_A_ROW:
                self.quick = self.shares = not self.quick
                self._contrary = 0
                return True
        else:
            self._contrary = 0
        return False

    def note_large(self) -> None:
        """Takes in that a call had an observation above LARGE_BYTES; it counts with the call's duration."""
        self._apart = _APART

    def _note_apart(self, seconds: float) -> bool:
        shared, apart = self.shares, self._apart - 1
        self._apart = 0
        self.note(seconds)
        self._apart = apart
        self.shares = self.quick and not apart
        return self.shares is not shared
