"""From a model's outcome to the frames of a response or a refusal; logs failures and keeps each model's health."""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

import numpy as np

from inferential.dispatch.health import EndpointHealth
from inferential.dispatch.limits import ActionChecks
from inferential.dispatch.outcomes import (
    Answer,
    BatchFailedError,
    CallTimeout,
    DispatchResult,
    RemoteModelError,
    ReplicaLost,
    UnknownModelError,
    WorkerDied,
)
from inferential.dispatch.raised import failure_of
from inferential.errors import InvalidObservation, kind_of, reason_of, words_of
from inferential.observation.slots import ObservationError
from inferential.proto import PROTOCOL_VERSION
from inferential.proto.messages import ResponseTiming, write_response
from inferential.proto.structure import STRUCTURE_KEY
from inferential.replica.failures import FailurePlaces, forget_frames, is_first
from inferential.replica.values import as_values
from inferential.scheduler.request import (
    InferenceRequest,
    Refusal,
    RefusalKind,
    episode_key,
    family_of,
    is_of,
    whole_pool,
)
from inferential.scheduler.time.execution_horizon import horizon_of_answer
from inferential.tracking.action_horizon import horizon_of
from inferential.wall_clock import wall_ns

logger: logging.Logger = logging.getLogger("inferential.dispatch")

CONFIDENCE_KEY = "confidence"
"""Where a result says how far its chunk can be trusted: a number from 0 to 1, or one for each action."""
_REFUSAL = attrgetter("refusal")
_LOG_EVERY_S = 1.0
_MAX_EPISODES = 10_000
_LOGGED = (ReplicaLost, WorkerDied, CallTimeout)  # by the replica that it happened to
# The dtypes that this line added, and which dtype of the 1.x line holds their values.
_WIDER = {"int8": "int32", "int16": "int32", "uint16": "int32", "uint32": "int64", "uint64": "int64"}


class ResultWriter:
    """Writes what a backend's calls end in."""

    def __init__(self) -> None:
        self.checks: ActionChecks | None = None
        """What results are checked by; None: nothing."""
        self.health: dict[str, EndpointHealth] = {}
        self.version_of: Callable[[str], str] = lambda pool: ""
        """Returns the version of a pool whose results do not have it."""
        # By model and robot, of models that keep state; of robots that are gone, too: one may be back in its episode.
        self._episodes: dict[tuple[str, str], str] = {}
        self.named: dict[str, tuple[str, bool]] = {}
        """The names of versions, by pool, and whether they stand back behind what the model says."""
        # By model: when a failure was logged last, and how many were not logged since.
        self._logged: dict[str, tuple[float, int]] = {}
        self._places = FailurePlaces()
        self._traced = ""  # the place that was logged with a traceback last: rows of a call may share one

    def write_all(
        self, requests: Sequence[InferenceRequest], outcomes: Sequence[Any], latency_ms: float, batch_size: int
    ) -> list[DispatchResult]:
        """Returns the results of one call's requests, and notes how it went.

        Args:
            requests: of one model.
            outcomes: what the model returned for each, or an exception.
            latency_ms: how long the call took.
            batch_size: rows in the call.
        """
        results = list(map(self.write, requests, outcomes, repeat(latency_ms), repeat(batch_size)))
        if answered := [*map(_REFUSAL, results)].count(None):
            self._health_of(requests[0].pool).update_all(latency_ms, answered)
        if answered != len(results):
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    forget_frames(outcome)
        return results

    def write(self, request: InferenceRequest, outcome: Any, latency_ms: float, batch_size: int) -> DispatchResult:
        """Returns the result of one request, as `write_all`, which notes those that are there."""
        unsound = None
        if not isinstance(outcome, Exception):
            try:
                return self._response(request, outcome, latency_ms, batch_size)
            except BaseException as error:  # what a model returned may raise anything when it is looked at
                outcome = unsound = failure_of(error)
        refusal = _refusal(request.model_id, outcome)
        if refusal.kind is RefusalKind.MODEL_FAILED:
            self._health_of(request.pool).update(latency_ms, False, refusal.reason)
        if refusal.logged:
            self._log(request, refusal.reason, outcome)
        forget_frames(unsound)
        return DispatchResult(request, latency_ms, refusal=refusal)

    def unwritten(self, request: InferenceRequest, outcome: Any, latency_ms: float) -> DispatchResult:
        """Returns what a request would have got that is answered elsewhere: nothing is sent, noted or logged."""
        if not isinstance(outcome, Exception):
            return DispatchResult(request, latency_ms)
        forget_frames(outcome)
        return DispatchResult(request, latency_ms, refusal=_refusal(request.model_id, outcome))

    def _response(self, request: InferenceRequest, outcome: Any, latency_ms: float, batch_size: int) -> DispatchResult:
        session = ""
        if isinstance(outcome, Answer):
            values, model_version = outcome.values, outcome.model_version
            if outcome.fresh is not None and self._is_restarted(request, fresh=outcome.fresh):
                session = "restarted"
        else:
            values, model_version = as_values(outcome), self.version_of(request.pool)
        if (
            self.named
            and (named := self.named.get(whole_pool(request))) is not None
            and not (named[1] and model_version)
        ):
            model_version = named[0]
        if STRUCTURE_KEY in values and STRUCTURE_KEY not in (request.metadata or ()):
            values = {key: value for key, value in values.items() if key != STRUCTURE_KEY}
        other = "" if request.pool is request.model_id else _other_model(request)
        if self.checks is not None:
            if other:
                values = self.checks.checked(other, values)
            values = self.checks.checked(request.model_id, values)
        if request.protocol_version < PROTOCOL_VERSION:
            values = widened(values)
        response_id = request.response_id or uuid.uuid4().hex
        now = time.monotonic()
        envelope, payload = write_response(
            client_id=request.client_id,
            model_id=request.model_id,
            response_id=response_id,
            timestamp_ns=wall_ns(),
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
            session=session,
            fallback=other,
            execution_horizon=0 if request.steps_remaining is None else _horizon(request, values, now),
        )
        return DispatchResult(request, latency_ms, response_id, envelope, payload, values)

    def _is_restarted(self, request: InferenceRequest, *, fresh: bool) -> bool:
        """Returns whether the state of a robot was lost within its episode, whose results so far it has."""
        key = request.model_id, request.client_id
        episode = episode_key(request)
        known = self._episodes.pop(key, None)
        self._episodes[key] = episode  # those that were answered longest ago are the first
        if len(self._episodes) > _MAX_EPISODES:
            del self._episodes[next(iter(self._episodes))]
        return fresh and known == episode

    def _health_of(self, model_id: str) -> EndpointHealth:
        health = self.health.get(model_id)
        if health is None:
            health = self.health[model_id] = EndpointHealth(model_id)
        return health

    def _log(self, request: InferenceRequest, reason: str, error: Exception) -> None:
        """Logs a model's failure, at most once a second: a broken model may fail with every request.

        The first at a place of its code is logged with the traceback, and in any case.
        """
        model_id, now = whole_pool(request), time.monotonic()
        place = self._places.of(error) if (said := getattr(error, "place", None)) is None else said
        is_new = is_first(place) and place != self._traced
        logged_at, unlogged = self._logged.get(model_id, (-math.inf, 0))
        if now - logged_at < _LOG_EVERY_S and not is_new:
            self._logged[model_id] = logged_at, unlogged + 1
            return
        self._logged[model_id] = now, 0
        more = f" (and {unlogged} more since the last line)" if unlogged else ""
        where, _, trace = place.partition("\n")
        if is_new:
            self._traced, more = place, f"{more}\n{trace}"
        logger.error("model %s failed for client %s: %s%s%s", model_id, request.client_id, reason, where, more)


def widened(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values in dtypes that a client of the 1.x line knows.

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


def _horizon(request: InferenceRequest, values: Mapping[str, Any], now: float) -> int:
    """Returns how many actions of a result's chunk its robot had better play; 0 where it is not one, or for any."""
    actions = horizon_of(values)
    return 0 if actions is None else horizon_of_answer(request, actions, values.get(CONFIDENCE_KEY), now)


def _other_model(request: InferenceRequest) -> str:
    """Returns the model that answers in place of the one that was asked; "" where it is the same."""
    return "" if is_of(request.pool, request.model_id) else family_of(request.pool)


def _refusal(model_id: str, error: Exception) -> Refusal:
    if isinstance(error, UnknownModelError):
        return Refusal(RefusalKind.UNKNOWN_MODEL, str(error) or f"no model {model_id!r}", "unknown_model")
    if isinstance(error, ObservationError):
        # By its text, as it may come from another process.
        cause = "structure" if error.reason.startswith(STRUCTURE_KEY) else "image"
        return Refusal(RefusalKind.INVALID_OBSERVATION, error.reason, cause)
    if isinstance(error, BatchFailedError):
        return Refusal(RefusalKind.BATCH_FAILED, str(error), "batch_failed", logged=True)
    if isinstance(error, InvalidObservation):  # the model's own judgement
        return Refusal(RefusalKind.INVALID_OBSERVATION, reason_of(error), "model")
    if isinstance(error, RemoteModelError):
        return Refusal(RefusalKind.MODEL_FAILED, str(error), error.cause, logged=True)
    logged = not isinstance(error, _LOGGED)
    return Refusal(RefusalKind.MODEL_FAILED, words_of(error), kind_of(error), logged=logged)
