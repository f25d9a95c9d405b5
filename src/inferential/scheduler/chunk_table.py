"""The waiting requests of robots that play chunks as a table of numbers, in which each has its place.

`chunk_columns` says what the rows are. A place whose request is gone is vacant until the next one takes it. What a
decision asks of all columns, and what stays as it is until columns change (how many robots starve, whose turn is first,
whether any control steps are known), is kept instead of counted anew.
"""

from __future__ import annotations

import math

import numpy as np

from inferential.scheduler import chunk_columns as columns
from inferential.scheduler.chunk_columns import BRIEF, RUNS_OUT, STEP, TURN, VACANT, Array, Places, is_common

_WIDTH = 16  # places that there is room for at least
_SPARSE = 4  # so many times as many places as requests are too many


class ChunkTable(columns.Columns):
    """Columns by place."""

    __slots__ = (
        "_briefs",
        "_by_place",
        "_common_step_s",
        "_first_turn",
        "_odd",
        "_starving",
        "_starving_at",
        "_vacant",
    )

    def __init__(self) -> None:
        self._briefs: list[list[float]] = []  # the first BRIEF numbers of each, to be read one by one
        self._vacant: list[int] = []
        self.count: int = 0
        self._lay_out(np.repeat(VACANT[:, None], _WIDTH, 1))
        self._forget_kinds()
        self._first_turn = math.inf  # no turn is before it
        self._starving = 0  # at least so many columns had run out of actions at this moment
        self._starving_at = -math.inf

    def __len__(self) -> int:
        return self.count

    def _lay_out(self, rows: Array) -> None:
        """Takes another array, whose first columns are those that there are."""
        known, width = len(self._briefs), rows.shape[1]
        self._briefs += [[]] * (width - known)
        self._vacant += range(width - 1, known - 1, -1)
        self.rows: Array = rows
        self.row: list[Array] = list(rows)
        self._by_place = rows.T

    def _forget_kinds(self) -> None:
        self.longest_step_s: float = 0.0
        self.with_most: bool = False
        self.with_rest: bool = False
        self._common_step_s = 0.0  # of all that are not odd
        self._odd: set[int] = set()  # places of those that are not as most are
        self.alike: bool = False

    # Changing

    def add(self, column: list[float], now: float) -> int:
        """Adds a column, whose call begins later than now; returns its place."""
        if not self._vacant:
            more = np.repeat(VACANT[:, None], len(self._briefs) // 4 + _WIDTH, 1)
            self._lay_out(np.concatenate([self.rows, more], axis=1))
        place = self._vacant.pop()
        self.count += 1
        self._by_place[place] = column
        self._briefs[place] = column[:BRIEF]
        step_s = column[columns.STEP]
        if step_s > columns.LEAST_STEP_S and step_s > self.longest_step_s:
            self.longest_step_s = step_s
        self.with_most = self.with_most or column[columns.MOST] < columns.MOST_S
        if not self.with_rest:
            covers_s = min(column[columns.COVERS], max(column[RUNS_OUT], now) + column[columns.MOST]) - now
            self.with_rest = covers_s > column[columns.LASTS] + columns.ROUNDING_S
        if self.count == len(self._odd) + 1:  # it is the only one that may be common
            self._common_step_s = column[STEP]
        self._note_kind(place, column)
        self._starving += column[RUNS_OUT] <= self._starving_at
        self._first_turn = min(self._first_turn, column[TURN])
        return place

    def _note_kind(self, place: int, column: list[float]) -> None:
        odd = self._odd
        if column[STEP] == self._common_step_s and is_common(column):
            odd.discard(place)
        else:
            odd.add(place)
        self._note_alike()

    def _note_alike(self) -> None:
        self.alike = not self._odd and not self.with_rest
        if self.alike:
            self.longest_step_s = self._common_step_s

    def remove(self, places: Places) -> None:
        """Makes places vacant."""
        self._by_place[places] = VACANT
        vacated = places.tolist()
        self._vacant += vacated
        if self._odd:
            self._odd.difference_update(vacated)
            self._note_alike()
        self.count -= places.size
        self._starving -= places.size
        if not self.count:
            self._forget_kinds()

    @property
    def is_sparse(self) -> bool:
        """Whether so few places have a request that the others cost more."""
        return len(self._briefs) > _SPARSE * max(self.count, _WIDTH)

    def compact(self) -> list[int]:
        """Moves all requests to the first places; returns where they were."""
        vacant = set(self._vacant)
        taken = [place for place in range(len(self._briefs)) if place not in vacant]
        self._briefs = [self._briefs[place] for place in taken]
        self._odd = {now for now, before in enumerate(taken) if before in self._odd}
        self._vacant = []
        more = np.repeat(VACANT[:, None], len(taken) // 4 + _WIDTH, 1)
        self._lay_out(np.concatenate([self.rows[:, taken], more], axis=1))
        return taken

    def serve(self, place: int, covered_until: float, since: float, starvation_s: float) -> None:
        """Notes that another request of the same robot is served: its chunk counts, and it waits anew."""
        column: list[float] = self._by_place[place].tolist()
        columns.serve(column, covered_until, since, starvation_s)
        self._by_place[place] = column
        self._briefs[place] = column[:BRIEF]
        self._note_kind(place, column)
        self._starving -= 1
        self._first_turn = min(self._first_turn, column[TURN])

    # Looking

    def briefs(self, places: Places) -> list[list[float]]:
        """Returns the first BRIEF numbers of columns, not to be changed."""
        known = self._briefs
        return [known[place] for place in places.tolist()]

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many have run out of actions."""
        if self._starving < enough or now < self._starving_at:
            self._starving = int(np.count_nonzero(self.row[RUNS_OUT] <= now))
            self._starving_at = now
        return self._starving >= enough

    def due(self, now: float) -> int | None:
        """Returns the place of the one with the smallest turn; None if that has not come."""
        if self._first_turn > now:
            return None
        turns = self.row[TURN]
        place = int(turns.argmin())
        self._first_turn = float(turns[place])
        return place if self._first_turn <= now else None
