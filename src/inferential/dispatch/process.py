"""Requests on a worker process: to rows and back, and what becomes of those whose process died."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from inferential.dispatch.outcomes import (
    MAX_REPLICAS_LOST,
    Answer,
    CallTimeout,
    RemoteModelError,
    ReplicaLost,
    WorkerDied,
    refused_row,
)
from inferential.dispatch.suspects import not_again, note_alone, run_apart, session_of
from inferential.proto import Observation as ObservationMessage
from inferential.proto.messages import put_metadata, split_values
from inferential.proto.seen import SEEN_KEY
from inferential.proto.tensors import pack
from inferential.replica.outcomes import CallFailed, Died, Refused
from inferential.replica.process import Row, WorkerProcess
from inferential.replica.rows import RowWriter
from inferential.replica.values import Observation
from inferential.scheduler.request import InferenceRequest


class ProcessRunner:
    """Runs requests of one model on its processes.

    Args:
        model_id: for messages.
        workers: the processes.
        on_ending: called with the requests of a call that ends, before its results are there.
    """

    def __init__(
        self,
        model_id: str,
        workers: Sequence[WorkerProcess],
        on_ending: Callable[[Sequence[InferenceRequest]], None],
    ) -> None:
        self._model_id = model_id
        self._workers = workers
        self._on_ending = on_ending
        self._rows = RowWriter()

    def run(self, worker: WorkerProcess, requests: Sequence[InferenceRequest]) -> Coroutine[Any, Any, Sequence[Any]]:
        """Returns results and exceptions of one call, one for each request; raises nothing."""
        if len(requests) == 1:
            return self._call(worker, requests)
        return run_apart(requests, lambda some: self._call(worker, some))

    async def _call(self, worker: WorkerProcess, requests: Sequence[InferenceRequest]) -> Sequence[Any]:
        sees = worker.greeting is not None and worker.greeting.sees_timestamps
        rows = [(description_of(request, self._rows, sees=sees), request.payload) for request in requests]
        keeps_state = worker.greeting is not None and worker.greeting.keeps_state
        sessions = [session_of(request) for request in requests] if keeps_state else ()
        try:
            outcomes = await worker.call(rows, sessions, lambda: self._on_ending(requests))
        except CallFailed as error:
            if len(requests) == 1:
                return [RemoteModelError(str(error), error.place)]
            if keeps_state:
                return [not_again(str(error), len(requests), error.place) for _ in requests]
            # One client's observation may have failed the call for all; alone, only that one fails.
            alone = [(await self._call(worker, [request]))[0] for request in requests]
            note_alone(self._model_id, str(error), error.place, alone)
            return alone
        return [
            one if type(one) is Answer else self._failure(request, one)
            for request, one in zip(requests, outcomes, strict=True)
        ]

    def _failure(self, request: InferenceRequest, outcome: Any) -> Exception:
        if isinstance(outcome, Refused):
            return refused_row(outcome)
        assert isinstance(outcome, Died)
        if not outcome.ran:
            return ReplicaLost(outcome.reason)
        request.replicas_lost += 1
        if request.keeps_state:
            request.replicas_lost = MAX_REPLICAS_LOST
            return WorkerDied(f"{outcome.reason} while it ran this observation, which is not run again")
        if outcome.timed_out:
            request.replicas_lost = MAX_REPLICAS_LOST  # another process would take as long
            return CallTimeout(outcome.reason)
        if request.replicas_lost >= MAX_REPLICAS_LOST:
            return WorkerDied(
                f"{request.replicas_lost} processes ended while they ran this observation: {outcome.reason}"
            )
        if any(worker.up for worker in self._workers):
            return ReplicaLost(outcome.reason, ran=True)
        request.replicas_lost = MAX_REPLICAS_LOST  # none is there to try it, and its robot waits
        return WorkerDied(f"{outcome.reason} while it ran this observation")


_rows = RowWriter()


def description_of(request: InferenceRequest, rows: RowWriter = _rows, *, sees: bool = False) -> bytes:
    """Returns the description of a request's observation, as a worker reads it; with `sees` when it was seen too."""
    if request.slots is None or request.metadata is None:
        return bytes(request.envelope)
    if sees and request.seen is not None:
        return rows.observation(request.slots, {**request.metadata, SEEN_KEY: request.seen.to_text()})
    return rows.observation(request.slots, request.metadata)


async def infer(worker: WorkerProcess, observations: Sequence[Observation]) -> Sequence[Any]:
    """Runs observations that came by no request.

    Raises:
        RemoteModelError: the model failed on all of them.
        WorkerDied: its process does not run, or ended.
    """
    try:
        outcomes = await worker.call([_row(observation) for observation in observations])
    except CallFailed as error:
        raise RemoteModelError(str(error)) from error
    results: list[Any] = []
    for outcome in outcomes:
        if isinstance(outcome, Died):
            raise WorkerDied(outcome.reason)
        results.append(RemoteModelError(outcome.reason) if isinstance(outcome, Refused) else outcome)
    return results


def _row(observation: Observation) -> Row:
    message = ObservationMessage()
    tensors, metadata = split_values(observation)
    payload = pack(message.tensors, tensors)
    put_metadata(message.metadata, metadata)
    return message.SerializeToString(), payload
