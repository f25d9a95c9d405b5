"""For deployments of Ray Serve: a socket of their own, over which observations come without a detour.

    from ray import serve
    from inferential.replica import direct

    @serve.deployment(num_replicas=2, ray_actor_options={"num_gpus": 0.5})
    @direct
    class Policy:
        max_batch_size = 8

        def infer_batch(self, observations): ...

Ray Serve goes on placing, scaling, checking and replacing the replicas. Models in the server's own process need none
of this.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, overload

import ray
from ray import serve

from inferential.replica.endpoint import Endpoint
from inferential.replica.registry import REGISTER_EVERY_S, Listed, registry
from inferential.transport.listening import socket_folder

__all__ = ["ONGOING", "autoscaling_policy", "direct"]

logger: logging.Logger = logging.getLogger("inferential.ray")

ONGOING = "inferential_ongoing"
"""The metric that a replica tells Serve's autoscaler: rows that run or wait for it, on servers too."""
_DRAIN_S = 10.0
_KEY_WITHIN_S = 30.0
_VERSION_CHARS = 12  # of Serve's, a hash
_ROOM = 60  # for the names of the directory and of a socket in it
_ENDPOINT = "_inferential_endpoint"
C = TypeVar("C", bound=type)


@overload
def direct(cls: C) -> C: ...
@overload
def direct(*, max_inflight: int = 1, hangs_after_s: float = 60.0) -> Callable[[C], C]: ...
def direct(cls: Any = None, *, max_inflight: int = 1, hangs_after_s: float = 60.0) -> Any:
    """Gives each replica of a deployment an endpoint of its own; put it below `@serve.deployment`.

    The class is a model as in `LocalDispatcher`: `infer(observation)`, or `infer_batch(observations)` with
    `max_batch_size`, or `__call__`. Sync methods run in a thread, async ones on the endpoint's event loop. Its
    attribute `model_version`, where it has one, is sent with every answer, as it was when the call began; else it is
    Serve's version of the code.

    Args:
        max_inflight: calls that a replica runs at once.
        hangs_after_s: a replica whose call runs for longer takes no more calls, those that it has go elsewhere, and
            Serve replaces it.

    Raises:
        TypeError: `cls` is no class.
    """
    if cls is None:
        return functools.partial(direct, max_inflight=max_inflight, hangs_after_s=hangs_after_s)
    if not inspect.isclass(cls):
        raise TypeError(f"direct: expected a class, below @serve.deployment, got {cls!r}")
    return _with_endpoint(cls, max_inflight, hangs_after_s)


def _with_endpoint(cls: type, max_inflight: int, hangs_after_s: float) -> type:
    construct: Any = cls.__init__  # type: ignore[misc]
    members: dict[str, Any] = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}

    def begin(self: Any) -> None:
        setattr(self, _ENDPOINT, _Attached(self, max_inflight))

    if inspect.iscoroutinefunction(construct):

        async def async_init(self: Any, *args: Any, **kwargs: Any) -> None:
            await construct(self, *args, **kwargs)
            begin(self)

        members["__init__"] = async_init
    else:

        @functools.wraps(construct)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            construct(self, *args, **kwargs)
            begin(self)

        members["__init__"] = init

    async def check_health(self: Any) -> None:
        await _own(cls, "check_health", self)
        attached = self.__dict__.get(_ENDPOINT)
        if attached is not None:
            attached.check(hangs_after_s)

    async def record_autoscaling_stats(self: Any) -> dict[str, float]:
        stats = await _own(cls, "record_autoscaling_stats", self)
        attached = self.__dict__.get(_ENDPOINT)
        return {**(stats or {}), ONGOING: 0.0 if attached is None else attached.endpoint.load}

    def destroy(self: Any) -> Any:
        # Serve calls it once its own calls have ended, and Python when the object goes: the second finds nothing.
        attached = self.__dict__.pop(_ENDPOINT, None)
        if attached is None:
            return None
        attached.close(_DRAIN_S)
        own = getattr(cls, "__del__", None)
        return None if own is None else own(self)  # Serve awaits what an async one gives

    members |= {"check_health": check_health, "record_autoscaling_stats": record_autoscaling_stats, "__del__": destroy}
    return type(cls.__name__, (cls,), members)


async def _own(cls: type, name: str, model: Any) -> Any:
    """What the class's own method of that name gives, where it has one; Serve takes sync and async ones."""
    own = getattr(cls, name, None)
    result = None if own is None else own(model)
    return await result if inspect.isawaitable(result) else result


def autoscaling_policy(ctx: Any) -> tuple[int, dict[str, Any]]:
    """A policy for Serve's autoscaler: as many replicas as bring the rows for each to `target_ongoing_requests`.

    Serve itself sees nothing of what comes by the endpoints, so that its own policy would never scale up. Use:
    `autoscaling_config={"policy": {"policy_function": "inferential.replica:autoscaling_policy"}, ...}`.
    """
    reported = (ctx.aggregated_metrics or {}).get(ONGOING, {})
    target = getattr(ctx.config, "target_ongoing_requests", None) or 1.0
    wanted = math.ceil(sum(reported.values()) / target)
    lowest, highest = ctx.capacity_adjusted_min_replicas, ctx.capacity_adjusted_max_replicas
    return max(lowest, min(highest, wanted)), dict(ctx.policy_state or {})


class _Attached:
    """The endpoint of this replica, registered for as long as it lives."""

    def __init__(self, model: Any, max_inflight: int) -> None:
        context = serve.get_replica_context()
        node = ray.get_runtime_context().get_node_id()
        code_version = (getattr(context, "code_version", "") or "")[:_VERSION_CHARS]
        self.endpoint = Endpoint(
            model,
            max_inflight=max_inflight,
            model_version=lambda: str(getattr(model, "model_version", "") or code_version),
            # By number: in a container, a user may have no name.
            directory=Path(socket_folder(_ROOM)) / f"inferential-{os.getuid()}",
            host=str(ray.util.get_node_ip_address()),  # type: ignore[no-untyped-call]
        )
        addresses = self.endpoint.start()
        self._listed = Listed(context.app_name, context.deployment, context.replica_tag, node, addresses)
        # No server is let in before the key is known, so the replica is not ready before that either.
        self._registry: Any = registry()
        self._register()
        self._closed = threading.Event()
        threading.Thread(target=self._stay_listed, name="inferential-registration", daemon=True).start()

    def _register(self) -> None:
        self.endpoint.allow(ray.get(self._registry.register.remote(self._listed), timeout=_KEY_WITHIN_S))

    def _stay_listed(self) -> None:
        while not self._closed.wait(REGISTER_EVERY_S):
            try:
                if not ray.is_initialized():
                    raise ConnectionError("this replica's Ray has ended")
                self._registry = self._registry or registry()
                self._register()
            except Exception as error:  # whatever it is, for example Ray's head that is being restarted, it may pass
                logger.warning("the registry does not answer: %s", error)
                self._registry = None

    def check(self, hangs_after_s: float) -> None:
        """Raises RuntimeError where Serve had better replace this replica.

        Of one that hangs, servers learn at once by the end of its connections: Serve itself waits for several failed
        checks.
        """
        if not self.endpoint.is_alive:
            raise RuntimeError("the replica's endpoint has ended")
        busy_s = self.endpoint.busy_s()
        if busy_s > hangs_after_s:
            self.close(0.0)
            raise RuntimeError(f"a call has run for {busy_s:.0f} s, more than hangs_after_s ({hangs_after_s:g})")

    def close(self, drain_s: float) -> None:
        """No more calls; those that run end well, for `drain_s` at most."""
        self._closed.set()
        try:
            if self._registry is not None:
                self._registry.remove.remote(self._listed.replica)
        finally:
            self.endpoint.close(drain_s)
