"""When a robot's actions run out: steps it has left times the time that a step takes, told or learned.

It sets no deadline: that is `scheduler.deadline`.

What a robot does not tell is learned. Its control period, from how fast its steps fall between two observations with
no answer in between (`steps_remaining` of 20, then 15 a tenth of a second later: 20 ms); the median of the newest few,
as a chunk that was merged meanwhile spoils one of them. Its steps, from the chunk that it was answered with last: of
[T, action_dim] played from the moment of its observation on, T control periods later nothing is left.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from inferential.tracking.limits import MAX_MODELS

_FALLS = 5  # of steps, that the learned period is the median of
_ENOUGH = 3

_CHUNK_KEYS = ("actions", "action")


def horizon_of(values: Mapping[str, Any] | None) -> int | None:
    """The actions in a result: T of the [T, ...] array at `actions` or `action`; None where it holds no chunk."""
    for key in _CHUNK_KEYS:
        chunk = None if values is None else values.get(key)
        if chunk is not None and not isinstance(chunk, str) and len(chunk.shape) > 1:
            return int(chunk.shape[0])
    return None


@dataclass(slots=True)
class _Runway:
    told_period_s: float | None = None
    steps: int | None = None
    at: float = 0.0
    answered: bool = False
    periods: deque[float] = field(default_factory=lambda: deque(maxlen=_FALLS))
    chunk_ends: tuple[float, int] | None = None  # when it was observed, and its horizon

    def period_s(self) -> float | None:
        if self.told_period_s is not None:
            return self.told_period_s
        return statistics.median(self.periods) if len(self.periods) >= _ENOUGH else None


class RunwayTracker:
    """The actions that each client has left, by model."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, _Runway]] = {}

    def on_request(
        self, client_id: str, model_id: str, steps_remaining: int | None, control_period_s: float | None, now: float
    ) -> float | None:
        """Notes an observation; gives when the robot's actions run out, None where that is not known.

        Args:
            client_id, model_id: who asks which model.
            steps_remaining: actions left, where it told.
            control_period_s: how long one action holds, where it told.
            now: when the observation came in, in seconds of `time.monotonic()`.
        """
        runway = self._runway(client_id, model_id)
        if control_period_s is not None:
            runway.told_period_s = control_period_s
        if steps_remaining is not None and runway.steps is not None and not runway.answered:
            fallen = runway.steps - steps_remaining
            if fallen > 0 and now > runway.at:
                runway.periods.append((now - runway.at) / fallen)
        runway.steps, runway.at, runway.answered = steps_remaining, now, False
        period_s = runway.period_s()
        if period_s is None:
            return None
        if steps_remaining is not None:
            return now + max(steps_remaining, 1) * period_s
        if runway.chunk_ends is None:
            return None
        observed_at, horizon = runway.chunk_ends
        return max(observed_at + horizon * period_s, now + period_s)

    def on_answer(self, client_id: str, model_id: str, horizon: int, observed_at: float) -> None:
        """Notes a chunk that was sent.

        Args:
            client_id, model_id: whose.
            horizon: its actions.
            observed_at: when the observation that it answers had come in.
        """
        runway = self._clients.get(client_id, {}).get(model_id)
        if runway is not None:
            runway.answered = True
            runway.chunk_ends = (observed_at, horizon)

    def period_s(self, client_id: str, model_id: str) -> float | None:
        """How long one action of a client holds, told or learned; None while unknown."""
        runway = self._clients.get(client_id, {}).get(model_id)
        return None if runway is None else runway.period_s()

    def forget(self, client_id: str) -> None:
        """Drops all that is known of a client."""
        self._clients.pop(client_id, None)

    def _runway(self, client_id: str, model_id: str) -> _Runway:
        models = self._clients.setdefault(client_id, {})
        runway = models.get(model_id)
        if runway is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            runway = models[model_id] = _Runway()
        return runway
