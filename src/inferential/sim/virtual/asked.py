"""What the robots of a run asked, to be asked again: at the times at which they did, or as they are answered.

A robot that observes, waits for the answer, acts and pauses comes no faster than it is answered: its requests are never
two at once, and what is steady is its pause from an answer to the next observation, not the time between observations,
which is longer where the answer is late. Repeated at the times at which it asked, such robots would run into each other
as they never did; so theirs are asked again as they are answered, a pause after each answer (`WaitingClient`). One that
keeps a rate pauses the less, the later its answer is.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from inferential.sim.virtual.world import Arrival, Outcome, Run, WaitingClient

_ENOUGH = 10
"""Pauses of a client from which on they mean something."""
_SELDOM = 0.05  # of its requests, so few at most were asked before the answer to the one before, as one gives up
_CLOCK_S = 1e-6  # as exactly as times are recorded
_AT_ONCE_S = 0.005
"""No robot acts in so little time."""
_LEAST_PAUSE_S = 1e-4  # so that time goes on where all is refused at once
_QUICK_S = 0.003
"""No robot has a policy asked as often as that."""
_GOLDEN = (math.sqrt(5) - 1) / 2  # copies of copies are shifted by unlike times

_Key = tuple[str, str]  # of a client and a model


@dataclass(frozen=True, slots=True)
class Asked:
    """What robots asked in a run.

    Attributes:
        arrivals: what is asked at the times at which it was, in order of time.
        waiting: clients that wait for each answer before they ask again.
        seconds: of the run.
    """

    arrivals: Sequence[Arrival]
    waiting: Sequence[WaitingClient]
    seconds: float

    def robots(self, load: float = 1.0) -> int:
        """Returns how many robots ask `times(load)` of it."""
        return sum(_times(len(own), load) for own in self._by_class().values())

    def robots_waiting(self) -> int:
        """Returns how many of the robots wait for each answer."""
        return len({client.asks[0].client_id for client in self.waiting})

    def times(self, load: float) -> Asked:
        """Returns what `load` times as many robots ask: copies ask what theirs do, at another time of the run.

        Args:
            load: 1 leaves all as it is; below, the first robots of each class remain.
        """
        if load == 1:
            return self
        arrivals: list[Arrival] = []
        waiting: list[WaitingClient] = []
        for own in self._by_class().values():
            robots = list(own.values())
            for number in range(_times(len(robots), load)):
                copy, which = divmod(number, len(robots))
                shift = self.seconds * copy * _GOLDEN % self.seconds if copy else 0.0
                for one in robots[which]:
                    if isinstance(one, WaitingClient):
                        waiting.append(_another(one, copy))
                    else:
                        arrivals.append(_moved(one, copy, shift, self.seconds))
        arrivals.sort(key=lambda arrival: (arrival.at, arrival.client_id))
        return Asked(arrivals, waiting, self.seconds)

    def _by_class(self) -> dict[str, dict[str, list[Arrival | WaitingClient]]]:
        """Returns what each robot asks, by class and client id, in the order in which they first ask."""
        first: list[tuple[float, Arrival, Arrival | WaitingClient]] = [(one.at, one, one) for one in self.arrivals]
        first += [(client.asks[0].at, client.asks[0], client) for client in self.waiting]
        found: dict[str, dict[str, list[Arrival | WaitingClient]]] = {}
        for _, arrival, one in sorted(first, key=lambda entry: entry[0]):
            found.setdefault(arrival.robot_class, {}).setdefault(arrival.client_id, []).append(one)
        return found


def waiting_text(waiting: int, robots: int) -> str:
    """Returns in words how many of the robots wait for each answer; "" where none does."""
    if not waiting:
        return ""
    if robots == 1:
        return "the robot waits for each answer before it asks again, and is simulated so"
    return f"{waiting} of {robots} robots wait for each answer before they ask again, and are simulated so"


def asked_in(run: Run) -> Asked:
    """Returns what was asked in a run."""
    arrivals: list[Arrival] = []
    waiting: list[WaitingClient] = []
    for own in _by_client(run.outcomes).values():
        asks = [one.arrival for one in own]
        if _waits(own):
            pauses_s = [max(pause_s, _LEAST_PAUSE_S) for pause_s in _pauses_s(own)]
            pauses_s.append(statistics.median(pauses_s))
            waiting.append(WaitingClient(asks, pauses_s, stops_at=asks[-1].at))
        else:
            arrivals += asks
    return Asked(sorted(arrivals, key=lambda arrival: arrival.at), waiting, run.seconds)


def asking_at_once(run: Run) -> set[str]:
    """Returns the clients that ask again as soon as they are answered, as a benchmark does.

    How much they ask says how fast they were answered, not what load they are. Those that wait for others most of the
    time are not meant.
    """
    return {client_id for (client_id, _), own in _by_client(run.outcomes).items() if _asks_at_once(own)}


def _asks_at_once(own: Sequence[Outcome]) -> bool:
    if not _is_one_at_once(own) or statistics.median(_pauses_s(own)) > _AT_ONCE_S:
        return False
    took_s = statistics.median(one.ended_at - one.arrival.at for one in own)
    waited_s = statistics.median((one.started_at or one.arrival.at) - one.arrival.at for one in own)
    return waited_s <= took_s / 2 and (_waits(own) or statistics.median(_periods_s(own)) < _QUICK_S)


def _waits(own: Sequence[Outcome]) -> bool:
    """Returns whether a client waits for each answer before it asks again."""
    return _is_one_at_once(own) and _deviation(_pauses_s(own)) + _CLOCK_S < _deviation(_periods_s(own))


def _is_one_at_once(own: Sequence[Outcome]) -> bool:
    """Returns whether a client asked often enough to say so, and hardly ever before it was answered."""
    pauses_s = _pauses_s(own)
    return len(pauses_s) >= _ENOUGH and sum(pause_s < 0 for pause_s in pauses_s) <= _SELDOM * len(pauses_s)


def _pauses_s(own: Sequence[Outcome]) -> list[float]:
    return [after.arrival.at - before.ended_at for before, after in pairwise(own)]


def _periods_s(own: Sequence[Outcome]) -> list[float]:
    return [after.arrival.at - before.arrival.at for before, after in pairwise(own)]


def _deviation(values: Sequence[float]) -> float:
    """Returns how far values are from their median, on average: one pause of many that is long counts little."""
    median = statistics.median(values)
    return statistics.fmean(abs(value - median) for value in values)


def _by_client(outcomes: Sequence[Outcome]) -> dict[_Key, list[Outcome]]:
    found: dict[_Key, list[Outcome]] = defaultdict(list)
    for one in sorted(outcomes, key=lambda one: one.arrival.at):
        found[one.arrival.client_id, one.arrival.model_id].append(one)
    return found


def _times(robots: int, load: float) -> int:
    return max(1, round(robots * load))


def _moved(arrival: Arrival, copy: int, shift: float, seconds: float) -> Arrival:
    """Returns what a copy of a robot asks later; what would be after the end of the run is at its beginning."""
    if not copy:
        return arrival
    at = (arrival.at + shift) % seconds
    return replace(arrival, client_id=f"{arrival.client_id}+{copy}", at=at, deadline=at + arrival.deadline - arrival.at)


def _another(client: WaitingClient, copy: int) -> WaitingClient:
    """Returns a copy of a client that begins with another of its requests, so many of its periods later."""
    if not copy:
        return client
    count = len(client.asks)
    first = int(count * (copy * _GOLDEN % 1))
    period_s = (client.asks[-1].at - client.asks[0].at) / (count - 1)
    begins_at = client.asks[0].at + copy * _GOLDEN % 1 * period_s

    def turned(values: Sequence[Arrival]) -> list[Arrival]:
        return [replace(one, client_id=f"{one.client_id}+{copy}") for one in (*values[first:], *values[:first])]

    asks = turned(client.asks)
    asks[0] = replace(asks[0], at=begins_at, deadline=begins_at + asks[0].deadline - asks[0].at)
    pauses_s = (*client.pauses_s[first:], *client.pauses_s[:first])
    return WaitingClient(asks, pauses_s, client.stops_at)
