"""Counts of control steps and chunks. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from inferential.client.brief import brief


@dataclass(slots=True)
class ChunkStats:
    """Counts of control steps and chunks."""

    steps: int = 0
    """Control steps so far."""
    skipped_steps: int = 0
    """The steps among them that the control loop itself missed."""
    asked: int = 0
    """Observations sent."""
    chunks: int = 0
    """Chunks merged."""
    outdated: int = 0
    """Chunks of which nothing could be played: they came after a newer one, after all their steps had passed, or so
    late that a new observation is better."""
    late_steps: int = 0
    """Steps that played actions of chunks that came after the robot had stopped, and went on where it stood."""
    lost: int = 0
    """Requests without an answer for so long that another observation was sent, and those that ended without the
    runtime: taken back, replaced by another handle of the model, or read by others."""
    renewed: int = 0
    """Observations that were made anew because the server asked for it."""
    refreshed: int = 0
    """Observations that were made anew because `refresh_ms` had passed without an answer."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that ended in an error, by its type; InvalidChunk: the robot may not play what was answered."""
    raised: Counter[str] = field(default_factory=Counter)
    """Exceptions that functions of the user raised, by their argument: merge, starved, on_starved, on_error."""
    starved_steps: int = 0
    """Steps without an action, those before the first chunk not counted."""
    starved_episodes: int = 0
    """Sequences of starved steps."""
    longest_starved_steps: int = 0
    """The longest sequence of starved steps."""
    stopped_steps: int = 0
    """Starved steps after `hold_ms`, in which `on_starved` said what to play."""
    delay_steps: int = 0
    """Control steps that passed between the observation and the arrival of the newest chunk."""
    round_trip_p50_ms: float = math.nan
    """Median of the newest round trips, in milliseconds."""
    round_trip_p95_ms: float = math.nan
    """95th percentile of the newest round trips, in milliseconds."""

    def __str__(self) -> str:
        """Returns what is not as it began, in one line; `repr` has all."""
        return brief(self)
