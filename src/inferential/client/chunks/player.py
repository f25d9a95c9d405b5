"""Decides when to request the next chunk, and what to play until it arrives.

It has no socket, no clock and no thread: `runtime` passes results and the time to it.

A control step is a number that `play` counts up. The next chunk is requested when the steps that are left, the current
one included, are as few as a round trip may take:

    left <= ceil(q(round trips) * control rate) + 1

with q a high quantile of the newest round trips, not their mean: with the mean, every other chunk would be late. One
request is in flight at a time, except with "ensemble", which averages many chunks: one per step.

Real-time chunking (RTC: Black, Galliker and Levine, 2025, arXiv:2506.07339): a policy that freezes what will have been
executed by the time its chunk arrives, and inpaints the rest to agree with it, gets with each observation

    prev_chunk_left_over  [K, action_dim]  the actions left, from the observation's step on
    inference_delay       int32            the steps that the round trip is expected to take, by the same quantile
    execution_horizon     int32            the steps between the chunk's observation and this one

and its chunk replaces the rest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from inferential.client.chunks.latency import RoundTrips
from inferential.client.chunks.plan import Array, EnsemblePlan, Merge, new_plan

Starved = Literal["hold", "stop"] | Callable[[Array, int], Array]
"""What is played where no action is left: the last one again, the stop action, or what a function returns for the last
action and the number of steps starved."""

_MARGIN_STEPS = 1
_MIN_TIMEOUT_S = 1.0
_TIMEOUT_ROUND_TRIPS = 10
_ROUNDING_S = 1e-9
_MAX_IN_FLIGHT = 8  # of "ensemble"


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
    """Chunks that arrived after a newer one, or after all their steps had passed."""
    lost: int = 0
    """Requests without an answer within ten usual round trips, at least a second."""
    renewed: int = 0
    """Observations that were made anew because the server asked for it."""
    refreshed: int = 0
    """Observations that were made anew because `refresh_ms` had passed without an answer."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that ended in an error, by its type."""
    starved_steps: int = 0
    """Steps without an action, those before the first chunk not counted."""
    starved_episodes: int = 0
    """Sequences of starved steps."""
    longest_starved_steps: int = 0
    """The longest sequence of starved steps."""
    delay_steps: int = 0
    """Control steps that passed between the observation and the arrival of the newest chunk."""
    round_trip_p50_ms: float = math.nan
    """Median of the newest round trips, in milliseconds."""
    round_trip_p95_ms: float = math.nan
    """95th percentile of the newest round trips, in milliseconds."""


class Player:
    """Plays the chunks of one robot; the arguments are those of `ChunkRuntime`.

    Raises:
        ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        control_rate_hz: float,
        merge: str | Merge = "replace",
        starved: Starved = "hold",
        stop_action: Array | None = None,
        rtc: bool = False,
        execution_horizon: int | None = None,
        quantile: float = 0.95,
        follow_rate: bool = True,
        on_starved: Callable[[int], None] | None = None,
        refresh_ms: float | None = None,
    ) -> None:
        if refresh_ms is not None and not (refresh_ms > 0 and math.isfinite(refresh_ms)):
            raise ValueError(f"refresh_ms: expected a finite number above 0, or None, got {refresh_ms!r}")
        if not (control_rate_hz > 0 and math.isfinite(control_rate_hz)):
            raise ValueError(f"control_rate_hz: expected a finite number above 0, got {control_rate_hz!r}")
        if isinstance(starved, str) and starved not in ("hold", "stop"):
            raise ValueError(f"starved: expected 'hold', 'stop' or a function, got {starved!r}")
        if execution_horizon is not None and execution_horizon < 1:
            raise ValueError(f"execution_horizon: expected at least 1, got {execution_horizon!r}")
        if not 0 < quantile <= 1:
            raise ValueError(f"quantile: expected a number above 0 and at most 1, got {quantile!r}")
        if rtc and merge != "replace":
            raise ValueError(f"merge: with rtc the policy itself makes chunks agree; expected 'replace', got {merge!r}")
        self.period_s = 1 / control_rate_hz
        self.stats = ChunkStats()
        self._merge = merge
        self._plan = new_plan(merge)
        self._version = ""
        self._many = isinstance(self._plan, EnsemblePlan)
        self._starved = starved
        self._stop_action = stop_action
        self._rtc = rtc
        self._horizon = execution_horizon
        self.suggested_horizon: int | None = None
        """As the server suggests it of the newest chunk; it goes before `execution_horizon`."""
        self._quantile = quantile
        self._follow_rate = follow_rate
        self._on_starved = on_starved
        self._refresh_s = math.inf if refresh_ms is None else refresh_ms / 1e3
        self._newest_id = 0  # of the chunk in force, and the step of its observation
        self._newest_step = 0
        self._played: tuple[int, int] | None = None
        self._trips = RoundTrips()
        self._step = 0
        self._in_flight: dict[int, tuple[int, float]] = {}  # by request id: step and time of the observation
        self._asked_step = -1
        self._asked_at = -math.inf
        self._renews = False
        self._chunk_step = 0  # of the observation behind the newest chunk
        self._last_action: Array | None = None
        self._starved_steps = 0

    # Results

    def answered(self, request_id: int, actions: Array, now: float, model_version: str = "") -> None:
        """Merges a chunk that arrived, [T, action_dim]; chunks of two versions of the model are never merged."""
        asked = self._in_flight.pop(request_id, None)
        if asked is None:
            self.stats.outdated += 1  # it counted as lost before
            return
        step, at = asked
        if not self._many:  # the server drops what an answered observation had replaced
            self._in_flight = {key: one for key, one in self._in_flight.items() if one[0] > step}
        self._trips.note(now - at)
        self.stats.round_trip_p50_ms = self._trips.quantile(0.5) * 1e3
        self.stats.round_trip_p95_ms = self._trips.quantile(0.95) * 1e3
        if step + len(actions) <= self._step:
            self.stats.outdated += 1
            if step > self._chunk_step:  # all its steps have passed, but nothing newer is known to hold
                self._chunk_step, self._last_action = step, actions[-1]
            return
        if model_version != self._version and (step > self._chunk_step or not self.stats.chunks):
            self._plan, self._version = new_plan(self._merge), model_version
        if model_version != self._version or not self._plan.add(step, actions):
            self.stats.outdated += 1
            return
        self._chunk_step = max(self._chunk_step, step)
        self._newest_id, self._newest_step = request_id, step
        self.stats.chunks += 1
        self.stats.delay_steps = self._step - step

    def outdated(self, request_id: int) -> None:
        """Notes that the server asks for an observation that takes this one's place."""
        if self._in_flight and request_id == next(reversed(self._in_flight)):
            self.stats.renewed += 1
            self._renews = True

    def acknowledgement(self) -> dict[str, int]:
        """Returns what an observation says of the newest chunk of which an action was played; {} before the first."""
        if self._played is None:
            return {}
        return {"played_id": self._played[0], "played_from": self._played[1]}

    def failed(self, request_id: int, error: str) -> None:
        """Notes that a request ended in an error of this type."""
        self.stats.refused[error] += 1
        self._in_flight.pop(request_id, None)

    # Requests

    def wants_chunk(self, now: float, serve_interval_s: float = 0.0) -> bool:
        """Returns whether to send an observation now, before this step's action is played.

        Args:
            now: seconds of a monotonic clock.
            serve_interval_s: the shortest interval at which the server can serve this robot; 0: no limit.
        """
        self._drop_lost(now)
        if self._asked_step == self._step:
            return False
        if self._renews:
            return True
        if self._in_flight and now - self._asked_at >= self._refresh_s - _ROUNDING_S:
            self.stats.refreshed += 1
            return True
        if self._in_flight and not (self._many and len(self._in_flight) < _MAX_IN_FLIGHT):
            return False
        left = self._plan.end() - self._step
        if left <= self.delay_steps() + _MARGIN_STEPS:
            return True  # it would starve otherwise, so the server's interval is ignored
        if self._follow_rate and now - self._asked_at < serve_interval_s:
            return False
        if self._many:
            return True
        horizon = self._horizon if self.suggested_horizon is None else self.suggested_horizon
        return horizon is not None and self._step - self._chunk_step >= horizon - self.delay_steps()

    def rtc_values(self) -> dict[str, Array]:
        """Returns what is sent with the observation for real-time chunking; {} without."""
        if not self._rtc:
            return {}
        left = self._plan.from_step(self._step)
        if left is None:
            return {}
        return {
            "prev_chunk_left_over": left,
            "inference_delay": np.asarray(min(self.delay_steps(), len(left)), dtype=np.int32),
            "execution_horizon": np.asarray(self._step - self._chunk_step, dtype=np.int32),
        }

    def steps_remaining(self) -> int:
        """Returns the number of actions left after the current one."""
        return max(self._plan.end() - self._step - 1, 0)

    def asked(self, request_id: int, now: float) -> None:
        """Notes that an observation was sent."""
        self._in_flight[request_id] = (self._step, now)
        self._asked_step, self._asked_at, self._renews = self._step, now, False
        self.stats.asked += 1

    def delay_steps(self) -> int:
        """Returns the control steps that a round trip may take, by the quantile; 0 before the first."""
        if not len(self._trips):
            return 0
        return math.ceil(self._trips.quantile(self._quantile) / self.period_s - 1e-9)

    def _drop_lost(self, now: float) -> None:
        """Drops requests whose answer takes far longer than usual."""
        if not self._in_flight:
            return
        usual_s = self._trips.quantile(self._quantile) if len(self._trips) else 0.0
        timeout_s = max(_MIN_TIMEOUT_S, _TIMEOUT_ROUND_TRIPS * usual_s)
        for request_id, (_, at) in list(self._in_flight.items()):
            if now - at > timeout_s:
                del self._in_flight[request_id]
                self.stats.lost += 1

    # Playing

    def play(self) -> Array | None:
        """Returns the action of this control step, [action_dim], and goes to the next step.

        Before the first chunk it returns `stop_action`, or None where that is not given.
        """
        action = self._plan.action(self._step)
        if action is not None and self._newest_id and (self._played is None or self._played[0] != self._newest_id):
            self._played = self._newest_id, self._step - self._newest_step
        self._pass(1)
        if action is not None:
            self._last_action, self._starved_steps = action, 0
            return action
        if self._last_action is None:
            return self._stop_action
        return self._play_starved(self._last_action)

    def skip(self, steps: int) -> None:
        """Skips steps that the control loop itself missed."""
        self._pass(steps)
        self.stats.skipped_steps += steps

    def _pass(self, steps: int) -> None:
        self._step += steps
        self.stats.steps += steps
        self._plan.passed(self._step)

    def _play_starved(self, last_action: Array) -> Array:
        stats = self.stats
        self._starved_steps += 1
        stats.starved_steps += 1
        stats.starved_episodes += self._starved_steps == 1
        stats.longest_starved_steps = max(stats.longest_starved_steps, self._starved_steps)
        if self._on_starved is not None:
            self._on_starved(self._starved_steps)
        if self._starved == "hold":
            return last_action
        if self._starved == "stop":
            return np.zeros_like(last_action) if self._stop_action is None else self._stop_action
        assert callable(self._starved)
        return self._starved(last_action, self._starved_steps)
