"""A model of the server's process that is made while the server listens already: in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from inferential.dispatch.inprocess import InProcessReplica
from inferential.dispatch.raised import carriable, failure_of
from inferential.errors import words_of
from inferential.proto import inferential_pb2 as pb
from inferential.replica.condition import Condition
from inferential.replica.end_log import EndLog
from inferential.replica.failures import FailurePlaces
from inferential.replica.lifecycle import Lifecycle
from inferential.replica.loading_turns import LoadingTurns
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
        turns: which models load now; None: this one may.

    Attributes:
        measured: rows of a call and its latency in seconds, as its warm-up found them.
        newest: returns the newest observation of the model, for its warm-up.
    """

    def __init__(
        self, model_id: str, loader: ModelLoader, on_change: Callable[[], None], turns: LoadingTurns | None = None
    ) -> None:
        super().__init__(model_id, _not_loaded, on_change)
        self.completes_inline = self.runs_in_thread = False
        self.measured: Measured = []
        self.newest: Callable[[], Row | None] = lambda: None
        self._loader = loader
        self._life = Lifecycle(math.inf, None)
        self._turn = (turns or LoadingTurns()).turn(self._begin_now)
        self._is_up = False
        self._attempt = 0  # to load it; one that is given up goes on in its thread
        self._end_log = EndLog(f"model {model_id}")
        self._again: asyncio.TimerHandle | None = None
        self._first: asyncio.Future[None] | None = None

    @property
    def up(self) -> bool:
        """Whether it takes calls."""
        return self._is_up

    def condition(self) -> Condition:
        """Returns what it is at."""
        return super().condition() if self.up else self._turn.said_of(self._life.condition(time.monotonic()))

    async def load(self) -> None:
        """Loads the model, unless it is there.

        Raises:
            ModelLoadError: it cannot be loaded; it is not tried again.
        """
        if not self.up:
            self._first = asyncio.get_running_loop().create_future()
            self.begin()
            await self._first

    def begin(self) -> None:
        """Begins to load the model, unless it is there, and again whenever it cannot be loaded."""
        self._again = None
        if self.up:
            return
        self._life.started(time.monotonic())
        self._turn.take()

    def _begin_now(self) -> None:
        self._on_change()
        name, loop = f"inferential-load-{self._model_id}", asyncio.get_running_loop()
        self._attempt += 1
        arguments = loop, self._attempt, self.newest()
        threading.Thread(target=self._load, args=arguments, name=name, daemon=True).start()

    def _load(self, loop: asyncio.AbstractEventLoop, attempt: int, row: Row | None) -> None:
        model, measured, error = None, [], None
        try:
            model = self._loader.make()
            methods = methods_of(self._model_id, model)
            if (source := self._loader.warm_up) is not None:
                loop.call_soon_threadsafe(self._warms, attempt)
                newest = [] if row is None else [_read(row)]
                rows = newest if source == LAST else load_observations(source)
                if rows:
                    measured = warmed(rows, lambda batch: _run(methods, batch), methods.max_batch_size)
                if rows and methods.sessions is not None:
                    _finished(methods.sessions.end(NO_ROBOT[0]))
        except BaseException as raised:  # a module that calls sys.exit, for example
            error = carriable(raised)
        try:
            loop.call_soon_threadsafe(self._settle, attempt, model, measured, error)
        except RuntimeError:
            return  # the loop is closed

    def _warms(self, attempt: int) -> None:
        if attempt == self._attempt:
            self._life.warming(time.monotonic())
            self._on_change()

    def _settle(self, attempt: int, model: Any, measured: Measured, error: Exception | None) -> None:
        if attempt != self._attempt:
            return
        self._turn.end()
        if error is not None:
            self._failed(error)
            return
        try:
            super().__init__(self._model_id, self._loader.spec_of(model), self._on_change)
        except BaseException as raised:  # of a property of the model, which may raise anything
            self._failed(failure_of(raised))
            return
        self.measured, self._is_up = measured, True
        logger.info("model %s is up in this process", self._model_id)
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._on_change()

    def _failed(self, error: Exception) -> None:
        text = str(error) if isinstance(error, TargetError | TypeError | ValueError) else words_of(error)
        text = text.removeprefix(f"model {self._model_id!r}: ")
        if self._first is not None and not self._first.done():
            self.close()
            self._first.set_exception(ModelLoadError(f"model {self._model_id!r}: {text}"))
            return
        delay_s = self._life.ended(time.monotonic(), text)
        self._end_log.trace = FailurePlaces().of(error.__cause__ or error).partition("\n")[2]
        self._end_log.note(text, None, was_up=False, lost=0, delay_s=delay_s)
        self._again = asyncio.get_running_loop().call_later(delay_s, self.begin)
        self._on_change()

    def close(self) -> None:
        """Ends the threads when their calls do; a model that loads is dropped when it is there."""
        super().close()
        self._attempt += 1
        self._turn.end()
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if not self.up:
            self._life.closed(time.monotonic())


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
