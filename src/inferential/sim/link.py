"""Connects simulated robots to a server, and starts that server: this package's, or other software.

Robots, physics and measures depend on neither.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from inferential.errors import InferentialError
from inferential.sim.accelerator import AcceleratedModel

if TYPE_CHECKING:
    from inferential import AsyncConnection, AsyncModel, Server
    from inferential.sim.robots import Observation, Robot

Array = npt.NDArray[Any]


class Refused(InferentialError):
    """The server answered with an error; the text is its type."""


class Link(Protocol):
    """A robot's connection to a server."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def observe(self, observation: Observation) -> None:
        """Sends an observation."""

    async def receive(self) -> tuple[float, Array] | None:
        """Returns the next action and when its observation was made (`time.monotonic()`); None if none came.

        Raises:
            Refused: an error came instead.
        """


@dataclass(slots=True)
class Served:
    """What a server did so far: metrics by name, batch sizes, how many requests wait, and the address of its page."""

    counts: Counter[str] = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    waiting: Callable[[], int] = lambda: 0
    page: str | None = None


Serve = Callable[[str, dict[str, AcceleratedModel]], AbstractAsyncContextManager[tuple[str, Served]]]


@dataclass(frozen=True, slots=True)
class Software:
    """Software that serves a fleet and connects it. Both fields are pickled, so they are functions of a module.

    Attributes:
        serve: from a strategy and the models, a running server: its address and what it did.
        link: from a robot, its name and an address, a connection.
    """

    serve: Serve
    link: Callable[[Robot, str, str], Link]


class InferentialLink:
    """Connects a robot by the asyncio client of this package."""

    def __init__(self, robot: Robot, name: str, server: str, server_key: str = "", secret_key: str = "") -> None:
        from inferential import AsyncConnection

        self._connection: AsyncConnection = AsyncConnection(
            server, name, robot.kind, reconnect_ivl_ms=20, server_key=server_key, secret_key=secret_key
        )
        self._model: AsyncModel = self._connection.model(
            robot.model_id, latency_budget_ms=robot.deadline_ms, control_rate_hz=robot.control_rate_hz
        )

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._connection.close()

    async def observe(self, observation: Observation) -> None:
        values: dict[str, Any] = observation
        await self._model.observe(**values)

    async def receive(self) -> tuple[float, Array] | None:
        from inferential import InferenceError

        try:
            result = await self._model.get_result(timeout_ms=1000)
        except InferenceError as error:
            raise Refused(type(error).__name__) from error
        if result is None:
            return None
        return time.monotonic() - result.age_ms / 1e3, np.asarray(result["actions"])


class Page(Protocol):
    """Shows a server while it is entered."""

    @property
    def address(self) -> str:
        """Its URL."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *error: object) -> None: ...


@asynccontextmanager
async def serve(
    strategy: str,
    models: dict[str, AcceleratedModel],
    page: Callable[[Server], Page] | None = None,
    recorder: Callable[[Server], AbstractAsyncContextManager[Any]] | None = None,
    security: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[tuple[str, Served]]:
    """Starts the server of this package, which knows that the models share the accelerator.

    Args:
        strategy: by which it schedules.
        models: by id.
        page: makes what shows the server meanwhile.
        recorder: makes what records it, to its last request.
        security: that section of the server's configuration.

    Raises:
        OSError: the page's address cannot be bound.
    """
    from inferential import LocalDispatcher, Server
    from inferential.config import InferentialConfig

    config = InferentialConfig.model_validate(
        {
            "scheduling": {"strategy": strategy},
            "server": {"drain_timeout_s": 0.5},
            "security": dict(security),
            "models": {"known": {model_id: {"device": "accelerator"} for model_id in models}},
        }
    )
    server = Server("tcp://127.0.0.1:0", config=config, dispatcher=LocalDispatcher(models))
    served = Served(waiting=lambda: server.scheduler.queue_len())

    @server.on_metric
    def count(name: str, value: float, labels: dict[str, str]) -> None:
        served.counts[name] += 1
        if name == "batch_size":
            served.batches.append(int(value))

    async with AsyncExitStack() as after, server, AsyncExitStack() as beside:
        if recorder is not None:
            await after.enter_async_context(recorder(server))
        if page is not None:
            served.page = (await beside.enter_async_context(page(server))).address
        yield server.address, served


INFERENTIAL = Software(serve, InferentialLink)
