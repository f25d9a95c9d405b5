"""Runs model calls: takes each batch from dispatch to answers, refusals or a retry."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from operator import attrgetter

from inferential.dispatch.base import MAX_REPLICAS_LOST, REPLICA_LOST, Dispatcher, DispatchResult
from inferential.dispatch.inline import Resumed, start_inline
from inferential.dispatch.started_tasks import contain
from inferential.models.manager import ModelManager
from inferential.models.unmanaged import AllReady
from inferential.replica.busy_polling import BusyPolling
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import CLIENT_LEFT, DISPATCHED, InferenceRequest, Refusal, RefusalKind
from inferential.scheduler.running import Batch
from inferential.server.accounting import Accounting
from inferential.server.callbacks import Callbacks
from inferential.server.egress import Egress
from inferential.server.history import History

logger: logging.Logger = logging.getLogger("inferential")

_REFUSAL, _STATE = attrgetter("refusal"), attrgetter("state")
STOOD_S = 1.0
"""During a call of this length the event loop may have stood still, and robots may have given up their connections."""
_NO_RESULT = Refusal(
    RefusalKind.MODEL_FAILED,
    "the backend gave no result, as where a model on the event loop cancels its own task or raises GeneratorExit",
    "no_result",
)


class Executor:
    """The running model calls of one run of the server; made on its event loop.

    Args:
        dispatcher: the backend that runs the calls.
        engine: notified of each end, and given what is retried.
        egress: sends answers and refusals.
        accounting, history: record the calls.
        callbacks: called with each call that has ended.
        max_retries: returns how often a failed request is retried; None: never, whatever the failure.
        on_end: called when a call that ran as a task has ended.
        on_returned: called when the slot of such a call is free and its answers are still to be written.
        models: notified of each call, and asked for another version where one fails; None: there is none.

    Attributes:
        inline_calls, task_calls: calls so far that were run inline, and that were started as tasks.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        engine: Engine,
        egress: Egress,
        accounting: Accounting,
        history: History,
        callbacks: Callbacks[Batch, float],
        max_retries: Callable[[], int | None],
        on_end: Callable[[], None],
        on_returned: Callable[[], None],
        models: ModelManager | None = None,
    ) -> None:
        self._models = models or AllReady()
        self.inline_calls: int = 0
        self.task_calls: int = 0
        self._dispatcher = dispatcher
        self._engine = engine
        self._running_in_order = engine.running_in_order
        self._egress = egress
        self._accounting = accounting
        self._history = history
        self._callbacks = callbacks
        self._max_retries = max_retries
        dispatcher.use_retries(max_retries, self._models.is_replaceable)
        self._on_end = on_end
        self._on_returned = on_returned
        dispatcher.on_returned = self._returned
        dispatcher.on_ending = self._ending
        self._loop = asyncio.get_running_loop()
        contain(self._loop)
        self._next_calls = BusyPolling()  # that follow calls which end within a turn; a process has its own
        self._tasks: dict[Batch, asyncio.Task[None] | Resumed] = {}
        self._unreturned: dict[int, Batch] = {}  # of the tasks; by the id of their requests
        self._ahead: set[Batch] = set()  # of the tasks, those that may be followed already

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def egress(self) -> Egress:
        """What sends the answers."""
        return self._egress

    def expect_call(self) -> None:
        """Notes that an observation has come, which is not read yet."""
        self._dispatcher.expect_call()

    def submit(self, batch: Batch) -> None:
        """Starts a call as a task, which runs from the event loop's next turn on."""
        self.task_calls += 1
        self._tasks[batch] = self._loop.create_task(self._run(batch))
        self._unreturned[id(batch.requests)] = batch
        self._accounting.dispatched(batch, self._engine.waiting(batch.model_id))
        self._history.began(batch)

    def run_inline(self, batch: Batch) -> None:
        """Runs a call within the current turn if it is a single request of a model that never waits; else submits it.

        For a small request a task and a turn of the loop cost as much as its checks do. Several requests share that
        cost, and those that arrive during the turn form the next batch. A call of a model in another process or in a
        thread begins within the turn, however many requests it has. Must not be called from a task: a client in a
        tight loop would then keep every other task from running.
        """
        if not self.completes_inline(batch):
            self.submit(batch)
            return
        self.inline_calls += 1
        self._accounting.dispatched(batch, self._engine.waiting(batch.model_id))
        self._history.began(batch)
        context = copy_context()  # as a task has one of its own
        try:
            rest = context.run(start_inline, self._run(batch), self._loop)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # of a callback, for instance; the other calls of this turn go on
            details = {"message": f"a call of model {batch.model_id!r} ended with an error", "exception": error}
            self._loop.call_exception_handler(details)
        else:
            if rest is not None:
                self._tasks[batch] = rest
                self._unreturned[id(batch.requests)] = batch
            elif not self._tasks:  # else models in threads may want the interpreter's lock
                self._next_calls.all_answered(self._loop)

    def hand_over(self, batch: Batch, moved: Callable[[InferenceRequest], object]) -> None:
        """Has another pool, which `moved` gives each of them, answer the requests of a running call."""
        for request in batch.requests:
            if request.state is DISPATCHED:
                self._egress.follow(request)
                self._egress.count_handed_over(request)
                self._accounting.retried(request)
        self._engine.hand_over(batch, moved, time.monotonic())

    def completes_inline(self, batch: Batch) -> bool:
        """Returns whether `run_inline` runs a call within the turn, or begins it in another process or a thread."""
        requests = batch.requests
        if len(requests) == 1:
            return self._dispatcher.completes_inline(requests)
        return self._dispatcher.begins_elsewhere(requests) or self._dispatcher.begins_in_thread(requests)

    def begins_elsewhere(self, batch: Batch) -> bool:
        """Returns whether `run_inline` begins a call in another process."""
        return self._dispatcher.begins_elsewhere(batch.requests)

    async def cancel(self) -> None:
        """Cancels every running call and waits for its end."""
        ends = []
        for task in list(self._tasks.values()):
            if isinstance(task, Resumed):
                ends.append(task.cancel())
            else:
                task.cancel()
                ends.append(task)
        await asyncio.gather(*ends, return_exceptions=True)

    async def _run(self, batch: Batch) -> None:
        results: list[DispatchResult] = []
        try:
            results = await self._dispatcher.dispatch(batch.requests, batch.replica)
        except Exception as error:
            logger.exception("backend failed on model %s", batch.model_id)
            refusal = Refusal(RefusalKind.MODEL_FAILED, f"the backend failed: {error}", type(error).__name__)
            results = [DispatchResult(request, 0.0, refusal=refusal) for request in batch.requests]
        finally:
            now = time.monotonic()
            if now - batch.started_at > STOOD_S:
                self._egress.look_again(batch.requests)
            try:
                self._finish(batch, results)  # first: robots wait for it
            finally:
                task = self._tasks.pop(batch, None)
                was_followed = self._ahead and self._take_followed(batch)
                if was_followed or task is None or self._unreturned.pop(id(batch.requests), None) is not None:
                    self._free(batch, now, ok=None in map(_REFUSAL, results))
                if self._running_in_order:
                    self._engine.release(batch, now)
                self._models.note_call(batch, results, now)
                if self._callbacks:
                    self._callbacks.fire(batch, now)
        if task is not None:
            self._on_end()

    def _returned(self, requests: Sequence[InferenceRequest]) -> None:
        """Has what waits for the slot of a call begun first: its model would stand idle while answers are written."""
        if not self._unreturned or not self._engine.waiting():
            return  # it runs inline, or the answers come first
        batch = self._unreturned.pop(id(requests), None)
        if batch is not None:
            self._free(batch, time.monotonic(), ok=True)
            self._follow(batch)

    def _ending(self, requests: Sequence[InferenceRequest]) -> None:
        """Has what waits for the slot of a call begun while that call ends."""
        if not self._engine.may_send_ahead(requests[0].pool):
            return
        batch = self._unreturned.pop(id(requests), None)
        if batch is not None:
            self._ahead.add(batch)
            self._engine.ending(batch, time.monotonic())
            self._follow(batch)

    def _take_followed(self, batch: Batch) -> bool:
        """Returns whether a call that has ended was followed already, and forgets it."""
        followed = batch in self._ahead
        self._ahead.discard(batch)
        return followed

    def _follow(self, batch: Batch) -> None:
        try:
            self._on_returned()
        except Exception as error:  # of a strategy, for instance; the answers are there all the same
            details = {"message": f"no call followed one of model {batch.model_id!r}", "exception": error}
            self._loop.call_exception_handler(details)

    def _free(self, batch: Batch, now: float, *, ok: bool) -> None:
        self._engine.finished(batch, now, measured=ok)
        self._history.ended(batch, now, ok=ok)

    def _finish(self, batch: Batch, results: list[DispatchResult]) -> None:
        """Answers, retries or refuses every request of a call that is still its own."""
        if batch.handed_over:
            self._egress.drop(results)
            return
        failed = any(map(_REFUSAL, results))
        self._egress.answer([result for result in results if result.refusal is None] if failed else results)
        if failed:
            for result in results:
                if result.refusal is not None and result.request.state is DISPATCHED:
                    self._retry_or_refuse(result.request, result.refusal)
        if DISPATCHED in map(_STATE, batch.requests):
            for request in batch.requests:
                if request.state is DISPATCHED:
                    self._egress.refuse(request, _NO_RESULT)

    def _retry_or_refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        failed = refusal.kind is RefusalKind.MODEL_FAILED
        if not (failed and (self._models.second_chance(request, refusal) or self._may_retry(request, refusal))):
            self._egress.refuse(request, refusal)
        elif self._egress.follow(request):
            self._accounting.retried(request)
            self._engine.retry(request, time.monotonic())
        else:
            self._egress.keep_waiting(request)
            self._egress.refuse(request, CLIENT_LEFT)

    def _may_retry(self, request: InferenceRequest, refusal: Refusal) -> bool:
        max_retries = self._max_retries()
        if max_retries is None or request.replicas_lost >= MAX_REPLICAS_LOST:
            return False
        if request.keeps_state and refusal.cause != REPLICA_LOST:
            return False  # the model has begun with it
        if refusal.cause == REPLICA_LOST:  # the fault of neither the model nor the observation
            in_time = request.late != "refuse" or time.monotonic() < self._accounting.deadline(request)
            return in_time and request.retry_count < max_retries + MAX_REPLICAS_LOST
        return request.retry_count < max_retries
