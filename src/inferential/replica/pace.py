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


class Pace:
    """Judges a model's calls by the latest of them; a model is not quick until it has shown so."""

    __slots__ = ("_contrary", "quick")

    def __init__(self) -> None:
        self.quick: bool = False
        """Whether calls are short."""
        self._contrary = 0

    def note(self, seconds: float) -> bool:
        """Takes in the duration of one call; returns whether `quick` has changed by it."""
        if seconds <= SHORT_S if not self.quick else seconds > _LONG_S:
            self._contrary += 1
            if self._contrary == _IN_A_ROW:
                self.quick = not self.quick
                self._contrary = 0
                return True
        else:
            self._contrary = 0
        return False
