"""What requests are worth, and how many make a call, where all robots are alike: the fast path of `chunk_values`.

Robots of one kind with known control steps, which go on with the first action that they have not executed
(`chunk_columns.is_common`), play as much of an answer whenever it comes, and have the same step: with times counted
from one of each robot's control steps, less arithmetic is left. The formulas are those of `chunk_gains`.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import numpy as np

from inferential.scheduler.chunk_columns import (
    AGES,
    BEGINS,
    LEAST,
    LEFT,
    MOST,
    SHARE,
    WORTH,
    Array,
    Columns,
    Places,
)
from inferential.scheduler.chunk_gains import SHARPEST, is_blurred
from inferential.scheduler.time.batch_sizes import BatchSizes

_ZERO, _ONE = np.array(0.0), np.array(1.0)  # numbers have to be made into arrays each time


def values(columns: Columns, now: float, takes_s: float, varies_s: float, *, is_short: bool) -> Array:
    """Returns what each request is worth, negative, so that the most valuable is first in ascending order.

    Args:
        columns: all that wait; they are alike.
        now: when the call begins.
        takes_s, varies_s: how long it takes, and by how much longer it may.
        is_short: whether more starve than the most efficient call takes.
    """
    row = columns.row
    left_s, most_s = row[LEFT], row[MOST]
    stands_s = _plays_after(columns, np.array(now + takes_s), row[BEGINS], varies_s)
    if is_short:
        gain: Array = np.maximum(most_s, row[LEAST])
    else:
        gain = _stood(stands_s, row[BEGINS], left_s, now)
        np.subtract(most_s, gain, gain)
        np.maximum(gain, row[LEAST], out=gain)
    stands_s -= left_s
    half_s = np.array(takes_s / 2)
    stands_s += half_s
    np.maximum(stands_s, _ZERO, out=stands_s)
    np.minimum(stands_s, half_s, out=stands_s)
    np.minimum(stands_s, gain, out=stands_s)
    gain += stands_s
    urgency = row[AGES] * -now
    urgency -= row[WORTH]
    gain *= urgency
    return gain


def best_size(columns: Columns, places: Places, now: float, sizes: BatchSizes, *, is_short: bool) -> int:
    """Does what `chunk_sizes.best_size` does, where all columns are alike."""
    if is_short:
        return _best_while_short(columns, places, sizes)
    row = columns.row
    begins, left_s = row[BEGINS].take(places), row[LEFT].take(places)
    stands_s = _plays_after(columns, sizes.seconds_each + now, begins, sizes.varies_s)  # [sizes, places]
    gains = _stood(stands_s, begins, left_s, now)
    np.subtract(row[MOST].take(places), gains, gains)
    np.maximum(gains, row[LEAST].take(places), out=gains)
    gains *= row[SHARE].take(places)
    rates = gains.cumsum(1).take(sizes.totals_at)
    rates /= sizes.seconds_of
    return sizes.rows[rates.argmax()]


def _best_while_short(columns: Columns, places: Places, sizes: BatchSizes) -> int:
    """Does the same where each gains as much in calls of any size."""
    gains = [
        (most_s if most_s > least_s else least_s) * share
        for _, _, _, _, _, least_s, share, _, most_s in columns.briefs(places)
    ]
    gained = list(accumulate(gains))
    rates = [gained[rows - 1] / takes_s for rows, takes_s in zip(sizes.rows, sizes.seconds, strict=True)]
    return sizes.rows[rates.index(max(rates))]


def _plays_after(columns: Columns, ends_at: Array, begins: Array, varies_s: float) -> Array:
    """Returns how long after `begins`, one of its control steps, each robot plays an answer (`played_from`)."""
    if is_blurred(columns, varies_s):
        return (ends_at + columns.longest_step_s / 2) - begins
    half_s, per_width, one_s, per_step = _steps(columns.longest_step_s, varies_s)
    after: Array = (ends_at + half_s) - begins
    after *= per_step
    whole = np.floor(after)
    after -= whole
    after *= per_width
    np.minimum(after, _ONE, out=after)
    after += whole
    after *= one_s
    return after


@lru_cache(maxsize=64)
def _steps(step_s: float, varies_s: float) -> tuple[float, Array, Array, Array]:
    """Returns half the seconds in which a step passes into the next, 1 / their share of a step, a step, and 1 / a step.

    The last three are arrays: numbers have to be made into these each time.
    """
    width = max(2 * varies_s / step_s, SHARPEST)
    return width * step_s / 2, np.array(1 / width), np.array(step_s), np.array(1 / step_s)


def _stood(plays_after: Array, begins: Array, left_s: Array, now: float) -> Array:
    """Returns how long each robot stands from now on until it plays an answer."""
    from_s: Array = now - begins
    np.maximum(from_s, left_s, out=from_s)
    stands_s: Array = plays_after - from_s
    np.maximum(stands_s, _ZERO, out=stands_s)
    return stands_s
