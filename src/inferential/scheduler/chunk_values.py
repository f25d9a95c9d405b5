"""What requests of robots that play chunks are worth, and which of them make a call.

A request's gain is the seconds for which its robot has an action and would have none without the answer. It falls
while its observation ages (a chunk is aligned by its observation, so that the steps that passed are lost) and is 0 once
all its actions would be past. Of a robot that goes on with what it has not executed it falls only while that plays;
what it would stand from now on until its answer comes is taken off, unless more starve than a call takes
(`chunk_gains.covers`). Only a part of it is lost by waiting: nothing, while the robot still has actions; all,
once it has none. So a request is worth

    value = weight * (gain + min(gain, starved during the next call if it is not in this one)) / (2 * time of its chunk)
            * (1 + AGING * wait / time of its chunk + OWING * owed)

with `wait` since its robot was last served, or since earlier where that was late (`chunk_client.note_served`), so that
robots that are alike take turns, and `owed` for what it starved more than others in the last seconds
(`chunk_client.owed`), so that it is not always the same that come last.
Gains are shares of the time that a robot's own chunk lasts: counted in seconds, those with long chunks would starve
those with short ones. The best requests by value, as many as gain most per second of the call (`chunk_sizes`), are the
call: what is lost by waiting says who goes first, and nothing of how many a call carries. So of robots that waited
alike the newest observation goes first, and a robot with actions left waits while that costs it nothing.

A robot observes and plays at its control steps only. Where these are known, times are taken to the step
(`chunk_gains.played_from`): of two robots that are alike otherwise, that one gains more whose step came just before the
call begins, or comes just after it ends.

Nothing here keeps a state (`chunk_table` does).
"""

from __future__ import annotations

import math

import numpy as np

from inferential.scheduler import chunk_alike
from inferential.scheduler.chunk_columns import (
    AGES,
    ASKS,
    BEGINS,
    COVERS,
    LEAD,
    LEAST_STEP_S,
    MOST,
    MOST_S,
    ROUNDING_S,
    RUNS_OUT,
    SPAN,
    STEP,
    WORTH,
    Array,
    Columns,
    Places,
)
from inferential.scheduler.chunk_gains import covers, gained, lost, played_from
from inferential.scheduler.chunk_sizes import best_size
from inferential.scheduler.time.profile import LatencyProfile

_ALL_SIZES = 32  # larger calls are compared at so many sizes
_SORTED = 128  # columns that are sorted rather than parted first


def renewed(rows: Array, by: float, now: float) -> Array:
    """Returns the rows as they would be, were all robots asked for observations now that renew them.

    Args:
        rows: as they are.
        by: until when the observations are to arrive.
        now: seconds of `time.monotonic()`.

    Returns:
        Where one can come in time that would give more, ASKS says when to ask for it, and COVERS and MOST what it would
        give; where the control steps are known, the last one counts from which it comes in time.
    """
    rows = rows.copy()
    lead_s, covers_until, step_s, steps_at = rows[LEAD], rows[COVERS], rows[STEP], rows[BEGINS]
    most_s, goes_on = rows[MOST], rows[MOST] < MOST_S
    with_steps = step_s > LEAST_STEP_S
    observed_at = covers_until - rows[SPAN]
    fresh_s = by - observed_at
    fresh_s -= np.where(with_steps, fresh_s % step_s, lead_s / 2)
    fresh_s *= lead_s > 0
    asks_at = np.where(with_steps, steps_at + fresh_s - (lead_s - (observed_at - steps_at) - step_s), -math.inf)
    comes = (fresh_s > 0) & ~(with_steps & (steps_at + fresh_s < now))
    # A robot that goes on with what it has not executed loses nothing of a chunk while it stands.
    played_s = np.minimum(fresh_s, rows[RUNS_OUT] - np.where(with_steps, steps_at, observed_at))
    comes &= ~goes_on | (played_s > ROUNDING_S)
    np.add(covers_until, fresh_s, out=covers_until, where=comes)
    np.add(most_s, played_s, out=most_s, where=comes & goes_on)
    rows[ASKS] = np.where(comes, asks_at, math.inf)
    return rows


def choose(
    columns: Columns,
    profile: LatencyProfile,
    limit: int,
    now: float,
    turn: int | None = None,
    size: int = 0,
) -> Places:
    """Returns the places of the requests of a call that begins now, the most valuable first.

    Args:
        columns: all that wait.
        profile: of the replica.
        limit: the most requests.
        now: seconds of `time.monotonic()`.
        turn: the place of the one that goes before all others; None: there is none.
        size: how many the call will have, about: values are those of answers of such a call; 0: as many as it can.
    """
    if limit > columns.count:
        limit = columns.count
    sizes = profile.sizes_up_to(limit, _ALL_SIZES) if limit > 1 and profile.known else None
    may_wait = columns.with_most or columns.with_rest
    is_short = may_wait and sizes is not None and columns.starve(now, sizes.efficient + 1)
    rows = size if 0 < size < limit else limit
    takes_s = profile.typical(rows)
    varies_s = profile.high(rows) - takes_s if columns.longest_step_s else 0.0
    values_of = chunk_alike.values if columns.alike else values
    value = values_of(columns, now, takes_s, varies_s, is_short=is_short)
    if turn is not None:
        value[turn] = -math.inf
    if value.size <= _SORTED:
        places: Places = value.argsort(kind="stable")[:limit]
    else:
        best = value.argpartition(limit - 1)[:limit]
        places = best[value[best].argsort(kind="stable")]
    if sizes is not None:
        return places[: best_size(columns, places, now, sizes, is_short=is_short)]
    return places


def values(columns: Columns, now: float, takes_s: float, varies_s: float, *, is_short: bool) -> Array:
    """Does what `chunk_alike.values` does, for robots of any kinds."""
    row = columns.row
    if columns.with_most and not is_short:
        row = [*row]
        row[COVERS] = covers(row, now)
    answered_at = played_from(columns, row, now + takes_s, varies_s)
    begins_at = np.maximum(row[RUNS_OUT], answered_at)
    value = gained(columns, row, answered_at, begins_at)
    value += lost(answered_at + takes_s / 2, begins_at, value)
    urgency = row[AGES] * -now
    urgency -= row[WORTH]
    value *= urgency
    return value
