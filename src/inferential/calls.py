"""The calls of models that run: each from its requests to their answers, refusals or another try.

It makes no call of its own accord: the engine says when, and with whom.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import TYPE_CHECKING

from inferential.delivery import Callbacks, Delivery
from inferential.dispatch.base import MAX_REPLICAS_LOST, REPLICA_LOST, Dispatcher, DispatchResult
from inferential.dispatch.inline import start_inline
from inferential.scheduler.engine import Batch, Engine
from inferential.scheduler.request import DISPATCHED, InferenceRequest, Refusal, RefusalKind

if TYPE_CHECKING:
    from inferential.books import Books
    from inferential.status import History

logger = logging.getLogger("inferential")

_NO_RESULT = Refusal(RefusalKind.MODEL_FAILED, "the backend gave no result", "no_result")
_LOST_REPLICAS = 3  # so many replicas may die under one request before its client is told


class Calls:
    """The calls that run, from one start of the server to its end; made on its event loop.

    Args:
        dispatcher: where they run.
        engine: what is told when one has ended, and given what is to be tried again.
        delivery: what answers and refusals go out by.
        books, history: where they are written down.
        callbacks: told of each that has ended.
        max_retries: how often a request is tried again that failed; None: never, whatever it failed of.
        on_end: called when one has ended that was a task.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engine: Engine,
        delivery: Delivery,
        books: Books,
        history: History,
        callbacks: Callbacks[Batch, float],
        max_retries: Callable[[], int | None],
        on_end: Callable[[], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._engine = engine
        self._delivery = delivery
        self._books = books
        self._history = history
        self._callbacks = callbacks
        self._max_retries = max_retries
        dispatcher.use_retries(max_retries)
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[Batch, asyncio.Task[None]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, batch: Batch) -> None:
        """Makes a call, at the loop's next turn."""
        self._tasks[batch] = self._loop.create_task(self._run(batch))
        self._books.dispatched(batch, self._engine.waiting(batch.model_id))
        self._history.began(batch)

    def make(self, batch: Batch) -> None:
        """The same, but on the spot for a request alone whose model never waits: for a small one, a task and a turn of
        the loop cost as much as its checks do.

        Several share that cost, and those that come in during the turn go together next. Whoever calls this must not
        be somebody's task: one that asks again and again would let nobody else run.
        """
        if len(batch.requests) > 1 or not self._dispatcher.completes_inline(batch.requests):
            self.begin(batch)
            return
        self._books.dispatched(batch, self._engine.waiting(batch.model_id))
        self._history.began(batch)
        context = copy_context()  # as a task has one of its own
        try:
            rest = context.run(start_inline, self._run(batch))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of a callback, say; calls that are made with this one have no part in it
            told = {"message": f"a call of model {batch.model_id!r} ended badly", "exception": error}
            self._loop.call_exception_handler(told)
        else:
            if rest is not None:
                self._tasks[batch] = self._loop.create_task(rest, context=context)

    async def cancel(self) -> None:
        """Ends all that run, whatever they are at."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, batch: Batch) -> None:
        """One call of a model, from its requests to their answers."""
        results: list[DispatchResult] = []
        try:
            results = await self._dispatcher.dispatch(batch.requests, batch.replica)
        except Exception as error:
            logger.exception("backend failed on model %s", batch.model_id)
            refusal = Refusal(RefusalKind.MODEL_FAILED, f"the backend failed: {error}", type(error).__name__)
            results = [DispatchResult(request, 0.0, refusal=refusal) for request in batch.requests]
        finally:
            now = time.monotonic()
            try:
                self._settle_all(batch, results)  # first of all: robots wait for it
            finally:
                succeeded = any(result.refusal is None for result in results)
                task = self._tasks.pop(batch, None)
                self._engine.finished(batch, now, measured=succeeded)
                self._history.ended(batch, now, ok=succeeded)
                if self._callbacks:
                    self._callbacks.fire(batch, now)
        if task is not None:
            self._on_end()

    def _settle_all(self, batch: Batch, results: list[DispatchResult]) -> None:
        self._delivery.answer([result for result in results if result.refusal is None])
        for result in results:
            if result.refusal is not None and result.request.state is DISPATCHED:
                self._retry_or_refuse(result.request, result.refusal)
        for request in batch.requests:
            if request.state is DISPATCHED:
                self._delivery.refuse(request, _NO_RESULT)

    def _retry_or_refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        if refusal.kind is RefusalKind.MODEL_FAILED and self._may_retry(request, refusal):
            self._books.retried(request)
            self._engine.retry(request, time.monotonic())
        else:
            self._delivery.refuse(request, refusal)

    def _may_retry(self, request: InferenceRequest, refusal: Refusal) -> bool:
        max_retries = self._max_retries()
        if max_retries is None or request.replicas_lost >= MAX_REPLICAS_LOST:
            return False
        if refusal.cause == REPLICA_LOST:  # which is neither the model's fault nor the observation's
            self._books.keep()  # its deadline
            in_time = request.late != "refuse" or time.monotonic() < request.deadline
            return in_time and request.retry_count < max_retries + _LOST_REPLICAS
        return request.retry_count < max_retries
