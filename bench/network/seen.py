"""What a robot saw, and the figures of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

_FRESH_S = 0.1
"""An observation that was made at most so long before the network was back shows the robot the present."""
_STEPS_AFTER = 500


@dataclass(slots=True)
class Seen:
    """What a robot saw, in seconds of `time.monotonic()`.

    Attributes:
        answers: when each came that it could use, and when its observation was made.
        steps: when each control step was due, and whether it had an action.
        started_at: when its first step was due; 0: it has not begun.
    """

    answers: list[tuple[float, float]] = field(default_factory=list)
    steps: list[tuple[float, bool]] = field(default_factory=list)
    started_at: float = 0.0

    def start(self) -> float:
        """Notes that the robot begins, and returns when."""
        self.started_at = time.monotonic()
        return self.started_at


def summary(seen: Seen, began: float, cut_at: float, back_at: float) -> dict[str, Any]:
    """Returns ages before the cut and after it, starved steps, and the time back.

    Args:
        seen: by the robot.
        began: from when on it counts.
        cut_at, back_at: when the network went and came back.
    """
    before = sorted((at - seen_at) * 1e3 for at, seen_at in seen.answers if began < at <= cut_at)
    after = [(at, seen_at) for at, seen_at in seen.answers if at > back_at]
    fresh = [at for at, seen_at in after if seen_at > back_at - _FRESH_S]
    steps = [has for at, has in seen.steps if began < at <= cut_at]
    steps_after = [(at, has) for at, has in seen.steps if at > back_at][:_STEPS_AFTER]
    without = [at for at, has in steps_after if not has]
    return {
        "answers_per_s": round(len(before) / (cut_at - began), 1),
        "age_p50_ms": round(before[len(before) // 2], 1) if before else None,
        "age_p99_ms": round(before[int(len(before) * 0.99)], 1) if before else None,
        "age_max_ms": round(before[-1], 1) if before else None,
        "starved": f"{steps.count(False)} of {len(steps)}",
        "back_after_ms": round((fresh[0] - back_at) * 1e3, 1) if fresh else None,
        "oldest_after_ms": round(max((at - seen_at) * 1e3 for at, seen_at in after), 1) if after else None,
        "starved_after": f"{len(without)} of {len(steps_after)}",
        "starved_until_back": sum(at <= fresh[0] for at in without) if fresh else None,
    }
