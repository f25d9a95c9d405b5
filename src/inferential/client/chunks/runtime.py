"""`ChunkRuntime` and `AsyncChunkRuntime`: a model handle that plays action chunks.

`player` decides what to request and to play; here it gets a connection and a clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

from inferential.client.aio import AsyncModel
from inferential.client.chunks.arguments import check_function, check_key, check_model, check_seconds
from inferential.client.chunks.motion import Action, OnStarved, Starved
from inferential.client.chunks.plan import Merge
from inferential.client.chunks.player import Index, Player
from inferential.client.chunks.stats import ChunkStats
from inferential.client.model import Model
from inferential.client.result import Result
from inferential.errors import InferenceError, InvalidChunk, ObservationOutdated, RequestSuperseded, place_of, words_of
from inferential.notices import Notices
from inferential.proto.actions import Array, BadActions, SpecArgument, action_keys, read_chunk

logger: logging.Logger = logging.getLogger("inferential.client")

Observe = Callable[[], Mapping[str, Any]]
"""Returns an observation: arrays and strings by key."""
AsyncObserve = Callable[[], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
Act = Callable[[Action | None], object]
"""Takes an action: an array, or arrays by key; None before the first chunk."""

_OWN_KEYS = frozenset({"steps_remaining", "renews", "played_id", "played_from", "plays_by_time"})
"""What the runtime says with its observations itself, beside the values for real-time chunking."""
READ_S = 2e-3
"""How long one step reads answers at most, in seconds: a server that floods the robot does not hold it up."""


ModelT = TypeVar("ModelT", Model, AsyncModel)
_PLAYS: WeakKeyDictionary[Any, ref[Any]] = WeakKeyDictionary()
"""The runtime that plays a handle: each would take the answers to the other's observations."""


class _Runtime(Generic[ModelT]):
    """What the runtimes for threads and for asyncio share; see `ChunkRuntime`."""

    _awaits: ClassVar[bool]
    """Whether the methods of the handle are coroutines."""

    def __init__(
        self,
        model: ModelT,
        control_rate_hz: float,
        merge: str | Merge = "replace",
        starved: Starved = "hold",
        *,
        stop_action: Array | None = None,
        rtc: bool = False,
        execution_horizon: int | None = None,
        quantile: float = 0.95,
        follow_rate: bool = True,
        key: str | Sequence[str] | None = None,
        on_starved: OnStarved | None = None,
        on_error: Callable[[InferenceError], None] | None = None,
        refresh_ms: float | None = None,
        renew: bool = True,
        follow_horizon: bool = True,
        hold_ms: float | None = None,
        action_spec: SpecArgument = None,
        index: Index = "executed",
    ) -> None:
        self._notices = notices = Notices(logger)
        self._player = Player(
            control_rate_hz,
            merge=merge,
            starved=starved,
            stop_action=stop_action,
            rtc=rtc,
            execution_horizon=execution_horizon,
            quantile=quantile,
            follow_rate=follow_rate,
            on_starved=on_starved,
            refresh_ms=refresh_ms,
            hold_ms=hold_ms,
            action_spec=action_spec,
            index=index,
            # Without this runtime itself, which ends when it is let go.
            on_raised=lambda name, error: _say_raised(notices, name, error),
        )
        check_model(model, awaits=self._awaits)
        if key is not None:
            check_key(key)
        if on_error is not None:
            check_function("on_error", on_error)
        self._way = {"renews": renew, "plays_by_time": True} if index == "time" else {"renews": renew}
        self._follow_horizon = follow_horizon
        self._model: ModelT = model
        self._key = key
        self._on_error = on_error
        self._itself: ref[Any] = ref(self)
        self._began = False
        model.never_wait()

    @property
    def stats(self) -> ChunkStats:
        """Counts of what was played so far; live, not a copy."""
        return self._player.stats

    def _handle(self) -> ModelT:
        """Returns the handle, which this runtime plays from here on.

        Raises:
            RuntimeError: another one plays it since.
        """
        plays = _PLAYS.get(self._model)
        if plays is not self._itself:
            if self._began and plays is not None and plays() is not None:
                raise RuntimeError(
                    f"another ChunkRuntime plays the handle of model {self._model.model_id!r} since; "
                    "give each runtime a handle of its own"
                )
            _PLAYS[self._model] = self._itself
        self._began = True
        return self._model

    def _take(self, result: Result, now: float) -> None:
        if self._follow_horizon:
            self._player.suggested_horizon = result.execution_horizon
        timing = result.timing
        server_ms = math.nan if timing is None else timing.server_ms
        try:
            chunk = self._chunk(result)
            if self._player.answered(result.request_id, chunk, now, result.made_by, server_ms):
                result.applied()
        except BadActions as bad:
            error = InvalidChunk(str(bad), request_id=result.request_id, model_id=self._model.model_id)
            self._notices.say("chunk", "a chunk is not played: %s", error, level=logging.WARNING)
            self._note_error(error)

    def _chunk(self, result: Result) -> Array | dict[str, Array]:
        """Returns the chunk of a result: an array, or arrays by key where it is spread over several.

        Raises:
            BadActions: naming the key, what came and what was expected.
        """
        keys = action_keys(result, self._key)
        chunk = self._player.specs.read(result, keys)
        return chunk if len(keys) > 1 else chunk[keys[0]]

    def _note_error(self, error: InferenceError) -> None:
        if isinstance(error, ObservationOutdated):
            self._player.outdated(error.request_id, time.monotonic(), error.turn_in_ms)
            return
        kind = type(error).__name__
        self._player.failed(error.request_id, kind)
        if self._on_error is None and not isinstance(error, InvalidChunk | RequestSuperseded):  # said already; usual
            self._notices.say(
                kind, "no chunk of %s: %s", error.model_id, f"{kind}: {error.reason}", level=logging.WARNING
            )
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception as raised:
                self._player.note_raised("on_error", raised)

    def _missed(self, due: float) -> int:
        """Skips the steps whose whole period has passed since the next one was due."""
        missed = max(int((time.monotonic() - due) / self._player.period_s), 0)
        self._player.skip(missed)
        return missed

    @contextmanager
    def _period(self) -> Iterator[None]:
        """Skips the step where an observation could not be made: its time passes all the same."""
        try:
            yield
        except BaseException:
            self._player.skip(1)
            raise

    def _observation(self, values: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(values, Mapping):
            raise TypeError(f"observe: expected a map of arrays and strings by key, got {type(values).__name__}")
        rtc = self._player.rtc_values()
        if taken := values.keys() & (_OWN_KEYS | rtc.keys()):
            raise ValueError(
                f"observe: expected no {min(taken)!r}, which the runtime sends itself; "
                "a value of your own of that key goes by observation={...}"
            )
        return {
            **values,
            **rtc,
            **self._player.acknowledgement(),
            "steps_remaining": self._player.steps_remaining(),
            **self._way,
        }


class ChunkRuntime(_Runtime[Model]):
    """Plays action chunks of a model; `step` is called once a control period and never waits for the network.

    Args:
        model: a handle with `queue="latest"`, the default: of two unread chunks the newer one is played. With
            merge="ensemble", which needs all chunks, make it with `queue="all"`.
        control_rate_hz: actions played per second.
        merge: what is played where a chunk overlaps the one before it: "replace" (the new one), "average" (0.3 old and
            0.7 new, see `average`), "ensemble" (all chunks, as in ACT), or a function of the old and the new actions,
            each [K, action_dim], that returns as many.
        starved: what is played where no action is left: "hold" (the last one), "stop" (`stop_action`), or a function
            of the last action and the number of steps starved.
        stop_action: [action_dim]; None: zeros. If given, it is also played before the first chunk.
        rtc: real-time chunking: sends the policy what will have been executed (see `player`).
        execution_horizon: requests a chunk after so many steps of the one before, even if more are left; None: as few
            steps before its end as a round trip may take.
        quantile: the quantile of round trip times by which the next chunk is requested early enough.
        follow_rate: requests no more often than the server can serve this robot, unless that would starve it.
        key: the key of the chunk in a result, or several keys of arrays that are played together; None: "actions",
            "action", all that begin with "action." or "action/", or the only array. With several, actions are maps by
            key.
        on_starved: what is played once no action was left for `hold_ms`: "hold" (the last one on: position control),
            "zero" (zeros: velocity control), or what a function of the last action and the number of steps starved
            returns. None: what `starved` says. A function of the number of steps alone is called at each starved step.
        hold_ms: how long `starved` holds; None: two control periods, at least 200 ms.
        refresh_ms: makes an observation anew that no answer came to for so long; it takes the place of one that
            waits on the server. None: only where the server asks for it.
        renew: makes an observation anew where the server asks for it, since few actions of its chunk would be left.
        follow_horizon: plays as many actions of a chunk as the server suggests (`Result.execution_horizon`), whatever
            `execution_horizon` says, unless that would starve the robot.
        on_error: called with the error of each failed request; the next step may send an observation again.
            A function of these that raises is logged and counted in `stats.raised`; the robot goes on without it.
        action_spec: what an action must be, an `ActionSpec` or a map of its arguments: shape, low, high, max_change; or
            these by key. A chunk that breaks it is not played, and nothing that is played changes by more than
            `max_change` in a step.
        index: of a chunk that came after the robot had run out of actions, "executed": it goes on with the first action
            that it has not executed since the observation; "time": with that of the present step, if there is one.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.

    Example:
        ```python
        import numpy as np
        from inferential import Connection
        from inferential.client import ChunkRuntime

        joints = np.ones(7, dtype=np.float32)

        with Connection("localhost:5555", client_id="arm-07") as connection:
            runtime = ChunkRuntime(connection.model("policy", control_rate_hz=50), control_rate_hz=50)
            action = runtime.step({"joints": joints})  # [action_dim]; None before the first chunk
        ```
    """

    _awaits = False

    def step(self, observe: Observe | Mapping[str, Any]) -> Action | None:
        """Takes one control step: reads the chunks that arrived, requests one if it is time to, and returns the action.

        It does not wait for the network, the first one neither, and raises nothing, whatever the server sends or
        answers and whatever `merge`, `starved`, `on_starved` and `on_error` raise: that is logged and counted. What
        `observe` raises leaves; the next step goes on as if this one had been missed.

        Args:
            observe: returns the observation, the arguments of `Model.observe` by key; called only where a chunk is
                requested. Or the observation itself.

        Returns:
            [action_dim], or such arrays by key; None before the first chunk (see `stop_action`).

        Raises:
            TypeError: the observation holds something else than arrays and strings.
            ValueError: it holds a key that the runtime sends itself, or a value that cannot be sent.
            ConnectionError: the connection was closed.
            RuntimeError: another runtime plays the same handle since.
        """
        model, now = self._handle(), time.monotonic()
        while time.monotonic() - now < READ_S:
            try:
                result = model.get_result(timeout_ms=0)
            except InferenceError as error:
                self._note_error(error)
                continue
            if result is None:
                break
            self._take(result, now)
        if self._player.wants_chunk(now, model.serve_interval_ms / 1e3, model.heard_s_ago, model.awaits):
            with self._period():
                values = observe() if callable(observe) else observe
                self._player.asked(model.observe(**self._observation(values)), now)
        elif self._player.wants_nudge(now, model.heard_s_ago):
            model.nudge()
        return self._player.play()

    def reset(self) -> None:
        """Begins a new episode: nothing of the last one is played, and no answer to its observations.

        The next step is as the first one; the server is informed as by `Model.reset`.

        Raises:
            ConnectionError: the connection was closed.
        """
        self._model.reset()
        self._player.reset()

    def run(self, observe: Observe | Mapping[str, Any], act: Act, *, seconds: float = math.inf) -> None:
        """Calls `act` with the action of each step at the control rate, on a schedule that does not drift.

        Steps whose whole period passed because `observe` or `act` took too long are skipped, and counted. What these
        two raise ends the run, as they are the control loop's own.

        Args:
            observe: as for `step`.
            act: takes the action.
            seconds: how long it runs.
        """
        check_seconds(seconds)
        check_function("act", act)
        period_s, start, number = self._player.period_s, time.monotonic(), 0
        while number * period_s < seconds:
            time.sleep(max(start + number * period_s - time.monotonic(), 0.0))
            act(self.step(observe))
            number += 1 + self._missed(start + (number + 1) * period_s)


class AsyncChunkRuntime(_Runtime[AsyncModel]):
    """Plays action chunks as `ChunkRuntime` does, for asyncio: of an `AsyncModel`, with coroutines for methods."""

    _awaits = True

    async def step(self, observe: AsyncObserve | Mapping[str, Any]) -> Action | None:
        """Takes one control step, as `ChunkRuntime.step`; `observe` may be a coroutine function."""
        model, now = self._handle(), time.monotonic()
        while time.monotonic() - now < READ_S:
            try:
                result = await model.get_result(timeout_ms=0)
            except InferenceError as error:
                self._note_error(error)
                continue
            if result is None:
                break
            self._take(result, now)
        if self._player.wants_chunk(now, model.serve_interval_ms / 1e3, model.heard_s_ago, model.awaits):
            with self._period():
                values = observe() if callable(observe) else observe
                values = await values if isinstance(values, Awaitable) else values
                self._player.asked(await model.observe(**self._observation(values)), now)
        elif self._player.wants_nudge(now, model.heard_s_ago):
            model.nudge()
        return self._player.play()

    async def reset(self) -> None:
        """Begins a new episode, as `ChunkRuntime.reset`."""
        await self._model.reset()
        self._player.reset()

    async def run(
        self,
        observe: AsyncObserve | Mapping[str, Any],
        act: Callable[[Action | None], Awaitable[object] | object],
        *,
        seconds: float = math.inf,
    ) -> None:
        """Calls `act` at the control rate, as `ChunkRuntime.run`; `observe` and `act` may be coroutine functions."""
        check_seconds(seconds)
        period_s, start, number = self._player.period_s, time.monotonic(), 0
        while number * period_s < seconds:
            await asyncio.sleep(max(start + number * period_s - time.monotonic(), 0.0))
            done = act(await self.step(observe))
            if isinstance(done, Awaitable):
                await done
            number += 1 + self._missed(start + (number + 1) * period_s)


def _say_raised(notices: Notices, name: str, error: Exception) -> None:
    words, place = words_of(error), place_of(error)
    notices.say(name, "%s raised %s%s; the robot goes on", name, words, place, level=logging.ERROR)


def chunk_of(result: Mapping[str, Any], key: str | None = None) -> Array:
    """Returns the action chunk of a result, [T, action_dim]; a single action, [action_dim], is a chunk of one.

    Args:
        result: arrays and strings by key, as openpi ("actions") and LeRobot ("action") policies give them.
        key: where it is; None: at "actions" or "action", or the only array.

    Raises:
        BadActions: there is none, naming what there is.
    """
    (found,) = action_keys(result, key)
    return read_chunk(result, [found])[found]
