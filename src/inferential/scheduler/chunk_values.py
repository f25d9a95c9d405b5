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
those with short ones. The best requests by value, as many as gain most per second of the call, are the call: what is
lost by waiting says who goes first, and nothing of how many a call carries. So of robots that waited alike the newest
observation goes first, a robot with actions left waits while that costs it nothing, and calls are as large as their
efficiency is worth.

A robot plays an answer from its next control step on, and its observations are made at control steps too. Where these
are known, times are taken to the step: of two robots that are alike otherwise, that one gains more whose step came just
before the call begins, or comes just after it ends. Where calls vary by more than half a step, it is chance at which
step an answer is played: how many make a call is chosen as if each was played half a step after it was sent.

A robot that plays a whole chunk whenever it comes loses no part of it by waiting. While no more starve than the most
efficient call takes, calls are so large that robots stand least: the time that one stands is taken off its gain, and of
one that has actions left only that counts which it would starve. While more starve, what a call takes longer keeps
others waiting either way, and the most efficient calls are the best for all.

Nothing here keeps a state (`chunk_table` does); values that are no numbers, or beyond all measure, are brought within
bounds first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
EARLY_S = 0.005
"""Seconds before its control step at which a robot is to know that it observes, at least; no more than half a step."""
MOST_STARVED = 100.0
"""Times of a chunk that a robot owes at most, by one wait."""
LEAST_STEP_S = 1e-6
"""Seconds between control steps, where they are not known: a robot plays an answer when it comes."""
_LEAST_GAIN = 4e-3  # of a chunk, so that requests without gain have an order too
_ALL_SIZES = 32  # larger calls are compared at so many sizes
_ONE_BY_ONE = 8  # rows up to which a call's size is found faster without arrays
_SORTED = 128  # rows that are sorted rather than parted first
_ROUNDED = 1 + 1e-9  # by which sums of the same numbers may differ, at most

Array = npt.NDArray[Any]
RUNS_OUT, COVERS, LASTS, MOST, LEAST, BEGINS, STEP = range(7)
"""Rows: when actions run out, until when the answer covers, how long a chunk lasts, the most and the least gain; one of
the robot's control steps, and the time between two."""
WORTH, AGES, WEIGHT, SINCE, TURN = range(7, 12)
"""The factor of the value, how it grows each second, the weight, since when it waits, from when on it goes first."""
OLD, RENEWED, REFUSED, SPAN, LEAD, COMES, ASKS, AHEAD = range(12, 20)
"""When a new observation would be better, when its robot is asked for it though no call is to take it, when it is
refused; the seconds from the observation to the end of its chunk, and from asking to the arrival; when the call begins
that it is asked for, and when it is asked; the seconds from asking to the arrival until it was asked, then 0."""
COLUMNS = 20


def least(row: Array) -> float:
    """Returns the smallest value of a row; infinite where it is empty. (`min` takes ten times as long.)"""
    return float(row[row.argmin()]) if row.size else math.inf


class Columns:
    """Columns by place, as `choose` reads them; `chunk_table.ChunkTable` knows most of it beforehand.

    Attributes:
        rows: the columns as an array [COLUMNS, places].
        with_steps, with_most: whether any has known control steps, and a gain that is bounded by MOST.
    """

    __slots__ = ("rows", "with_most", "with_steps")

    def __init__(self, rows: Array) -> None:
        self.rows: Array = rows
        self.with_steps: bool = bool((rows[STEP] > LEAST_STEP_S).any())
        self.with_most: bool = bool((rows[MOST] < MOST_S).any())

    def of(self, places: Sequence[int]) -> list[list[float]]:
        """Returns columns, at least to TURN."""
        return self.rows.take(places, 1).T.tolist()  # type: ignore[no-any-return]

    def starve(self, now: float, enough: int) -> bool:
        """Returns whether so many have run out of actions."""
        return bool(np.count_nonzero(self.rows[RUNS_OUT] <= now) >= enough)


def column(
    chunk: ChunkTime,
    *,
    observed_at: float,
    weight: float,
    since: float,
    starvation_s: float,
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
        starvation_s: how long beside the time of its chunk a client of weight 1 waits until it goes before others; one
            of no weight waits twice as long.
        starved: times of a chunk that its robot starved lately.
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
    worth, ages = _urgency(weight, lasts_s, since, starved)
    return [
        runs_out_at,
        covers_until,
        lasts_s,
        most_s,
        lasts_s * _LEAST_GAIN,
        steps_at,
        step_s,
        worth,
        ages,
        weight,
        since,
        since + lasts_s + starvation_s * (2 - weight),
        old_from if old_from == old_from else math.inf,
        renewed_from if renewed_from == renewed_from else math.inf,
        refused_from if refused_from == refused_from else math.inf,
        covers_until - observed_at,
        lead_s,
        comes_at,
        math.inf,
        lead_s if old_from < math.inf else 0.0,
    ]


def _near(at: float, now: float) -> float:
    return min(max(at, now - MOST_S), now + MOST_S) if at == at else now


def _urgency(weight: float, lasts_s: float, since: float, starved: float) -> tuple[float, float]:
    """Returns the factor of a value at time 0, and by how much it grows each second."""
    scale = weight / (2 * lasts_s)
    ages = scale * AGING / lasts_s
    return scale * (1 + OWING * starved) - ages * since, ages


def serve(of_row: list[float], covered_until: float, since: float, starvation_s: float) -> None:
    """Notes in a column that another request of the same robot is served: its chunk counts, and it waits anew."""
    weight, lasts_s = of_row[WEIGHT], of_row[LASTS]
    of_row[RUNS_OUT] = max(of_row[RUNS_OUT], covered_until)
    of_row[WORTH], of_row[AGES] = _urgency(weight, lasts_s, since, 0.0)
    of_row[SINCE], of_row[TURN] = since, since + lasts_s + starvation_s * (2 - weight)


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


def renewed(rows: Array, by: float, now: float) -> Array:
    """Returns the rows as they would be, were all robots asked for observations now that renew them.

    Args:
        rows: as they are.
        by: until when the observations are to arrive.
        now: seconds of `time.monotonic()`.

    Returns:
        Where one can come in time that is newer, ASKS says when to ask for it, in COVERS is what it covers; where the
        control steps are known, the last one counts from which it comes in time.
    """
    rows = rows.copy()
    lead_s, covers, step_s, steps_at = rows[LEAD], rows[COVERS], rows[STEP], rows[BEGINS]
    with_steps = step_s > LEAST_STEP_S
    observed_at = covers - rows[SPAN]
    fresh_s = by - observed_at
    fresh_s -= np.where(with_steps, fresh_s % step_s, lead_s / 2)
    fresh_s *= lead_s > 0
    asks_at = np.where(with_steps, steps_at + fresh_s - (lead_s - (observed_at - steps_at) - step_s), -math.inf)
    comes = (fresh_s > 0) & ~(with_steps & (steps_at + fresh_s < now))
    np.add(covers, fresh_s, out=covers, where=comes)
    rows[ASKS] = np.where(comes, asks_at, math.inf)
    return rows


def choose(
    columns: Columns,
    profile: LatencyProfile,
    limit: int,
    now: float,
    turn: int | None = None,
    size: int = 0,
) -> list[int]:
    """Returns the places of the requests of a call that begins now, the most valuable first.

    Args:
        columns: all that wait.
        profile: of the replica.
        limit: the most requests.
        now: seconds of `time.monotonic()`.
        turn: the place of the one that goes before all others; None: there is none.
        size: how many the call will have, about: values are those of answers of such a call; 0: as many as it can.
    """
    rows = columns.rows
    count = rows.shape[1]
    limit = min(limit, count)
    takes_s = profile.typical(min(size, limit) or limit)
    answered_at = _answered(columns, rows, now + takes_s)
    begins_at = np.maximum(rows[RUNS_OUT], answered_at)
    value = _gained(columns, rows, rows[LASTS] + answered_at, begins_at)
    value += _lost(answered_at + takes_s / 2, begins_at, value)
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
    if limit > 1 and profile.known:
        sizes = profile.sizes_up_to(limit, _ALL_SIZES)
        stands_from = None if columns.starve(now, sizes.efficient + 1) else now
        if stands_from is None and limit <= _ONE_BY_ONE:
            size = _best_size(columns.of(places), now, sizes)
        else:
            size = _best_size_of(columns, places, now, sizes, stands_from)
        del places[size:]
    return places


def _best_size(facts: Sequence[Sequence[float]], now: float, sizes: BatchSizes) -> int:
    """Does what `_best_size_of` does where more starve than the most efficient call takes, for all sizes up to few.

    Most often the largest is best. So of the others only those are added up that could be better, were each of their
    requests answered as early as by a call of one row and able to gain as much as at any other time.
    """
    seconds, varies_s = sizes.seconds, sizes.varies_s
    soonest, last = now + seconds[0], now + seconds[-1]
    total = most = 0.0
    at_most: list[float] = []  # by size
    for fact in facts:
        factor = fact[WEIGHT] / fact[LASTS]
        total += gain_of(fact, last, varies_s) * factor
        most += most_gain_of(fact, soonest, varies_s) * factor
        at_most.append(most)
    best, rate = len(facts), total / seconds[-1]
    for size in range(len(facts) - 1, 0, -1):
        takes_s = seconds[size - 1]
        if at_most[size - 1] * _ROUNDED >= rate * takes_s:
            total = 0.0
            for fact in facts[:size]:
                total += gain_of(fact, now + takes_s, varies_s) * (fact[WEIGHT] / fact[LASTS])
            if total / takes_s >= rate:
                best, rate = size, total / takes_s
    return best


def gain_of(fact: Sequence[float], ends_at: float, varies_s: float = 0.0) -> float:
    """Returns the gain of one column, or the least, where its answer is sent then; `varies_s` as in `BatchSizes`."""
    runs_out, covers, lasts_s, most_s, least_s, at, step_s = fact[: STEP + 1]
    if step_s > LEAST_STEP_S:
        ends_at = ends_at + step_s / 2 if step_s < 2 * varies_s else at - (at - ends_at) // step_s * step_s
    gain = ends_at + lasts_s
    if gain > covers:
        gain = covers
    gain -= runs_out if runs_out > ends_at else ends_at
    if gain > most_s:
        gain = most_s
    return gain if gain > least_s else least_s


def most_gain_of(fact: Sequence[float], soonest: float, varies_s: float = 0.0) -> float:
    """Returns the most that one column gains, whenever its answer is sent, from `soonest` on."""
    runs_out, covers, lasts_s, most_s, least_s, at, step_s = fact[: STEP + 1]
    if step_s > LEAST_STEP_S:
        soonest = soonest + step_s / 2 if step_s < 2 * varies_s else at - (at - soonest) // step_s * step_s
    gain = covers - (runs_out if runs_out > soonest else soonest)
    if gain > lasts_s:
        gain = lasts_s
    if gain > most_s:
        gain = most_s
    return gain if gain > least_s else least_s


def _best_size_of(
    columns: Columns, places: Sequence[int], now: float, sizes: BatchSizes, stands_from: float | None
) -> int:
    """Returns how many of these requests, from the first on, gain most per second of their call.

    Args:
        columns: all that wait.
        places: which of them.
        now: when the call begins.
        sizes: to choose from.
        stands_from: from when on the time in which a robot stands counts, of those that play whole chunks; None: it
            does not.
    """
    each = columns.rows[: WEIGHT + 1].take(places, 1).take(sizes.columns, 1)
    runs_out, lasts_s = each[RUNS_OUT], each[LASTS]
    answered_at = _answered(columns, each, now + sizes.latency_of_each, sizes.varies_s)
    begins_at = np.maximum(runs_out, answered_at)
    if stands_from is None:
        gains = _gained(columns, each, answered_at + lasts_s, begins_at)
    else:
        until = np.minimum(answered_at, np.maximum(runs_out, stands_from))
        until += lasts_s
        is_whole = (until <= each[COVERS]) & (runs_out > stands_from)
        gains = _gained(columns, each, until, begins_at)
        np.copyto(gains, _lost(answered_at + sizes.longest_s / 2, begins_at, gains), where=is_whole)
    gains *= each[WEIGHT] / lasts_s
    rates = gains.reshape(-1, len(places)).cumsum(axis=1).take(sizes.totals)
    rates /= sizes.latency_s
    return sizes.rows[rates.argmax()]


def _answered(columns: Columns, rows: Array, ends_at: Array | float, varies_s: float = 0.0) -> Array | float:
    """Returns from when on answers are played that are sent at `ends_at`: from the next control step on."""
    if not columns.with_steps:
        return ends_at
    steps_at, step_s = rows[BEGINS], rows[STEP]
    answered_at: Array = ends_at - steps_at
    answered_at /= step_s
    np.ceil(answered_at, out=answered_at)
    answered_at *= step_s
    answered_at += steps_at
    if varies_s:
        np.copyto(answered_at, ends_at + step_s / 2, where=step_s < 2 * varies_s)
    return answered_at


def _gained(columns: Columns, rows: Array, until: Array, begins_at: Array) -> Array:
    """Returns the gain of each, or the least; it changes `until`, when at most an answer has been played."""
    np.minimum(until, rows[COVERS], out=until)
    until -= begins_at
    if columns.with_most:
        np.minimum(until, rows[MOST], out=until)
    np.maximum(until, rows[LEAST], out=until)
    return until


def _lost(later: Array | float, begins_at: Array, gain: Array) -> Array:
    """Returns what of each gain is lost if the answer is played `later` than the actions of before run out."""
    lost: Array = later - begins_at
    np.maximum(lost, 0.0, out=lost)
    np.minimum(lost, gain, out=lost)
    return lost
