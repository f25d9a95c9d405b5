"""Estimates when a robot's actions run out: steps remaining times the control period, stated or learned.

What a robot does not state is learned. Its control period, from how fast its steps decrease between two observations
with no result in between (`steps_remaining` of 20, then 15 a tenth of a second later: 20 ms); the median of the newest
few, as a chunk that was merged meanwhile spoils one of them. Its steps, from its last chunk: if [T, action_dim] actions
are played from the time of their observation on, nothing is left T control periods later.

The deadline that follows from it is set in `scheduler.deadline`.

Of a robot that states its steps, its queue of actions is mirrored: chunks that are being made or on their way last
longer than the steps that it stated (`queue_of`). A robot that acknowledges chunks (the newest that it has played an
action of, and how soon) says exactly which are on their way still, and how long after its departure an
answer is played: the network and the rest of a control period, which the shortest of them has none of.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from inferential.proto.packed import PackedArrays, Packing
from inferential.tracking.limits import MAX_MODELS

_SAMPLES = 5  # of the control period, whose median is taken
_MIN_SAMPLES = 3

_MAX_HORIZONS = 1024  # models
_LONGEST_PERIOD_S = 1e3  # a rate so low that its period is infinite is a positive number, too
_LONGEST_LAG_S = 1.0
_LAGS = 32  # the newest, of each robot and model
_MAX_UNDER_WAY = 16  # chunks of one robot and model; beyond it, the oldest is forgotten

_CHUNK_KEYS = ("actions", "action")


def horizon_of(values: Mapping[str, Any] | None) -> int | None:
    """Returns the length T of a result's [T, ...] array `actions` or `action`; None if it has no chunk."""
    if values is None:
        return None
    if type(values) is PackedArrays:
        return _horizon_of(values.packing)
    for key in _CHUNK_KEYS:
        chunk = values.get(key)
        if chunk is not None and not isinstance(chunk, str) and len(chunk.shape) > 1:
            return int(chunk.shape[0])
    return None


@lru_cache(maxsize=1024)
def _horizon_of(packing: Packing) -> int | None:
    shapes = [packing.shapes[key] for key in _CHUNK_KEYS if key in packing.shapes]
    return next((shape[0] for shape in shapes if len(shape) > 1), None)


@dataclass(frozen=True, slots=True)
class ActionQueue:
    """What a robot has to play.

    Attributes:
        runs_out_at: when its actions run out, those under way included, in seconds of `time.monotonic()`.
        lasts_s: how long a chunk lasts.
        period_s: how long one action is played.
        transit_s: how long an answer and an observation are on their way, together, where its control step comes just
            in time; None: it does not acknowledge chunks.
        lag_s: the same and the wait for its control step, at most.
    """

    runs_out_at: float
    lasts_s: float
    period_s: float
    transit_s: float | None
    lag_s: float


@dataclass(slots=True)
class _UnderWay:
    """A chunk that is being made, or was sent."""

    observed_at: float
    adds_s: float | None
    sent_at: float | None = None


@dataclass(slots=True)
class ActionHorizon:
    """What is known of the actions that one robot has left of one model."""

    stated_period_s: float | None = None
    steps: int | None = None
    at: float = 0.0
    answered: bool = False
    periods: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES))
    chunk_ends: tuple[float, int] | None = None  # when it was observed, and its horizon
    under_way: dict[int, _UnderWay] = field(default_factory=dict)  # by request id
    lags_s: deque[float] = field(default_factory=lambda: deque(maxlen=_LAGS))

    def period_s(self) -> float | None:
        """Returns the control period in seconds, stated or learned; None while unknown."""
        if self.stated_period_s is not None:
            return self.stated_period_s
        return statistics.median(self.periods) if len(self.periods) >= _MIN_SAMPLES else None

    def observed(self, steps_remaining: int | None, control_period_s: float | None, now: float) -> float | None:
        """Does what `ActionHorizonTracker.on_request` describes."""
        if control_period_s is not None:
            self.stated_period_s = min(control_period_s, _LONGEST_PERIOD_S)
        if steps_remaining is None:
            self.steps = None
            if self.chunk_ends is None:
                return None
        elif self.steps is not None and not self.answered:
            played = self.steps - steps_remaining
            if played > 0 and now > self.at:
                self.periods.append((now - self.at) / played)
        self.steps, self.at, self.answered = steps_remaining, now, False
        period_s = self.period_s()
        if period_s is None:
            return None
        if steps_remaining is not None:
            return now + max(steps_remaining, 1) * period_s
        if self.chunk_ends is None:
            return None
        observed_at, horizon = self.chunk_ends
        return max(observed_at + horizon * period_s, now + period_s)


class ActionHorizonTracker:
    """The actions that each client has left, by model."""

    def __init__(self) -> None:
        self._clients: dict[str, dict[str, ActionHorizon]] = {}
        self._horizons: OrderedDict[str, int] = OrderedDict()  # by model, of its newest chunk

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
        return self.of(client_id, model_id).observed(steps_remaining, control_period_s, now)

    def queue_of(
        self,
        client_id: str,
        model_id: str,
        steps_remaining: int,
        now: float,
        played_id: int | None = None,
        played_from: int | None = None,
    ) -> ActionQueue | None:
        """Returns a robot's queue of actions after an observation that `on_request` has recorded.

        Args:
            client_id, model_id: the client and the model that it asks.
            steps_remaining: actions left, as stated.
            now: arrival of the observation, in seconds of `time.monotonic()`.
            played_id, played_from: the newest chunk of which it has played an action, and after how many control steps
                since its observation; None: it does not acknowledge chunks.

        Returns:
            None while its control period, or how long a chunk of this model is, is not known.
        """
        state = self.of(client_id, model_id)
        period_s, horizon = state.period_s(), self._horizons.get(model_id)
        if period_s is None or horizon is None:
            return None
        if played_id is None:
            state.under_way = {key: one for key, one in state.under_way.items() if one.sent_at is None}
        else:
            self._acknowledge(state, played_id, played_from, period_s)
        lasts_s = horizon * period_s
        # What a robot that acknowledges chunks has left is left after the present action.
        steps = steps_remaining + 1 if played_id is not None and steps_remaining else steps_remaining
        lags_s = sorted(state.lags_s) if played_id is not None else []
        runs_out_at = now + steps * period_s
        for one in state.under_way.values():
            if one.adds_s is None:
                runs_out_at = max(runs_out_at, one.observed_at + lasts_s)
                continue
            comes_at = now if one.sent_at is None else one.sent_at + (lags_s[0] if lags_s else 0.0)
            if comes_at >= now:  # else its actions are among those that are left
                runs_out_at = max(runs_out_at, comes_at) + one.adds_s
        if not lags_s:
            return ActionQueue(runs_out_at, lasts_s, period_s, None, period_s)
        longest_s = max(lags_s[0] + period_s, lags_s[-2 if len(lags_s) > 2 else -1])  # one may have been held up
        return ActionQueue(runs_out_at, lasts_s, period_s, lags_s[0], longest_s)

    @staticmethod
    def _acknowledge(state: ActionHorizon, played_id: int, played_from: int | None, period_s: float) -> None:
        played = state.under_way.get(played_id)
        if played is not None and played.sent_at is not None and played_from is not None:
            lag_s = played_from * period_s - (played.sent_at - played.observed_at)
            state.lags_s.append(min(max(lag_s, 0.0), _LONGEST_LAG_S))
        # Ids grow within a connection, and chunks that came after a newer one are not played.
        state.under_way = {key: one for key, one in state.under_way.items() if key > played_id}

    def on_dispatch(
        self, client_id: str, model_id: str, request_id: int, observed_at: float, adds_s: float | None = None
    ) -> None:
        """Records that a chunk is being made, of an observation that arrived at `observed_at`.

        Args:
            client_id, model_id, request_id: whose, and which.
            observed_at: in seconds of `time.monotonic()`.
            adds_s: how long the robot plays it once it has played what it has, however late it comes; None: all its
                actions are past when its time since `observed_at` is.
        """
        state = self._clients.get(client_id, {}).get(model_id)
        if state is None:
            return
        state.under_way[request_id] = _UnderWay(observed_at, adds_s)
        if len(state.under_way) > _MAX_UNDER_WAY:
            del state.under_way[next(iter(state.under_way))]

    def on_no_answer(self, client_id: str, model_id: str, request_id: int) -> None:
        """Records that a request ends without a chunk, or is to be tried again."""
        state = self._clients.get(client_id, {}).get(model_id)
        if state is not None:
            state.under_way.pop(request_id, None)

    def on_answer(
        self,
        client_id: str,
        model_id: str,
        horizon: int,
        observed_at: float,
        request_id: int = 0,
        sent_at: float | None = None,
    ) -> None:
        """Records a chunk that was sent.

        Args:
            client_id, model_id: the client that it was sent to and the model that made it.
            horizon: number of its actions.
            observed_at: arrival of the observation that it answers, in seconds of `time.monotonic()`.
            request_id: of that observation.
            sent_at: when it was sent.
        """
        self._horizons[model_id] = horizon
        if len(self._horizons) > _MAX_HORIZONS:
            self._horizons.popitem(last=False)
        state = self._clients.get(client_id, {}).get(model_id)
        if state is not None:
            under_way = state.under_way.get(request_id)
            if under_way is not None:
                under_way.sent_at = sent_at
            state.answered = True
            state.chunk_ends = (observed_at, horizon)

    def period_s(self, client_id: str, model_id: str) -> float | None:
        """Returns a client's control period in seconds, stated or learned; None while unknown."""
        state = self._clients.get(client_id, {}).get(model_id)
        return None if state is None else state.period_s()

    def forget(self, client_id: str) -> None:
        """Drops a client."""
        self._clients.pop(client_id, None)

    def of(self, client_id: str, model_id: str) -> ActionHorizon:
        """Returns what is known of a client and model; a new one where nothing is."""
        models = self._clients.setdefault(client_id, {})
        state = models.get(model_id)
        if state is None:
            if len(models) >= MAX_MODELS:
                del models[next(iter(models))]
            state = models[model_id] = ActionHorizon()
        return state
