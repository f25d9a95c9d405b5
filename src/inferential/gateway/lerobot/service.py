"""LeRobot's asynchronous inference: gRPC to its `RobotClient`, which stays as it is.

    Ready                     begins an episode
    SendPolicyInstructions    what the robot is: names of its motors and cameras, actions per chunk
    SendObservations          a stream of pieces that make one observation
    GetActions                waits for actions a while; an empty answer means that the robot asks again

A robot is a connection, since the protocol has no client id. It sends an observation in each control step while its
queue of actions is at or below a share (a half) of a chunk, and asks for actions all the time. (lerobot 0.6.1,
`async_inference/robot_client.py` and `policy_server.py`.)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Any, ClassVar

try:
    import grpc
    import grpc.aio
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        "the LeRobot gateway needs grpcio: pip install 'inferential[lerobot]'", name="grpc"
    ) from _error

from inferential import errors
from inferential.config.gateways import LeRobotConfig
from inferential.config.services import GatewayConfig
from inferential.errors import InferentialError
from inferential.gateway.base import Gateway, describe_error
from inferential.gateway.grpc_listening import end_call, listen, listening_options
from inferential.gateway.grpc_room import check_room
from inferential.gateway.lerobot.messages import (
    MAX_MESSAGE_BYTES,
    SERVICE,
    Actions,
    Empty,
    Observation,
    PolicySetup,
    assembled,
)
from inferential.gateway.lerobot.pickles import read
from inferential.gateway.lerobot.records import (
    PolicyInstructions,
    TimedObservation,
    instructions_of,
    observation_of,
)
from inferential.gateway.lerobot.robot import Robot, SharedConnection, UnusableAnswer
from inferential.gateway.receiving import RECEIVE_S, Receiving
from inferential.gateway.refusals import is_of_message
from inferential.notices import Notices
from inferential.server import Server

logger: logging.Logger = logging.getLogger("inferential.gateway.lerobot")

FORGET_S = 60.0
"""After this long without a call a robot is forgotten; a robot that is there asks for actions all the time."""
MAX_ROBOTS = 4096
"""For more of them that is forgotten which has had no call for longest."""

_Code = grpc.StatusCode
_CODES: dict[type[BaseException], grpc.StatusCode] = {
    errors.InvalidObservation: _Code.INVALID_ARGUMENT,
    errors.UnknownModel: _Code.NOT_FOUND,
    errors.RequestRejected: _Code.RESOURCE_EXHAUSTED,
    errors.RequestExpired: _Code.ABORTED,
    errors.RequestSuperseded: _Code.ABORTED,
    errors.ModelFailed: _Code.INTERNAL,
    UnusableAnswer: _Code.INTERNAL,
    SharedConnection: _Code.ALREADY_EXISTS,
    TimeoutError: _Code.ABORTED,  # the client would repeat a call that ends with DEADLINE_EXCEEDED or UNAVAILABLE
    ConnectionError: _Code.CANCELLED,
    TypeError: _Code.INVALID_ARGUMENT,
    ValueError: _Code.INVALID_ARGUMENT,
}


class _CallRefused(InferentialError):
    """Ends a call with a code and a text."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        self.code = code
        super().__init__(text)


_Handler = Callable[[Any, str], Awaitable[Any]]


class LeRobotGateway(Gateway):
    """Listens for gRPC; each connection is one client of the server.

    Args:
        server: a running server.
        config: address, model and rate.
    """

    Config: ClassVar[type[GatewayConfig]] = LeRobotConfig

    def __init__(self, server: Server, config: LeRobotConfig) -> None:
        super().__init__(server, config)
        self._grpc: grpc.aio.Server | None = None
        self._address = ""
        self._robots: dict[str, Robot] = {}
        self._instructions: OrderedDict[tuple[str, frozenset[str]], PolicyInstructions] = OrderedDict()
        self._received = Receiving(server.config.observations.max_payload_bytes)
        self._notices = Notices(logger)
        self._names = map(f"lerobot-{secrets.token_hex(3)}-%d".__mod__, itertools.count(1))

    @property
    def address(self) -> str:
        """As HOST:PORT, which is the client's server_address; RuntimeError while it does not listen."""
        if self._grpc is None:
            raise RuntimeError("the LeRobot gateway does not listen; its address is known between start() and stop()")
        return self._address

    async def start(self) -> None:
        """Begins to listen; OSError if the address cannot be bound."""
        check_room("gateways.lerobot")
        listening = grpc.aio.server(
            options=(
                *listening_options(),
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", 8),
            )
        )
        calls = {
            "Ready": grpc.unary_unary_rpc_method_handler(self._ending(self._ready), *_codec(Empty, Empty)),
            "SendPolicyInstructions": grpc.unary_unary_rpc_method_handler(
                self._ending(self._send_policy_instructions), *_codec(PolicySetup, Empty)
            ),
            "SendObservations": grpc.stream_unary_rpc_method_handler(
                self._ending(self._send_observations), *_codec(Observation, Empty)
            ),
            "GetActions": grpc.unary_unary_rpc_method_handler(self._ending(self._get_actions), *_codec(Empty, Actions)),
        }
        listening.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, calls),))
        self._address = listen(listening, "gateways.lerobot", self._config)
        await listening.start()
        self._grpc = listening

    async def stop(self) -> None:
        """Ends all connections. Idempotent."""
        listening, self._grpc = self._grpc, None
        if listening is not None:
            await listening.stop(None)
            for peer in list(self._robots):
                self._forget(peer)

    # The calls

    async def _ready(self, _: Any, peer: str) -> Any:
        with self._robot(peer) as robot:
            await robot.begin()
        return Empty()

    async def _send_policy_instructions(self, request: Any, peer: str) -> Any:
        instructions = instructions_of(read(request.data))
        with self._robot(peer) as robot:
            robot.instructions = instructions
            logger.info(
                "%s at %s asks for %s, %d actions per chunk; model %s answers",
                *(robot.name, peer, instructions.policy, instructions.actions_per_chunk, self._config.model),
            )
        return Empty()

    async def _send_observations(self, pieces: AsyncIterator[Any], peer: str) -> Any:
        with self._robot(peer) as robot:
            if robot.is_sending:
                raise _CallRefused(_Code.RESOURCE_EXHAUSTED, "this robot is sending another observation")
            robot.is_sending = True
            try:
                async with asyncio.timeout(RECEIVE_S) as within:
                    make_room = partial(within.reschedule, 0.0)
                    data = await assembled(
                        pieces,
                        self._server.config.observations.max_payload_bytes,
                        lambda size: self._received.note(peer, size, make_room),
                    )
            except TimeoutError as error:
                if within.when() == 0.0:
                    text = "too much arrives from other robots at once: send it again"
                    raise _CallRefused(_Code.RESOURCE_EXHAUSTED, text) from error
                raise ValueError(f"the stream of an observation has not ended within {RECEIVE_S:g} s") from error
            finally:
                robot.is_sending = False
                self._received.done(peer)
            observation = observation_of(read(data))
            robot.observe(observation, self._instructions_for(robot, peer, observation))
        return Empty()

    async def _get_actions(self, _: Any, peer: str) -> Any:
        with self._robot(peer) as robot:
            return Actions(data=await robot.actions(self._config.wait_ms / 1e3))

    def _ending(self, handler: _Handler) -> Callable[[Any, Any], Awaitable[Any]]:
        """Returns a handler of gRPC that ends each call with an answer, or with a code and a text for the robot."""

        async def handle(request: Any, context: Any) -> Any:
            peer = context.peer()
            try:
                return await handler(request, peer)
            except _CallRefused as error:
                code, text = error.code, str(error)
                if code is _Code.INVALID_ARGUMENT:
                    self.count_ended_here("lerobot")
            except tuple(_CODES) as error:
                if is_of_message(error):
                    self.count_ended_here("lerobot")
                code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
                text = describe_error(error)
            except Exception:
                self.count_ended_here("lerobot")
                logger.exception("a call of the LeRobot robot at %s failed", peer)
                code, text = _Code.INTERNAL, "internal error of the server; its log has more"
            # A robot that is refused tries again in each control step; its log has all.
            self._notices.say((peer.rpartition(":")[0], text[:80]), "%s: %s", peer, text)
            return await end_call(context, code, text)

        return handle

    # Robots

    @contextlib.contextmanager
    def _robot(self, peer: str) -> Iterator[Robot]:
        """The robot of a connection, during one call of it."""
        robot = self._robots.get(peer)
        if robot is None:
            if len(self._robots) >= MAX_ROBOTS:
                idle = next((one for one, robot in self._robots.items() if not robot.calls), None)
                if idle is None:
                    raise _CallRefused(_Code.RESOURCE_EXHAUSTED, f"{MAX_ROBOTS} robots have calls open")
                self._forget(idle)
            robot = self._robots[peer] = Robot(next(self._names), self._server, self._config)
        self._robots[peer] = self._robots.pop(peer)  # the last used last
        robot.calls += 1
        if robot.forgetting is not None:
            robot.forgetting.cancel()
        try:
            yield robot
        finally:
            robot.calls -= 1
            if robot.calls == 0 and self._grpc is not None:
                robot.forgetting = asyncio.get_running_loop().call_later(FORGET_S, self._forget, peer)

    def _forget(self, peer: str) -> None:
        robot = self._robots.pop(peer, None)
        if robot is not None:
            robot.close()

    def _instructions_for(self, robot: Robot, peer: str, observation: TimedObservation) -> PolicyInstructions:
        """Returns a robot's instructions; after it lost its connection, which it does not notice, those it had before.

        Such a robot is recognized by its host and the names of its motors and cameras.
        """
        likeness = (peer.rpartition(":")[0], frozenset(observation.values))
        if robot.instructions is None:
            robot.instructions = self._instructions.get(likeness)
            if robot.instructions is None:
                text = "no policy instructions of this robot: start its client again, which sends them first"
                raise _CallRefused(_Code.FAILED_PRECONDITION, text)
            logger.info("%s at %s has a new connection; its policy instructions are known", robot.name, peer)
        self._instructions[likeness] = robot.instructions
        self._instructions.move_to_end(likeness)
        if len(self._instructions) > MAX_ROBOTS:
            self._instructions.popitem(last=False)
        return robot.instructions


def _codec(request: Any, response: Any) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    return request.FromString, response.SerializeToString
