"""Deployments without an endpoint, called through Serve's handles.

Serve chooses the replica; that it has no more at once than its replicas take is the caller's part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray import serve

from inferential.dispatch.base import Observation, RemoteModelError, ReplicaLost
from inferential.dispatch.ray.deployments import Deployment

_METHODS = ("infer_batch", "infer", "__call__")
_LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,  # the observation or the result, with the node that it was on
)


class Handle:
    """One deployment.

    Args:
        deployment: which.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._handle: Any = serve.get_deployment_handle(deployment.name, app_name=deployment.app)
        self._path = deployment.path
        self._method: str | None = None
        """Which of the methods it has; None until one was called."""

    @property
    def batches(self) -> bool | None:
        """Whether it has `infer_batch`; None: not known yet."""
        return None if self._method is None else self._method == "infer_batch"

    async def run(self, observations: Sequence[Observation]) -> Sequence[Any]:
        """Results, or an exception where a row failed alone.

        Raises:
            AttributeError: it has none of the methods.
            ReplicaLost: the replica died meanwhile.
            Exception: what the model raised, for all rows.
        """
        if self._method is not None:
            return await self._call(self._method, observations)
        for method in _METHODS:
            try:
                results = await self._call(method, observations)
            except ReplicaLost:
                raise  # which tells nothing of what the deployment has
            except Exception as error:
                if not _is_missing(error, method):
                    self._method = method
                    raise
            else:
                self._method = method
                return results
        raise AttributeError(f"{self._path} has none of {', '.join(_METHODS)}")

    async def _call(self, method: str, observations: Sequence[Observation]) -> Sequence[Any]:
        function = getattr(self._handle, method) if method != "__call__" else self._handle
        if method == "infer_batch":
            results: Sequence[Any] = await self._answer(function.remote(list(observations)))
            return results
        found: list[Any] = []
        for observation in observations:
            try:
                found.append(await self._answer(function.remote(observation)))
            except ReplicaLost:
                raise
            except Exception as error:
                if _is_missing(error, method):
                    raise
                found.append(error)
        return found

    async def _answer(self, response: Any) -> Any:
        try:
            return await response
        except _LOST as error:
            raise ReplicaLost(f"a replica of {self._path} died: {type(error).__name__}", ran=True) from error
        except ray.exceptions.RayTaskError as error:
            # Its text begins with kilobytes of Serve's own frames; what the model raised is at the end.
            raise RemoteModelError(f"{type(error.cause).__name__}: {error.cause}") from error


def _is_missing(error: Exception, method: str) -> bool:
    """Whether Serve says that the deployment has no such method."""
    return f"'{method}'" in str(error) and "does not exist" in str(error)
