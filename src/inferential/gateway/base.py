"""What gateways share: their life cycle, and a robot of another protocol as a client of the server.

What an observation looks like on the wire is each gateway's own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from inferential.client.async_model import AsyncModel
from inferential.client.result import Result
from inferential.config.services import GatewayConfig
from inferential.errors import InferenceError, ModelFailing, RequestExpired, RequestRejected, RequestSuperseded
from inferential.metrics import names
from inferential.proto.messages import ResponseTiming
from inferential.proto.structure import STRUCTURE_KEY, flatten, restore
from inferential.replica.structured import RESULT_FIELDS
from inferential.scheduler.request import DRAINING, MODEL_NOT_ALLOWED, NOT_ACCEPTED, PAYLOAD_NOT_ALLOWED
from inferential.server import Server
from inferential.server.inprocess import InProcessConnection
from inferential.server.service import Service

logger: logging.Logger = logging.getLogger("inferential.gateway")

RETRY_PAUSES_S = (0.05, 0.2, 1.0)
"""Pauses before a request that the server refused is sent again; the last one is repeated."""
_MAX_REASON = 2048
_LASTING = frozenset({NOT_ACCEPTED, DRAINING})
"""Causes of refusals that hold for every request; any other (no room, expired, evicted) may pass."""
_FINAL = frozenset({MODEL_NOT_ALLOWED, PAYLOAD_NOT_ALLOWED})
"""Causes of refusals that the same request meets again."""


class Gateway(Service):
    """Listens for robots of one protocol while the server runs; an async context manager.

    `Config`, the gateway's section `gateways.NAME`, is a subclass of `GatewayConfig`.

    Args:
        server: a running server.
        config: address, model, and what else the section has.
    """

    def __init__(self, server: Server, config: GatewayConfig) -> None:
        super().__init__(server, config)

    def count_ended_here(self, client_id: str) -> None:
        """Counts a request that ended in this gateway's decoder or encoder."""
        labels = {names.CLIENT: client_id, names.ERROR: "gateway"}
        self._server.metrics.record(names.OBSERVATION_ERRORS, 1.0, labels)

    def count_failure(self, client_id: str, error: Exception) -> None:
        """Counts a request that ended in this gateway's decoder or encoder, and logs what was not foreseen."""
        self.count_ended_here(client_id)
        if not isinstance(error, TypeError | ValueError):
            logger.error("%s: a request of %s failed", self._config.title, client_id, exc_info=error)

    def announcement(self) -> str:
        """Returns its title, address and model."""
        return f"{self._config.title} on {self.address}, model {self._config.model}"


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """A result in the form that other protocols have.

    Attributes:
        arrays: what the model returned, nested as it was.
        timing: where the time went on the server.
        made_by: which model and version made it, as a name to compare; "" of the only one that there is.
    """

    arrays: dict[str, Any]
    timing: ResponseTiming
    made_by: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """The same, arrays without axes as numbers."""
        return {key: _plain(value) for key, value in self.arrays.items()}


class GatewayClient:
    """One robot of another protocol, as a client of the server.

    Its protocol works in lockstep, and a refusal ends the robot's session. So its observations are served late rather
    than refused, and a request that found no room or lost its place (expired, superseded, evicted) is sent again until
    the time-out. Where the server does not accept the client, or drains, or the model fails with every request, it is
    sent again three times; where its rights are against it, never.

    Args:
        connection: a connection of its own.
        model_id: the model that it asks.
        timeout_ms: how long an answer may take, all attempts together.
        arguments: further ones of `connection.model`.
    """

    def __init__(self, connection: InProcessConnection, model_id: str, timeout_ms: float, **arguments: Any) -> None:
        self._connection = connection
        self._model: AsyncModel = connection.model(model_id, queue="all", late="serve", **arguments)
        self._timeout_s = timeout_ms / 1e3
        self._episode = 0

    async def infer(self, observation: Mapping[Any, Any]) -> GatewayAnswer:
        """Returns the answer to one observation, which the model sees as it was sent.

        Raises:
            InferenceError: the request ended without a result.
            TimeoutError: it did not end within the time-out.
            TypeError, ValueError: naming a value that cannot be sent.
            ConnectionError: the connection was closed meanwhile.
        """
        values, structure = flatten(observation)
        values[STRUCTURE_KEY] = structure
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._timeout_s
        refused = attempts = 0
        episode = self._episode
        while True:
            try:
                return _answer(await self._ask(values, give_up_at - loop.time()))
            except (RequestExpired, RequestSuperseded, RequestRejected) as error:
                if error.cause in _FINAL:
                    raise
                refused += error.cause in _LASTING or isinstance(error, ModelFailing)
                pause_s = RETRY_PAUSES_S[min(attempts, len(RETRY_PAUSES_S) - 1)]
                if episode != self._episode or refused > len(RETRY_PAUSES_S) or loop.time() + pause_s >= give_up_at:
                    raise
            attempts += 1
            await asyncio.sleep(pause_s)

    async def _ask(self, values: Mapping[str, Any], timeout_s: float) -> Result:
        result = await self._connection.infer(self._model, values, timeout_s * 1e3)
        if result is None:
            model_id, limit = self._model.model_id, f"{self._timeout_s:g} s (timeout_ms of the gateway)"
            raise TimeoutError(f"model {model_id!r} gave no answer within {limit}")
        return result

    async def end_episode(self) -> None:
        """Ends the robot's episode: its next observation has nothing to do with those before.

        An `infer` that waits raises RequestSuperseded.
        """
        self._episode += 1
        await self._model.reset()

    def close(self) -> None:
        """Leaves the server; a waiting `infer` raises ConnectionError."""
        self._connection.close()


class StreamingClient(GatewayClient):
    """One robot that sends observations when it likes, and takes the newest answer when there is one.

    A newer observation takes the place of one that still waits. Nothing is sent again: the robot goes on sending.

    Args:
        connection: a connection of its own.
        model_id: the model that it asks.
        timeout_ms: as for `GatewayClient`, for `infer`.
        control_rate_hz: actions that it plays per second.
    """

    def __init__(
        self, connection: InProcessConnection, model_id: str, timeout_ms: float, control_rate_hz: float
    ) -> None:
        super().__init__(connection, model_id, timeout_ms)
        self._stream: AsyncModel = connection.model(
            model_id, queue="latest", late="serve", control_rate_hz=control_rate_hz
        )

    def observe(self, values: Mapping[str, Any], steps_remaining: int, captured_at: float | None = None) -> int:
        """Sends an observation, flat arrays and strings by key; returns the request id.

        Args:
            values: what the model sees.
            steps_remaining: actions that the robot still has to play.
            captured_at: when it was seen, in seconds of `time.monotonic()`; None: not known.

        Raises:
            TypeError, ValueError: naming a value that cannot be sent.
            ConnectionError: the connection was closed.
        """
        return self._connection.observe(self._stream, values, steps_remaining, captured_at)

    async def next_answer(self, timeout_s: float) -> tuple[int, GatewayAnswer] | None:
        """Returns the newest answer and the id of its request; None where none comes in time.

        Raises:
            InferenceError: a request ended without a result.
            ConnectionError: the connection was closed meanwhile.
        """
        result = await self._stream.get_result(timeout_s * 1e3)
        return None if result is None else (result.request_id, _answer(result))


def _answer(result: Result) -> GatewayAnswer:
    values = {key: value for key, value in result.items() if key not in RESULT_FIELDS}
    timing = result.timing
    assert timing is not None  # the server is of this version
    return GatewayAnswer(restore(values), timing, result.made_by)


def _plain(value: Any) -> Any:
    """Returns arrays without axes as numbers: clients slice every array by its first axis."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biufV":
        return value.item()
    return value


def reason_of(error: BaseException) -> str:
    """Returns the text of an error for a robot, 2,048 characters of it."""
    reason = error.reason if isinstance(error, InferenceError) else str(error)
    if isinstance(error, MemoryError):
        reason = reason or "the server has no memory left for this"
    return reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."


def describe_error(error: BaseException) -> str:
    """Returns what a robot is sent of an error: its type, and its text, 2,048 characters of it."""
    return f"{type(error).__name__}: {reason_of(error)}"
