"""What requests of robots that play chunks are worth, and which of them make a call: arithmetic on arrays of rows.

A request's gain is the seconds for which its robot has an action and would have none without the answer. It falls
while its observation ages (a chunk is aligned by its observation, so that the steps that passed are lost) and is 0 once
all its actions would be past. Only a part of it is lost by waiting: nothing, while the robot still has actions; all,
once it has none. So a request is worth

    value = weight * (gain + min(gain, starved during the next call if it is not in this one)) / (2 * time of its chunk)
            * (1 + AGING * wait / time of its chunk + OWING * starved)

with `wait` since its robot was last served, so that robots that are alike take turns, and with the times of a chunk
that the robot starved in the last seconds, beyond the mean of all, so that it is not always the same that come last.
Gains are shares of the time that a robot's own chunk lasts: counted in seconds, those with long chunks would starve
those with short ones. The best requests by value, as many as gain most per second of the call by their weights alone,
are the call. So of robots that waited alike the newest observation goes first, a robot with actions left waits while
that costs it nothing, and calls are as large as their efficiency is worth.

A robot that plays a whole chunk whenever it comes loses no part of it by waiting. While no more starve than the most
efficient call takes, calls are so large that robots stand least: the time that one stands is taken off its gain, and of
one that has actions left only that counts which it would starve. While more starve, what a call takes longer keeps
others waiting either way, and the most efficient calls are the best for all.

Nothing here keeps a state; values that are no numbers, or beyond all measure, are brought within bounds first.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

AGING = 2.0
"""By how much of itself a request's value grows while its robot waits for the time of one chunk."""
OWING = 2.0
"""By how much of itself it grows for each time of a chunk that its robot starved in the last seconds."""
LEAST_S = 1e-3
"""Seconds that a chunk lasts at least."""
MOST_S = 1e6
"""Seconds beyond which a time is as good as infinite."""
MOST_STARVED = 100.0
"""Times of a chunk that a robot owes at most, by one wait."""
_LEAST_GAIN = 2e-3  # of a chunk, so that requests without gain have an order too
_ALL_SIZES = 32  # larger calls are compared at so many sizes
_ONE_BY_ONE = 12  # rows up to which a call's size is found without arrays
_SORTED = 128  # rows that are sorted rather than parted first

Array = npt.NDArray[Any]
RUNS_OUT, COVERS, LASTS, MOST, LEAST = range(5)
"""Rows: when actions run out, until when the answer covers, how long a chunk lasts, the most and the least gain."""
WORTH, AGES, WEIGHT, SINCE, TURN = range(5, 10)
"""The factor of the value, how it grows each second, the weight, since when it waits, from when on it goes first."""
RENEWED, REFUSED, SPAN, LEAD, COMES = range(10, 15)
"""When the robot is asked anew, when it is refused; the seconds from the observation to the end of its chunk, and from
asking to the arrival; when the call begins that it was asked for."""
COLUMNS = 15


def column(
    chunk: ChunkTime,
    *,
    observed_at: float,
    weight: float,
    since: float,
    turn: float,
    starved: float,
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
        turn: when its client goes before others.
        starved: times of a chunk that its robot starved lately.
        renewed_from, refused_from: when its robot is asked for another observation, and when it is refused.
        comes_at: when the call begins that it was renewed for; -inf: it was not.
    """
    runs_out_at, covers_until = _near(chunk.runs_out_at, observed_at), _near(chunk.covers_until, observed_at)
    lasts_s = min(max(chunk.lasts_s, LEAST_S), MOST_S) if chunk.lasts_s == chunk.lasts_s else LEAST_S
    most_s = min(chunk.most_s, MOST_S) if chunk.most_s == chunk.most_s else MOST_S
    lead_s = min(max(chunk.lead_s, 0.0), MOST_S) if chunk.lead_s == chunk.lead_s else 0.0
    worth, ages = _urgency(weight, lasts_s, since, starved)
    return [
        runs_out_at,
        covers_until,
        lasts_s,
        most_s,
        2 * lasts_s * _LEAST_GAIN,
        worth,
        ages,
        weight,
        since,
        turn,
        renewed_from if renewed_from == renewed_from else math.inf,
        refused_from if refused_from == refused_from else math.inf,
        covers_until - observed_at,
        lead_s,
        comes_at,
    ]


def _near(at: float, now: float) -> float:
    return min(max(at, now - MOST_S), now + MOST_S) if at == at else now


def _urgency(weight: float, lasts_s: float, since: float, starved: float) -> tuple[float, float]:
    """Returns the factor of a value at time 0, and by how much it grows each second."""
    scale = weight / (2 * lasts_s)
    ages = scale * AGING / lasts_s
    return scale * (1 + OWING * starved) - ages * since, ages


def serve(of_row: Array, covered_until: float, since: float, turn: float) -> None:
    """Notes in a column that another request of the same robot is served: its chunk counts, and it waits anew."""
    of_row[RUNS_OUT] = max(of_row[RUNS_OUT], covered_until)
    of_row[WORTH], of_row[AGES] = _urgency(of_row[WEIGHT], of_row[LASTS], since, 0.0)
    of_row[SINCE], of_row[TURN] = since, turn


def worth(rows: Array, answered_at: float, share: float, enough: int) -> int:
    """Returns how many requests, or `enough`, gain that share of a chunk, or would starve, were they answered then."""
    runs_out, lasts_s = rows[RUNS_OUT], rows[LASTS]
    starving = runs_out <= answered_at
    if np.count_nonzero(starving) >= enough:
        return enough
    gain = np.minimum(rows[COVERS], answered_at + lasts_s)
    gain -= np.maximum(runs_out, answered_at)
    np.minimum(gain, rows[MOST], out=gain)
    return int(np.count_nonzero((gain >= share * lasts_s) | starving))


def renewed(rows: Array, begins_at: float) -> Array:
    """Returns the rows as they would be, were all observations that can be renewed new when a call begins."""
    rows = rows.copy()
    lead_s, covers = rows[LEAD], rows[COVERS]
    fresh_until = begins_at - lead_s / 2 + rows[SPAN]
    np.maximum(covers, fresh_until, out=covers, where=lead_s > 0)
    return rows


def choose(rows: Array, profile: LatencyProfile, limit: int, now: float, turn: int | None = None) -> list[int]:
    """Returns the places of the requests of a call that begins now, the most valuable first.

    Args:
        rows: all that wait.
        profile: of the replica.
        limit: the most requests.
        now: seconds of `time.monotonic()`.
        turn: the place of the one that goes before all others; None: there is none.
    """
    count = rows.shape[1]
    limit = min(limit, count)
    full_s = profile.typical(limit)
    urgency = rows[AGES] * now
    urgency += rows[WORTH]
    value = _gains(rows[: LEAST + 1], now + full_s, full_s / 2)
    value *= urgency
    np.negative(value, out=value)
    if count <= _SORTED:
        order = value.argsort(kind="stable")[:limit]
    else:
        best = value.argpartition(limit - 1)[:limit]
        order = best[value[best].argsort(kind="stable")]
    if turn is not None:
        order = np.concatenate([[turn], order[order != turn]])[:limit]
    places: list[int] = order.tolist()
    if limit == 1 or not profile.known:
        return places
    sizes, latency_s, efficient = profile.sizes_up_to(limit, _ALL_SIZES)
    stands_from = now if np.count_nonzero(rows[RUNS_OUT] <= now) <= efficient else None
    chosen = rows[: WEIGHT + 1, order]
    factors = chosen[WEIGHT] / chosen[LASTS]
    chosen = chosen[: LEAST + 1]
    if limit <= _ONE_BY_ONE:
        return places[: _best_size(chosen.T.tolist(), factors.tolist(), now, latency_s.tolist(), stands_from)]
    each = _gains(chosen[:, np.newaxis, :], now + latency_s[:, np.newaxis], full_s / 2, stands_from)
    each *= factors
    totals = each.cumsum(axis=1)[np.arange(len(sizes)), sizes - 1]
    totals /= latency_s
    return places[: int(sizes[totals.argmax()])]


def _best_size(
    chosen: list[list[float]], urgency: list[float], now: float, latency_s: list[float], stands_from: float | None
) -> int:
    """Returns what `choose` does with arrays; with a few requests it is faster so."""
    best, most, next_s = 1, -1.0, latency_s[-1] / 2
    for size, takes_s in enumerate(latency_s, 1):
        answered_at, total = now + takes_s, 0.0
        for (runs_out, covers, lasts_s, most_s, least_s), factor in zip(chosen[:size], urgency, strict=False):
            begins_at = runs_out if runs_out > answered_at else answered_at
            if stands_from is None or runs_out >= answered_at:
                gain = answered_at + lasts_s
            else:
                gain = (runs_out if runs_out > stands_from else stands_from) + lasts_s
            is_whole = gain <= covers
            gain = (gain if is_whole else covers) - begins_at
            if gain > most_s:
                gain = most_s
            total += least_s * factor
            if gain > 0:
                lost = answered_at + next_s - begins_at
                lost = 0.0 if lost < 0 else lost if lost < gain else gain
                is_whole = is_whole and stands_from is not None and runs_out > stands_from
                total += ((lost if is_whole else gain) + lost) * factor
        if total > most * takes_s:
            best, most = size, total / takes_s
    return best


def _gains(rows: Array, answered_at: Array | float, next_s: float, stands_from: float | None = None) -> Array:
    """Returns the gain of each, and what of it is lost if the answer comes `next_s` later, and the least.

    Args:
        rows: up to LEAST, of any further shape that `answered_at` can be broadcast with.
        answered_at: when the answers come.
        next_s: seconds.
        stands_from: from when on the time in which a robot stands counts, of those that play whole chunks; None: it
            does not.
    """
    is_whole: Array | bool = False
    runs_out, covers, lasts_s, most_s, least_s = rows
    begins_at = np.maximum(runs_out, answered_at)
    if stands_from is None:
        gain: Array = answered_at + lasts_s
    else:
        gain = np.minimum(answered_at, np.maximum(runs_out, stands_from))
        gain += lasts_s
        is_whole = (gain <= covers) & (runs_out > stands_from)
    np.minimum(gain, covers, out=gain)
    gain -= begins_at
    np.maximum(gain, 0.0, out=gain)
    np.minimum(gain, most_s, out=gain)
    lost: Array = np.subtract(answered_at + next_s, begins_at, out=begins_at)
    np.maximum(lost, 0.0, out=lost)
    np.minimum(lost, gain, out=lost)
    if stands_from is not None:
        np.copyto(gain, lost, where=is_whole)
    gain += lost
    gain += least_s
    return gain
