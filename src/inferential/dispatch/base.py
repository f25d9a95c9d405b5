"""The backend interface, and what every backend does the same way: read, run, answer.

A backend itself only runs a model on a batch of observations; when and with whom is not its decision.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inferential.dispatch.health import EndpointHealth
from inferential.dispatch.results import structured
from inferential.errors import InferentialError
from inferential.observation.slots import ObservationError, StructureError
from inferential.observation.values import is_encoded, read_slots, to_values
from inferential.proto import PROTOCOL_VERSION
from inferential.proto.messages import ResponseTiming, write_response
from inferential.proto.structure import STRUCTURE_KEY
from inferential.proto.tensors import Buffer
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind

_SAY_AGAIN_S = 1.0
_OURS = str(Path(__file__).parents[1])

logger = logging.getLogger("inferential.dispatch")

Observation = dict[str, Any]
"""What a model sees: np.ndarray by key (tensors) and str by key (metadata)."""


class UnknownModelError(InferentialError, LookupError):
    """The backend has no model of that id."""


class ReplicaLost(InferentialError):
    """The replica that a call ran on is gone, or does not answer; another one may take the call."""


REPLICA_LOST = ReplicaLost.__name__
"""Cause of a refusal that is none of the model's doing."""


class RemoteModelError(InferentialError):
    """A model in another process failed.

    Args:
        text: what it raised, its type in front.
    """

    @property
    def cause(self) -> str:
        """The type of what it raised."""
        return str(self).partition(":")[0]


@dataclass(frozen=True, slots=True)
class Answer:
    """A result whose origin is known.

    Attributes:
        values: arrays and strings by key.
        model_version: of the model that made it.
    """

    values: Mapping[str, Any]
    model_version: str


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


@dataclass(slots=True)
class DispatchResult:
    """What became of one request in the backend: frames of a response, or a refusal.

    Attributes:
        request: whose result it is.
        latency_ms: how long the model's call took.
        response_id: the name of the response.
        envelope, payload: its frames, empty where there is no result.
        values: the result itself, arrays and strings by key; None where there is none.
        refusal: why there is none.
    """

    request: InferenceRequest
    latency_ms: float
    response_id: str = ""
    envelope: bytes = b""
    payload: Buffer = b""
    values: Mapping[str, Any] | None = None
    refusal: Refusal | None = None

    @property
    def client_id(self) -> str:
        """Who asked."""
        return self.request.client_id

    @property
    def identity(self) -> bytes:
        """The ZeroMQ routing id that the answer goes to."""
        return self.request.identity

    @property
    def success(self) -> bool:
        """Whether there is a result."""
        return self.refusal is None

    @property
    def error(self) -> str | None:
        """Why there is none."""
        return None if self.refusal is None else self.refusal.reason


class Dispatcher(ABC):
    """Runs models. A backend implements `infer`; the rest has defaults."""

    def __init__(self) -> None:
        self._health: dict[str, EndpointHealth] = {}
        self._image_pool: Executor | None = None
        # By model: when a failure was logged, and how many were not since.
        self._said: dict[str, tuple[float, int]] = {}

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
        """`infer` on one of the replicas that `replicas` names; for a backend that has more than one of a model."""
        return self.infer(model_id, observations)

    def replicas(self, model_id: str) -> Sequence[str]:
        """The names of a model's replicas, at least one, be there `max_inflight` 0.

        They need not be alike: the latency of each is learned.
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

    def watch(  # noqa: B027 (most backends never change)
        self, on_change: Callable[[], None], waiting: Callable[[str], int]
    ) -> None:
        """Is told whom to tell of changes, before `start`.

        Args:
            on_change: to be called on the event loop when replicas, or what a call or a replica takes, have changed;
                what they were is remembered until then.
            waiting: how many requests wait for a model.
        """

    async def start(self) -> None:  # noqa: B027 (most backends have nothing to do)
        """Called before the first request, each time the server starts."""

    async def close(self) -> None:
        """Called after the last request; `start` may follow."""
        if self._image_pool is not None:
            self._image_pool.shutdown(wait=False, cancel_futures=True)
            self._image_pool = None

    def model_ids(self) -> list[str] | None:
        """The models there are; None where any id may turn out to be one."""
        return None

    def max_batch_size(self, model_id: str) -> int:
        """How many observations one call of the model takes."""
        return 1

    async def model_metadata(self, model_id: str) -> Mapping[str, Any]:
        """What the model says of itself, for robots that are given such a map when they connect."""
        return {}

    def nodes(self) -> Sequence[NodeUse]:
        """How busy the machines are that replicas run on, where the backend knows."""
        return ()

    def endpoint_health(self, model_id: str) -> EndpointHealth | None:
        """How the model has been doing, None before its first call."""
        return self._health.get(model_id)

    def never_waits(self, requests: Sequence[InferenceRequest]) -> bool:
        """Whether `dispatch` of these is done by its first step, so that nothing is gained by making a task of it."""
        return False

    def dispatch(
        self, requests: Sequence[InferenceRequest], replica: str = ""
    ) -> Coroutine[Any, Any, list[DispatchResult]]:
        """Runs requests, one call for each model among them, and gives their results in the same order.

        Args:
            requests: what to run.
            replica: where, for requests of one model.
        """
        if len(requests) == 1 or len({request.model_id for request in requests}) <= 1:
            return self._dispatch_batch(requests, replica)
        return self._dispatch_each(requests)

    async def _dispatch_each(self, requests: Sequence[InferenceRequest]) -> list[DispatchResult]:
        by_model: dict[str, list[InferenceRequest]] = {}
        for request in requests:
            by_model.setdefault(request.model_id, []).append(request)
        batches = await asyncio.gather(*map(self._dispatch_batch, by_model.values()))
        results = {id(result.request): result for batch in batches for result in batch}
        return [results[id(request)] for request in requests]

    async def _dispatch_batch(self, requests: Sequence[InferenceRequest], replica: str = "") -> list[DispatchResult]:
        if not requests:
            return []
        started = time.monotonic()
        for request in requests:
            request.dispatched_at = started
        outcomes = await self.outcomes(requests, replica)
        latency_ms = (time.monotonic() - started) * 1e3
        if len(requests) == 1:
            return [self._result(requests[0], outcomes[0], latency_ms, 1)]
        rows = sum(not isinstance(outcome, ObservationError) for outcome in outcomes)
        return [
            self._result(request, outcome, latency_ms, rows)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    def outcomes(self, requests: Sequence[InferenceRequest], replica: str) -> Coroutine[Any, Any, Sequence[Any]]:
        """Results and exceptions of one call, one for each request; it raises nothing.

        A backend that has observations read elsewhere overrides it.
        """
        if len(requests) == 1 and not is_encoded(requests[0].slots):
            observation = _read_one(requests[0])
            if not isinstance(observation, Exception):
                return self._run(requests[0].model_id, [observation], replica)
        return self._outcomes(requests, replica)

    async def _outcomes(self, requests: Sequence[InferenceRequest], replica: str) -> Sequence[Any]:
        observations = await self._read(requests)
        sound = [
            (request, observation)
            for request, observation in zip(requests, observations, strict=True)
            if not isinstance(observation, Exception)
        ]
        outcomes = await self._run(requests[0].model_id, [observation for _, observation in sound], replica)
        by_request = dict(zip((id(request) for request, _ in sound), outcomes, strict=True))
        return [
            by_request.get(id(request), observation)
            for request, observation in zip(requests, observations, strict=True)
        ]

    async def _read(self, requests: Sequence[InferenceRequest]) -> list[Observation | Exception]:
        """The observations; images are decoded side by side in threads, the rest is read in place."""
        loop = asyncio.get_running_loop()
        jobs: list[Any] = []
        for request in requests:
            if is_encoded(request.slots):
                if self._image_pool is None:
                    self._image_pool = _new_image_pool()
                jobs.append(loop.run_in_executor(self._image_pool, _read_one, request))
            else:
                jobs.append(_read_one(request))
        return [await job if isinstance(job, asyncio.Future) else job for job in jobs]

    async def _run(self, model_id: str, observations: Sequence[Observation], replica: str) -> Sequence[Any]:
        """Results and exceptions, one for each observation, whatever the model does."""
        if not observations:
            return []
        try:
            results = await self.infer_on(replica, model_id, observations)
            if len(results) != len(observations):
                raise ValueError(f"the model gave {len(results)} results for {len(observations)} observations")
        except (UnknownModelError, ReplicaLost) as error:
            return [error] * len(observations)
        except Exception as error:
            if len(observations) == 1:
                return [error]
            # One client's observation may have spoilt the call for all: alone, only it fails.
            logger.info("model %s failed on %d observations, trying each alone: %s", model_id, len(observations), error)
            return [(await self._run(model_id, [observation], replica))[0] for observation in observations]
        return results

    def _result(self, request: InferenceRequest, outcome: Any, latency_ms: float, batch_size: int) -> DispatchResult:
        if not isinstance(outcome, Exception):
            try:
                return self._answer(request, outcome, latency_ms, batch_size)
            except (TypeError, ValueError) as error:
                outcome = error
        refusal = _refusal(request.model_id, outcome)
        if refusal.kind is RefusalKind.MODEL_FAILED:
            self._note(request.model_id, latency_ms, refusal.reason)
            self._log(request, refusal.reason, outcome)
        return DispatchResult(request, latency_ms, refusal=refusal)

    def _log(self, request: InferenceRequest, reason: str, error: Exception) -> None:
        """Says that a model failed: once a second, as one that fails may do so with every request."""
        model_id, now = request.model_id, time.monotonic()
        said_at, unsaid = self._said.get(model_id, (-math.inf, 0))
        if now - said_at < _SAY_AGAIN_S:
            self._said[model_id] = said_at, unsaid + 1
            return
        self._said[model_id] = now, 0
        more = f" (and {unsaid} times more since the last line)" if unsaid else ""
        logger.error("model %s failed for client %s: %s%s%s", model_id, request.client_id, reason, _where(error), more)
        logger.debug("where model %s failed", model_id, exc_info=error)

    def _answer(self, request: InferenceRequest, outcome: Any, latency_ms: float, batch_size: int) -> DispatchResult:
        if isinstance(outcome, Answer):
            values, model_version = outcome.values, outcome.model_version
        else:
            values, model_version = as_values(outcome), ""
        if STRUCTURE_KEY in values and STRUCTURE_KEY not in (request.metadata or ()):
            values = {key: value for key, value in values.items() if key != STRUCTURE_KEY}
        if request.protocol_version < PROTOCOL_VERSION:
            values = widened(values)
        response_id = request.response_id or uuid.uuid4().hex
        now = time.monotonic()
        envelope, payload = write_response(
            client_id=request.client_id,
            model_id=request.model_id,
            response_id=response_id,
            timestamp_ns=time.time_ns(),
            request_id=request.request_id,
            values=values,
            timing=ResponseTiming(
                queue_ms=max(request.dispatched_at - request.received_at, 0.0) * 1e3,
                inference_ms=latency_ms,
                server_ms=max(now - request.received_at, 0.0) * 1e3,
                batch_size=batch_size,
            ),
            serve_interval_ms=request.serve_interval_ms,
            model_version=model_version,
        )
        self._note(request.model_id, latency_ms, None)
        return DispatchResult(request, latency_ms, response_id, envelope, payload, values)

    def _note(self, model_id: str, latency_ms: float, error: str | None) -> None:
        health = self._health.get(model_id)
        if health is None:
            health = self._health[model_id] = EndpointHealth(model_id)
        health.update(latency_ms, error is None, error)


_NUMBERS = frozenset("biufc")  # kinds of dtypes, the plain ones


def as_values(result: Any) -> dict[str, Any]:
    """A model's result as arrays and strings by key; anything but a dict becomes `actions`.

    A result with other values (maps, None, lists of strings) has its structure beside them.

    Raises:
        TypeError: naming the key of a value that is neither string nor array nor can become one.
    """
    # What most give first: an abstract class is asked by a function of its own.
    if isinstance(result, np.ndarray) or not isinstance(result, (dict, Mapping)):
        return {"actions": _as_array("actions", result)}
    try:
        return {
            str(key): value if isinstance(value, str) else _as_array(str(key), value) for key, value in result.items()
        }
    except TypeError:
        return structured(result, _as_array)


# The dtypes that this line added, and what of the 1.x line's holds their values.
_WIDER = {"int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64", "uint64": "int64"}


def widened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values in dtypes that a client of the 1.x line knows.

    Raises:
        ValueError: naming the key of a uint64 array with a value that int64 does not hold.
    """
    known = dict(values)
    for key, value in values.items():
        wider = None if isinstance(value, str) else _WIDER.get(value.dtype.name)
        if wider is None:
            continue
        if value.dtype == np.uint64 and value.size and value.max() > np.iinfo(np.int64).max:
            raise ValueError(f"result {key!r}: {value.max()} does not fit int64, the widest that a 1.x client reads")
        known[key] = value.astype(wider)
    return known


def _as_array(key: str, value: Any) -> np.ndarray[Any, Any]:
    if type(value) is np.ndarray and value.dtype.kind in _NUMBERS:
        return value
    try:
        array = np.asarray(value)
    except Exception as error:
        raise TypeError(f"result {key!r}: {type(value).__name__} is no array: {error}") from error
    if array.dtype.hasobject or (array.dtype.kind in "USV" and array.dtype.name != "bfloat16"):
        raise TypeError(f"result {key!r}: expected numbers or a string, got {type(value).__name__}")
    return array


def _read_one(request: InferenceRequest) -> Observation | Exception:
    try:
        slots, metadata = request.slots, request.metadata
        if slots is None or metadata is None:
            slots, metadata = read_slots(request.envelope, len(request.payload))
        return to_values(slots, metadata, request.payload)
    except Exception as error:  # Pillow may be missing; that is no reason for the others of the batch to fail
        return error


def _where(error: Exception) -> str:
    """The place in the model's own code that raised, for whoever has to mend it; empty where we found the fault."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def _refusal(model_id: str, error: Exception) -> Refusal:
    if isinstance(error, UnknownModelError):
        return Refusal(RefusalKind.UNKNOWN_MODEL, str(error) or f"no model {model_id!r}", "unknown_model")
    if isinstance(error, ObservationError):
        cause = "structure" if isinstance(error, StructureError) else "image"
        return Refusal(RefusalKind.INVALID_OBSERVATION, error.reason, cause)
    if isinstance(error, RemoteModelError):
        return Refusal(RefusalKind.MODEL_FAILED, str(error), error.cause)
    return Refusal(RefusalKind.MODEL_FAILED, f"{type(error).__name__}: {error}", type(error).__name__)


def _new_image_pool() -> Executor:
    import os
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="inferential-images")
