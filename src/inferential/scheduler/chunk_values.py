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
from itertools import accumulate
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
_ZERO = np.zeros(())  # as an array: numbers have to be made into one each time
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
        with_rest: whether any may cover more than is played of it from when it is answered on.
    """

    __slots__ = ("rows", "with_most", "with_rest", "with_steps")

    def __init__(self, rows: Array) -> None:
        self.rows: Array = rows
        self.with_steps: bool = bool((rows[STEP] > LEAST_STEP_S).any())
        self.with_most: bool = bool((rows[MOST] < MOST_S).any())
        self.with_rest: bool = True

    def of(self, places: Sequence[int]) -> list[list[float]]:
        """Returns columns up to TURN."""
        return self.rows[: TURN + 1].take(places, 1).T.tolist()  # type: ignore[no-any-return]

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
    if limit > count:
        limit = count
    takes_s = profile.typical(size if 0 < size < limit else limit)
    answered_at = _answered(columns, rows, now + takes_s)
    begins_at = np.maximum(rows[RUNS_OUT], answered_at)
    value = _gained(columns, rows, answered_at, begins_at)
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
        stands_from = None if not columns.with_rest or columns.starve(now, sizes.efficient + 1) else now
        if stands_from is None and limit <= _ONE_BY_ONE:
            size = _best_size(columns, places, now, sizes)
        else:
            size = _best_size_of(columns, places, now, sizes, stands_from)
        del places[size:]
    return places


def _best_size(columns: Columns, places: Sequence[int], now: float, sizes: BatchSizes) -> int:
    """Does what `_best_size_of` does where no time counts in which a robot stands, for all sizes up to few.

    Most often the largest is best. So of most sizes it is known by a bound that they are worse than the largest: an
    answer that comes earlier gains at most so much more, and the step by which it is rounded up. The others are added
    up, that with the highest bound first.
    """
    facts = columns.of(places)
    seconds, varies_s = sizes.seconds, sizes.varies_s
    best, longest_s = len(facts), seconds[-1]
    totals = list(accumulate(gains_of(facts, now + longest_s, varies_s)))  # by size, were it answered last
    rate = totals.pop() / longest_s
    each_second = accumulate(
        [fact[WEIGHT] / fact[LASTS] for fact in facts]
    )  # by size, what it adds at most, if earlier
    saves_s = longest_s + max([fact[STEP] for fact in facts]) if columns.with_steps else longest_s
    at_most = [
        (total + more * (saves_s - takes_s)) / takes_s * _ROUNDED
        for total, more, takes_s in zip(totals, each_second, seconds, strict=False)
    ]
    while at_most and (most := max(at_most)) >= rate:
        size = at_most.index(most) + 1
        at_most[size - 1] = -1.0
        takes_s = seconds[size - 1]
        *_, total = accumulate(gains_of(facts[:size], now + takes_s, varies_s))  # `sum` may round otherwise
        if total / takes_s > rate or (total / takes_s == rate and size < best):
            best, rate = size, total / takes_s
    return best


def gains_of(facts: Sequence[Sequence[float]], ends_at: float, varies_s: float = 0.0) -> list[float]:
    """Returns what columns up to TURN gain where their answers are sent then, as shares of their chunks, by weight.

    `varies_s` as in `BatchSizes`.
    """
    gains = []
    for runs_out, covers, lasts_s, most_s, least_s, at, step_s, _, _, weight, _, _ in facts:
        answered_at = ends_at
        if step_s > LEAST_STEP_S:
            answered_at = ends_at + step_s / 2 if step_s < 2 * varies_s else at - (at - ends_at) // step_s * step_s
        gain = answered_at + lasts_s
        if gain > covers:
            gain = covers
        gain -= runs_out if runs_out > answered_at else answered_at
        if gain > most_s:
            gain = most_s
        gains.append((gain if gain > least_s else least_s) * (weight / lasts_s))
    return gains


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
    table, latency_s = sizes.table(), sizes.latency_s()
    each = columns.rows[: WEIGHT + 1].take(places, 1).take(table.columns, 1)
    runs_out, lasts_s = each[RUNS_OUT], each[LASTS]
    answered_at = _answered(columns, each, now + latency_s.take(table.sizes), sizes.varies_s)
    begins_at = np.maximum(runs_out, answered_at)
    if stands_from is None:
        gains = _gained(columns, each, answered_at, begins_at)
    else:
        plays_from = np.minimum(answered_at, np.maximum(runs_out, stands_from))
        is_whole = (plays_from + lasts_s <= each[COVERS]) & (runs_out > stands_from)
        gains = _gained(columns, each, plays_from, begins_at)
        np.copyto(gains, _lost(answered_at + sizes.longest_s / 2, begins_at, gains), where=is_whole)
    gains *= each[WEIGHT] / lasts_s
    rates = gains.reshape(-1, len(places)).cumsum(axis=1).take(table.totals)
    rates /= latency_s
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


def _gained(columns: Columns, rows: Array, plays_from: Array | float, begins_at: Array) -> Array:
    """Returns the gain of each, or the least; `plays_from`: from when on what an answer lasts counts."""
    if columns.with_rest:
        gain: Array = rows[LASTS] + plays_from
        np.minimum(gain, rows[COVERS], out=gain)
        gain -= begins_at
    else:
        gain = rows[COVERS] - begins_at
    if columns.with_most:
        np.minimum(gain, rows[MOST], out=gain)
    np.maximum(gain, rows[LEAST], out=gain)
    return gain


def _lost(later: Array | float, begins_at: Array, gain: Array) -> Array:
    """Returns what of each gain is lost if the answer is played `later` than the actions of before run out."""
    lost: Array = later - begins_at
    np.maximum(lost, _ZERO, out=lost)
    np.minimum(lost, gain, out=lost)
    return lost
