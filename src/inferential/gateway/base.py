"""What gateways share: their life, and the way of an observation of theirs through the server.

What an observation looks like on the wire is each gateway's own.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from inferential.client.handles import AsyncModel
from inferential.client.result import Result
from inferential.errors import InferenceError, RequestExpired, RequestRejected, RequestSuperseded
from inferential.server import Server
from inferential.server.inprocess import InProcessConnection

TIMEOUT_MS = 30_000.0
"""How long an answer may take: protocols in lockstep have no way to say that there will be none."""
_PAUSES_S = (0.05, 0.2, 1.0)


class Gateway(ABC):
    """Listens for robots of one protocol while the server runs; a context manager.

    Args:
        server: that runs.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    @property
    @abstractmethod
    def address(self) -> str:
        """Where it listens, with the real port."""

    @abstractmethod
    async def start(self) -> None:
        """Begins to listen.

        Raises:
            OSError: the address cannot be bound.
        """

    @abstractmethod
    async def stop(self) -> None:
        """Ends all connections. Twice is fine."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()


class Guest:
    """One robot of another protocol, as a client of the server.

    It waits in lockstep, and would take a refusal for the end of its session: so its observations are served late
    rather than refused, and one that was refused for want of room or time is tried again, after a pause each time.

    Args:
        connection: its own.
        model_id: which model it asks.
    """

    def __init__(self, connection: InProcessConnection, model_id: str) -> None:
        self._connection = connection
        self._model: AsyncModel = connection.model(model_id, queue="all", late="serve")

    async def infer(self, values: Mapping[str, Any]) -> Result:
        """The answer to one observation.

        Raises:
            InferenceError: it ended without a result, four times where that was for want of room or time.
            TimeoutError: it did not end in TIMEOUT_MS.
            TypeError, ValueError: naming a value that the wire cannot carry.
            ConnectionError: the connection was closed meanwhile.
        """
        for pause_s in _PAUSES_S:
            try:
                return await self._ask(values)
            except (RequestExpired, RequestSuperseded, RequestRejected):
                await asyncio.sleep(pause_s)
        return await self._ask(values)

    async def _ask(self, values: Mapping[str, Any]) -> Result:
        result = await self._connection.infer(self._model, values, TIMEOUT_MS)
        if result is None:
            raise TimeoutError(f"model {self._model.model_id!r} gave no answer within {TIMEOUT_MS / 1e3:g} s")
        return result

    def close(self) -> None:
        """It is gone; whoever waits for its answers gets a ConnectionError."""
        self._connection.close()


def flat(observation: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """An observation as the server takes it: arrays and strings, keys of nested maps joined by "/".

    Numbers, and lists of them, become arrays.

    Raises:
        ValueError: naming a value that is none of these, or two of one key.
    """
    found: dict[str, Any] = {}
    for name, value in observation.items():
        if not isinstance(name, str):
            raise ValueError(f"observation: expected keys that are strings, got {name!r}")
        key = f"{prefix}{name}"
        inner = flat(value, f"{key}/") if isinstance(value, Mapping) else {key: _leaf(key, value)}
        if twice := found.keys() & inner.keys():
            raise ValueError(f"observation: there are two values of key {min(twice)!r}")
        found |= inner
    return found


def _leaf(key: str, value: Any) -> Any:
    if isinstance(value, str | np.ndarray):
        if isinstance(value, np.ndarray) and value.dtype.kind in "US":
            raise ValueError(f"{key}: expected numbers or a string, got an array of strings")
        return value
    if isinstance(value, bool | int | float | np.generic | list | tuple):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
        if array.dtype.kind in "biuf":
            return array
    raise ValueError(f"{key}: expected an array, a number, a list of numbers, a map or a string, got {_kind(value)}")


def _kind(value: Any) -> str:
    return "a list of other things" if isinstance(value, list | tuple) else type(value).__name__


def answer_of(result: Result) -> dict[str, Any]:
    """A result as other protocols give it: arrays by key, single numbers as numbers, strings as strings."""
    skipped = ("response_id", "model_id", "inference_latency_ms")
    return {
        key: value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
        for key, value in result.items()
        if key not in skipped
    }


def text_of(error: BaseException) -> str:
    """What a robot is told of an error: its type, and what it says."""
    reason = error.reason if isinstance(error, InferenceError) else str(error)
    return f"{type(error).__name__}: {reason}"
