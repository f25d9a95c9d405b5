"""The waiting requests of robots that play chunks as a table of numbers: a column each, for arithmetic on all at once.

`chunk_values` says what the rows are. What a decision asks of all columns, and what stays as it is until columns change
(how many robots starve, whose turn is first, whether any control steps are known), is kept instead of counted anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from inferential.scheduler import chunk_values as values
from inferential.scheduler.chunk_values import RUNS_OUT

_WIDTH = 16  # columns that there is room for at first
_FACTS = values.TURN + 1


class ChunkTable(values.Columns):
    """Columns by place; the last ones move to where others are removed."""

    __slots__ = ("_array", "_by_place", "_columns", "_first_turn", "_starving", "_starving_at")

    def __init__(self) -> None:
        self._array = np.zeros((values.COLUMNS, _WIDTH))
        self._by_place = self._array.T  # the same numbers
        super().__init__(self._array[:, :0])
        self.with_rest = False
        self._columns: list[list[float]] = []  # the same up to TURN, to be read one by one
        self._first_turn = math.inf  # no turn is before it
        self._starving = 0  # columns that had run out of actions at this moment
        self._starving_at = -math.inf

    def __len__(self) -> int:
        return len(self._columns)

    # Changing

    def add(self, column: list[float], now: float) -> None:
        """Adds a column, at the last place; calls begin later."""
        place = len(self._columns)
        if place == self._array.shape[1]:
            self._array = np.concatenate([self._array, np.zeros_like(self._array)], axis=1)
            self._by_place = self._array.T
        self._by_place[place] = column
        self.rows: values.Array = self._array[:, : place + 1]
        self._columns.append(column[:_FACTS])
        self.with_steps: bool = self.with_steps or column[values.STEP] > values.LEAST_STEP_S
        self.with_most: bool = self.with_most or column[values.MOST] < values.MOST_S
        self.with_rest: bool = self.with_rest or column[values.COVERS] > now + column[values.LASTS]
        self._starving += column[values.RUNS_OUT] <= self._starving_at
        self._first_turn = min(self._first_turn, column[values.TURN])

    def remove(self, places: Sequence[int]) -> Iterable[tuple[int, int]]:
        """Removes columns; returns which others moved: where they are now, and from where."""
        columns, by_place = self._columns, self._by_place
        kept = len(columns) - len(places)
        if self._starving:
            starving_at = self._starving_at
            for place in places:
                if columns[place][RUNS_OUT] <= starving_at:
                    self._starving -= 1
        holes: Sequence[int] = places
        moved: Sequence[int] = range(kept, len(columns))
        if max(places) >= kept:
            holes = [place for place in places if place < kept]
            moved = [place for place in moved if place not in places]
        for hole, place in zip(holes, moved, strict=True):
            columns[hole] = columns[place]
            by_place[hole] = by_place[place]
        del columns[kept:]
        self.rows = self._array[:, :kept]
        if not kept:
            self.with_steps = self.with_most = self.with_rest = False
        return zip(holes, moved, strict=True)

    def serve(self, place: int, covered_until: float, since: float, starvation_s: float) -> None:
        """Notes that another request of the same robot is served: its chunk counts, and it waits anew."""
        column = self._columns[place]
        self._starving -= column[values.RUNS_OUT] <= self._starving_at
        values.serve(column, covered_until, since, starvation_s)
        self._starving += column[values.RUNS_OUT] <= self._starving_at
        self._by_place[place, :_FACTS] = column
        self._first_turn = min(self._first_turn, column[values.TURN])

    # Looking

    def of(self, places: Sequence[int]) -> list[list[float]]:
        """Returns columns up to TURN; not to be changed."""
        return [self._columns[place] for place in places]

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many have run out of actions."""
        if self._starving < enough or now < self._starving_at:
            self._starving = int(np.count_nonzero(self.rows[values.RUNS_OUT] <= now))
            self._starving_at = now
        return self._starving >= enough

    def due(self, now: float) -> int | None:
        """Returns the place of the one with the smallest turn; None if that has not come."""
        if self._first_turn > now:
            return None
        turns = self.rows[values.TURN]
        place = int(turns.argmin())
        self._first_turn = float(turns[place])
        return place if self._first_turn <= now else None
