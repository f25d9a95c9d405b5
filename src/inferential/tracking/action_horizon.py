"""Estimates when a robot's actions run out: steps remaining times the control period, stated or learned.

What a robot does not state is learned. Its control period, from how fast its steps decrease between two observations
with no result in between (`steps_remaining` of 20, then 15 a tenth of a second later: 20 ms); the median of the newest
few, as a chunk that was merged meanwhile spoils one of them. Its steps, from its last chunk: if [T, action_dim] actions
are played from the time of their observation on, nothing is left T control periods later.

The deadline that follows from it is set in `scheduler.deadline`.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inferential.tracking.limits import MAX_MODELS

_SAMPLES = 5  # of the control period, whose median is taken
_MIN_SAMPLES = 3

_CHUNK_KEYS = ("actions", "action")


def horizon_of(values: Mapping[str, Any] | None) -> int | None:
    """Returns the length T of a result's [T, ...] array `actions` or `action`; None if it has no chunk."""
    for key in _CHUNK_KEYS:
        chunk = None if values is None else values.get(key)
        if chunk is not None and not isinstance(chunk, str) and len(chunk.shape) > 1:
            return int(chunk.shape[0])
    return None


@dataclass(slots=True)
class _ActionHorizon:
    stated_period_s: float | None = None
    steps: int | None = None
    at: float = 0.0
    answered: bool = False
    periods: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    chunk_ends: tuple[float, int] | None = None  # when it was observed, and its horizon

    def period_s(self) -> float | None:
        if self.stated_period_s is not None:
            return self.stated_period_s
        return statistics.median(self.periods) if len(self.periods) >= _MIN_SAMPLES else None


class ActionHorizonTracker:
    """The actions that each client has left, by model."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, _ActionHorizon]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def on_request(
        self, client_id: str, model_id: str, steps_remaining: int | None, control_period_s: float | None, now: float
    ) -> float | None:
        """Records an observation; returns when the robot's actions run out, None while that is unknown.

        Args:
            client_id, model_id: the client and the model that it asks.
            steps_remaining: actions left, if stated.
            control_period_s: how long one action is played, in seconds, if stated.
            now: arrival of the observation, in seconds of `time.monotonic()`.
        """
        state = self._state_of(client_id, model_id)
        if control_period_s is not None:
            state.stated_period_s = control_period_s
        if steps_remaining is not None and state.steps is not None and not state.answered:
            played = state.steps - steps_remaining
            if played > 0 and now > state.at:
                state.periods.append((now - state.at) / played)
        state.steps, state.at, state.answered = steps_remaining, now, False
        period_s = state.period_s()
        if period_s is None:
            return None
        if steps_remaining is not None:
            return now + max(steps_remaining, 1) * period_s
        if state.chunk_ends is None:
            return None
        observed_at, horizon = state.chunk_ends
        return max(observed_at + horizon * period_s, now + period_s)

    def on_answer(self, client_id: str, model_id: str, horizon: int, observed_at: float) -> None:
        """Records a chunk that was sent.

        Args:
            client_id, model_id: the client that it was sent to and the model that made it.
            horizon: number of its actions.
            observed_at: arrival of the observation that it answers, in seconds of `time.monotonic()`.
        """
        state = self._clients.get(client_id, {}).get(model_id)
        if state is not None:
            state.answered = True
            state.chunk_ends = (observed_at, horizon)

    def period_s(self, client_id: str, model_id: str) -> float | None:
        """Returns a client's control period in seconds, stated or learned; None while unknown."""
        state = self._clients.get(client_id, {}).get(model_id)
        return None if state is None else state.period_s()

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)

    def _state_of(self, client_id: str, model_id: str) -> _ActionHorizon:
        models = self._clients.setdefault(client_id, {})
        state = models.get(model_id)
        if state is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            state = models[model_id] = _ActionHorizon()
        return state
