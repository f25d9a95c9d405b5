"""The backend interface: what a server asks of what runs its models.

A backend runs a model on a batch of observations; when and with which others is not its decision.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from inferential.dispatch.health import EndpointHealth
from inferential.dispatch.limits import ActionChecks
from inferential.dispatch.outcomes import (
    MAX_REPLICAS_LOST,
    REPLICA_LOST,
    Answer,
    CallTimeout,
    DispatchResult,
    RemoteModelError,
    ReplicaLost,
    UnknownModelError,
)
from inferential.dispatch.results import ResultWriter
from inferential.dispatch.runner import Runner
from inferential.dispatch.suspects import Suspects
from inferential.observation.slots import ObservationError
from inferential.replica.condition import Condition
from inferential.replica.values import Observation
from inferential.scheduler.request import InferenceRequest

__all__ = [
    "MAX_REPLICAS_LOST",
    "REPLICA_LOST",
    "Answer",
    "CallTimeout",
    "DispatchResult",
    "Dispatcher",
    "GpuUse",
    "ModelProblem",
    "NodeUse",
    "Observation",
    "RemoteModelError",
    "ReplicaLost",
    "UnknownModelError",
    "WorkerUse",
]


@dataclass(frozen=True, slots=True)
class GpuUse:
    """How busy a GPU is; None where that is not known."""

    index: int
    name: str
    utilisation_percent: float | None
    memory_used_mb: float | None


@dataclass(frozen=True, slots=True)
class NodeUse:
    """How busy a machine is that replicas run on; None where that is not known."""

    node_id: str
    address: str
    cpu_percent: float | None
    memory_used_mb: float | None
    gpus: tuple[GpuUse, ...] = ()


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """What a process of a model uses.

    Attributes:
        model_id, replica: whose it is; "" for the only replica.
        pid: of the process.
        memory_mb: resident memory.
        cpu_s: CPU time since it started.
        gpu_memory_mb: memory of all GPUs; None where that is not known.
    """

    model_id: str
    replica: str
    pid: int
    memory_mb: float
    cpu_s: float
    gpu_memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class ModelProblem:
    """Why a model has less than it should.

    Attributes:
        reason: in words.
        is_down: whether no call of the model can succeed now.
    """

    reason: str
    is_down: bool


class Dispatcher(ABC):
    """Runs models. A backend implements `infer`; everything else has a default.

    Example:
        ```python
        from inferential.dispatch import Dispatcher

        class Doubling(Dispatcher):
            async def infer(self, model_id, observations):
                return [observation["state"] * 2 for observation in observations]
        ```
    """

    def __init__(self) -> None:
        self._max_retries: Callable[[], int | None] = _none
        self._elsewhere: Callable[[str], bool] = lambda model_id: False
        self._results = ResultWriter()
        self._suspects = Suspects()
        self.on_returned: Callable[[Sequence[InferenceRequest]], None] = _nothing
        """Called with the requests of a call that has a result for each, before these are written."""
        self.on_ending: Callable[[Sequence[InferenceRequest]], None] = _nothing
        """Called with the requests of a call that ends, before its results are there; not every backend knows."""
        self.expect_call: Callable[[], None] = _expect_nothing
        """Notes that an observation has come, which is not read yet: a call may follow in a moment."""
        self._runner = Runner(lambda *call: self.infer_on(*call), self._may_retry)

    @abstractmethod
    async def infer(self, model_id: str, observations: Sequence[Observation]) -> Sequence[Any]:
        """Runs the model once on a batch.

        Args:
            model_id: which model.
            observations: as many as `max_batch_size(model_id)` at most.

        Returns:
            One result for each observation, in order: an array, or a dict of arrays, numbers, lists and strings;
            or an exception for one that failed alone.

        Raises:
            UnknownModelError: there is no such model.
            Exception: whatever the model raised, for the batch as a whole.
        """

    def infer_on(
        self, replica: str, model_id: str, observations: Sequence[Observation]
    ) -> Coroutine[Any, Any, Sequence[Any]]:
        """Does what `infer` does on one of the replicas that `replicas` names.

        A backend with several replicas of a model overrides it.
        """
        return self.infer(model_id, observations)

    def replicas(self, model_id: str) -> Sequence[str]:
        """Returns the names of a model's replicas, at least one even while none takes calls.

        Replicas need not be equally fast: the latency of each is learned.
        """
        return ("",)

    def max_inflight(self, model_id: str) -> int | None:
        """Returns how many calls each replica runs at once, unless the operator sets another number.

        None: `models.default_max_inflight` applies; 0: no replica is available.
        """
        return None

    def max_inflight_limit(self, model_id: str) -> int | None:
        """Returns how many calls a replica can run at once, whatever the operator sets; None: unknown."""
        return None

    def lost_slots(self, model_id: str) -> int:
        """Returns how many calls fewer each replica takes, because calls over their time still occupy threads."""
        return 0

    def problems(self) -> Mapping[str, ModelProblem]:
        """Returns, by model id, why a model cannot be called now or has fewer replicas than it should.

        It is empty where all is well. `/readyz`, `Server.status` and the page show it.
        """
        return {}

    def allocate(self, length: int) -> memoryview | None:
        """Returns memory to receive a payload of so many bytes into; None: the server's own.

        A backend that can hand it to its models without a copy overrides it. It must be free again when nothing looks
        at it any more.
        """
        return None

    def use_retries(
        self, max_retries: Callable[[], int | None], elsewhere: Callable[[str], bool] = lambda model_id: False
    ) -> None:
        """Sets how often the server tries a failed request again; a model then gets copies of what may be needed again.

        Args:
            max_retries: returns `scheduling.max_retries`, or None while there are no retries.
            elsewhere: returns whether another model, or version, may be given a request that a model has begun with.
        """
        self._max_retries = max_retries
        self._elsewhere = elsewhere

    def use_actions(self, checks: ActionChecks) -> None:
        """Sets what results are checked by before they are sent."""
        self._results.checks = checks

    def _may_retry(self, model_id: str) -> bool:
        return bool(self._max_retries()) or self._elsewhere(model_id)

    def watch(  # noqa: B027 (most backends never change)
        self, on_change: Callable[[], None], waiting: Callable[[str], int]
    ) -> None:
        """Takes the server's callbacks; called before `start`.

        Args:
            on_change: the backend calls it on the event loop when replicas, `max_inflight` or `max_batch_size` have
                changed; the server remembers the former values until then.
            waiting: returns how many requests wait for a model.
        """

    async def begin(self) -> None:
        """Does what `start` does, without waiting for models: what each is at, `conditions` says.

        The server, which listens already, calls it; robots that ask a model that loads wait.
        """
        await self.start()

    def conditions(self) -> Mapping[str, Sequence[Condition]]:
        """Returns what each replica of a model is at, by model id; a model that is not in it is taken to answer."""
        return {}

    def measured(self, model_id: str) -> Sequence[tuple[int, float]]:
        """Returns rows of a call and its latency in seconds, as a warm-up has found them."""
        return ()

    def register_model(self, model_id: str, model: Any) -> None:
        """Adds a model or replaces one.

        Raises:
            NotImplementedError: the backend takes its models from elsewhere.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot add a model while it runs")

    def unregister_model(self, model_id: str) -> None:
        """Removes a model, which gets no more calls.

        Raises:
            NotImplementedError: the backend takes its models from elsewhere.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot remove a model while it runs")

    def check_model(self, model_id: str, model: Any) -> None:  # noqa: B027 (a backend that takes any)
        """Checks what `register_model` is to be given, before anything is changed.

        Raises:
            ValueError: the backend cannot run it.
        """

    def end_calls(self, model_id: str) -> None:  # noqa: B027 (a backend whose calls cannot be ended)
        """Ends the calls that run on a model which is about to be removed, where the backend can; they fail as lost."""

    def keeps_state(self, model_id: str) -> bool:
        """Returns whether a model keeps state of its robots: its methods take their sessions."""
        return False

    def end_session(self, client_id: str) -> None:
        """Ends the sessions of a robot that is gone."""
        self._suspects.forget(client_id)

    def leave_session(self, model_id: str, client_id: str) -> None:  # noqa: B027 (a backend without sessions)
        """Ends the session of a robot on one model, or one replica of it, as another one answers it from now on."""

    def name_version(self, model_id: str, version: str, *, unless_said: bool = False) -> None:
        """Sets the version that results of a model carry; with `unless_said` only where the model says none."""
        self._results.named[model_id] = version, unless_said

    async def start(self) -> None:  # noqa: B027 (most backends have nothing to do)
        """Prepares for requests; the server calls it each time it starts."""

    async def close(self) -> None:
        """Releases what `start` and calls took; called after the last request, and `start` may follow."""
        self._runner.close()

    def model_ids(self) -> list[str] | None:
        """Returns the ids of all models; None where any id may turn out to be one."""
        return None

    def max_batch_size(self, model_id: str) -> int:
        """Returns how many observations one call of the model takes."""
        return 1

    async def model_metadata(self, model_id: str) -> Mapping[str, Any]:
        """Returns what a model says of itself, for protocols that send such a map to each robot; {} by default."""
        return {}

    def nodes(self) -> Sequence[NodeUse]:
        """Returns how busy the machines of the replicas are, where the backend knows."""
        return ()

    def workers(self) -> Sequence[WorkerUse]:
        """Returns what the models' processes on this machine use now."""
        return ()

    def endpoint_health(self, model_id: str) -> EndpointHealth | None:
        """Returns latency and errors of a model's calls; None before its first call."""
        return self._results.health.get(model_id)

    def completes_inline(self, requests: Sequence[InferenceRequest]) -> bool:
        """Returns whether `dispatch` of these requests completes without waiting, so that it needs no task."""
        return False

    def begins_elsewhere(self, requests: Sequence[InferenceRequest]) -> bool:
        """Returns whether the first step of `dispatch` sends these requests to another process, and then waits."""
        return False

    def begins_in_thread(self, requests: Sequence[InferenceRequest]) -> bool:
        """Returns whether the first step of `dispatch` hands these requests to a thread, and may wait for its end."""
        return False

    def dispatch(
        self, requests: Sequence[InferenceRequest], replica: str = ""
    ) -> Coroutine[Any, Any, list[DispatchResult]]:
        """Runs requests, one call for each model among them, and returns their results in the same order.

        Args:
            requests: what to run.
            replica: which replica runs them, where all are for one model.
        """
        if len(requests) == 1 or len({request.pool for request in requests}) <= 1:
            return self._dispatch_batch(requests, replica)
        return self._dispatch_each(requests)

    async def _dispatch_each(self, requests: Sequence[InferenceRequest]) -> list[DispatchResult]:
        by_model: dict[str, list[InferenceRequest]] = {}
        for request in requests:
            by_model.setdefault(request.pool, []).append(request)
        batches = await asyncio.gather(*map(self._dispatch_batch, by_model.values()))
        results = {id(result.request): result for batch in batches for result in batch}
        return [results[id(request)] for request in requests]

    async def _dispatch_batch(self, requests: Sequence[InferenceRequest], replica: str = "") -> list[DispatchResult]:
        if not requests:
            return []
        first = requests[0]
        started, pool = time.monotonic(), first.pool
        for request in requests:
            request.dispatched_at = started
        if len(requests) > 1 and self._suspects.known:
            outcomes = await self._suspects.run(requests, lambda some: self.outcomes(some, replica))
        else:
            outcomes = await self.outcomes(requests, replica)
        if first.keeps_state and first.pool == pool:
            self._suspects.note(requests, outcomes)
        latency_ms = (time.monotonic() - started) * 1e3
        if first.pool != pool:  # another one was given them meanwhile, and these are no answers to them
            return [self._results.unwritten(*one, latency_ms) for one in zip(requests, outcomes, strict=True)]
        rows = len(outcomes)
        if any(map(isinstance, outcomes, repeat(Exception))):
            rows -= sum(map(isinstance, outcomes, repeat(ObservationError)))
        else:
            self.on_returned(requests)
        return self._results.write_all(requests, outcomes, latency_ms, rows)

    def outcomes(self, requests: Sequence[InferenceRequest], replica: str) -> Coroutine[Any, Any, Sequence[Any]]:
        """Returns results and exceptions of one call, one for each request; raises nothing.

        A backend whose replicas read the observations themselves overrides it.
        """
        return self._runner.run(requests, replica)


def _none() -> None:
    return None


def _expect_nothing() -> None:
    pass


def _nothing(requests: Sequence[InferenceRequest]) -> None:
    pass
