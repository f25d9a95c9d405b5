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

A robot plays an answer from its next control step on, and its observations are made at control steps too. Where these
are known, times are taken to the step: of two robots that are alike otherwise, that one gains more whose step came just
before the call begins, or comes just after it ends.

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

from inferential.scheduler.time.batch_sizes import BatchSizes
from inferential.scheduler.time.profile import LatencyProfile
from inferential.scheduler.time.robot_time import ChunkTime

AGING = 1.0
"""By how much of itself a request's value grows while its robot waits for the time of one chunk."""
OWING = 2.0
"""By how much of itself it grows for each time of a chunk that its robot starved in the last seconds."""
LEAST_S = 1e-3
"""Seconds that a chunk lasts at least."""
MOST_S = 1e6
"""Seconds beyond which a time is as good as infinite."""
MOST_STARVED = 100.0
"""Times of a chunk that a robot owes at most, by one wait."""
_LEAST_STEP_S = 1e-6  # between control steps: a robot of which they are not known plays an answer when it comes
_LEAST_GAIN = 4e-3  # of a chunk, so that requests without gain have an order too
_ALL_SIZES = 32  # larger calls are compared at so many sizes
_ONE_BY_ONE = 8  # rows up to which a call's size is found faster without arrays
_SORTED = 128  # rows that are sorted rather than parted first

Array = npt.NDArray[Any]
RUNS_OUT, COVERS, LASTS, MOST, LEAST, BEGINS, STEP = range(7)
"""Rows: when actions run out, until when the answer covers, how long a chunk lasts, the most and the least gain; one of
the robot's control steps, and the time between two."""
WORTH, AGES, WEIGHT, SINCE, TURN = range(7, 12)
"""The factor of the value, how it grows each second, the weight, since when it waits, from when on it goes first."""
OLD, RENEWED, REFUSED, SPAN, LEAD, COMES = range(12, 18)
"""When a new observation would be better, when its robot is asked for it though no call is to take it, when it is
refused; the seconds from the observation to the end of its chunk, and from asking to the arrival; when the call begins
that it was asked for."""
COLUMNS = 18


def column(
    chunk: ChunkTime,
    *,
    observed_at: float,
    weight: float,
    since: float,
    turn: float,
    starved: float,
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
        turn: when its client goes before others.
        starved: times of a chunk that its robot starved lately.
        old_from, renewed_from, refused_from: when another observation would be better, when its robot is asked for it
            though no call is to take it, and when it is refused.
        comes_at: when the call begins that it was renewed for; -inf: it was not.
    """
    runs_out_at, covers_until = _near(chunk.runs_out_at, observed_at), _near(chunk.covers_until, observed_at)
    lasts_s = min(max(chunk.lasts_s, LEAST_S), MOST_S) if chunk.lasts_s == chunk.lasts_s else LEAST_S
    most_s = min(chunk.most_s, MOST_S) if chunk.most_s == chunk.most_s else MOST_S
    lead_s = min(max(chunk.lead_s, 0.0), MOST_S) if chunk.lead_s == chunk.lead_s else 0.0
    step_s = min(max(chunk.step_s, _LEAST_STEP_S), MOST_S) if chunk.step_s == chunk.step_s else _LEAST_STEP_S
    worth, ages = _urgency(weight, lasts_s, since, starved)
    return [
        runs_out_at,
        covers_until,
        lasts_s,
        most_s,
        lasts_s * _LEAST_GAIN,
        _near(chunk.steps_at, observed_at),
        step_s,
        worth,
        ages,
        weight,
        since,
        turn,
        old_from if old_from == old_from else math.inf,
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
    lead_s, covers, step_s = rows[LEAD], rows[COVERS], rows[STEP]
    observed_at = covers - rows[SPAN]
    fresh_s = begins_at - observed_at
    fresh_s -= np.where(step_s > _LEAST_STEP_S, fresh_s % step_s, lead_s / 2)
    np.maximum(covers, covers + fresh_s, out=covers, where=lead_s > 0)
    return rows


def choose(
    rows: Array,
    profile: LatencyProfile,
    limit: int,
    now: float,
    turn: int | None = None,
    size: int = 0,
) -> tuple[list[int], list[list[float]]]:
    """Returns the places of the requests of a call that begins now, the most valuable first, and their rows to TURN.

    Args:
        rows: all that wait.
        profile: of the replica.
        limit: the most requests.
        now: seconds of `time.monotonic()`.
        turn: the place of the one that goes before all others; None: there is none.
        size: how many the call will have, about: values are those of answers of such a call; 0: as many as it can.
    """
    count = rows.shape[1]
    limit = min(limit, count)
    takes_s = profile.typical(min(size, limit) or limit)
    value = _gains(rows[: STEP + 1], now + takes_s, takes_s / 2)
    urgency = rows[AGES] * -now
    urgency -= rows[WORTH]
    value *= urgency  # negative: the most valuable first
    if count <= _SORTED:
        order = value.argsort(kind="stable")[:limit]
    else:
        best = value.argpartition(limit - 1)[:limit]
        order = best[value[best].argsort(kind="stable")]
    places: list[int] = order.tolist()
    if turn is not None:
        places = [turn, *(place for place in places if place != turn)][:limit]
    facts: list[list[float]] = rows[: TURN + 1].take(places, 1).T.tolist()
    if limit > 1 and profile.known:
        sizes = profile.sizes_up_to(limit, _ALL_SIZES)
        stands_from = now if np.count_nonzero(rows[RUNS_OUT] <= now) <= sizes.efficient else None
        if stands_from is None and limit <= _ONE_BY_ONE:
            size = _best_size(facts, now, sizes)
        else:
            size = _best_size_of(rows[: WEIGHT + 1].take(places, 1), now, sizes, stands_from)
        del places[size:], facts[size:]
    return places, facts


def _best_size(facts: list[list[float]], now: float, sizes: BatchSizes) -> int:
    """Does what `_best_size_of` does where more starve than the most efficient call takes, for all sizes up to few."""
    seconds, next_s = sizes.seconds, sizes.longest_s / 2
    ends = [now + takes_s for takes_s in seconds]
    totals = [0.0] * len(ends)
    for place, (runs_out, covers, lasts_s, most_s, least_s, at, step_s, _, _, weight, _, _) in enumerate(facts):
        factor, size = weight / lasts_s, place
        for ends_at in ends[place:]:
            answered_at = at - (at - ends_at) // step_s * step_s
            gain, lost = answered_at + lasts_s, next_s
            if gain > covers:
                gain = covers
            if runs_out > answered_at:
                gain -= runs_out
                lost -= runs_out - answered_at
                if lost < 0.0:
                    lost = 0.0
            else:
                gain -= answered_at
            if gain > most_s:
                gain = most_s
            if gain < least_s:
                gain = least_s
            if lost > gain:
                lost = gain
            totals[size] += (gain + lost) * factor
            size += 1
    rates = [total / takes_s for total, takes_s in zip(totals, seconds, strict=True)]
    return rates.index(max(rates)) + 1


def _best_size_of(chosen: Array, now: float, sizes: BatchSizes, stands_from: float | None) -> int:
    """Returns how many of these requests, from the first on, gain most per second of their call."""
    most = chosen.shape[1]
    each = chosen.take(sizes.columns, 1)
    gains = _gains(each[: STEP + 1], now + sizes.latency_of_each, sizes.longest_s / 2, stands_from)
    gains *= each[WEIGHT] / each[LASTS]
    rates = gains.reshape(-1, most).cumsum(axis=1).take(sizes.totals)
    rates /= sizes.latency_s
    return sizes.rows[rates.argmax()]


def _gains(rows: Array, ends_at: Array | float, next_s: float, stands_from: float | None = None) -> Array:
    """Returns the gain of each, or the least, and what of it is lost if the answer comes `next_s` later.

    Args:
        rows: up to STEP, of any further shape that `ends_at` can be broadcast with.
        ends_at: when the answers are sent.
        next_s: seconds.
        stands_from: from when on the time in which a robot stands counts, of those that play whole chunks; None: it
            does not.
    """
    is_whole: Array | bool = False
    runs_out, covers, lasts_s, most_s, least_s, steps_at, step_s = rows
    answered_at: Array = ends_at - steps_at  # played from the next control step on
    answered_at /= step_s
    np.ceil(answered_at, out=answered_at)
    answered_at *= step_s
    answered_at += steps_at
    begins_at = np.maximum(runs_out, answered_at)
    if stands_from is None:
        gain: Array = answered_at + lasts_s
    else:
        gain = np.minimum(answered_at, np.maximum(runs_out, stands_from))
        gain += lasts_s
        is_whole = (gain <= covers) & (runs_out > stands_from)
    np.minimum(gain, covers, out=gain)
    gain -= begins_at
    np.minimum(gain, most_s, out=gain)
    np.maximum(gain, least_s, out=gain)
    lost = answered_at
    lost += next_s
    lost -= begins_at
    np.maximum(lost, 0.0, out=lost)
    np.minimum(lost, gain, out=lost)
    if stands_from is not None:
        np.copyto(gain, lost, where=is_whole)
    gain += lost
    return gain
