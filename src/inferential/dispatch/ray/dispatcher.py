"""Models that Ray Serve hosts: which replica has which name, and how a call gets to it.

It queues nothing and chooses no replica: the engine does, by what this reports of replicas and what they take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import ray
import zmq

from inferential.dispatch.base import Dispatcher, NodeUse, Observation, ReplicaLost, UnknownModelError
from inferential.dispatch.ray.deployments import (
    AmbiguousModel,
    Deployment,
    called_by_endpoint,
    details,
    model_ids,
    resolve,
)
from inferential.dispatch.ray.handles import Handle
from inferential.dispatch.ray.link import Link
from inferential.dispatch.ray.nodes import Nodes
from inferential.dispatch.ray.reads import Reads
from inferential.dispatch.suspects import after_loss, run_apart
from inferential.replica.model import DEFAULT_MAX_BATCH_SIZE
from inferential.replica.registry import REGISTER_EVERY_S, Listed, registry
from inferential.scheduler.request import InferenceRequest
from inferential.transport.memory import raise_mmap_threshold

logger: logging.Logger = logging.getLogger("inferential.ray")

LOOK_EVERY_S = 0.5
"""How often what Serve runs is read; endpoints announce themselves at once."""
AGAIN_S = 1.0
"""How long until what failed is tried again."""
_REPORT_EVERY = 20  # looks, of a model that is not up
_ABSENT = ("",)
_Path = tuple[str, str]
_News = TypeVar("_News")


class RayDispatcher(Dispatcher):
    """Runs models on Ray Serve: straight into replicas that have an endpoint, else by handle.

    `inferential.replica.direct` gives a deployment's replicas endpoints.

    Args:
        ray_config: arguments of `ray.init`, as `address`; without an address it joins the cluster that it is in or
            that runs on this machine, else it starts one.
        models: ids that are served: an application, `app/deployment`, or a deployment's name that is unique; they
            need not be there yet. A mapping gives them other names for robots. None: all that Serve runs.
        direct: whether endpoints are used where there are any.
    """

    def __init__(
        self,
        ray_config: Mapping[str, Any] | None = None,
        models: Sequence[str] | Mapping[str, str] | None = None,
        *,
        direct: bool = True,
    ) -> None:
        super().__init__()
        self._ray_config = dict(ray_config or {})
        if models is not None and not isinstance(models, Mapping):
            models = {model_id: model_id for model_id in models}
        self._models: dict[str, str] | None = None if models is None else dict(models)
        self._direct = direct
        self._on_change: Callable[[], None] = lambda: None
        self._waiting: Callable[[str], int] = lambda model_id: 0
        self._deployments: list[Deployment] = []
        self._resolved: dict[str, Deployment | str | None] = {}  # a text says why it cannot be
        self._links: dict[str, Link] = {}
        self._retired: set[Link] = set()  # of replicas that are gone, but for calls that run
        self._listed: dict[str, Listed] = {}
        self._by_path: dict[_Path, list[str]] = {}
        self._handles: dict[_Path, Handle] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._keys = ("", "")
        self._node = ""
        self._reads = Reads()
        self._nodes = Nodes(self._reads.begin)
        self._looks = 0
        self._started_ray = False

    def watch(self, on_change: Callable[[], None], waiting: Callable[[str], int]) -> None:
        """As in `Dispatcher`."""
        self._on_change, self._waiting = on_change, waiting

    async def start(self) -> None:
        """Connects to Ray and finds what Serve runs now.

        Raises:
            ConnectionError: the cluster cannot be reached.
            ValueError: a model's name means deployments of several applications.
        """
        try:
            await self._begin()
        except BaseException:
            await self.close()
            raise

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        raise_mmap_threshold()
        handle, self._keys, self._node = await loop.run_in_executor(None, self.connect)
        self._context = zmq.Context()
        deployments = await loop.run_in_executor(None, details)
        _, version, listed = await handle.watch.remote(-1)
        self._take_listed(listed)
        self._take_deployments(deployments)
        for model_id in self._models or ():
            why = self._resolved.get(model_id)
            if isinstance(why, str):
                raise ValueError(f"models: {why}")
        self._tasks = [loop.create_task(self._watch_registry(handle, version)), loop.create_task(self._watch_serve())]

    def connect(self) -> tuple[Any, tuple[str, str], str]:
        """Connects to Ray; returns the registry's actor, its keys (public and secret) and this node's id.

        Raises:
            ConnectionError: the cluster cannot be reached.
        """
        if not ray.is_initialized():
            options = {"log_to_driver": False, "logging_level": logging.WARNING, **self._ray_config}
            try:
                ray.init(**options)
            except Exception as error:
                raise ConnectionError(
                    f"ray: cannot connect with {self._ray_config or 'no address'}: {error}"
                ) from error
            self._started_ray = True
        handle = registry()
        return handle, ray.get(handle.keys.remote()), ray.get_runtime_context().get_node_id()

    async def close(self) -> None:
        """Ends all connections; Ray too where this has begun it."""
        await super().close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._reads, return_exceptions=True)
        for link in (*self._links.values(), *self._retired):
            link.close()
        self._retired.clear()
        for table in (self._links, self._listed, self._by_path, self._handles, self._resolved, self._tasks):
            table.clear()
        if self._context is not None:
            await asyncio.to_thread(self._context.term)
            self._context = None
        if self._started_ray:
            self._started_ray = False
            await asyncio.to_thread(ray.shutdown)

    def check_model(self, model_id: str, model: Any) -> None:
        """As in `Dispatcher`."""
        if self._models is None:
            raise ValueError("models: this backend serves all that Serve runs")
        if not isinstance(model, str):
            raise ValueError(f"model {model_id!r}: this server's models are on Ray Serve: make it ray:APPLICATION")

    def register_model(self, model_id: str, model: Any) -> None:
        """Serves one more model: an application, `app/deployment`, or a deployment's name that is unique."""
        self.check_model(model_id, model)
        assert self._models is not None
        self._models[model_id] = str(model)
        self._resolved.pop(model_id, None)
        self._take_deployments(list(self._deployments))
        self._on_change()

    def unregister_model(self, model_id: str) -> None:
        """Serves a model no more; its deployment goes on."""
        for table in (self._models or {}, self._resolved):
            table.pop(model_id, None)
        self._on_change()

    # What there is

    def model_ids(self) -> list[str]:
        """The models given, or all that Serve runs."""
        return list(self._models) if self._models is not None else model_ids(self._deployments)

    def replicas(self, model_id: str) -> Sequence[str]:
        """Ids of the replicas that take calls, as Serve names them."""
        found = self._target(model_id)
        if found is None:
            return _ABSENT
        if self._is_direct(found):
            names = self._up(found)
            part = model_id.rpartition("%")[2]
            return ([part] if part in names else names) or _ABSENT
        return found.replicas or _ABSENT

    def max_inflight(self, model_id: str) -> int | None:
        """0 while no replica takes calls; else what a replica with an endpoint says."""
        found = self._target(model_id)
        if found is None:
            return 0
        if self._is_direct(found):
            return min((self._greeting(name).max_inflight for name in self._up(found)), default=0)
        return None if found.replicas else 0

    def max_inflight_limit(self, model_id: str) -> int | None:
        """What the replicas say, or, of those without an endpoint, the deployment's `max_ongoing_requests`."""
        found = self._target(model_id)
        if found is None or self._is_direct(found):
            return self.max_inflight(model_id)
        return found.max_ongoing_requests

    def max_batch_size(self, model_id: str) -> int:
        """What the replicas say; by handle 8 where there is `infer_batch`, and 1 until that is known."""
        found = self._target(model_id)
        if found is None:
            return 1
        if self._is_direct(found):
            return min((self._greeting(name).max_batch_size for name in self._up(found)), default=1)
        handle = self._handles.get((found.app, found.name))
        return DEFAULT_MAX_BATCH_SIZE if handle is not None and handle.batches else 1

    def keeps_state(self, model_id: str) -> bool:
        """Returns whether a replica with an endpoint takes the robots' sessions."""
        names = self._links.keys() & set(self.replicas(model_id))
        return any(self._links[name].up and self._greeting(name).keeps_state for name in names)

    def end_session(self, client_id: str) -> None:
        """Ends the sessions of a robot that is gone."""
        super().end_session(client_id)
        for link in self._links.values():
            link.end_session(client_id)

    def leave_session(self, model_id: str, client_id: str) -> None:
        """As in `Dispatcher`."""
        for name in self._links.keys() & set(self.replicas(model_id)):
            self._links[name].end_session(client_id)

    def _target(self, model_id: str) -> Deployment | None:
        if model_id not in self._resolved and "%" in model_id:
            model_id = model_id.rpartition("%")[0]  # one replica of it
        found = self._resolved.get(model_id)
        if found is None and self._models is None:
            with contextlib.suppress(AmbiguousModel):
                found = self._resolved[model_id] = resolve(model_id, self._deployments)
        return found if isinstance(found, Deployment) else None

    def _is_direct(self, deployment: Deployment) -> bool:
        return self._direct and (deployment.app, deployment.name) in self._by_path

    def _up(self, deployment: Deployment) -> list[str]:
        names = self._by_path.get((deployment.app, deployment.name), ())
        return [name for name in names if self._links[name].up]

    def _greeting(self, name: str) -> Any:
        return self._links[name].greeting

    def nodes(self) -> Sequence[NodeUse]:
        """What Ray's own metrics tell of its nodes and their GPUs; none before it was asked a first time."""
        return self._nodes.use()

    # Running

    async def outcomes(self, requests: Sequence[InferenceRequest], replica: str) -> Sequence[Any]:
        """Sends the frames on as they came, where the replica has an endpoint."""
        link = self._links.get(replica)
        if link is None or not link.up:
            return await run_apart(requests, lambda some: self._runner.run(some, replica))
        return await run_apart(requests, lambda some: self._call(link, some))

    async def _call(self, link: Link, requests: Sequence[InferenceRequest]) -> Sequence[Any]:
        model_id = requests[0].pool
        try:
            return await link.call(requests, self._waiting(model_id) // max(1, len(self.replicas(model_id))))
        except ReplicaLost as error:
            return [after_loss(request, error) for request in requests]

    async def infer(self, model_id: str, observations: Sequence[Observation]) -> Sequence[Any]:
        """Calls the deployment by its handle.

        Raises:
            UnknownModelError: Serve has none of that name, or several.
            ReplicaLost: none of its replicas takes calls, or the one that had the call died.
        """
        why = self._resolved.get(model_id)
        found = self._target(model_id)
        if found is None:
            raise UnknownModelError(why if isinstance(why, str) else f"Ray Serve runs no {model_id!r}")
        if self._is_direct(found):
            raise ReplicaLost(f"no replica of {found.path} takes calls")  # the one that it was decided for is gone
        path = (found.app, found.name)
        handle = self._handles.get(path)
        if handle is None:
            handle = self._handles[path] = Handle(found)
        knew = handle.batches
        try:
            return await handle.run(observations)
        finally:
            if handle.batches != knew:
                self._on_change()

    # What changes

    async def _watch_registry(self, handle: Any, version: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                key, version, listed = await handle.watch.remote(version)
                if key != self._keys[0]:
                    logger.warning("the registry of endpoints was restarted")
                    self._keys = await handle.keys.remote()
                    version = -1
                    await asyncio.sleep(2 * REGISTER_EVERY_S)  # until the replicas have registered again
                    continue
            except Exception as error:  # it is being restarted, or Ray's head is: what is known goes on
                logger.warning("the registry of endpoints does not answer: %s", error)
                version = -1
                await asyncio.sleep(AGAIN_S)
                with contextlib.suppress(Exception):  # the next try logs it
                    handle = await loop.run_in_executor(None, registry)  # it may be another one by now
            else:
                _guarded(self._take_listed, listed)

    async def _watch_serve(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                deployments = await loop.run_in_executor(None, details)
            except Exception as error:  # Serve's controller is being restarted, or an application just went
                logger.warning("Serve's controller does not answer: %s", error)
                self._handles.clear()  # they have the address of that controller
                await asyncio.sleep(AGAIN_S)
            else:
                _guarded(self._take_deployments, deployments)

    def _take_deployments(self, deployments: list[Deployment]) -> None:
        changed = deployments != self._deployments
        self._deployments = deployments
        if changed:
            self._resolved.clear()
            paths = {(one.app, one.name) for one in deployments}
            self._handles = {path: handle for path, handle in self._handles.items() if path in paths}
        for model_id, name in (self._models or {}).items():
            if model_id not in self._resolved:
                try:
                    self._resolved[model_id] = resolve(name, deployments)
                except AmbiguousModel as error:
                    self._resolved[model_id] = str(error)
                    logger.error("model %s: %s", model_id, error)
            if self._looks % _REPORT_EVERY == 0 and self._is_awaited(model_id):
                logger.warning(
                    "model %s is not up yet on Ray Serve; its requests wait",
                    model_id if model_id == name else f"{model_id} ({name})",
                )
        self._looks += 1
        if changed:
            self._on_change()

    def _is_awaited(self, model_id: str) -> bool:
        found = self._resolved.get(model_id)
        return found is None or (isinstance(found, Deployment) and not found.replicas)

    def _take_listed(self, listed: Sequence[Listed]) -> None:
        now = {one.replica: one for one in listed}
        for name, link in list(self._links.items()):
            if now.get(name) != self._listed[name] or not link.fits(self._keys):
                del self._links[name]
                self._retired.add(link)
                link.retire()
        self._retired = {link for link in self._retired if not link.closed}
        for name, one in now.items():
            if name not in self._links:
                self._links[name] = self._link(one)
        self._listed = now
        self._group_links()

    def _group_links(self) -> None:
        up = {name for name, link in self._links.items() if link.up}
        self._by_path = called_by_endpoint(self._listed.values(), up, self._deployments, self._by_path)
        self._on_change()

    def _link(self, listed: Listed) -> Link:
        assert self._context is not None
        addresses = listed.addresses
        address, key = (addresses.ipc, "") if listed.node == self._node else (addresses.tcp, addresses.public_key)
        return Link(self._context, listed.replica, address, key, self._keys, lambda link: self._group_links())


def _guarded(take: Callable[[_News], None], news: _News) -> None:
    """Has news taken in; what goes wrong there, as in a user's strategy, must not end the watch for more."""
    try:
        take(news)
    except Exception:
        logger.exception("what has changed on Ray Serve made an error")
