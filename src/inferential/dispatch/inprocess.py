"""One replica of a model in the server's own process: on the event loop, or in threads.

A sync model runs in threads unless it is to run inline; an async one runs on the event loop.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from inferential.dispatch.inline import completes_inline
from inferential.dispatch.outcomes import CallTimeout
from inferential.dispatch.raised import carriable, failure_of
from inferential.dispatch.started_tasks import IN_CALL
from inferential.dispatch.threads import CallThreads
from inferential.errors import words_of
from inferential.replica.busy_polling import Usefulness
from inferential.replica.condition import Condition, ModelState
from inferential.replica.deadline import Deadline
from inferential.replica.model import Method, is_async, methods_of
from inferential.replica.pace import SHARED_ROWS, Pace
from inferential.replica.pending import Pending
from inferential.replica.sessions import SessionRow, SessionStore
from inferential.replica.spec import ModelInline, ModelThread
from inferential.replica.structured import rows_of
from inferential.replica.values import Observation, own

logger: logging.Logger = logging.getLogger("inferential.dispatch")

WORTH_S = 50e-6
"""The event loop stands still for a call in a thread if the one before took less: no other call could begin sooner."""
STANDS_S = 200e-6
"""For how long at most."""
HELD_S = sys.getswitchinterval() / 2
"""Where it stood still for longer, other threads hold the interpreter's lock, which each keeps for twice as long from
those that want it. Less is no reason against it: all cores may be busy."""


class InProcessReplica:
    """Runs one model, whichever form it has.

    Args:
        model_id: for messages.
        model: a model, a `ModelThread` or a `ModelInline`.
        on_change: called when `max_batch_size` or `lost` has changed.

    Raises:
        TypeError, ValueError: as `methods_of`.
    """

    def __init__(self, model_id: str, model: Any, on_change: Callable[[], None]) -> None:
        runs_inline = isinstance(model, ModelInline)
        timeout_ms = model.call_timeout_ms if isinstance(model, ModelThread) else None
        if isinstance(model, ModelInline | ModelThread):
            model = model.model
        methods = methods_of(model_id, model)
        self._model = model
        forms = [form for form in (methods.single, methods.batch) if form is not None]
        self.completes_inline: bool = all(
            completes_inline(form) or (runs_inline and not is_async(form)) for form in forms
        )
        """Whether every call ends without waiting."""
        self.runs_in_thread: bool = not runs_inline and not any(map(is_async, forms))
        """Whether every call begins in a thread."""
        self._model_id = model_id
        self._timeout_s = None if timeout_ms is None else timeout_ms / 1e3
        self._on_change = on_change
        self._condition = Condition(ModelState.READY, time.monotonic())
        self._lost_since: float | None = None
        self._threads = CallThreads(f"inferential-{model_id}", self._on_return)
        self._pace = Pace()
        self._waiting = Usefulness()  # of standing still for a short call
        self._took_s = math.inf  # the latest call
        self._max_batch_size = methods.max_batch_size
        self._shares = methods.batch is None and not is_async(methods.single)
        self._pace.shares = runs_inline  # else it would have no reason to run so
        self._aclose = methods.aclose
        self.sessions: SessionStore | None = methods.sessions
        """Those of its robots; `run` takes `SessionRow`s then. None: the model keeps no state."""
        self.sees_timestamps: bool = bool(getattr(model, "sees_timestamps", False))
        """Whether it wants to know when its observations were seen."""
        self._each: Callable[[Sequence[Observation]], Coroutine[Any, Any, Sequence[Any]]] | None = None
        if methods.single is not None:
            self._each = self._run_form(
                methods.single, runs_inline, _run_each, _run_each_inline, self._run_each_in_thread
            )
        self._batch: Callable[[Sequence[Observation]], Coroutine[Any, Any, Sequence[Any]]] | None = None
        if methods.batch is not None:
            self._batch = self._run_form(
                methods.batch, runs_inline, _run_batch, _run_batch_inline, self._run_batch_in_thread
            )

    def _run_form(self, form: Method, runs_inline: bool, run_async: Any, run_inline: Any, run_in_thread: Any) -> Any:
        if not is_async(form) and not runs_inline:
            return functools.partial(run_in_thread, form)
        return functools.partial(run_async if is_async(form) else run_inline, self._model_id, form)

    @property
    def max_batch_size(self) -> int:
        """Rows that one call takes; of a model in a thread that has no `infer_batch`, rows that go over together."""
        return SHARED_ROWS if self._shares and self._pace.shares else self._max_batch_size

    @property
    def lost(self) -> int:
        """How many calls over their time still occupy threads."""
        return self._threads.lost

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return True

    @property
    def model_version(self) -> str:
        """What the model says its version is; "" where it says nothing."""
        return str(getattr(self._model, "model_version", "") or "").encode(errors="replace").decode()

    def condition(self) -> Condition:
        """Returns what it is at."""
        if self._lost_since is not None:
            why = f"{self.lost} calls took longer than call_timeout_ms and still occupy their slots"
            return Condition(ModelState.READY, self._lost_since, why, logged=True)  # are slots left? The server knows
        return self._condition

    def run(self, observations: Sequence[Observation]) -> Coroutine[Any, Any, Sequence[Any]]:
        """Runs the model; returns a result or an exception for each observation."""
        if self._batch is not None and (len(observations) > 1 or self._each is None):
            return self._batch(observations)
        assert self._each is not None
        return self._each(observations)

    async def end_session(self, client_id: str) -> None:
        """Ends the session of a robot that is gone, after the calls that were made before."""
        if self.sessions is None:
            return
        try:
            ended = await self._threads.call(self.sessions.end, client_id) if self.runs_in_thread else None
            if not self.runs_in_thread:
                ended = self.sessions.end(client_id)
            if inspect.isawaitable(ended):
                await ended
        except GeneratorExit:
            raise
        except BaseException as error:
            logger.error("model %s: close failed: %s", self._model_id, words_of(failure_of(error)))

    def close(self) -> None:
        """Ends the threads when their calls do."""
        self._threads.close()

    async def aclose(self) -> None:
        """Calls the model's own `aclose`."""
        if self._aclose is not None:
            await self._aclose()

    async def metadata(self) -> Mapping[str, Any]:
        """Returns the model's `metadata`, a map or a function, sync or async, that returns one; {} without it."""
        found = getattr(self._model, "metadata", None)
        if callable(found):
            found = found()
        if inspect.isawaitable(found):
            found = await found
        return found if isinstance(found, Mapping) else {}

    # In threads

    async def _run_batch_in_thread(self, form: Method, rows: Sequence[Observation]) -> Sequence[Any]:
        run = _Batch(form)
        try:
            results = await self._in_thread(run, rows)
        except CallTimeout:
            self._abandon(rows)
            raise
        self._took_s = run.took_s
        if inspect.isawaitable(results):  # a plain function may return one, as a partial of a coroutine function does
            return await asyncio.create_task(_awaited_rows(self._model_id, results, len(rows)))
        return results if isinstance(results, list) else rows_of(results, len(rows))

    async def _run_each_in_thread(self, form: Method, rows: Sequence[Observation]) -> Sequence[Any]:
        run = _Rows(form)
        outcomes = run.outcomes
        try:
            took_s: float = await self._in_thread(run, rows)
        except CallTimeout as error:
            run.stopped = True  # what is left is run elsewhere, and must not be run twice
            ended = [*outcomes, error]  # the thread may still append
            self._abandon(rows[len(ended) - 1 : len(ended)])
            left = rows[len(ended) :]
            return [*ended[: len(rows)], *(await self._run_each_in_thread(form, left) if left else ())]
        self._took_s = took_s
        if self._shares and self._pace.note(took_s / len(rows)):
            self._on_change()
        for number, outcome in enumerate(outcomes):
            if inspect.isawaitable(outcome):
                # In a task, which asyncio.timeout and others ask for: the model was not called within one.
                outcomes[number] = own((await asyncio.create_task(_run_each(self._model_id, _awaited, [outcome])))[0])
        return outcomes

    def _abandon(self, rows: Sequence[Observation]) -> None:
        """Ends the sessions of rows that a thread still runs: their robots' next ones run beside them."""
        for row in rows:
            if self.sessions is not None and isinstance(row, SessionRow):
                self.sessions.abandon(row)

    async def _in_thread(self, function: _Batch | _Rows, argument: Sequence[Observation]) -> Any:
        waits = self._took_s < WORTH_S and self._waiting.begins()
        began = time.perf_counter()
        future = self._threads.call(function, argument, STANDS_S if waits else 0.0)
        if waits:
            self._waiting.ended(time.perf_counter() - began - HELD_S, 0.0, came=future.done())
        if self._timeout_s is None or future.done():
            return await future
        timeout_s = self._timeout_s
        deadline = Deadline(lambda: function.began_at + timeout_s, lambda: self._give_up(future))
        deadline.watch(future.get_loop())
        try:
            return await future
        finally:
            deadline.stop()

    def _give_up(self, future: Pending[Any]) -> None:
        if future.done():
            return
        assert self._timeout_s is not None
        limit = f"call_timeout_ms ({self._timeout_s * 1e3:g})"
        self._threads.give_up(future)
        self._lost_since = self._lost_since or time.monotonic()
        logger.error(
            "model %s: a call took longer than %s; its thread cannot be ended, as a process can (run: process): "
            "slots lost until calls return: %d",
            self._model_id,
            limit,
            self.lost,
        )
        self._on_change()  # first: the end of the call has the server look for what to run next
        future.set_exception(CallTimeout(f"the call took longer than {limit}"))

    def _on_return(self) -> None:
        if not self.lost:
            self._lost_since = None
        logger.warning(
            "model %s: a call that took longer than call_timeout_ms has returned; slots still lost: %d",
            self._model_id,
            self.lost,
        )
        self._on_change()


class _Batch:
    """Runs a batch, in a thread.

    Attributes:
        took_s: how many seconds it took.
        began_at: when it was handed over, in seconds of `time.monotonic()`.
    """

    def __init__(self, form: Method) -> None:
        self._form = form
        self.took_s = 0.0
        self.began_at = time.monotonic()

    def __call__(self, rows: Sequence[Observation]) -> Any:
        """Runs rows; returns what the model does."""
        began = time.perf_counter()
        results = self._form(list(rows))  # a model may take them out of it
        self.took_s = time.perf_counter() - began
        return results


class _Rows:
    """Runs rows one after another, in a thread.

    Attributes:
        outcomes: of those that have ended.
        stopped: whether it begins none any more.
        began_at: when the row that runs began, in seconds of `time.monotonic()`; each has the time of a call.
    """

    def __init__(self, form: Method) -> None:
        self._form = form
        self.began_at = time.monotonic()
        self.outcomes: list[Any] = []
        self.stopped = False

    def __call__(self, rows: Sequence[Observation]) -> float:
        """Runs rows; returns how many seconds they took."""
        began = time.perf_counter()
        for row in rows:
            if self.stopped:
                break
            self.began_at = time.monotonic()
            try:
                result = self._form(row)
                self.outcomes.append(result if len(rows) == 1 else own(result))
            except BaseException as error:
                self.outcomes.append(carriable(error))
        return time.perf_counter() - began


# On the event loop. Each layer of coroutines costs as much as reading a small observation: there is one around the
# model's own.


async def _run_batch(
    model_id: str, form: Callable[[Any], Awaitable[Any]], rows: Sequence[Observation]
) -> Sequence[Any]:
    IN_CALL.set(model_id)
    try:
        results = await form(list(rows))
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        raise failure_of(error) from error
    finally:
        IN_CALL.set("")
    return results if isinstance(results, list) else rows_of(results, len(rows))


async def _run_each(model_id: str, form: Callable[[Any], Awaitable[Any]], observations: Sequence[Any]) -> Sequence[Any]:
    results = []
    for observation in observations:
        IN_CALL.set(model_id)
        try:
            result = await form(observation)
            results.append(result if len(observations) == 1 else own(result))
        except GeneratorExit:  # the coroutine is closed
            raise
        except BaseException as error:
            results.append(failure_of(error))
        finally:
            IN_CALL.set("")
    return results


async def _run_batch_inline(model_id: str, form: Method, rows: Sequence[Observation]) -> Sequence[Any]:
    IN_CALL.set(model_id)
    try:
        results = form(list(rows))
    except BaseException as error:
        raise failure_of(error) from error
    finally:
        IN_CALL.set("")
    if inspect.isawaitable(results):
        return await _awaited_rows(model_id, results, len(rows))
    return results if isinstance(results, list) else rows_of(results, len(rows))


async def _run_each_inline(model_id: str, form: Method, observations: Sequence[Observation]) -> Sequence[Any]:
    results = []
    for observation in observations:
        IN_CALL.set(model_id)
        try:
            result = form(observation)
            if inspect.isawaitable(result):
                (result,) = await _run_each(model_id, _awaited, [result])
            results.append(result if len(observations) == 1 else own(result))
        except GeneratorExit:
            raise
        except BaseException as error:
            results.append(failure_of(error))
        finally:
            IN_CALL.set("")
    return results


async def _awaited_rows(model_id: str, awaitable: Awaitable[Any], rows: int) -> Sequence[Any]:
    """Returns the results that an awaitable gives, which a function has returned for so many rows."""
    (results,) = await _run_each(model_id, _awaited, [awaitable])
    if isinstance(results, Exception):
        raise results
    return results if isinstance(results, list) else rows_of(results, rows)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable
