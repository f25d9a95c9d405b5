"""A model of the server's process that is made while the server listens already: in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from inferential.dispatch.inprocess import InProcessReplica
from inferential.dispatch.raised import carriable
from inferential.errors import words_of
from inferential.proto import inferential_pb2 as pb
from inferential.replica.condition import Condition, ModelState
from inferential.replica.failures import FailurePlaces
from inferential.replica.model import ModelMethods, methods_of
from inferential.replica.outcomes import ModelLoadError
from inferential.replica.process import Row
from inferential.replica.rows import RowReader
from inferential.replica.sessions import NO_ROBOT, SessionRow
from inferential.replica.spec import ModelLoader
from inferential.replica.targets import TargetError
from inferential.replica.warming import LAST, Measured, load_observations, warmed

logger: logging.Logger = logging.getLogger("inferential.dispatch")


class LoadedReplica(InProcessReplica):
    """An `InProcessReplica` of a `ModelLoader`; it takes no calls before its model is there.

    Args:
        model_id: for messages.
        loader: makes the model.
        on_change: as for `InProcessReplica`; also called when `condition` has changed.

    Attributes:
        measured: rows of a call and its latency in seconds, as its warm-up found them.
        newest: returns the newest observation of the model, for its warm-up.
    """

    def __init__(self, model_id: str, loader: ModelLoader, on_change: Callable[[], None]) -> None:
        super().__init__(model_id, _not_loaded, on_change)
        self.completes_inline = self.runs_in_thread = False
        self.measured: Measured = []
        self.newest: Callable[[], Row | None] = lambda: None
        self._loader = loader
        self._condition = Condition(ModelState.STOPPED, 0.0, "it has not been loaded")
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return self._condition.answers

    def condition(self) -> Condition:
        """Returns what it is at."""
        return super().condition() if self.up else self._condition

    def load(self) -> asyncio.Future[None]:
        """Begins to load the model, unless it is there; returns what to await, which raises ModelLoadError."""
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = self._loop.create_future()
        if self.up:
            future.set_result(None)
            return future
        self._enter(ModelState.LOADING)
        name = f"inferential-load-{self._model_id}"
        threading.Thread(target=self._load, args=(self._loop, future, self.newest()), name=name, daemon=True).start()
        return future

    def _load(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None], row: Row | None) -> None:
        model, measured, error = None, [], None
        try:
            model = self._loader.make()
            methods = methods_of(self._model_id, model)
            if (source := self._loader.warm_up) is not None:
                loop.call_soon_threadsafe(self._enter, ModelState.WARMING)
                newest = [] if row is None else [_read(row)]
                rows = newest if source == LAST else load_observations(source)
                if rows:
                    measured = warmed(rows, lambda batch: _run(methods, batch), methods.max_batch_size)
                if rows and methods.sessions is not None:
                    _finished(methods.sessions.end(NO_ROBOT[0]))
        except BaseException as raised:  # a module that calls sys.exit, for example
            error = carriable(raised)
        try:
            loop.call_soon_threadsafe(self._settle, future, model, measured, error)
        except RuntimeError:
            return  # the loop is closed

    def _settle(self, future: asyncio.Future[None], model: Any, measured: Measured, error: Exception | None) -> None:
        if error is not None:
            text = str(error) if isinstance(error, TargetError) else words_of(error)
            self._enter(ModelState.FAILING, text.removeprefix(f"model {self._model_id!r}: "), logged=True)
            trace = FailurePlaces().of(error.__cause__ or error).partition("\n")[2]
            logger.error("model %s: %s%s", self._model_id, text, trace and f"\n{trace}")
            if not future.done():
                future.set_exception(ModelLoadError(f"model {self._model_id!r}: {text}"))
                future.exception()  # its condition says it too
            return
        if self._condition.state is ModelState.STOPPED:
            return  # closed meanwhile
        super().__init__(self._model_id, self._loader.spec_of(model), self._on_change)
        self.measured = measured
        self._enter(ModelState.READY, logged=True)
        logger.info("model %s is up in this process", self._model_id)
        if not future.done():
            future.set_result(None)

    def _enter(self, state: ModelState, why: str = "", *, logged: bool = False) -> None:
        if self._condition.state is ModelState.STOPPED and state is not ModelState.LOADING:
            return
        self._condition = Condition(state, time.monotonic(), why, logged)
        self._on_change()

    def close(self) -> None:
        """Ends the threads when their calls do; a model that loads is dropped when it is there."""
        super().close()
        if not self.up:
            self._condition = Condition(ModelState.STOPPED, time.monotonic())


def _not_loaded(observation: Any) -> Any:
    raise RuntimeError("the model is not loaded")


def _read(row: Row) -> Any:
    description, payload = row
    return RowReader(pb.Observation).layout(description).values(bytearray(payload))  # type: ignore[union-attr]


def _run(methods: ModelMethods, rows: Sequence[Any]) -> None:
    if methods.sessions is not None:
        rows = [SessionRow(row, *NO_ROBOT) for row in rows]
    if methods.batch is not None and (len(rows) > 1 or methods.single is None):
        _finished(methods.batch(list(rows)))
        return
    assert methods.single is not None
    for row in rows:
        _finished(methods.single(row))


def _finished(result: Any) -> None:
    """Ends what an async method returned, on an event loop of this thread's own."""
    if inspect.isawaitable(result):
        asyncio.run(_awaited(result))


async def _awaited(awaitable: Any) -> None:
    await awaitable
