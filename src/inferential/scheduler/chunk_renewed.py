"""What renewed requests would be worth, where all robots are alike: the fast path of `chunk_values.renewed`.

Robots of one kind with known control steps, which go on with the first action that they have not executed
(`chunk_columns.is_common`), take less than half of its arithmetic, and no copy of the table.
"""

from __future__ import annotations

import math

import numpy as np

from inferential.scheduler.chunk_columns import (
    AHEAD_OF_STEP,
    ASKS,
    BEGINS,
    BRIEF,
    LEFT,
    MOST,
    OBSERVED,
    ROUNDING_S,
    STEP,
    Array,
    Columns,
    Places,
)

_ROUNDING = np.array(ROUNDING_S)  # numbers have to be made into arrays each time


class RenewedAlike(Columns):
    """The columns of a table whose `alike` is true, as `renewed` would return them; COVERS is as good as infinite.

    Args:
        table: as it is.
        by, now: like those of `renewed`.
    """

    __slots__ = ()

    def __init__(self, table: Columns, by: float, now: float) -> None:
        self.rows, self.count, self.longest_step_s = table.rows, table.count, table.longest_step_s
        self.alike, self.with_most, self.with_rest = True, True, False
        row = self.row = [*table.row]
        fresh_s: Array = by - row[OBSERVED]
        fresh_s -= fresh_s % row[STEP]
        steps_at = row[BEGINS] + fresh_s
        played_s = np.minimum(fresh_s, row[LEFT])
        comes = steps_at >= now
        comes &= played_s > _ROUNDING  # so that it is newer too
        played_s *= comes
        row[MOST] = row[MOST] + played_s
        steps_at -= row[AHEAD_OF_STEP]
        row[ASKS] = np.where(comes, steps_at, math.inf)

    def taken(self, places: Places) -> Array:
        """Returns some columns as `Columns.taken` does; of MOST as renewed, of ASKS as before."""
        found = self.rows.take(places, 1)
        found[MOST] = self.row[MOST].take(places)
        return found

    def briefs(self, places: Places) -> list[list[float]]:
        """Returns the first BRIEF numbers of columns, of MOST as renewed."""
        return self.taken(places)[:BRIEF].T.tolist()  # type: ignore[no-any-return]
