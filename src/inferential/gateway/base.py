"""What gateways share: their life cycle, and a robot of another protocol as a client of the server.

What an observation looks like on the wire is each gateway's own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from inferential.client.handles import AsyncModel
from inferential.client.result import Result
from inferential.errors import InferenceError, RequestExpired, RequestRejected, RequestSuperseded
from inferential.proto.messages import ResponseTiming
from inferential.proto.structure import STRUCTURE_KEY, flatten, restore
from inferential.replica.structured import RESULT_FIELDS
from inferential.server import Server
from inferential.server.inprocess import InProcessConnection

RETRY_PAUSES_S = (0.05, 0.2, 1.0)
"""Pauses before a request that the server refused is sent again."""
AT_ONCE_S = 0.5
"""A refusal that takes longer is of a request that was accepted first."""


class Gateway(ABC):
    """Listens for robots of one protocol while the server runs; an async context manager.

    Args:
        server: a running server.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    @abstractmethod
    def address(self) -> str:
        """The address it listens on, with the real port."""

    @abstractmethod
    async def start(self) -> None:
        """Begins to listen.

        Raises:
            OSError: the address cannot be bound.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ends all connections. Idempotent."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


@dataclass(frozen=True, slots=True)
class GatewayAnswer:
    """A result in the form that other protocols have.

    Attributes:
        values: what the model returned, nested as it was; arrays without axes are numbers.
        timing: where the time went on the server.
    """

    values: dict[str, Any]
    timing: ResponseTiming


class GatewayClient:
    """One robot of another protocol, as a client of the server.

    Its protocol works in lockstep, and a refusal ends the robot's session. So its observations are served late rather
    than refused, and a request that lost its place (expired, superseded, evicted) is sent again until the time-out. A
    request that is refused on arrival is sent again three times, as its reason may not pass.

    Args:
        connection: a connection of its own.
        model_id: the model that it asks.
        timeout_ms: how long an answer may take, all attempts together.
    """

    def __init__(self, connection: InProcessConnection, model_id: str, timeout_ms: float) -> None:
        self._connection = connection
        self._model: AsyncModel = connection.model(model_id, queue="all", late="serve")
        self._timeout_s = timeout_ms / 1e3

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
        refused_at_once = attempts = 0
        while True:
            began = loop.time()
            try:
                return _answer(await self._ask(values, give_up_at - began))
            except (RequestExpired, RequestSuperseded, RequestRejected) as error:
                now = loop.time()
                refused_at_once += isinstance(error, RequestRejected) and now - began < AT_ONCE_S
                pause_s = RETRY_PAUSES_S[min(attempts, len(RETRY_PAUSES_S) - 1)]
                if refused_at_once > len(RETRY_PAUSES_S) or now + pause_s >= give_up_at:
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

        Models keep no state of a robot today, so there is nothing to reset.
        """

    def close(self) -> None:
        """Leaves the server; a waiting `infer` raises ConnectionError."""
        self._connection.close()


def _answer(result: Result) -> GatewayAnswer:
    values = {key: value for key, value in result.items() if key not in RESULT_FIELDS}
    timing = result.timing
    assert timing is not None  # the server is of this version
    return GatewayAnswer({key: _plain(value) for key, value in restore(values).items()}, timing)


def _plain(value: Any) -> Any:
    """Returns arrays without axes as numbers: clients slice every array by its first axis."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "biufV":
        return value.item()
    return value


def describe_error(error: BaseException) -> str:
    """Returns what a robot is sent of an error: its type, and its text."""
    reason = error.reason if isinstance(error, InferenceError) else str(error)
    return f"{type(error).__name__}: {reason}"
