"""How long a robot waits before it tries to connect again, by the reason why it could not. No clock."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from inferential.client.attempts import every_s

_AT_ONCE = frozenset({errno.ECONNREFUSED, errno.ENOENT})  # errors by which a machine says that no server is there
_REFUSED_WAIT_S = 0.7
"""The longest wait, without its jitter of as much, after one of these: of 300 robots one tries every 4 ms."""
NO_WAY: frozenset[int] = frozenset(
    {errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN, errno.EHOSTDOWN}
)
"""Errors by which the network is away: no server is asked then, and the robot is to be back as soon as it is."""
_SHORTEST_WAIT_S = 1e-3
_ANSWER_ROUND_TRIPS, _LEAST_ROUND_TRIPS = 3, 1.5


@dataclass(frozen=True, slots=True)
class LinkTimeouts:
    """The times of a link, in seconds."""

    reconnect_s: float
    """Before the first attempt to reconnect."""
    reconnect_max_s: float
    """Between attempts, at most."""
    heartbeat_s: float = 1.0
    """Between heartbeats, so that a robot out of reach notices within seconds, not when TCP gives up."""
    answer_s: float = 0.5
    """After a heartbeat without an answer nothing more is sent until there is one, and the system is asked whether it
    sends in vain; later where the network is slow."""
    silence_s: float = 5.0
    """After a heartbeat without an answer the connection counts as lost, later where the network is slow; while a large
    message is sent, its progress counts as an answer."""

    def answer_within_s(self, round_trip_s: float) -> float:
        """Returns how long the answer to a heartbeat may take, on a network with this round trip."""
        answer_s = min(max(self.answer_s, _ANSWER_ROUND_TRIPS * round_trip_s), self.heartbeat_s)
        return max(answer_s, _LEAST_ROUND_TRIPS * round_trip_s)

    def silent_s(self, round_trip_s: float) -> float:
        """Returns after how long without an answer a connection counts as lost, on a network with this round trip."""
        return max(self.silence_s, _ANSWER_ROUND_TRIPS * round_trip_s)


class Backoff:
    """The waits of one link: each twice as long as the one before, until it was connected.

    Args:
        timeouts: the first and the longest wait.
        jitter: returns numbers from 0 to 1; they spread the attempts of robots that lost their server at the same time.
    """

    def __init__(self, timeouts: LinkTimeouts, jitter: Callable[[], float]) -> None:
        self._timeouts = timeouts
        self._jitter = jitter
        self._wait_s = timeouts.reconnect_s

    def reset(self) -> None:
        """Begins with the first wait again."""
        self._wait_s = self._timeouts.reconnect_s

    def next_s(self, code: int | None, outage_s: float) -> float:
        """Returns the next wait in seconds.

        Args:
            code: the number of the system's error, if it was one.
            outage_s: for how long the server was not heard of.
        """
        wait_s, spread_s = self._wait_s, self._timeouts.reconnect_s
        if code in _AT_ONCE and wait_s > _REFUSED_WAIT_S:
            # The machine says that no server listens: asking again costs nothing, and the robots wait for its restart.
            wait_s = spread_s = _REFUSED_WAIT_S
        elif code in NO_WAY:
            wait_s = min(wait_s, max(every_s(outage_s), spread_s))
        self._wait_s = max(min(2 * self._wait_s, self._timeouts.reconnect_max_s), self._wait_s)
        return max(wait_s + self._jitter() * spread_s, _SHORTEST_WAIT_S)
