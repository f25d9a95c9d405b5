"""What is known of the waiting requests of robots that play chunks, as numbers: a column for each request.

What a call gains by them is in `chunk_values`, how many make a call in `chunk_sizes`; `chunk_table` keeps the columns
while requests come and go. Values that are no numbers, or beyond all measure, are brought within bounds here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.scheduler.time.robot_time import ChunkTime

AGING = 1.0
"""By how much of itself a request's value grows while its robot waits for the time of one chunk."""
OWING = 2.0
"""By how much of itself it grows where its robot starved once as much more than is usual (`chunk_client.owed`)."""
LEAST_S = 1e-3
"""Seconds that a chunk lasts at least."""
MOST_S = 1e6
"""Seconds beyond which a time is as good as infinite."""
EARLY_S = 0.005
"""Seconds before its control step at which a robot is to know that it observes, at least; no more than half a step."""
ROUNDING_S = 1e-9
LEAST_STEP_S = 1e-6
"""Seconds between control steps, where they are not known: a robot plays an answer when it comes."""
_LEAST_GAIN = 4e-3  # of a chunk, so that requests without gain have an order too

Array = npt.NDArray[Any]
Places = npt.NDArray[np.intp]
RUNS_OUT, COVERS, LASTS, SINCE, TURN, LEAST, SHARE, STEP, MOST = range(9)
"""Rows: when actions run out, until when the answer covers, how long a chunk lasts; since when its client waits, from
when on it goes first; the least gain, and which share of its chunk a second is, by its weight; the time between two of
the robot's control steps; the most gain."""
BRIEF = 9
"""How many rows are kept as numbers of Python too, to be read one by one."""
BEGINS, WORTH, AGES = range(9, 12)
"""One of the control steps; the factor of the value, and how it grows each second."""
OLD, RENEWED, REFUSED, SPAN, LEAD, COMES, ASKS, AHEAD = range(12, 20)
"""When a new observation would be better, when its robot is asked for it though no call is to take it, when it is
refused; the seconds from the observation to the end of its chunk, and from asking to the arrival; when the call begins
that it is asked for, and when it is asked; the seconds from asking to the arrival until it was asked, then 0."""
OBSERVED, AHEAD_OF_STEP, LEFT = range(20, 23)
"""What stays the same of what `renewed` computes: when it was observed, how long before a control step its robot is
asked, beyond the time from its last one, and the seconds for which it had actions from that on."""
COLUMNS = 23
VACANT: Array = np.zeros(COLUMNS)
"""The column of a place without a request: it is never due, and comes after all requests in any order."""
VACANT[[RUNS_OUT, TURN, OLD, RENEWED, REFUSED, ASKS]] = math.inf
VACANT[[LASTS, MOST, LEAST, STEP]] = 1.0, MOST_S, 1.0, LEAST_STEP_S
VACANT[WORTH] = -1.0
VACANT.setflags(write=False)


def least(row: Array) -> float:
    """Returns the smallest value of a row; infinite where it is empty. (`min` takes ten times as long.)"""
    return float(row[row.argmin()]) if row.size else math.inf


class Columns:
    """Columns by place, as `choose` reads them; `chunk_table.ChunkTable` knows most of it beforehand.

    Attributes:
        rows: the columns as an array [COLUMNS, places].
        row: its rows; to take one from the array takes longer than most arithmetic on it.
        count: how many places have a request; the others are VACANT.
        longest_step_s: of any, the time between two control steps where it is known; 0: of none.
        with_most: whether any has a gain that is bounded by MOST.
        with_rest: whether any may cover more than is played of it from when it is answered on.
        alike: whether all have the same known step, a bound on what they gain and none on when (`is_common`).
    """

    __slots__ = ("alike", "count", "longest_step_s", "row", "rows", "with_most", "with_rest")

    def __init__(self, rows: Array, count: int | None = None) -> None:
        self.rows: Array = rows
        self.row: list[Array] = list(rows)
        self.count: int = rows.shape[1] if count is None else count
        longest_s = float(rows[STEP].max(initial=0.0))
        self.longest_step_s: float = longest_s if longest_s > LEAST_STEP_S else 0.0
        self.with_most: bool = bool((rows[MOST] < MOST_S).any())
        self.with_rest: bool = True
        self.alike: bool = False

    def taken(self, places: Places) -> Array:
        """Returns some columns, in this order, as an array [COLUMNS, places] that may be changed."""
        return self.rows.take(places, 1)

    def briefs(self, places: Places) -> list[list[float]]:
        """Returns the first BRIEF numbers of columns, not to be changed."""
        return self.rows[:BRIEF].take(places, 1).T.tolist()  # type: ignore[no-any-return]

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many have run out of actions."""
        return bool(np.count_nonzero(self.row[RUNS_OUT] <= now) >= enough)


def column(
    chunk: ChunkTime,
    *,
    observed_at: float,
    weight: float,
    since: float,
    starvation_s: float,
    owed: float,
    old_from: float,
    renewed_from: float,
    refused_from: float,
    comes_at: float,
) -> list[float]:
    """Returns the column of a request; times are seconds of `time.monotonic()`.

    Args:
        chunk: what its answer adds.
        observed_at: when its observation arrived.
        weight: of its client.
        since: since when its client waits.
        starvation_s: how long beside the time of its chunk a client of weight 1 waits until it goes before others; one
            of no weight waits twice as long.
        owed: how much more than is usual its robot starved lately.
        old_from, renewed_from, refused_from: when another observation would be better, when its robot is asked for it
            though no call is to take it, and when it is refused.
        comes_at: when the call begins that it was renewed for; -inf: it was not.
    """
    runs_out_at, covers_until = _near(chunk.runs_out_at, observed_at), _near(chunk.covers_until, observed_at)
    lasts_s = min(max(chunk.lasts_s, LEAST_S), MOST_S) if chunk.lasts_s == chunk.lasts_s else LEAST_S
    most_s = min(chunk.most_s, MOST_S) if chunk.most_s == chunk.most_s else MOST_S
    lead_s = min(max(chunk.lead_s, 0.0), MOST_S) if chunk.lead_s == chunk.lead_s else 0.0
    step_s = min(max(chunk.step_s, LEAST_STEP_S), MOST_S) if chunk.step_s == chunk.step_s else LEAST_STEP_S
    steps_at = _near(chunk.steps_at, observed_at)
    if lead_s and step_s > LEAST_STEP_S:
        least_s = max(observed_at - steps_at, 0.0) + step_s
        lead_s = least_s + min(max(lead_s - least_s, EARLY_S), step_s / 2)
    worth, ages = _urgency(weight, lasts_s, since, owed)
    span_s = covers_until - observed_at
    seen_at = covers_until - span_s
    return [
        runs_out_at,
        covers_until,
        lasts_s,
        since,
        since + lasts_s + starvation_s * (2 - weight),
        lasts_s * _LEAST_GAIN,
        weight / lasts_s,
        step_s,
        most_s,
        steps_at,
        worth,
        ages,
        old_from if old_from == old_from else math.inf,
        renewed_from if renewed_from == renewed_from else math.inf,
        refused_from if refused_from == refused_from else math.inf,
        span_s,
        lead_s,
        comes_at,
        math.inf,
        lead_s if old_from < math.inf else 0.0,
        seen_at,
        lead_s - (seen_at - steps_at) - step_s,
        runs_out_at - (steps_at if step_s > LEAST_STEP_S else seen_at),
    ]


def is_common(of_row: list[float]) -> bool:
    """Returns whether a column is of a robot as `ChunkRuntime` has it by default, and tells nothing odd.

    It goes on with the first action that it has not executed, its control steps are known, and it renews observations;
    renewed too, its answer covers no more than the longest that it plays one.
    """
    lasts_s, left_s = of_row[LASTS], of_row[LEFT]
    return (
        of_row[STEP] > LEAST_STEP_S
        and of_row[LEAD] > 0
        and of_row[SPAN] >= MOST_S / 2
        and lasts_s < MOST_S / 16
        and -MOST_S / 16 < left_s < MOST_S / 16
        and of_row[MOST] + (left_s if left_s > 0 else 0.0) <= lasts_s + ROUNDING_S
    )


def _near(at: float, now: float) -> float:
    return min(max(at, now - MOST_S), now + MOST_S) if at == at else now


def _urgency(weight: float, lasts_s: float, since: float, owed: float) -> tuple[float, float]:
    """Returns the factor of a value at time 0, and by how much it grows each second."""
    scale = weight / (2 * lasts_s)
    ages = scale * AGING / lasts_s
    return scale * (1 + OWING * owed) - ages * since, ages


def serve(of_row: list[float], covered_until: float, since: float, starvation_s: float) -> None:
    """Notes in a column that another request of the same robot is served: its chunk counts, and it waits anew."""
    lasts_s = of_row[LASTS]
    weight = of_row[SHARE] * lasts_s
    if of_row[MOST] < MOST_S:  # what it executes of that chunk it skips of this one
        more_s = covered_until - max(of_row[RUNS_OUT], of_row[COVERS] - of_row[SPAN])
        of_row[MOST] = max(0.0, of_row[MOST] - max(0.0, more_s))
    of_row[RUNS_OUT] = max(of_row[RUNS_OUT], covered_until)
    of_row[LEFT] = of_row[RUNS_OUT] - (of_row[BEGINS] if of_row[STEP] > LEAST_STEP_S else of_row[OBSERVED])
    of_row[WORTH], of_row[AGES] = _urgency(weight, lasts_s, since, 0.0)
    of_row[SINCE], of_row[TURN] = since, since + lasts_s + starvation_s * (2 - weight)
