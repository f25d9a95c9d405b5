"""How many of the requests that go first make a call, of robots that play chunks: as many as gain most per second.

A robot that plays as much of a chunk whenever it comes loses no part of it while it stands. While no more starve than
the most efficient call takes, calls are so large that robots stand least: the time that one stands is taken off its
gain, and of one that has actions left and plays a whole chunk all the same only that counts which it would starve;
where none would, the size is the best that gains most per second: what robots have left carries them through a crowd.
While more starve, what a call takes longer keeps others waiting either way, and the most efficient calls are the best
for all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from inferential.scheduler import chunk_alike
from inferential.scheduler.chunk_columns import COVERS, LASTS, MOST_S, RUNS_OUT, SHARE, Columns, Places
from inferential.scheduler.chunk_gains import covers, gained, is_blurred, lost, played_from
from inferential.scheduler.time.batch_sizes import BatchSizes

UNLOST = 1e-4
"""How much a gain counts that is not lost by waiting: where none is lost, the size is the best that gains most."""
_ONE_BY_ONE = 16  # rows up to which numbers of Python are faster than arrays


def best_size(columns: Columns, places: Places, now: float, sizes: BatchSizes, *, is_short: bool) -> int:
    """Returns how many of these requests, from the first on, gain most per second of their call.

    Args:
        columns: all that wait.
        places: which of them, as many as the largest size.
        now: when the call begins.
        sizes: to choose from.
        is_short: whether more starve than the most efficient call takes.
    """
    if len(sizes.rows) == places.size <= _ONE_BY_ONE and not columns.with_rest:
        steps = 0.5 if is_blurred(columns, sizes.varies_s) else 0.0
        if steps or not columns.longest_step_s:
            size = _best_of_lines(columns.briefs(places), now, sizes, steps, is_short=is_short)
            if size is not None:
                return size
    best_of = chunk_alike.best_size if columns.alike else best_of_all
    return best_of(columns, places, now, sizes, is_short=is_short)


def _best_of_lines(
    briefs: Sequence[Sequence[float]], now: float, sizes: BatchSizes, steps: float, *, is_short: bool
) -> int | None:
    """Does what `best_of_all` does where each gain is a line while calls of these sizes end; None where one is not.

    So it is most often, as robots starve already, or have actions until then; and a sum of lines is one.
    """
    best, most = 0, -math.inf
    stays = falls = 0.0  # the gains of the first rows, were they answered at `now`, and by how much they fall a second
    first_s, last_s, endless_s = sizes.seconds[0], sizes.longest_s, MOST_S
    for (runs_out, covers_until, _, _, _, least_s, share, step_s, most_s), rows, takes_s in zip(
        briefs, sizes.rows, sizes.seconds, strict=True
    ):
        goes_on = most_s < endless_s
        if goes_on and not is_short:
            stands_until = (runs_out if runs_out > now else now) + most_s
            if stands_until < covers_until:
                covers_until = stands_until
        later_s = step_s * steps
        left_s, gain_s = runs_out - now - later_s, covers_until - now - later_s
        if goes_on and is_short:
            if gain_s - (left_s if left_s > last_s else last_s) < most_s:
                return None
            stays += (most_s if most_s > least_s else least_s) * share
        elif left_s <= first_s and gain_s - last_s >= least_s:
            stays += gain_s * share
            falls += share
        elif left_s >= last_s:
            stays += (gain_s - left_s if gain_s - left_s > least_s else least_s) * share
        elif gain_s - (left_s if left_s > first_s else first_s) <= least_s:
            stays += least_s * share
        else:
            return None
        rate = (stays - falls * takes_s) / takes_s
        if rate > most:
            best, most = rows, rate
    return best


def best_of_all(columns: Columns, places: Places, now: float, sizes: BatchSizes, *, is_short: bool) -> int:
    """Does what `best_size` does, for robots of any kinds and calls of any size."""
    row = columns.taken(places)
    if columns.with_most and not is_short:
        row[COVERS] = covers(row, now)
    answered_at = played_from(columns, row, sizes.seconds_each + now, sizes.varies_s)  # [sizes, places], as all below
    begins_at = np.maximum(row[RUNS_OUT], answered_at)
    if is_short or not columns.with_rest:
        gains = gained(columns, row, answered_at, begins_at)
    else:
        runs_out, lasts_s = row[RUNS_OUT], row[LASTS]
        plays_from = np.minimum(answered_at, np.maximum(runs_out, now))
        is_whole = (plays_from + lasts_s <= row[COVERS]) & (runs_out > now)
        gains = gained(columns, row, plays_from, begins_at)
        lost_s = lost(answered_at + sizes.longest_s / 2, begins_at, gains)
        lost_s += UNLOST * (gains - lost_s)
        np.copyto(gains, lost_s, where=is_whole)
    gains *= row[SHARE]
    rates = gains.cumsum(1).take(sizes.totals_at)
    rates /= sizes.seconds_of
    return sizes.rows[rates.argmax()]
