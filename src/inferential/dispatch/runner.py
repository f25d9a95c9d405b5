"""Runs a batch of requests as one call of a model, and row by row where that call fails.

A row that is tried again is read again: the model sees what the robot sent, whatever it did to the first copy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from typing import Any

from inferential.dispatch.outcomes import Answer, ReplicaLost, UnknownModelError
from inferential.dispatch.raised import failure_of
from inferential.dispatch.suspects import after_loss, not_again, note_alone, session_of
from inferential.errors import place_of, words_of
from inferential.observation.values import is_encoded, read_slots, to_values
from inferential.replica.failures import forget_frames
from inferential.replica.sessions import SessionRow
from inferential.replica.values import Observation, as_values, own
from inferential.scheduler.request import InferenceRequest

Infer = Callable[[str, str, Sequence[Observation]], Awaitable[Sequence[Any]]]
"""Runs observations on a replica of a model: `Dispatcher.infer_on`."""


class Runner:
    """Reads observations and runs them.

    Args:
        infer: runs the model.
        may_retry: returns whether a request of a model may be run again later, or elsewhere.
    """

    def __init__(self, infer: Infer, may_retry: Callable[[str], bool]) -> None:
        self._infer = infer
        self._may_retry = may_retry
        self._image_pool: Executor | None = None
        self.version_of: Callable[[str], str] = lambda pool: ""
        """Returns the version of a model that keeps state."""
        self.sees_timestamps: Callable[[str], bool] = lambda pool: False
        """Returns whether a model wants to know when its observations were seen."""

    def close(self) -> None:
        """Ends the threads that decode images; a later run starts new ones."""
        if self._image_pool is not None:
            self._image_pool.shutdown(wait=False, cancel_futures=True)
            self._image_pool = None

    def run(self, requests: Sequence[InferenceRequest], replica: str) -> Coroutine[Any, Any, Sequence[Any]]:
        """Returns results and exceptions of one call, one for each request; raises nothing."""
        if len(requests) == 1 and not is_encoded(requests[0].slots):
            observation = read(requests[0], own=self._may_retry(requests[0].pool))
            if requests[0].seen is not None:
                self._add_times(requests[0], observation)
            if not isinstance(observation, Exception):  # without a layer of coroutines, which costs as much as reading
                return self._call(requests, [observation], replica)
        return self._run(requests, replica)

    async def _run(self, requests: Sequence[InferenceRequest], replica: str) -> Sequence[Any]:
        observations = await self._read(requests)
        sound = [number for number, one in enumerate(observations) if not isinstance(one, Exception)]
        outcomes: list[Any] = list(observations)
        if sound:
            rows = [requests[number] for number in sound]
            results = await self._call(rows, [observations[number] for number in sound], replica)
            for number, result in zip(sound, results, strict=True):
                outcomes[number] = result
        return outcomes

    async def _read(self, requests: Sequence[InferenceRequest]) -> list[Observation | Exception]:
        """Returns the observations; images are decoded side by side in threads, the rest is read in place."""
        loop = asyncio.get_running_loop()
        own = len(requests) > 1 or self._may_retry(requests[0].pool)
        jobs: list[Any] = []
        for request in requests:
            if is_encoded(request.slots):
                if self._image_pool is None:
                    self._image_pool = _new_image_pool()
                jobs.append(loop.run_in_executor(self._image_pool, read, request, own))
            else:
                jobs.append(read(request, own=own))
        observations = [await job if isinstance(job, asyncio.Future) else job for job in jobs]
        for request, observation in zip(requests, observations, strict=True):
            if request.seen is not None:
                self._add_times(request, observation)
        return observations

    def _add_times(self, request: InferenceRequest, observation: Observation | Exception) -> None:
        if request.seen is not None and isinstance(observation, dict) and self.sees_timestamps(request.pool):
            observation.update(request.seen.values())

    async def _call(
        self, requests: Sequence[InferenceRequest], observations: Sequence[Any], replica: str
    ) -> Sequence[Any]:
        model_id = requests[0].pool
        rows = observations
        if requests[0].keeps_state:
            rows = [SessionRow(row, *session_of(one)) for one, row in zip(requests, observations, strict=True)]
        try:
            results = await self._infer(replica, model_id, rows)
            if len(results) != len(requests):
                raise ValueError(f"the model gave {len(results)} results for {len(requests)} observations")
        except UnknownModelError as error:
            return [error] * len(requests)
        except ReplicaLost as error:
            return [after_loss(request, error) for request in requests]
        except Exception as error:
            if len(requests) == 1:
                return [error]
            if requests[0].keeps_state:
                forget_frames(error)
                return [not_again(words_of(error), len(requests)) for _ in requests]
            why, place = words_of(error), place_of(error)
            forget_frames(error)
        else:
            if requests[0].keeps_state:
                return [self._with_session(row, result, model_id) for row, result in zip(rows, results, strict=True)]
            return results
        # One client's observation may have failed the call for all; alone, only that one fails.
        alone = [own((await self.run([request], replica))[0]) for request in requests]
        note_alone(model_id, why, place, alone)
        return alone

    def _with_session(self, row: SessionRow, result: Any, model_id: str) -> Any:
        if isinstance(result, Exception):
            return result
        try:
            return Answer(as_values(result), self.version_of(model_id), row.fresh)
        except BaseException as error:
            return failure_of(error)


def read(request: InferenceRequest, own: bool) -> Observation | Exception:
    """Returns what a model sees of a request, or why it cannot.

    Its arrays are writable, and views on the request's payload where nothing else needs that again.

    Args:
        request: which one.
        own: whether the request may be read again, so that the model gets a copy of the payload.
    """
    try:
        slots, metadata, payload = request.slots, request.metadata, request.payload
        if slots is None or metadata is None:
            slots, metadata = read_slots(request.envelope, len(payload))
        if own or (type(payload) is not bytearray and memoryview(payload).readonly):
            payload = bytearray(payload)
        return to_values(slots, metadata, payload)
    except Exception as error:  # Pillow may be missing; that is no reason for the others of the batch to fail
        return error


def _new_image_pool() -> Executor:
    import os
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="inferential-images")
