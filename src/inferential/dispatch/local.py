"""Models that live in the server's own process.

It neither queues nor limits: how much of a model runs at once is decided before a request comes here.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import operator
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from inferential.dispatch.base import Dispatcher, Observation, UnknownModelError
from inferential.dispatch.results import metadata_of, rows_of
from inferential.dispatch.threads import CallThreads
from inferential.dispatch.waiting import never_waits
from inferential.observation.values import is_encoded
from inferential.scheduler.request import InferenceRequest

_Call = Callable[[Any], Awaitable[Any]]
_ON_THE_WAY = ("dispatch", "outcomes", "infer_on")  # to a model
DEFAULT_MAX_BATCH_SIZE = 8
"""Of a model that has `infer_batch` and does not say how much it takes."""


class LocalDispatcher(Dispatcher):
    """Runs in-process models.

    A model is a callable of one observation (a dict of arrays and strings) that gives a result, or an object with
    `infer(observation)` and, if it can batch, `infer_batch(observations) -> results` and `max_batch_size`; each sync
    or async. `infer_batch` may return one map of stacked arrays in place of a list. A sync model runs in a thread of
    its own and never blocks the server; an async one runs on the server's event loop and must not block it: in a task,
    or, where there is no `await` in it, at once and in none. A coroutine function `aclose` is called when the server
    ends.

    Args:
        models: by model id; a list of models is one model in several replicas, for example one on each GPU.

    Raises:
        TypeError: naming a model that has none of these, or is the class of one.
        ValueError: naming a model whose `max_batch_size` is none.
    """

    def __init__(self, models: Mapping[str, Any]) -> None:
        super().__init__()
        if not isinstance(models, Mapping):
            raise TypeError(f"models: expected models by id, as {{'my-model': my_model}}, got {type(models).__name__}")
        self._models: dict[str, list[_Model]] = {}
        self._never_waiting: set[str] = set()  # those of them that never do, in any of their forms
        # A subclass may wait before it calls the model.
        self._ours = all(getattr(type(self), name) is getattr(LocalDispatcher, name) for name in _ON_THE_WAY)
        self._on_change: Callable[[], None] | None = None
        for model_id, model in models.items():
            self.register_model(model_id, model)

    def register_model(self, model_id: str, model: Any) -> None:
        """Adds a model, or puts another in the place of one; calls that run keep the one they began with."""
        replicas = model if isinstance(model, list) else [model]
        if not replicas:
            raise TypeError(f"model {model_id!r}: expected at least one replica, got an empty list")
        replaced = self._models.get(model_id, [])
        self._models[model_id] = models = [_Model(model_id, replica) for replica in replicas]
        self._never_waiting.discard(model_id)
        if all(model.never_waits for model in models):
            self._never_waiting.add(model_id)
        for former in replaced:
            former.close()
        if self._on_change is not None:
            self._on_change()

    def watch(self, on_change: Callable[[], None], waiting: Callable[[str], int]) -> None:
        """As the interface says."""
        self._on_change = on_change

    def model_ids(self) -> list[str]:
        """The models there are."""
        return list(self._models)

    def max_batch_size(self, model_id: str) -> int:
        """The model's own `max_batch_size`; 8 if it has `infer_batch` and does not say; else 1. Replicas: the least."""
        return min((model.max_batch_size for model in self._models.get(model_id, ())), default=1)

    def replicas(self, model_id: str) -> Sequence[str]:
        """ "" for a model alone; "0", "1", ... for a list of them."""
        models = self._models.get(model_id, ())
        return [str(number) for number in range(len(models))] if len(models) > 1 else ("",)

    async def infer(self, model_id: str, observations: Sequence[Observation]) -> Sequence[Any]:
        """`infer_on` the first replica."""
        return await self.infer_on("", model_id, observations)

    def infer_on(
        self, replica: str, model_id: str, observations: Sequence[Observation]
    ) -> Coroutine[Any, Any, Sequence[Any]]:
        """Runs a replica of the model: `infer_batch` where it has it, else once for each observation.

        Raises:
            UnknownModelError: "No model registered ..."; at once, not when it is awaited.
        """
        models = self._models.get(model_id)
        if models is None:
            known = ", ".join(self._models) or "none"
            raise UnknownModelError(f"No model registered for {model_id!r}; there is: {known}")
        # Fewer replicas may have been registered since the call was decided.
        return models[int(replica or 0) % len(models)].run(observations)

    def never_waits(self, requests: Sequence[InferenceRequest]) -> bool:
        """Of coroutine functions without an `await`, but where images are to be decoded first."""
        if not self._ours or requests[0].model_id not in self._never_waiting:
            return False
        for request in requests:  # noqa: SIM110 (half the price of `any`)
            if is_encoded(request.slots):
                return False
        return True

    async def model_metadata(self, model_id: str) -> Mapping[str, Any]:
        """The `metadata` of the model's first replica: a map, or a function, sync or async, that returns one."""
        models = self._models.get(model_id)
        return {} if models is None else await metadata_of(models[0].model)

    async def close(self) -> None:
        """Lets the threads end when their calls do."""
        await super().close()
        for models in self._models.values():
            for model in models:
                model.close()
                await model.aclose()


class _Model:
    """One model, whatever form it has."""

    def __init__(self, model_id: str, model: Any) -> None:
        if isinstance(model, type) and any(map(inspect.isfunction, _methods(model))):
            name = model.__name__
            raise TypeError(f"model {model_id!r}: expected a model, got the class {name}; {name}(...) makes one")
        self.model = model
        batch = getattr(model, "infer_batch", None)
        single = getattr(model, "infer", None) or (model if callable(model) else None)
        if single is None and batch is None:
            raise TypeError(
                f"model {model_id!r}: expected a callable, or an object with infer(observation) or "
                f"infer_batch(observations), got {type(model).__name__}"
            )
        self.never_waits = all(never_waits(form) for form in (single, batch) if form is not None)
        self.max_batch_size = 1 if batch is None else _max_batch_size(model_id, model)
        self._end: Callable[[], Awaitable[None]] | None = getattr(model, "aclose", None)
        self._threads = CallThreads(f"inferential-{model_id}")
        self._single = None if single is None else _awaitable(single, self._threads)
        self._batch = None if batch is None else _awaitable(batch, self._threads)

    def run(self, observations: Sequence[Observation]) -> Coroutine[Any, Any, Sequence[Any]]:
        if self._batch is not None and (len(observations) > 1 or self._single is None):
            return _run_batch(self._batch, list(observations))
        assert self._single is not None
        return _run_each(self._single, observations)

    def close(self) -> None:
        self._threads.close()

    async def aclose(self) -> None:
        if self._end is not None:
            await self._end()


# Each layer of coroutines costs as much as reading a small observation does: there is one around the model's own.


async def _run_batch(call: _Call, rows: list[Observation]) -> Sequence[Any]:
    try:
        results = await call(rows)
    except (asyncio.CancelledError, SystemExit) as error:
        if _cancels_the_call(error):
            raise
        raise _failure(error) from error
    # The list first: an abstract class is asked by a function of its own.
    return results if isinstance(results, (list, Sequence)) else rows_of(results, len(rows))


async def _run_each(call: _Call, observations: Sequence[Observation]) -> Sequence[Any]:
    results = []
    for observation in observations:
        try:
            results.append(await call(observation))
        except (asyncio.CancelledError, SystemExit) as error:
            if _cancels_the_call(error):
                raise
            results.append(_failure(error))
        except Exception as error:
            results.append(error)
    return results


def _cancels_the_call(error: BaseException) -> bool:
    """Whether somebody cancels the call itself, and not a model one of its own."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _failure(error: BaseException) -> RuntimeError:
    """What a model meant for itself alone, as a failure of its."""
    return RuntimeError(f"{type(error).__name__}: {error}")


def _awaitable(function: Callable[[Any], Any], threads: CallThreads) -> _Call:
    """A model's function as one to be awaited, in a thread where it is none."""
    return function if _is_async(function) else functools.partial(_in_thread, threads, function)


async def _in_thread(threads: CallThreads, function: Callable[[Any], Any], argument: Any) -> Any:
    result = await threads.call(function, argument)
    # A plain function may still give an awaitable, as a lambda or a partial around a coroutine function does.
    return await result if inspect.isawaitable(result) else result


def _methods(model: type) -> list[Any]:
    """What a class has of a model's methods; of its own, which it can run itself, they are no functions."""
    return [inspect.getattr_static(model, name, None) for name in ("infer", "infer_batch")]


def _max_batch_size(model_id: str, model: Any) -> int:
    told = getattr(model, "max_batch_size", None)
    if told is None:
        return DEFAULT_MAX_BATCH_SIZE
    try:
        size = operator.index(told)
    except TypeError:
        size = 0
    if size < 1:
        raise ValueError(f"model {model_id!r}: max_batch_size: expected a whole number above 0, got {told!r}")
    return size


def _is_async(function: Any) -> bool:
    if inspect.iscoroutinefunction(function):
        return True
    return inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 (its kind, not its presence)
