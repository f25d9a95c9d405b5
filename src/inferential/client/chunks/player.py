"""When to ask for the next chunk, and what to play until it is there.

It has no socket, no clock and no thread: `runtime` gives it answers and the time, and does what it says.

A control step is a number that `play` counts up. The next chunk is asked for when the steps that are left, the present
one included, are as few as a round trip may take:

    left <= ceil(q(round trips) * control rate) + 1

with q a high quantile of the newest round trips, not their mean: with the mean, every other chunk would be late. One
request is under way at a time, except with "ensemble", which lives on many chunks: one each step.

Real-time chunking (RTC: Black, Galliker and Levine, 2025, arXiv:2506.07339): a policy that freezes what will have been
executed by the time its chunk arrives, and inpaints the rest to agree with it, is told with each observation

    prev_chunk_left_over  [K, action_dim]  the actions left, from the observation's step on
    inference_delay       int32            the steps that the round trip is expected to take, by the same quantile
    execution_horizon     int32            the steps between the chunk's observation and this one

and what it answers replaces the rest.
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
"""What is played where no action is left: the last one again, the stop action, or what a function of the last action
and the number of steps starved gives."""

_MARGIN_STEPS = 1
_LEAST_TIMEOUT_S = 1.0
_TIMEOUT_ROUND_TRIPS = 10
_MOST_UNDER_WAY = 8  # of "ensemble"


@dataclass(slots=True)
class ChunkStats:
    """What was played and what became of the chunks."""

    steps: int = 0
    """Control steps so far."""
    skipped_steps: int = 0
    """Of them, those that the control loop itself missed."""
    asked: int = 0
    """Observations sent."""
    chunks: int = 0
    """Chunks merged."""
    outdated: int = 0
    """Chunks that came after a newer one, or after all their steps had passed."""
    lost: int = 0
    """Requests that were given up because no answer came."""
    refused: Counter[str] = field(default_factory=Counter)
    """Requests that ended in an error, by its type."""
    starved_steps: int = 0
    """Steps without an action, those before the first chunk not counted."""
    starved_episodes: int = 0
    """How often that began."""
    longest_starved_steps: int = 0
    """The longest of them."""
    delay_steps: int = 0
    """Control steps that passed between the observation and the arrival of the newest chunk."""
    round_trip_p50_ms: float = math.nan
    """Of the newest round trips."""
    round_trip_p95_ms: float = math.nan
    """The same."""


class Player:
    """One robot's chunks.

    Args: as those of `ChunkRuntime`.
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
    ) -> None:
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
        self._quantile = quantile
        self._follow_rate = follow_rate
        self._on_starved = on_starved
        self._trips = RoundTrips()
        self._step = 0
        self._under_way: dict[int, tuple[int, float]] = {}  # by request id: step and time of the observation
        self._asked_step = -1
        self._asked_at = -math.inf
        self._chunk_step = 0  # of the observation behind the newest chunk
        self._last_action: Array | None = None
        self._starved_steps = 0

    # Answers

    def answered(self, request_id: int, actions: Array, now: float, model_version: str = "") -> None:
        """A chunk came, [T, action_dim]; it is not merged with those of another version of the model."""
        asked = self._under_way.pop(request_id, None)
        if asked is None:
            self.stats.outdated += 1  # it was given up before
            return
        step, at = asked
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
        self.stats.chunks += 1
        self.stats.delay_steps = self._step - step

    def failed(self, request_id: int, error: str) -> None:
        """A request ended in an error of that type."""
        self.stats.refused[error] += 1
        self._under_way.pop(request_id, None)

    # Asking

    def wants_chunk(self, now: float, serve_interval_s: float = 0.0) -> bool:
        """Whether an observation is to be sent now, before this step's action is played.

        Args:
            now: seconds of a monotonic clock.
            serve_interval_s: the shortest interval at which the server can serve this robot; 0: no limit.
        """
        self._give_up(now)
        if self._asked_step == self._step:
            return False
        if self._under_way and not (self._many and len(self._under_way) < _MOST_UNDER_WAY):
            return False
        left = self._plan.end() - self._step
        if left <= self.delay_steps() + _MARGIN_STEPS:
            return True  # else it would starve, whatever the server would rather have
        if self._follow_rate and now - self._asked_at < serve_interval_s:
            return False
        if self._many:
            return True
        return self._horizon is not None and self._step - self._chunk_step >= self._horizon - self.delay_steps()

    def told(self) -> dict[str, Array]:
        """What goes with the observation, for a policy that knows RTC; {} without."""
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
        """Actions left after the present one."""
        return max(self._plan.end() - self._step - 1, 0)

    def asked(self, request_id: int, now: float) -> None:
        """An observation was sent."""
        self._under_way[request_id] = (self._step, now)
        self._asked_step, self._asked_at = self._step, now
        self.stats.asked += 1

    def delay_steps(self) -> int:
        """Control steps that a round trip may take, by the quantile; 0 before the first."""
        if not len(self._trips):
            return 0
        return math.ceil(self._trips.quantile(self._quantile) / self.period_s - 1e-9)

    def _give_up(self, now: float) -> None:
        """Forgets requests that no answer came to for far longer than others took."""
        if not self._under_way:
            return
        usual_s = self._trips.quantile(self._quantile) if len(self._trips) else 0.0
        patience_s = max(_LEAST_TIMEOUT_S, _TIMEOUT_ROUND_TRIPS * usual_s)
        for request_id, (_, at) in list(self._under_way.items()):
            if now - at > patience_s:
                del self._under_way[request_id]
                self.stats.lost += 1

    # Playing

    def play(self) -> Array | None:
        """The action of this control step, [action_dim]; the next call is the next step's. None before the first chunk.

        Before the first chunk there is nothing to hold; with `stop_action` given, that is played.
        """
        action = self._plan.action(self._step)
        self._pass(1)
        if action is not None:
            self._last_action, self._starved_steps = action, 0
            return action
        if self._last_action is None:
            return self._stop_action
        return self._play_starved(self._last_action)

    def skip(self, steps: int) -> None:
        """The control loop itself has missed so many steps."""
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
