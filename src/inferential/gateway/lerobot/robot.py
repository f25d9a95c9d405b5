"""One of LeRobot's robots: its client of the server, and what is known of its own queue of actions."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

from inferential.errors import InferenceError, InferentialError
from inferential.gateway.base import GatewayAnswer, StreamingClient
from inferential.gateway.lerobot.clock import RobotClock
from inferential.gateway.lerobot.messages import MAX_MESSAGE_BYTES
from inferential.gateway.lerobot.pickles import write_actions
from inferential.gateway.lerobot.records import (
    PolicyInstructions,
    TimedObservation,
    actions_in,
    are_similar,
    model_values,
    without_arrays,
)
from inferential.server import Server

if TYPE_CHECKING:
    from inferential.config.gateways import LeRobotConfig

RELEASE_S = 0.2
"""How long a call of an ended client may go on while a new one begins over the same connection."""
_MAX_OPEN = 64  # requests of a robot whose place in time is remembered
_SKIPPED = "lerobot_observations_skipped"
_SHARED = "another robot uses this connection, as clients of one process do: start each RobotClient in its own process"


class SharedConnection(InferentialError):
    """Two robots use one connection, so that nothing tells whose a call is."""


class UnusableAnswer(InferentialError):
    """The model's answer has no actions that the robot could take."""


class Robot:
    """One robot: its client of the server, and what it needs to know of the robot's own queue.

    While a model computes for it, the newest observation is held: sent on, it would be computed too, for a robot that
    has its actions by then. When they go out it is dropped, unless the robot had none left (`must_go`); a robot that
    still needs some sends another in its next control step.
    """

    def __init__(self, name: str, server: Server, config: LeRobotConfig) -> None:
        self.name = name
        self.instructions: PolicyInstructions | None = None
        self.calls = 0
        self.is_sending = False
        self.forgetting: asyncio.TimerHandle | None = None
        self._server = server
        self._config = config
        connection = server.connect(name, "lerobot")
        self._client = StreamingClient(connection, config.model, config.timeout_ms, config.fps)
        self._asking = asyncio.Lock()
        self._clock = RobotClock()
        self._is_shared = False
        self._reset()

    def _reset(self) -> None:
        self._open: OrderedDict[int, TimedObservation] = OrderedDict()
        self._open_since = 0.0
        self._held: TimedObservation | None = None
        self._must_answer = False
        self._answered: TimedObservation | None = None
        self._last_timestep = -1
        self._made_by = ""
        self._not_before = 0  # a step: those before have actions of another version

    async def begin(self) -> None:
        """Begins an episode.

        Raises:
            SharedConnection: another robot uses the connection.
        """
        try:
            async with asyncio.timeout(RELEASE_S), self._asking:
                pass
        except TimeoutError as error:
            raise SharedConnection(_SHARED) from error
        self._is_shared = False
        await self._client.end_episode()
        self._reset()

    def observe(self, observation: TimedObservation, instructions: PolicyInstructions) -> None:
        """Sends an observation to the model, holds it, or skips it.

        Raises:
            TypeError, ValueError: naming a value that is missing or cannot be sent.
            SharedConnection: another robot uses the connection.
        """
        if self._is_shared:
            raise SharedConnection(_SHARED)
        captured_at = self._clock.captured_at(observation.timestamp, time.monotonic())
        observation = replace(observation, captured_at=captured_at)
        if self._is_needless(observation, instructions):
            self._skip("similar")
            return
        if self._held is not None:
            observation = replace(observation, must_go=observation.must_go or self._held.must_go)
            self._held = None
            self._skip("replaced")
        newest = next(reversed(self._open), None)
        if newest is not None and self._server.is_dispatched(self.name, newest):
            model_values(observation, instructions)  # what is wrong with it is known at once
            self._held = observation
        else:
            self._send(observation, instructions)

    async def actions(self, wait_s: float) -> bytes:
        """Returns the newest actions, pickled; no bytes where there are none within that time.

        Raises:
            InferenceError, TimeoutError: a request ended without actions.
            UnusableAnswer: the model's answer has no actions.
            SharedConnection: another robot uses the connection.
        """
        self._is_shared |= self._asking.locked()  # one client asks once at a time
        if self._is_shared:
            await asyncio.sleep(wait_s)  # a client asks again at once, whatever it is answered
            raise SharedConnection(_SHARED)
        async with self._asking:
            try:
                answer = await self._answer(wait_s)
            except (InferenceError, TimeoutError, UnusableAnswer):
                self._release(failed=True)
                raise
            if answer is None:
                return b""
            self._release(failed=False)
            return answer

    def close(self) -> None:
        """Leaves the server."""
        if self.forgetting is not None:
            self.forgetting.cancel()
        self._client.close()

    async def _answer(self, wait_s: float) -> bytes | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        while True:
            try:
                found = await self._client.next_answer(until - loop.time())
            except InferenceError as error:
                self._take(error.request_id)
                raise
            if self._is_shared:
                raise SharedConnection(_SHARED)
            if found is None:
                self._check_time_out(loop.time())
                return None
            observation = self._take(found[0])
            if observation is not None and (data := self._written(observation, found[1])) is not None:
                return data

    def _written(self, observation: TimedObservation, answer: GatewayAnswer) -> bytes | None:
        assert self.instructions is not None  # it was sent with them
        try:
            actions = actions_in(answer.values, self.instructions.actions_per_chunk)
        except ValueError as error:
            raise UnusableAnswer(f"model {self._config.model!r}: {error}") from error
        if answer.made_by != self._made_by:
            # The robot averages actions for one step; those of two versions follow each other instead.
            self._made_by, self._not_before = answer.made_by, self._last_timestep + 1
        first = 0 if observation.must_go else max(self._not_before - observation.timestep, 0)
        if first >= len(actions):
            return None
        actions = actions[first:]
        timestamps = (observation.timestamp + (first + step) / self._config.fps for step in range(len(actions)))
        data = write_actions(actions, timestamps, observation.timestep + first)
        if len(data) > MAX_MESSAGE_BYTES - 64:
            text = f"{len(actions)} actions take {len(data)} bytes, more than a message: lower actions_per_chunk"
            raise UnusableAnswer(text)
        self._answered, self._must_answer = observation, False
        self._last_timestep = max(self._last_timestep, observation.timestep + first + len(actions) - 1)
        return data

    def _send(self, observation: TimedObservation, instructions: PolicyInstructions) -> None:
        left = 0 if observation.must_go else max(0, self._last_timestep - observation.timestep)
        request_id = self._client.observe(model_values(observation, instructions), left, observation.captured_at)
        self._must_answer |= observation.must_go
        if not self._open:
            self._open_since = asyncio.get_running_loop().time()
        self._open[request_id] = without_arrays(observation)
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)

    def _take(self, request_id: int) -> TimedObservation | None:
        """Returns the observation of a request, and forgets it with all older ones."""
        observation = self._open.get(request_id)
        for older in [open_id for open_id in self._open if open_id <= request_id]:
            del self._open[older]
        self._open_since = asyncio.get_running_loop().time()
        return observation

    def _check_time_out(self, now: float) -> None:
        limit_s = self._config.timeout_ms / 1e3
        if self._open and now - self._open_since > limit_s:
            self._open.clear()
            limit = f"{limit_s:g} s (timeout_ms of the gateway)"
            raise TimeoutError(f"model {self._config.model!r} gave no answer within {limit}")

    def _release(self, *, failed: bool) -> None:
        """Sends the held observation where it is still needed."""
        held, self._held = self._held, None
        if held is None:
            return
        if (failed or held.must_go) and self.instructions is not None:
            self._send(held, self.instructions)
        else:
            self._skip("answered")

    def _is_needless(self, observation: TimedObservation, instructions: PolicyInstructions) -> bool:
        if not self._config.skip_similar or observation.must_go or self._must_answer or self._answered is None:
            return False
        if observation.timestep == self._answered.timestep:
            return True
        return are_similar(observation, self._answered, instructions)

    def _skip(self, reason: str) -> None:
        labels = {"client": self.name, "model": self._config.model, "reason": reason}
        self._server.metrics.record(_SKIPPED, 1.0, labels)
