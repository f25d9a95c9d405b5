"""What an answer with a chunk of actions adds to a robot: the time for which it has an action and had none without.

All times are seconds of `time.monotonic()`, or durations in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class ChunkTime:
    """A request of a robot that plays chunks.

    Attributes:
        runs_out_at: when the robot's actions run out, those of chunks under way included; in the past where it has
            none.
        covers_until: until when the actions of its answer last. Infinite for a robot that goes on with the first
            action that it has not executed, however late the answer is.
        lasts_s: the longest that it plays one answer, from its arrival on.
        most_s: the most that an answer can add: of a robot that goes on, what it has not executed of it by then.
        lead_s: of a robot that renews observations, from the moment that it is asked for one to its arrival at most.
        renews: whether the robot observes anew, at once, where its observation is refused as outdated.
        steps_at, step_s: one of its control steps, and the time between two: it plays an answer from the next one on;
            `step_s` 0: not known, it plays an answer when it comes.
        reserve_s: how much longer its next answer may take than it knows of, as it was when the call of this one began.
    """

    runs_out_at: float
    covers_until: float
    lasts_s: float
    most_s: float = math.inf
    renews: bool = False
    lead_s: float = 0.0
    steps_at: float = 0.0
    step_s: float = 0.0
    reserve_s: float = 0.0

    def gained_s(self, answered_at: float) -> float:
        """Returns the seconds of robot time that an answer at this moment adds."""
        if self.step_s > 0:
            answered_at = self.steps_at + math.ceil((answered_at - self.steps_at) / self.step_s) * self.step_s
        begins_at = max(self.runs_out_at, answered_at)
        ends_at = min(self.covers_until, answered_at + self.lasts_s)
        return min(max(ends_at - begins_at, 0.0), self.most_s)

    def plays_until(self, answered_at: float) -> float:
        """Returns until when the robot plays what it has and an answer at this moment."""
        ends_at = min(self.covers_until, answered_at + self.lasts_s, max(self.runs_out_at, answered_at) + self.most_s)
        return max(self.runs_out_at, ends_at)
