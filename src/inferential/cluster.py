"""Several servers of the same models in one Ray cluster, an actor each.

They share nothing but the replicas, whose endpoints take one call of each server in turn; which robot speaks to which
server is the robots' own arithmetic (`client.servers`).

A server that dies is begun again by Ray, with its address, and its robots come back to it; meanwhile they speak to the
others.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping
from typing import Any

import ray

from inferential.config.schema import InferentialConfig
from inferential.dispatch.ray.dispatcher import RayDispatcher
from inferential.server import Server

logger = logging.getLogger("inferential.cluster")

_STOP_S = 5.0  # beyond the time that a server may drain


class _Actor:
    """One server; its methods run on the actor's event loop, `serve` for as long as it lives."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._server: Server | None = None
        self._stop = asyncio.Event()

    async def serve(self, config: dict[str, Any], models: Mapping[str, str]) -> None:
        """Serves until `stop`; Ray calls it again where the actor's process died."""
        told = InferentialConfig.model_validate(config)
        server = Server(config=told, dispatcher=RayDispatcher({"address": "auto"}, models))
        async with server:
            self._server = server
            await self._stop.wait()
        self._server = None

    async def address(self) -> str | None:
        """Where it listens; None while it does not."""
        return None if self._server is None else self._server.address

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Takes on another configuration, its own address apart."""
        if self._server is not None:
            self._server.reconfigure(InferentialConfig.model_validate(config))

    async def status(self) -> dict[str, Any] | None:
        """What a person sees of it; None while it does not run."""
        return None if self._server is None else self._server.status().as_dict()

    async def stop(self) -> None:
        """Has `serve` drain and end."""
        self._stop.set()


class Servers:
    """A number of servers; `async with` begins and ends them.

    Args:
        config: of each. The port of `transport.bind` is the first one's, the others have those that follow; port 0
            gives each a free one.
        models: names on Ray Serve by the ids that robots use.
        count: how many.

    Raises:
        ValueError: fewer than one, or `transport.bind` is no tcp address, or has too few ports above it.
    """

    def __init__(self, config: InferentialConfig, models: Mapping[str, str], count: int) -> None:
        if count < 1:
            raise ValueError(f"servers: expected 1 or more, got {count}")
        self._config = config.model_copy(deep=True)
        self._models = dict(models)
        self._binds = _binds(config.transport.bind, count)
        self._actors: list[Any] = []
        self._calls: list[asyncio.Future[Any]] = []
        self._started_ray = False

    async def __aenter__(self) -> list[str]:
        """Begins them; gives their addresses, as robots are told them."""
        try:
            return await self._begin()
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *error: object) -> None:
        """Has them drain and end, and Ray too where this has begun it."""
        stops = [actor.stop.remote() for actor in self._actors]
        await asyncio.gather(*stops, return_exceptions=True)
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._config.server.drain_timeout_s + _STOP_S)
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._calls = [], []
        if self._started_ray:
            self._started_ray = False
            await asyncio.get_running_loop().run_in_executor(None, ray.shutdown)

    @property
    def actors(self) -> list[Any]:
        """Ray's handles of them, in the order of their addresses."""
        return list(self._actors)

    async def _begin(self) -> list[str]:
        if not ray.is_initialized():
            told = {"log_to_driver": False, "logging_level": logging.WARNING, **self._config.ray}
            try:
                await asyncio.get_running_loop().run_in_executor(None, lambda: ray.init(**told))
            except Exception as error:
                raise ConnectionError(
                    f"ray: cannot connect with {self._config.ray or 'no address'}: {error}"
                ) from error
            self._started_ray = True
        kind = ray.remote(_Actor).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, max_concurrency=100, scheduling_strategy="SPREAD"
        )
        self._actors = [kind.remote(number) for number in range(len(self._binds))]
        self._calls = [
            asyncio.ensure_future(_ended(actor.serve.remote(self._told(bind), self._models)))
            for actor, bind in zip(self._actors, self._binds, strict=True)
        ]
        return [await self._address(number) for number in range(len(self._actors))]

    async def _address(self, number: int) -> str:
        while True:
            if self._calls[number].done():
                await self._calls[number]  # raises why it could not serve
            address: str | None = await self._actors[number].address.remote()
            if address is not None:
                return address
            await asyncio.sleep(0.05)

    async def reconfigure(self, config: InferentialConfig) -> None:
        """Has each take on another configuration; what cannot change while it runs is left as it is."""
        told = config.model_dump(mode="json", exclude={"gateways", "http"})
        await asyncio.gather(*(actor.reconfigure.remote(told) for actor in self._actors))

    async def status(self) -> list[dict[str, Any] | None]:
        """`ServerStatus` of each, as plain values; None for one that is being begun again."""
        return list(await asyncio.gather(*(actor.status.remote() for actor in self._actors)))

    def _told(self, bind: str) -> dict[str, Any]:
        told: dict[str, Any] = self._config.model_dump(mode="json", exclude={"gateways", "http"})
        told["transport"]["bind"] = bind
        return told


async def _ended(call: Any) -> None:
    await call


def _binds(bind: str, count: int) -> list[str]:
    """An address for each server."""
    host, _, port = bind.rpartition(":")
    if not bind.startswith("tcp://") or not port.isdecimal():
        raise ValueError(f"transport.bind: several servers need tcp://HOST:PORT, got {bind!r}")
    if int(port) == 0:
        return [f"{host}:{free}" for free in _free_ports(count)]
    if int(port) + count - 1 > 65_535:
        raise ValueError(f"transport.bind: {count} servers need {count} ports from {port} on, up to 65535")
    return [f"{host}:{int(port) + number}" for number in range(count)]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now: a server that is begun again needs the one that it had."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
