"""When a robot's observations were seen, by the server's clock, from times of a clock of its own. No clock, no I/O."""

from __future__ import annotations

from collections import deque

_NEWEST = 64
_LONGEST_S = 30.0
"""No observation is longer on the way, as its stream would have been ended: the robot's clock was set."""


class RobotClock:
    """The clock of one robot.

    How far it is from the server's is not known: of the newest observations the one that was quickest on the way counts
    as seen when it arrived, so that ages are too small by what that took.
    """

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=_NEWEST)

    def captured_at(self, timestamp: float, arrived_at: float) -> float:
        """Returns when an observation was seen.

        Args:
            timestamp: seconds of the robot's clock.
            arrived_at: seconds of the server's.
        """
        offset = arrived_at - timestamp
        if self._offsets and offset - min(self._offsets) > _LONGEST_S:
            self._offsets.clear()
        self._offsets.append(offset)
        return timestamp + min(self._offsets)
