"""Decides when to request the next chunk, and which of its actions to play.

It has no socket, no clock and no thread: `runtime` passes results and the time to it.

A control step is a number that `play` counts up. The next chunk is requested when the steps that are left, the current
one included, are as few as a round trip may take, by a high quantile of the newest (see `latency`):

    left <= ceil(q(round trips) * control rate) + 1

One request is in flight at a time, except with "ensemble", which averages many chunks: one per step.

Slow policies. A chunk begins where the robot was observed, so that the robot goes on with the first action that it has
not executed since: those are skipped that it executed meanwhile, by the chunk before, and not the steps for which it
stood. A chunk of T actions can be requested too early as well: what is executed until it is there is lost to it. With
a round trip of more than T/2 steps it is requested when T/2 are left, which gives the most actions; with one of T or
more, when none is left, from where the robot stands.

While nothing is heard of the server, observations are made anew, as links hold the newest only: that leaves first when
the network is back. A request without an answer for far longer than usual is given up (its answer is used
nevertheless), each time later.

Real-time chunking (RTC: Black, Galliker and Levine, 2025, arXiv:2506.07339): a policy that freezes what will have been
executed by the time its chunk arrives, and inpaints the rest to agree with it, gets with each observation

    prev_chunk_left_over  [K, action_dim]  the actions left, from the observation's step on
    inference_delay       int32            the steps that the round trip is expected to take, by the same quantile
    execution_horizon     int32            the steps between the chunk's observation and this one

and its chunk replaces the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from inferential.client.chunks.arguments import check_player, check_ways
from inferential.client.chunks.latency import Latency
from inferential.client.chunks.motion import Action, Motion, OnRaised, OnStarved, Starved
from inferential.client.chunks.nudges import SILENCE_S, Nudges
from inferential.client.chunks.open_requests import Asked, OpenRequests
from inferential.client.chunks.plan import EnsemblePlan, Merge, MergeRaised, new_plan
from inferential.client.chunks.stats import ChunkStats
from inferential.proto.actions import ActionSpecs, Array, SpecArgument
from inferential.proto.layout import Layout

_MARGIN_STEPS = 1
_PAUSE_S, _PAUSE_STEPS = 0.5, 4  # of the control loop: what is played was seen before it
_SILENT_REFRESH_S = 0.1  # between observations while nothing is heard: the newest is to leave when the link is back
_MIN_TIMEOUT_S, _ANSWER_TIMEOUT_S, _TIMEOUT_ROUND_TRIPS = 1.0, 30.0, 10  # 30 s where it is known what was heard
_ROUNDING_S = 1e-9
_MAX_IN_FLIGHT = 8  # of "ensemble"

Index = Literal["executed", "time"]
"""Which action of a chunk is played first: the first that was not executed since its observation, or that of the
present step. They differ where the robot stood meanwhile."""


class Player:
    """Plays the chunks of one robot; the arguments are those of `ChunkRuntime`.

    Raises:
        TypeError, ValueError: naming the argument that is wrong.
    """

    def __init__(
        self,
        control_rate_hz: float,
        merge: str | Merge = "replace",
        starved: Starved = "hold",
        stop_action: Action | None = None,
        rtc: bool = False,
        execution_horizon: int | None = None,
        quantile: float = 0.95,
        follow_rate: bool = True,
        on_starved: OnStarved | None = None,
        refresh_ms: float | None = None,
        hold_ms: float | None = None,
        action_spec: SpecArgument = None,
        index: Index = "executed",
        on_raised: OnRaised = lambda name, error: None,
    ) -> None:
        check_player(control_rate_hz, execution_horizon, quantile, refresh_ms)
        check_ways(merge, index, rtc=rtc)
        self.period_s: float = 1 / float(control_rate_hz)
        self.stats: ChunkStats = ChunkStats()
        self.specs: ActionSpecs = ActionSpecs(action_spec)
        self.suggested_horizon: int | None = None
        """As the server suggests it of the newest chunk; it goes before `execution_horizon`."""
        self._on_raised = on_raised
        self._motion = Motion(self.period_s, self.stats, starved, stop_action, on_starved, hold_ms, self.note_raised)
        self._merge = merge
        self._rtc = rtc
        self._horizon = execution_horizon
        self._quantile = quantile
        self._follow_rate = follow_rate
        self._refresh_s = math.inf if refresh_ms is None else refresh_ms / 1e3
        self._index: Index = index
        self._latency = Latency()
        self._step = 0
        self._stepped_at = math.inf
        self._begin()

    def _begin(self) -> None:
        """Sets what belongs to one episode."""
        self._plan = new_plan(self._merge)
        self._many = isinstance(self._plan, EnsemblePlan)
        self._version: str | None = None
        self._open = OpenRequests()
        self._newest_id = 0  # of the chunk in force, and the step of its first action
        self._newest_step = 0
        self._played: tuple[int, int] | None = None
        self._chunk_step = -1  # of the observation behind the newest chunk
        self._chunk_begin = -1  # the step that its first action belongs to; not played are those before the present one
        self._chunk_steps = 0  # its actions
        self._is_late = False  # it was not played by time
        self._stood = 0  # steps without an action
        self._asked_step, self._asked_at = -1, -math.inf
        self._nudges = Nudges()
        self._renews = False
        self._renew_by = -math.inf

    def reset(self) -> None:
        """Begins a new episode: forgets what is left to play, what was played and what is in flight."""
        self._begin()
        self._motion.reset()
        self.suggested_horizon = None

    # Results

    def answered(
        self,
        request_id: int,
        chunk: Array | Mapping[str, Array],
        now: float,
        model_version: str = "",
        server_ms: float = math.nan,
    ) -> bool:
        """Merges a chunk that arrived; chunks of two versions of the model are never merged.

        Args:
            request_id: of its observation.
            chunk: its actions [T, ...], or those of each key.
            now: seconds of a monotonic clock.
            model_version: of the model that made it.
            server_ms: how much of the round trip it was on the server; nan where that is unknown.

        Returns:
            Whether its actions are played.

        Raises:
            BadActions: its actions have another form than those before, or than `stop_action`; call `failed` then.
        """
        asked = self._open.get(request_id)
        if asked is None:
            self.stats.outdated += 1  # of the last episode, or forgotten
            return False
        parts = chunk if isinstance(chunk, Mapping) else {"actions": chunk}
        layout = self._motion.layout_of(parts, is_spread=parts is chunk)
        actions = layout.join(parts)
        self._open.answered(request_id, asked, each_is_answered=self._many)
        is_newest = asked.step > self._chunk_step
        passed, stood = self._step - asked.step, self._stood - asked.stood
        first = self._first_action(len(actions), passed, stood)
        # It has stood since the observation, or by time hardly anything would be left.
        is_late = first < passed and (stood == passed or len(actions) - passed < max(self._usual_steps(), 1))
        if not self._note_trip(now - asked.at, server_ms, now, is_late=is_late):
            self.stats.outdated += 1
            return False
        if first >= len(actions) or not (is_newest or self._many):
            self.stats.outdated += 1
            if is_newest and self._index == "time":  # nothing newer is known to hold
                self._chunk_step = asked.step
                self._accept(layout, parts)
                self._motion.hold(actions[-1])
            return False
        if model_version != self._version and (is_newest or self._version is None):
            self._plan, self._version = new_plan(self._merge), model_version
        if model_version != self._version or not self._add(self._step - first, actions, asked.step):
            self.stats.outdated += 1
            return False
        if is_newest:
            self._chunk_step, self._chunk_steps = asked.step, len(actions)
            self._chunk_begin = self._step - first
            self._is_late = first < passed and len(actions) > 1
        self._accept(layout, parts)
        self._motion.resumes_with(actions)
        self._newest_id, self._newest_step = request_id, asked.step
        self.stats.chunks += 1
        self.stats.delay_steps = passed
        return True

    def _add(self, first_step: int, actions: Array, order: int) -> bool:
        try:
            return self._plan.add(first_step, actions, order)
        except MergeRaised as raised:
            self.note_raised("merge", raised.error)
            raise

    def note_raised(self, name: str, error: Exception) -> None:
        """Counts that a function of the user raised, the one that was given as the argument of that name."""
        self.stats.raised[name] += 1
        self._on_raised(name, error)

    def _accept(self, layout: Layout, parts: Mapping[str, Array]) -> None:
        if self._motion.layout is None:
            self._motion.layout, self._motion.max_change = layout, self.specs.max_change(parts)
        layout.widen(parts)

    def _note_trip(self, trip_s: float, server_ms: float, now: float, *, is_late: bool) -> bool:
        """Notes a round trip; returns False where the network held the chunk up: a new one is better."""
        server_s = min(max(server_ms / 1e3, 0.0), trip_s)  # whatever the server says; nan stays nan
        if self._latency.is_stale(trip_s, server_s, now, is_late=is_late):
            return False
        self._latency.note(trip_s, server_s)
        trips = self._latency.trips
        self.stats.round_trip_p50_ms = trips.quantile(0.5) * 1e3
        self.stats.round_trip_p95_ms = trips.quantile(0.95) * 1e3
        return True

    def _first_action(self, steps: int, passed: int, stood: int) -> int:
        """Returns the index of the action to play now, of a chunk whose observation is `passed` steps old.

        Args:
            steps: its actions.
            passed: the control steps since its observation.
            stood: those of them in which there was nothing to play.
        """
        if self._index == "time":
            return passed
        return 0 if steps == 1 else passed - stood  # a single action is for whenever it comes

    def outdated(self, request_id: int, now: float = 0.0, turn_in_ms: float | None = None) -> None:
        """Notes that the server asks for an observation in place of this one, to be there when its turn comes."""
        if self._open.newest_is(request_id):
            self.stats.renewed += 1
            self._renews = True
            self._renew_by = -math.inf if turn_in_ms is None else now + turn_in_ms / 1e3 - 2 * self.period_s

    def acknowledgement(self) -> dict[str, int]:
        """Returns what an observation says of the newest chunk of which an action was played; {} before the first."""
        if self._played is None:
            return {}
        return {"played_id": self._played[0], "played_from": self._played[1]}

    def failed(self, request_id: int, error: str) -> None:
        """Notes that a request ended in an error of this type, or in a chunk that must not be played."""
        self.stats.refused[error] += 1
        self._open.failed(request_id, error)

    # Requests

    def wants_chunk(
        self,
        now: float,
        serve_interval_s: float = 0.0,
        heard_s_ago: Callable[[], float] | None = None,
        awaits: Callable[[int], bool] | None = None,
    ) -> bool:
        """Returns whether to send an observation now, before this step's action is played.

        Args:
            now: seconds of a monotonic clock.
            serve_interval_s: the shortest interval at which the server can serve this robot; 0: no limit.
            heard_s_ago: returns how long ago the server was last heard of; None, or nan: not known.
            awaits: returns whether the answer to a request may still come; None: to each.
        """
        paused, self._stepped_at = now - self._stepped_at > max(_PAUSE_S, _PAUSE_STEPS * self.period_s), now
        self.stats.lost += self._open.drop_ended(now, awaits)
        in_flight, silence_s = self._open.in_flight, self._silence_s(now, heard_s_ago)
        least_s = _MIN_TIMEOUT_S if silence_s != silence_s else _ANSWER_TIMEOUT_S
        usual_s = self._latency.trips.quantile(self._quantile) if len(self._latency.trips) else 0.0
        self.stats.lost += self._open.give_up(now, max(least_s, _TIMEOUT_ROUND_TRIPS * usual_s))
        if self._asked_step == self._step:
            return False
        if self._renews and in_flight and now + self.period_s > self._renew_by:
            return True  # the last step to arrive in time
        if in_flight and now - self._asked_at >= self._refresh_s - _ROUNDING_S:
            self.stats.refreshed += 1
            return True
        if paused:
            return True
        if silence_s > SILENCE_S:
            self.stats.refreshed += 1
            self._latency.was_away = True
            return True
        if in_flight and not (self._many and len(in_flight) < _MAX_IN_FLIGHT):
            return False
        if now - self._asked_at < self._open.pause_s() - _ROUNDING_S:
            return False
        left = self._plan.end() - self._step
        if left <= self._ask_at():
            return True  # it would starve otherwise, so the server's interval is ignored
        if self._follow_rate and now - self._asked_at < serve_interval_s:
            return False
        if self._many:
            return True
        horizon = self._horizon if self.suggested_horizon is None else self.suggested_horizon
        if horizon is None:  # half a chunk covers what is not known yet
            return self._latency.is_hardly_known and left <= self._chunk_steps // 2
        return self._step - self._chunk_begin >= horizon - self.delay_steps()

    def _ask_at(self) -> int:
        """Returns how many steps are left, the current one included, when the next chunk is to be requested."""
        need, steps = self.delay_steps() + _MARGIN_STEPS, self._chunk_steps
        if self._index == "time" or steps <= 1 or need <= steps / 2:
            return need
        return 0 if self._usual_steps() >= steps else max(steps // 2, 1)

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

    def actions_left(self) -> int:
        """Returns the number of actions left, the current one included; 0 where it has none for this step."""
        return max(self._plan.end() - self._step, 0)

    def asked(self, request_id: int, now: float) -> None:
        """Notes that an observation was sent."""
        self._open.add(request_id, Asked(self._step, now, self._stood))
        self._asked_step, self._asked_at, self._renews = self._step, now, False
        self._nudges.begin()
        self.stats.asked += 1

    @property
    def open_requests(self) -> int:
        """How many requests may still be answered, those that are given up as lost included."""
        return len(self._open)

    def delay_steps(self) -> int:
        """Returns the control steps that a round trip may take, see `Latency.lead`; 0 before the first."""
        return self._steps_of(self._latency.lead(self._quantile))

    def _usual_steps(self) -> int:
        """Returns the control steps that a round trip takes lately."""
        return self._steps_of(self._latency.trips.lately())

    def _steps_of(self, seconds: float) -> int:
        return math.ceil(seconds / self.period_s - 1e-9) if seconds == seconds else 0

    def _silence_s(self, now: float, heard_s_ago: Callable[[], float] | None) -> float:
        """Returns for how long nothing was heard of the server that has a request; nan where that is not known."""
        if heard_s_ago is None or not self._open.in_flight:
            return math.nan
        return 0.0 if now - self._asked_at < _SILENT_REFRESH_S - self.period_s / 2 else heard_s_ago()

    def wants_nudge(self, now: float, heard_s_ago: Callable[[], float] | None = None) -> bool:
        """Returns whether to send the server a sign of life, see `nudges`; the arguments are those of `wants_chunk`."""
        if not self._open.in_flight:
            return False
        silence_s = math.nan if heard_s_ago is None else heard_s_ago()
        return self._nudges.is_due(now, now - self._asked_at, silence_s, self._latency)

    # Playing

    def play(self) -> Action | None:
        """Returns the action of this control step and goes to the next step.

        Before the first chunk it returns `stop_action`, or None where that is not given.
        """
        action = self._plan.action(self._step)
        if action is None:
            self._pass(1)
            return self._motion.play_none()
        if self._newest_id and (self._played is None or self._played[0] != self._newest_id):
            self._played = self._newest_id, self._step - self._newest_step
        self._pass(1)
        self.stats.late_steps += self._is_late
        return self._motion.play(action)

    def skip(self, steps: int) -> None:
        """Skips steps that the control loop itself missed."""
        stood = self._stood
        self._pass(steps)
        self._motion.miss(self._stood - stood)
        self.stats.skipped_steps += steps

    def _pass(self, steps: int) -> None:
        self._step += steps
        self._stood += min(max(self._step - self._plan.end(), 0), steps)
        self.stats.steps += steps
        self._plan.passed(self._step)
