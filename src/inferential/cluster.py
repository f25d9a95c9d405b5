"""Runs several servers of the same models in one Ray cluster, each as an actor.

The servers share only the replicas, whose endpoints take calls of each server in turn. Each robot computes which server
it uses (`client.failover`).

Ray restarts a server that dies, at the same address, and its robots return to it; meanwhile they use the others. The
address exists on one node only, so a server is never moved: it is lost with its node.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from inferential.config.backends import ray_name, ray_target
from inferential.config.gateways import GatewaysConfig
from inferential.config.schema import InferentialConfig, ModelConfig
from inferential.config.services import ListenerConfig, services
from inferential.dispatch.ray.dispatcher import RayDispatcher
from inferential.server import Server
from inferential.server.service import service_class
from inferential.transport.listening import LARGEST_PORT

logger: logging.Logger = logging.getLogger("inferential.cluster")

_STOP_S = 5.0  # beyond the time that a server may drain
_LOOK_S = 1.0  # how often it is looked whether a server came back with the configuration of its start


class _Actor:
    """Runs one server; methods run on the actor's event loop, `serve` as long as the actor lives."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._page: str | None = None
        self._changes = 0  # of the configuration since its start
        self._stop = asyncio.Event()

    async def serve(self, config: InferentialConfig) -> None:
        """Serves until `stop`; Ray calls it again if the actor's process died."""
        server = Server(config=config, dispatcher=RayDispatcher({"address": "auto"}, {}))
        server.manage_models(lambda model_id, settings: ray_name(target := settings.target or "") or target)
        async with contextlib.AsyncExitStack() as after, server, contextlib.AsyncExitStack() as beside:
            for place, section in services(config):
                kind = service_class(place)
                service = await (after if kind.outlives_server else beside).enter_async_context(kind(server, section))
                if place == ("http",):
                    self._page = service.address
            self._server = server
            await self._stop.wait()
            self._server = None

    async def addresses(self) -> tuple[str, str | None] | None:
        """Returns the addresses of the server and of its page, if it has one; None while it does not listen."""
        if self._server is None:
            return None
        return reachable_address(self._server.address, str(ray.util.get_node_ip_address())), self._page  # type: ignore[no-untyped-call]

    async def reconfigure(self, config: InferentialConfig, number: int) -> None:
        """Takes on the changed configuration of this number; the server keeps its address."""
        if self._server is not None and number > self._changes:
            self._changes = number  # also where it is refused, which is said once
            self._server.reconfigure(config)

    async def changes(self) -> int | None:
        """Returns the number of the configuration in force, 0 that of the start; None while the server does not run."""
        return None if self._server is None else self._changes

    async def status(self) -> dict[str, Any] | None:
        """Returns its status as plain values; None while it does not run."""
        return None if self._server is None else self._server.status().as_dict()

    async def stop(self) -> None:
        """Makes `serve` drain and return."""
        self._stop.set()


class ServerGroup:
    """Starts and stops a number of servers, with `async with`.

    Args:
        config: of each server; its gateways are left out. The first server has the ports of `transport.bind` and
            `http`, the others those that follow; port 0 gives each a free port. If `transport.bind` is every interface
            (`*`) the servers are spread over the cluster's nodes, otherwise all run on this node.
        models: names on Ray Serve by the ids that robots use, of those for which the configuration has no target.
        count: number of servers, at least 1.

    Raises:
        ValueError: `count` is below 1, `transport.bind` is not a tcp address, or too few ports follow it or that of
            `http`.
    """

    def __init__(self, config: InferentialConfig, models: Mapping[str, str], count: int) -> None:
        if count < 1:
            raise ValueError(f"servers: expected 1 or more, got {count}")
        known = config.models.known
        self._models = {
            model_id: name
            for model_id, name in models.items()
            if model_id not in known or known[model_id].wanted_target() is None
        }
        self._config = self._with_models(config)
        self._binds = binds_for(config.transport.bind, count)
        for place, section in services(config):
            if isinstance(section, ListenerConfig) and section.port + count - 1 > LARGEST_PORT:
                key = ".".join((*place, "port"))
                raise ValueError(f"{key}: {count} servers need {count} ports from {section.port} on, up to 65535")
        self._actors: list[Any] = []
        self._calls: list[asyncio.Task[None]] = []
        self._pages: list[str] = []
        self._newest: tuple[InferentialConfig, int] | None = None  # since the start, and its number
        self._catching_up: list[asyncio.Task[None]] = []
        self._started_ray = False
        self._ending = False

    async def __aenter__(self) -> list[str]:
        """Starts the servers; returns the addresses that robots connect to."""
        try:
            return await self._begin()
        except BaseException:
            await self.__aexit__()
            raise

    async def __aexit__(self, *error: object) -> None:
        """Drains and stops the servers, and Ray if it was started here."""
        self._ending = True
        for task in self._catching_up:
            task.cancel()
        await asyncio.gather(*self._catching_up, return_exceptions=True)
        self._catching_up, self._newest = [], None
        stops = [actor.stop.remote() for actor in self._actors]
        await asyncio.gather(*stops, return_exceptions=True)
        if self._calls:
            await asyncio.wait(self._calls, timeout=self._config.server.drain_timeout_s + _STOP_S)
        for actor in self._actors:
            ray.kill(actor)
        await asyncio.gather(*self._calls, return_exceptions=True)
        self._actors, self._calls, self._pages = [], [], []
        if self._started_ray:
            self._started_ray = False
            await asyncio.get_running_loop().run_in_executor(None, ray.shutdown)

    @property
    def actors(self) -> list[Any]:
        """Ray's handles of the servers, in the order of their addresses."""
        return list(self._actors)

    async def _begin(self) -> list[str]:
        if not ray.is_initialized():
            options = {"log_to_driver": False, "logging_level": logging.WARNING, **self._config.ray}
            try:
                await asyncio.get_running_loop().run_in_executor(None, lambda: ray.init(**options))
            except Exception as error:
                raise ConnectionError(
                    f"ray: cannot connect with {self._config.ray or 'no address'}: {error}"
                ) from error
            self._started_ray = True
        self._ending = False
        kind: Any = ray.remote(_Actor)
        binds = zip(self._binds, self._nodes(), strict=False)
        self._actors, configs = [], []
        for number, (bind, node) in enumerate(binds):
            options = kind.options(
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=100,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            )
            self._actors.append(options.remote())
            configs.append(config_of_one(self._config, bind, number))
        self._calls = [
            asyncio.create_task(_ended(actor.serve.remote(config)))
            for actor, config in zip(self._actors, configs, strict=True)
        ]
        found = [await self._addresses(number) for number in range(len(self._actors))]
        self._pages = [page for _, page in found if page is not None]
        addresses = [address for address, _ in found]
        for call, address in zip(self._calls, addresses, strict=True):
            call.add_done_callback(functools.partial(self._on_end, address))
        return addresses

    def _nodes(self) -> Iterator[str]:
        """Yields a node for each server: this node, then the others, then from the start."""
        own = ray.get_runtime_context().get_node_id()
        if _is_every_interface(self._binds[0]):
            nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
            others = sorted(node["NodeID"] for node in nodes if node.get("Alive") and node["NodeID"] != own)
            return itertools.cycle([own, *others])
        return itertools.repeat(own)

    async def _addresses(self, number: int) -> tuple[str, str | None]:
        while True:
            if self._calls[number].done():
                await self._calls[number]  # raises why it could not serve
            addresses: tuple[str, str | None] | None = await self._actors[number].addresses.remote()
            if addresses is not None:
                return addresses
            await asyncio.sleep(0.05)

    def _on_end(self, address: str, call: asyncio.Task[None]) -> None:
        if not self._ending and not call.cancelled():
            logger.error("server %s ended and is not restarted: %s", address, call.exception())

    @property
    def pages(self) -> list[str]:
        """Addresses of the live pages, where `http` is configured."""
        return list(self._pages)

    async def reconfigure(self, config: InferentialConfig) -> None:
        """Makes each server take on a new configuration; fields that need a restart keep their values.

        One that is restarted meanwhile or later takes it on when it is back: Ray starts it as it was started first.
        """
        own = _without_gateways(self._with_models(config))
        number = 1 if self._newest is None else self._newest[1] + 1
        self._newest = own, number
        if not self._catching_up:
            self._catching_up = [asyncio.create_task(self._keep_configured(actor)) for actor in self._actors]
        calls = [actor.reconfigure.remote(own, number) for actor in self._actors]
        for error in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(error, BaseException):
                _log_rejected(error)

    async def _keep_configured(self, actor: Any) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                number = await actor.changes.remote()
                if self._newest is not None and number is not None and number < self._newest[1]:
                    await actor.reconfigure.remote(*self._newest)
            except ray.exceptions.RayActorError:
                continue  # it has ended, as `_on_end` says, or is started again
            except Exception as error:
                _log_rejected(error)

    def _with_models(self, config: InferentialConfig) -> InferentialConfig:
        """Returns a copy of a configuration in which all models have targets."""
        own = config.model_copy(deep=True)
        for model_id, name in self._models.items():
            known = own.models.known.get(model_id, ModelConfig())
            own.models.known[model_id] = known.model_copy(update={"target": ray_target(name)})
        return own

    async def status(self) -> list[dict[str, Any] | None]:
        """Returns the `ServerStatus` of each as plain values; None for one that is restarting or lost."""
        found = await asyncio.gather(*(actor.status.remote() for actor in self._actors), return_exceptions=True)
        return [None if isinstance(one, BaseException) else one for one in found]


def config_of_one(config: InferentialConfig, bind: str, number: int) -> InferentialConfig:
    """Returns the configuration of one of several servers."""
    own = _without_gateways(config)
    own.transport.bind = bind
    for _, section in services(own):
        if isinstance(section, ListenerConfig) and section.port:
            section.port += number
    return own


def _without_gateways(config: InferentialConfig) -> InferentialConfig:
    own = config.model_copy(deep=True)
    own.gateways = GatewaysConfig()
    return own


def _log_rejected(error: BaseException) -> None:
    logger.error("the new configuration is rejected, the old one stays: %s", getattr(error, "cause", None) or error)


async def _ended(call: Any) -> None:
    await call


def _is_every_interface(bind: str) -> bool:
    return bind.removeprefix("tcp://").rpartition(":")[0] in ("*", "0.0.0.0", "[::]")


def reachable_address(address: str, host: str) -> str:
    """Returns an address that robots can use, if the server listens on every interface of a host."""
    return f"tcp://{host}:{address.rpartition(':')[2]}" if _is_every_interface(address) else address


def binds_for(bind: Any, count: int) -> list[str]:
    """Returns an address for each of `count` servers: ports from that of `bind` on; free ones where it is 0.

    Raises:
        ValueError: `bind` has no port, or there are not so many; or it is a list.
    """
    if not isinstance(bind, str):
        raise ValueError("transport.bind: several servers need one tcp://HOST:PORT, got a list")
    host, _, port = bind.rpartition(":")
    if not bind.startswith("tcp://") or not port.isdecimal():
        raise ValueError(f"transport.bind: several servers need tcp://HOST:PORT, got {bind!r}")
    if int(port) == 0:
        return [f"{host}:{free}" for free in _free_ports(count)]
    if int(port) + count - 1 > LARGEST_PORT:
        raise ValueError(f"transport.bind: {count} servers need {count} ports from {port} on, up to 65535")
    return [f"{host}:{int(port) + number}" for number in range(count)]


def _free_ports(count: int) -> list[int]:
    """Returns free ports: a server that restarts needs the port that it had."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
