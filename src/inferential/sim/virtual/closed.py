"""Plays a robot in closed loop in virtual time: the client's own `Player`, a network with delay, a count of steps.

No clock and no event loop: `virtual.simulation` calls `tick` once a control step and delivers what the server sends.
"""

from __future__ import annotations

import math
import random
from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from inferential.client.chunks.player import Player
from inferential.scheduler.request import InferenceRequest
from inferential.sim.virtual.world import ChunkedRobot, Played

ANSWERED = "answered"
OUTDATED = "outdated"
_LEAST_PATIENCE_S = 1.0  # as the player's own
_PATIENCE_ROUND_TRIPS = 10


@dataclass(slots=True, eq=False)
class Ask:
    """One request of a robot, with the observations that replaced its first.

    Attributes:
        issued_at: when the robot asked.
        slo_at: until when an answer counts as in SLO.
        waiting: what the server made of the newest observation that reached it; while it waits, a newer one replaces
            it, and later the server drops what comes of a robot that sends one at each step.
    """

    issued_at: float
    slo_at: float
    waiting: InferenceRequest | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class Observation:
    """What a robot sends.

    Attributes:
        number: the request id.
        ask: the request that it belongs to.
        step: the index of the robot's next action at that time.
        at: when it was made.
        steps_remaining: actions left after the present one.
        robot: which robot.
        suggested_horizon: after how many actions of the answer the next one had better follow, as the server says.
    """

    number: int
    ask: Ask
    step: int
    at: float
    steps_remaining: int
    robot: ChunkedRobot
    suggested_horizon: int | None = None


class RobotLoop:
    """Plays a robot's chunks and says when it asks.

    Args:
        robot: how it behaves.
        begins_at: the instant that the robot's times count from.
    """

    def __init__(self, robot: ChunkedRobot, begins_at: float) -> None:
        self.robot = robot
        # A runtime counts by itself where it stood; of other robots, those steps count that their own index counts.
        self._follows = robot.ask == "runtime" and robot.index == "executed"
        self._by_time = robot.index == "time" or self._follows
        self.player: Player = Player(1 / robot.period_s, index="executed" if self._follows else "time")
        self._starts_at = begins_at + robot.starts_at
        self.next_tick_at: float = self._starts_at
        self.stops_at: float = begins_at + robot.stops_at
        self._chance = random.Random(robot.seed)
        self._chunk = np.zeros((robot.chunk_steps or robot.horizon_steps, 1), np.float32)
        self._inbox: deque[tuple[float, str, Observation]] = deque()  # by time of arrival
        self._up_at = self._down_at = -math.inf
        self._open: dict[int, Observation] = {}
        self._asked_at = -math.inf
        self.turn_in_s: float = 0.0
        """In how many seconds its turn comes, as the server says with OUTDATED."""
        self._renew_by = -math.inf
        self._renews = False  # the server asks for an observation in place of that which waits
        self._ticks = 0
        self._step = 0  # index of the next action
        self._end = 0  # the first that it has not
        self._starved_since = self._starts_at
        self._observed_at = -math.inf  # of the chunk in force
        self._qualifies = False
        self._steps = self._executed = self._qualified = self._issued = self._in_slo = 0
        self._gap = self._longest_gap = 0
        self._ages_ms = array("f")
        self._tasks_s: list[float] = []
        self._task_began_at = math.nan
        self._task_left = robot.task_steps
        self._waited_s = 0.0  # with a request open, until `_waits_since`
        self._waits_since: float | None = None

    # The robot's side

    def tick(self, now: float, number: int, interval_s: float, pace_s: float = 0.0) -> Observation | None:
        """Takes what came, asks if it is time to, and plays one control step.

        Args:
            now: the instant of this control step.
            number: the id that an observation would have.
            interval_s: the shortest time between two requests; 0: no limit.
            pace_s: how often a runtime asks that is set a pace, whatever it has left; 0: it is set none.

        Returns:
            The observation to send, if any.
        """
        while self._inbox and self._inbox[0][0] <= now:
            self._take(*self._inbox.popleft(), now)
        # At each step, as a runtime does, though what it says counts only where nothing is open.
        wants_chunk = self.robot.ask == "runtime" and (self.player.wants_chunk(now) or pace_s > 0)
        asks = self._asks(now, max(interval_s, pace_s), wants_chunk)
        observation = self._observe(now, number) if asks else None
        self._play(now)
        self._ticks += 1
        self.next_tick_at = self._starts_at + self._ticks * self.robot.period_s
        return observation

    def _take(self, at: float, end: str, observation: Observation, now: float) -> None:
        number = observation.number
        if end == OUTDATED:
            self._renews = number in self._open
            self._renew_by = now + self.turn_in_s - 2 * self.robot.period_s  # as the player does
            return
        if end != ANSWERED:
            self._close([number], now)
            return
        known = self._open.pop(number, None) is not None
        chunks = self.player.stats.chunks
        after = self._end_of(observation, self._step)
        self.player.suggested_horizon = observation.suggested_horizon  # as the runtime takes it
        self.player.answered(number, self._chunk[: after - observation.step], now)
        is_in_slo = at <= observation.ask.slo_at + 1e-9
        if self.player.stats.chunks > chunks:
            self._end = self._step + self.player.actions_left() if self._follows else after
            self._observed_at = observation.at
            self._qualifies = is_in_slo
        if known:
            self._in_slo += is_in_slo
            # What a robot was asked for that comes too late for its call is a request of its own (`asks_again`).
            others = [one for one in self._open.values() if one.ask is observation.ask]
            self._close([one.number for one in others if self.robot.refresh or one.number < number], now)
            self._note_waited(now)

    def asks_again(self, observation: Observation) -> None:
        """Makes an observation a request of its own, as the one that it was to replace is dispatched."""
        observation.ask = Ask(observation.at, observation.at + self._slo_s(observation.steps_remaining))
        self._issued += 1

    def _slo_s(self, remaining: int) -> float:
        robot = self.robot
        return robot.slo_s if robot.slo_s is not None else max(remaining, 1) * robot.period_s

    def _close(self, numbers: Sequence[int], now: float) -> None:
        """Forgets observations that are over; those that the answer of another one ended are under way no more."""
        for number in numbers:
            if self._open.pop(number, None) is not None:
                self.player.failed(number, "superseded")
                self._note_waited(now)

    def _note_waited(self, now: float) -> None:
        if not self._open and self._waits_since is not None:
            self._waited_s += now - self._waits_since
            self._waits_since = None

    def _asks(self, now: float, interval_s: float, wants_chunk: bool) -> bool:
        robot = self.robot
        if self._open:
            if self._renews:
                # At the last step from which an observation arrives in time.
                return now + robot.period_s > self._renew_by
            if robot.refresh:
                self._give_up(now)
                return bool(self._open) or self._asks(now, interval_s, wants_chunk)
            if robot.ask != "every_step" and not self._give_up(now):
                return False
        if now - self._asked_at < interval_s - 1e-9:
            return False
        if robot.ask == "every_step":
            return True
        left = self._end - self._step
        if robot.ask == "threshold":
            return left <= robot.ask_at_steps
        return wants_chunk

    def _give_up(self, now: float) -> bool:
        """Asks anew where no answer came for far longer than others took; False while it waits.

        The player gives up by itself, and plays an answer that comes after all.
        """
        usual_s = self.player.delay_steps() * self.robot.period_s
        # What renews another has just begun to wait; what is sent at each step, a server drops once its call runs.
        newest = next(reversed(self._open.values()))
        since = newest.ask.issued_at if self.robot.refresh else newest.at
        if now - since <= max(_LEAST_PATIENCE_S, _PATIENCE_ROUND_TRIPS * usual_s):
            return False
        self._open.clear()
        self._note_waited(now)
        return True

    def _observe(self, now: float, number: int) -> Observation:
        robot, remaining = self.robot, self.player.steps_remaining()
        renews, self._renews = self._renews, False
        if self._open and (robot.refresh or renews):
            ask = next(reversed(self._open.values())).ask
        else:
            ask = Ask(now, now + self._slo_s(remaining))
            self._issued += 1
            self._asked_at = now
            if self._waits_since is None:
                self._waits_since = now
            if math.isnan(self._task_began_at):
                self._task_began_at = now
        observation = self._open[number] = Observation(number, ask, self._step, now, remaining, robot)
        self.player.asked(number, now)
        return observation

    def _play(self, now: float) -> None:
        robot = self.robot
        has_action = self._step < self._end
        if has_action or self._by_time:
            self.player.play()
            self._step += 1
        if not has_action:
            if self._executed:
                self._steps += 1
                self._gap += 1
                self._longest_gap = max(self._longest_gap, self._gap)
                if self._gap == 1:
                    self._starved_since = now
            return
        self._gap = 0
        self._steps += 1
        self._executed += 1
        self._qualified += self._qualifies
        self._ages_ms.append((now - self._observed_at) * 1e3)
        self._task_left -= 1
        if not self._task_left:
            self._tasks_s.append(now + robot.period_s - self._task_began_at)
            self._task_left, self._task_began_at = robot.task_steps, now + robot.period_s

    # The network

    def is_lost(self) -> bool:
        """Returns whether the next message is lost."""
        return self.robot.loss > 0 and self._chance.random() < self.robot.loss

    def reaches_server_at(self, now: float) -> float:
        """Returns when what the robot sends now arrives."""
        self._up_at = max(self._up_at, now + self._delay_s())
        return self._up_at

    def deliver(self, now: float, end: str, observation: Observation) -> None:
        """Takes the end of a request that the server sends now: "answered", or a refusal's kind."""
        self._down_at = max(self._down_at, now + self._delay_s())
        if not self.is_lost():
            self._inbox.append((self._down_at, end, observation))

    def _delay_s(self) -> float:
        robot = self.robot
        if not robot.delay_jitter_s:
            return robot.delay_s
        return max(robot.delay_s + self._chance.gauss(0.0, robot.delay_jitter_s), 0.0)

    # What a server could know that keeps a mirror of the robot's queue (`virtual.mirror`)

    @property
    def period_s(self) -> float:
        """Seconds of a control step."""
        return self.robot.period_s

    @property
    def horizon_steps(self) -> int:
        """Actions in a chunk."""
        return self.robot.horizon_steps

    @property
    def weight(self) -> float:
        """Value of an action."""
        return self.robot.weight

    @property
    def slo_s(self) -> float | None:
        """Seconds from asking to an answer within which it is in SLO; None where it goes by the actions left."""
        return self.robot.slo_s

    def _end_with_coming(self) -> int:
        """Returns the first step without an action, chunks on their way included."""
        if not self._inbox:
            return self._end
        ends = [self._end_of(one, self._step_at(one, at)) for at, end, one in self._inbox if end == ANSWERED]
        return max([self._end, *ends])

    def _end_of(self, observation: Observation, first: int) -> int:
        """Returns the first step without an action, after a chunk whose step `first` is the first one played."""
        robot = self.robot
        if robot.chunk_steps is None:
            return observation.step + robot.horizon_steps
        return min(observation.step + robot.chunk_steps, first + robot.horizon_steps)

    def _step_at(self, observation: Observation, arrives_at: float) -> int:
        """Returns the index of the next action when an answer arrives."""
        step = observation.step + math.ceil((arrives_at - observation.at) / self.robot.period_s - 1e-9)
        return step if self._by_time else min(step, max(self._end, observation.step))

    def runs_out_at(self) -> float:
        """Returns when its actions run out, those on their way included; in the past where it has none."""
        end = self._end_with_coming()
        if self._by_time:
            return self._starts_at + end * self.robot.period_s
        if end == self._step:
            return self._starved_since
        return self.next_tick_at + (end - self._step) * self.robot.period_s

    def gained_s(self, number: int, answered_at: float, until: float = math.inf) -> float:
        """Returns the robot time until `until` that an answer to an observation, sent at `answered_at`, would add."""
        observation = self._open.get(number)
        if observation is None:
            return 0.0
        arrives_at = answered_at + self.robot.delay_s
        begins_at = max(self.runs_out_at(), arrives_at)
        end = self._end_of(observation, self._step_at(observation, arrives_at))
        if self._by_time:
            ends_at = self._starts_at + end * self.robot.period_s
        else:
            ends_at = begins_at + max(end - self._end_with_coming(), 0) * self.robot.period_s
        return max(min(ends_at, until) - begins_at, 0.0)

    def wait_ratio(self, now: float) -> float:
        """Returns the share of its time so far that it spent waiting for answers, of waiting and executing."""
        waited_s = self._waited_s if self._waits_since is None else self._waited_s + now - self._waits_since
        busy_s = waited_s + self._executed * self.robot.period_s
        return waited_s / busy_s if busy_s > 0 else 0.0

    # The end

    def played(self, ended_at: float) -> Played:
        """Returns what it did until `ended_at`."""
        begun = 0 if self._executed else self._ticks
        still_open = {one.ask for one in self._open.values() if one.ask.slo_at > ended_at}
        return Played(
            robot=self.robot,
            steps=self._steps + begun,
            executed=self._executed,
            longest_gap_s=(self._longest_gap + begun) * self.robot.period_s,
            ages_ms=self._ages_ms,
            qualified=self._qualified,
            issued=self._issued - len(still_open),
            in_slo=self._in_slo,
            tasks_s=self._tasks_s,
        )
