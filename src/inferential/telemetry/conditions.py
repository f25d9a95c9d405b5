"""Which conditions of a server someone should know of, and when each begins and ends; no clock, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from inferential.config.alerts import AlertsConfig

WINDOW_S = 60.0
"""Shares are those of the newest minute."""
_FEW = 10  # answers due, or requests ended, below which a share says nothing
_OVER = 0.5  # a share must fall to this part of its limit until it counts as over
_DOWN = ("failing", "hung")
_MOST_NAMED = 5  # robots, in a text
_MOST_ROBOTS = 1024  # that are gone and may return
_LONGEST = 500  # characters of a reason: models raise pages of text, and chat programs refuse or cut long messages


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts since the server started.

    Attributes:
        due: answers that were sent, or should have been.
        missed: those of them that were late or did not come.
        ended: requests that were answered or refused.
        refused: those of them that were refused.
    """

    due: float = 0.0
    missed: float = 0.0
    ended: float = 0.0
    refused: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A server at one moment.

    Attributes:
        totals: what was counted so far.
        late_by_cause: late actions so far, by what made them late.
        models: state and reason by model.
        connected, departed: the ids of robots.
    """

    totals: Totals
    late_by_cause: Mapping[str, int]
    models: Mapping[str, tuple[str, str]]
    connected: Collection[str]
    departed: Collection[str]


@dataclass(frozen=True, slots=True)
class Change:
    """A condition that has begun or ended.

    Attributes:
        alert: late, model, robot or refusals.
        state: firing or resolved.
        subject: the model or robot; "fleet" for what is of all.
        text: a sentence.
        since: when it began, by the clock that `Watch.look` is given.
    """

    alert: str
    state: Literal["firing", "resolved"]
    subject: str
    text: str
    since: float


@dataclass(slots=True)
class _Condition:
    """A condition that holds, or held.

    Attributes:
        text: the newest sentence about it.
        since: when it began.
        turned_at: since when it is other than was said; None: it is as was said.
        said: whether it was said to hold.
    """

    text: str
    since: float
    turned_at: float | None
    said: bool = False


def in_words(changes: Sequence[Change]) -> str:
    """Returns a line for each change; where very many robots are gone or back, one for all of them."""
    lines = [f"{one.state}: {one.text}" for one in changes if one.alert != "robot"]
    for state, what in (("firing", "gone"), ("resolved", "back")):
        robots = [one for one in changes if one.alert == "robot" and one.state == state]
        if len(robots) > _MOST_NAMED:
            names = ", ".join(one.subject for one in robots[:_MOST_NAMED])
            lines.append(f"{state}: {len(robots)} robots are {what}: {names} and {len(robots) - _MOST_NAMED} more")
        else:
            lines += [f"{state}: {one.text}" for one in robots]
    return "\n".join(lines)


class Watch:
    """Finds changes in what it is shown, each once."""

    def __init__(self) -> None:
        self._conditions: dict[tuple[str, str], _Condition] = {}
        self._history: deque[tuple[float, Seen]] = deque()
        self._gone: dict[str, None] = {}

    def look(self, now: float, seen: Seen, config: AlertsConfig) -> list[Change]:
        """Returns which conditions have begun or ended.

        Args:
            now: seconds, of any clock.
            seen: the server now.
            config: what to watch for.
        """
        holding = {key: text for key, text in self._holding(now, seen, config) if key[0] in config.conditions}
        changes = []
        for key, text in holding.items():
            one = self._conditions.get(key)
            if one is None:
                one = self._conditions[key] = _Condition(text, now, now)
            if one.said:
                one.text, one.turned_at = text, None
            else:
                one.text = text
                if one.turned_at is not None and now - one.turned_at >= config.hold_s:
                    one.said, one.turned_at = True, None
                    changes.append(Change(key[0], "firing", key[1], text, one.since))
        for key, one in list(self._conditions.items()):
            if key in holding:
                continue
            if not one.said:
                del self._conditions[key]
                continue
            one.turned_at = now if one.turned_at is None else one.turned_at
            if now - one.turned_at >= config.hold_s:
                del self._conditions[key]
                changes.append(Change(key[0], "resolved", key[1], f"over: {one.text}", one.since))
        return changes

    def _holding(self, now: float, seen: Seen, config: AlertsConfig) -> Iterator[tuple[tuple[str, str], str]]:
        earlier = self._earlier(now, seen)
        before, totals = earlier.totals, seen.totals
        due, missed = totals.due - before.due, totals.missed - before.missed
        if self._is_beyond("late", missed, due, config.late_share):
            text = f"{100 * missed / due:.0f} % of the answers due within a minute were late or did not come"
            grown = {cause: n - earlier.late_by_cause.get(cause, 0) for cause, n in seen.late_by_cause.items()}
            most = max(grown, key=lambda cause: grown[cause], default="")
            yield ("late", "fleet"), f"{text}; of late actions most by {most}" if grown.get(most) else text
        ended, refused = totals.ended - before.ended, totals.refused - before.refused
        if self._is_beyond("refusals", refused, ended, config.refused_share):
            yield ("refusals", "fleet"), f"{100 * refused / ended:.0f} % of the requests of a minute were refused"
        for model_id, (state, why) in seen.models.items():
            if state in _DOWN:
                yield ("model", model_id), f"model {model_id} is {state}{f': {_in_short(why)}' if why else ''}"
        for client_id in seen.departed:
            self._gone.setdefault(client_id)
        for client_id in seen.connected if self._gone else ():
            self._gone.pop(client_id, None)
        while len(self._gone) > _MOST_ROBOTS:
            del self._gone[next(iter(self._gone))]
        for client_id in self._gone:
            yield ("robot", client_id), f"robot {client_id} is gone"

    def _is_beyond(self, alert: str, part: float, whole: float, limit: float) -> bool:
        if whole < _FEW or not part:
            return False
        known = self._conditions.get((alert, "fleet"))
        return part / whole >= (limit * _OVER if known is not None and known.said else limit)

    def _earlier(self, now: float, seen: Seen) -> Seen:
        history = self._history
        history.append((now, seen))
        while len(history) > 1 and history[1][0] <= now - WINDOW_S:
            history.popleft()
        return history[0][1]


def _in_short(why: str) -> str:
    line = " ".join(why.split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"
