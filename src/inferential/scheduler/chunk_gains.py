"""What requests of robots that play chunks gain by an answer, and lose by a later one: arithmetic on rows of columns.

A robot plays an answer from its next control step on. At which one it is there is chance as far as calls vary, so what
counts is the mean: of calls that vary by half a step or more, half a step after it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from inferential.scheduler.chunk_columns import BEGINS, COVERS, LASTS, LEAST, MOST, RUNS_OUT, STEP, Array, Columns

SHARPEST = 1e-9
"""Of a step: the least by which answers vary, so that it can be divided by."""
_ZERO, _HALF, _ONE = np.array(0.0), np.array(0.5), np.array(1.0)  # numbers have to be made into arrays each time

Rows = Array | Sequence[Array]
"""Of columns: RUNS_OUT and what follows."""


def is_blurred(columns: Columns, varies_s: float) -> bool:
    """Returns whether calls vary so much that an answer is as likely there at any part of a step."""
    return 0 < columns.longest_step_s <= 2 * varies_s


def played_from(columns: Columns, row: Rows, ends_at: Array | float, varies_s: float) -> Array | float:
    """Returns from when on answers are played that are sent at `ends_at`, in the mean where that varies by `varies_s`.

    An answer that is there x steps after a step is played from step ceil(x) on. Where x is anywhere within half a
    `width` of what is expected, the mean of ceil(x) rises from one whole number to the next along a line so wide.
    """
    if not columns.longest_step_s:
        return ends_at
    steps_at, step_s = row[BEGINS], row[STEP]
    if is_blurred(columns, varies_s):
        return ends_at + step_s / 2
    width = np.minimum(2 * varies_s / step_s, 1.0)
    np.maximum(width, SHARPEST, out=width)
    steps: Array = ends_at - steps_at
    steps /= step_s
    whole = np.rint(steps)
    steps -= whole
    steps /= width
    steps += _HALF
    np.maximum(steps, _ZERO, out=steps)
    np.minimum(steps, _ONE, out=steps)
    steps += whole
    steps *= step_s
    steps += steps_at
    return steps


def covers(row: Rows, now: float) -> Array:
    """Returns until when answers cover, where MOST of them is played from now on, or once a robot's actions run out.

    A robot that goes on with the first action that it has not executed plays as much of an answer whenever it comes; so
    the later that is, the longer it has stood. With that taken off the gain, its answer covers until a fixed moment, as
    one that is played by time does.
    """
    until: Array = np.maximum(row[RUNS_OUT], now)
    until += row[MOST]
    np.minimum(until, row[COVERS], out=until)
    return until


def gained(columns: Columns, row: Rows, plays_from: Array | float, begins_at: Array) -> Array:
    """Returns the gain of each, or the least.

    Args:
        columns: all that wait.
        row: of them, or of some; COVERS as `covers` returns it.
        plays_from: from when on what an answer lasts counts.
        begins_at: from when on the robot has no action without it.
    """
    if columns.with_rest:
        gain: Array = row[LASTS] + plays_from
        np.minimum(gain, row[COVERS], out=gain)
        gain -= begins_at
    else:
        gain = row[COVERS] - begins_at
    if columns.with_most:
        np.minimum(gain, row[MOST], out=gain)
    np.maximum(gain, row[LEAST], out=gain)
    return gain


def lost(later: Array | float, begins_at: Array, gain: Array) -> Array:
    """Returns what of each gain is lost if the answer is played `later` than the actions of before run out."""
    lost: Array = later - begins_at
    np.maximum(lost, _ZERO, out=lost)
    np.minimum(lost, gain, out=lost)
    return lost


def worth(row: Rows, answered_at: float, share: float, enough: int) -> int:
    """Returns how many requests, or `enough`, gain that share of a chunk, or would starve, were they answered then."""
    runs_out, lasts_s = row[RUNS_OUT], row[LASTS]
    starving = runs_out <= answered_at
    if np.count_nonzero(starving) >= enough:
        return enough
    gain = np.minimum(row[COVERS], answered_at + lasts_s)
    gain -= np.maximum(runs_out, answered_at)
    np.minimum(gain, row[MOST], out=gain)
    return int(np.count_nonzero((gain >= share * lasts_s) | starving))
