"""Why actions are late: an action's age split into its parts, and which part made it late.

The parts are durations, each measured by one clock: what the server took by the server's, the whole age and the time
unread by the robot's. The rest is the network's, both ways together: telling them apart would take comparing clocks.

A late action has the cause that, taken away, would have saved it; the longest of several that would, and of all where
none alone would.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CAUSES = ("network", "queue", "batch", "model", "encode", "unread")
"""The parts of an age:

network: on the way, both ways, and on the robot until the observation was sent.
queue: waiting while calls ran that had room for other requests.
batch: waiting for the call that ran or for company, and what company added to the model's time.
model: the model's own time, as if it had run alone.
encode: the rest of the server's time: checking, reading and writing.
unread: on the robot, from the answer's arrival until it was read.
"""
WINDOW_S = 60.0
"""The summary tells of the actions of so many seconds."""
_WIDTH = 10  # time, age, time unread, times of the server
_MOST_ACTIONS = 256  # of one robot and model
_KEPT_S = 1.0
_PAUSE_S = 10.0  # without a late action, after which lateness begins anew
_SAME = 1.5  # a part that has grown by no more than this factor, or a millisecond, is unchanged
_WORTH_SAYING = 0.1  # share of the late actions
LATE_SHARE = 0.1
"""A robot is late at present if so many of its newest actions were."""
_LATELY = 64  # the newest actions, of which that is asked
_ENOUGH = 3  # late actions: one that is late by chance is none to look at
_FEW = 3  # actions in time, below which there is nothing to compare with


class ServerTimes(NamedTuple):
    """Times of one answer on the server, in seconds of `time.monotonic()`.

    Attributes:
        received_at, dispatched_at, sent_at, deadline: of the request.
        first_call_at: when its model's first call after its arrival began, with it or without.
        inference_ms: its model's call.
        alone_ms: what that call would have taken without company; the whole where that is not known.
    """

    received_at: float
    dispatched_at: float
    sent_at: float
    deadline: float
    first_call_at: float
    inference_ms: float
    alone_ms: float


def split(times: ServerTimes, age_ms: float, unread_ms: float) -> tuple[float, ...]:
    """Returns the parts of an age in milliseconds, in the order of `CAUSES`; none is negative.

    Args:
        times: of the answer.
        age_ms: by the robot's clock; NaN: the robot does not say, and the parts end when the answer was sent.
        unread_ms: of it, on the robot.
    """
    received_at, dispatched_at, sent_at, _, first_call_at, inference_ms, alone_ms = times
    server_ms = max(sent_at - received_at, 0.0) * 1e3
    waited_ms = min(max(dispatched_at - received_at, 0.0) * 1e3, server_ms)
    batch_ms = min(max(first_call_at - received_at, 0.0) * 1e3, waited_ms)
    model_ms = min(inference_ms, server_ms - waited_ms)
    alone_ms = min(alone_ms, model_ms)
    beyond_ms = max(age_ms - server_ms, 0.0) if age_ms == age_ms else 0.0
    unread_ms = min(unread_ms, beyond_ms)
    encode_ms = max(server_ms - waited_ms - model_ms, 0.0)
    company_ms = batch_ms + model_ms - alone_ms
    return beyond_ms - unread_ms, waited_ms - batch_ms, company_ms, alone_ms, encode_ms, unread_ms


def cause_of(parts: Sequence[float], budget_ms: float) -> str | None:
    """Returns what made an action late; None if it was in time.

    Args:
        parts: in milliseconds, in the order of `CAUSES`.
        budget_ms: how old it may be.
    """
    age_ms = sum(parts)
    if age_ms <= budget_ms:
        return None
    saving = [index for index, part in enumerate(parts) if age_ms - part <= budget_ms]
    return CAUSES[max(saving or range(len(parts)), key=parts.__getitem__)]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of one part, or of the whole age, in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Lateness:
    """The actions of one robot and model over a window.

    Attributes:
        window_s: how long it is.
        actions, late: how many there were, and how many of them were late.
        budget_ms: how old the last one was allowed to be; None: no limit.
        age: of the actions, when they were applied; where the robot does not say, when they were sent.
        parts: of that age, by the names of `CAUSES`.
        causes: the share of the late actions by cause, 0 to 1, those that have one; the largest first.
        late_s_ago: how long ago the present lateness began; None: no action of the window was late.
        unchanged: the parts that take no longer in late actions than in those in time; empty where few were in time.
    """

    window_s: float
    actions: int
    late: int
    budget_ms: float | None
    age: Quantiles
    parts: dict[str, Quantiles]
    causes: dict[str, float]
    late_s_ago: float | None
    unchanged: list[str]


@dataclass(frozen=True, slots=True)
class Action:
    """One action.

    Attributes:
        ago_s: how long ago it was applied, or sent where the robot does not say.
        parts: of its age, in milliseconds, in the order of `CAUSES`.
        budget_ms: how old it was allowed to be; None: no limit.
        cause: what made it late; None: it was in time.
    """

    ago_s: float
    parts: list[float]
    budget_ms: float | None
    cause: str | None


@dataclass(slots=True)
class ActionAges:
    """Remembers the newest actions of one robot and model.

    Attributes:
        late_by_cause: late actions so far, by cause.
        last_cause: of the last late action; None before the first.
    """

    late_by_cause: dict[str, int] = field(default_factory=dict)
    last_cause: str | None = None
    _rows: array[float] = field(default_factory=lambda: array("d"))
    _late_since: float = math.nan
    _late_at: float = -math.inf
    _summary: Lateness | None = None
    _summed_at: float = -math.inf

    def note(self, now: float, times: ServerTimes, age_ms: float, unread_ms: float) -> str | None:
        """Takes an action; returns what made it late, None if it was in time.

        Args:
            now: seconds of `time.monotonic()`.
            times: of its answer.
            age_ms, unread_ms: as for `split`.
        """
        rows = self._rows
        rows.extend((now, age_ms, unread_ms, *times))  # the parts are found when they are asked for
        if len(rows) > _WIDTH * _MOST_ACTIONS:
            del rows[: _WIDTH * (_MOST_ACTIONS // 4)]
        received_at, _, sent_at, deadline, _, _, _ = times
        budget_ms = (deadline - received_at) * 1e3
        if sent_at <= deadline and not age_ms > budget_ms:  # it may be NaN
            return None
        cause = cause_of(split(times, age_ms, unread_ms), budget_ms)
        if cause is None:  # by a rounding error
            return None
        self.late_by_cause[cause] = self.late_by_cause.get(cause, 0) + 1
        self.last_cause = cause
        if now - self._late_at > _PAUSE_S:
            self._late_since = now
        self._late_at = now
        return cause

    def is_late(self, now: float) -> bool:
        """Returns whether actions are late at present: some of the last ten seconds, and a tenth of the newest ones."""
        if now - self._late_at > _PAUSE_S:
            return False
        newest = np.array(self._rows[-_LATELY * _WIDTH :], np.float64).reshape(-1, _WIDTH)
        newest = newest[newest[:, 0] >= now - WINDOW_S]
        late = int(_are_late(newest).sum())
        return late >= _ENOUGH and late >= LATE_SHARE * len(newest)

    def actions(self, now: float) -> list[Action]:
        """Returns the actions of the window, oldest first."""
        rows = np.array(self._rows, np.float64).reshape(-1, _WIDTH)
        rows = rows[rows[:, 0] >= now - WINDOW_S]
        budgets = (rows[:, 6] - rows[:, 3]) * 1e3
        return [
            Action(now - at, parts, budget if math.isfinite(budget) else None, cause_of(parts, budget))
            for at, parts, budget in zip(rows[:, 0].tolist(), _split_all(rows).tolist(), budgets.tolist(), strict=True)
        ]

    def summary(self, now: float) -> Lateness | None:
        """Returns what the newest actions were like; None where there was none in the window.

        What was found is kept for a second: a status with many robots is read several times in one.
        """
        if now - self._summed_at >= _KEPT_S:
            self._summed_at, self._summary = now, self._summed(now)
        return self._summary

    def _summed(self, now: float) -> Lateness | None:
        rows = np.array(self._rows, np.float64).reshape(-1, _WIDTH)
        rows = rows[rows[:, 0] >= now - WINDOW_S]
        if not len(rows):
            return None
        parts = _split_all(rows)
        ages, budgets = parts.sum(axis=1), (rows[:, 6] - rows[:, 3]) * 1e3
        is_late = ages > budgets
        counts = np.bincount(_causes_of(parts[is_late], budgets[is_late]), minlength=len(CAUSES)).tolist()
        late = sum(counts)
        shares = {cause: count / late for cause, count in zip(CAUSES, counts, strict=True) if count}
        age, *of_parts = _quantiles(np.column_stack([ages, parts]))
        return Lateness(
            WINDOW_S,
            actions=len(rows),
            late=late,
            budget_ms=float(budgets[-1]) if math.isfinite(budgets[-1]) else None,
            age=age,
            parts=dict(zip(CAUSES, of_parts, strict=True)),
            causes=dict(sorted(shares.items(), key=lambda one: -one[1])),
            late_s_ago=now - self._late_since if late else None,
            unchanged=_unchanged(parts[~is_late], parts[is_late]),
        )


_Floats = npt.NDArray[np.float64]


def _split_all(rows: _Floats) -> _Floats:
    """Does what `split` does, for all remembered actions at once."""
    _, age_ms, unread_ms, received_at, dispatched_at, sent_at, _, first_call_at, inference_ms, alone_ms = rows.T
    server_ms = np.maximum(sent_at - received_at, 0.0) * 1e3
    waited_ms = np.minimum(np.maximum(dispatched_at - received_at, 0.0) * 1e3, server_ms)
    batch_ms = np.minimum(np.maximum(first_call_at - received_at, 0.0) * 1e3, waited_ms)
    model_ms = np.minimum(inference_ms, server_ms - waited_ms)
    alone_ms = np.minimum(alone_ms, model_ms)
    beyond_ms = np.maximum(np.nan_to_num(age_ms, nan=0.0) - server_ms, 0.0)
    unread_ms = np.minimum(unread_ms, beyond_ms)
    encode_ms = np.maximum(server_ms - waited_ms - model_ms, 0.0)
    company_ms = batch_ms + model_ms - alone_ms
    return np.stack([beyond_ms - unread_ms, waited_ms - batch_ms, company_ms, alone_ms, encode_ms, unread_ms], axis=1)


def _are_late(rows: _Floats) -> npt.NDArray[np.bool_]:
    took_s = np.fmax(rows[:, 5] - rows[:, 3], rows[:, 1] / 1e3)  # fmax: the age is NaN where the robot does not say
    return took_s > rows[:, 6] - rows[:, 3]


def _unchanged(good: _Floats, late: _Floats) -> list[str]:
    """Returns the parts that take as long in late actions as in those in time."""
    if len(good) < _FEW or not len(late):
        return []
    before, after = np.median(good, axis=0), np.median(late, axis=0)
    return [cause for cause, was, now in zip(CAUSES, before, after, strict=True) if now <= max(was * _SAME, was + 1.0)]


def _causes_of(parts: _Floats, budgets_ms: _Floats) -> npt.NDArray[np.intp]:
    """Does what `cause_of` does, for late actions all at once: the causes' places in `CAUSES`."""
    saves = parts.sum(axis=1, keepdims=True) - parts <= budgets_ms[:, None]
    saves |= ~saves.any(axis=1, keepdims=True)  # where none does alone, the longest
    longest: npt.NDArray[np.intp] = np.where(saves, parts, -np.inf).argmax(axis=1)
    return longest


_SHARES = np.array([0.5, 0.95, 0.99])


def _quantiles(columns: _Floats) -> list[Quantiles]:
    """Returns those of each column: of two values between which one lies, the higher one."""
    at = np.ceil(_SHARES * (len(columns) - 1)).astype(np.intp)  # np.quantile takes ten times as long
    return [Quantiles(*values) for values in np.sort(columns, axis=0)[at].T.tolist()]


_WORDS = {"encode": "encoding and decoding", "unread": "unread on the robot"}


def sentence(name: str, lateness: Lateness | None, since: str | None = None) -> str:
    """Returns in words why a robot's actions are late.

    Args:
        name: of the robot, and of its model where it has several.
        lateness: its newest actions; None: there were none.
        since: a time of day, from which on they are late.
    """
    if lateness is None:
        return f"{name}: no action in the last {WINDOW_S:g} s"
    age, allowed = lateness.age, ""
    if lateness.budget_ms is not None:
        allowed = f", {lateness.budget_ms:.0f} ms allowed"
    if not lateness.late:
        return f"{name}: all {lateness.actions} actions in time (p95 {age.p95:.0f} ms{allowed})"
    (main, weight), *others = lateness.causes.items()
    how = "all" if weight == 1 else "mostly" if weight > 0.5 else "most often"
    text = (
        f"{name}: {100 * lateness.late / lateness.actions:.0f} % late{f' since {since}' if since else ''}, "
        f"{how} {_WORDS.get(main, main)} (p95 {lateness.parts[main].p95:.0f} of {age.p95:.0f} ms{allowed})"
    )
    if more := [f"{_WORDS.get(cause, cause)} {100 * share:.0f} %" for cause, share in others if share >= _WORTH_SAYING]:
        text += f"; also {', '.join(more)}"
    if same := [cause for cause in ("network", "queue", "model") if cause in lateness.unchanged and cause != main]:
        text += f"; {_enumerated(same)} unchanged"
    return text


def _enumerated(words: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
