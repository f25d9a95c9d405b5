"""Typed stand-ins for the server's parts, one for each, that write down what is asked of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence, Sized
from typing import Any

from inferential.config import InferentialConfig
from inferential.dispatch.base import Dispatcher, DispatchResult
from inferential.metrics.recorder import Recorder
from inferential.scheduler import create_scheduler
from inferential.scheduler.engine import Engine
from inferential.scheduler.request import InferenceRequest, Refusal, RequestState
from inferential.scheduler.running import Batch, Capacity
from inferential.scheduler.time.fair_share import FairShares
from inferential.server.accounting import Accounting
from inferential.server.egress import Egress
from inferential.server.history import History
from inferential.tracking.fleet import Fleet


def make_engine() -> Engine:
    """A real engine, of models that take one call at a time."""
    config = InferentialConfig().scheduling
    return Engine(config, create_scheduler(config), lambda model_id: Capacity(1, 1))


def make_accounting(
    fleet: Fleet, recorder: Recorder, shares: FairShares, on_connected: Callable[[str], None] = lambda client_id: None
) -> Accounting:
    """Real accounting, in which all clients have the same weight."""
    return Accounting(fleet, recorder, shares, make_engine(), lambda request: 1.0, on_connected)


class FakeEngine(Engine):
    """Notes retries and finished calls; `waits` is how many requests wait."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.waits = 0

    @property
    def running_in_order(self) -> Sized:
        return ()

    def waiting(self, model_id: str | None = None) -> int:
        return self.waits

    def finished(self, batch: Batch, now: float, *, measured: bool = True) -> None:
        self.log.append(("finished", measured))

    def may_send_ahead(self, model_id: str) -> bool:
        return self.waits > 0

    def ending(self, batch: Batch, now: float) -> None:
        self.log.append("ending")

    def retry(self, request: InferenceRequest, now: float) -> None:
        request.move(RequestState.QUEUED)
        self.log.append("retry")


class FakeEgress(Egress):
    """Ends requests and sends nothing; `on_answer` is called after each answer."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.on_answer: Callable[[], None] = lambda: None

    def look_again(self, requests: Iterable[InferenceRequest]) -> None:
        pass

    def follow(self, request: InferenceRequest) -> bool:
        return True

    def answer(self, results: Iterable[DispatchResult]) -> None:
        for result in results:
            result.request.move(RequestState.ANSWERED)
            self.log.append("answer")
            self.on_answer()

    def refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        request.refuse(refusal)
        self.log.append(refusal.reason)


class FakeAccounting(Accounting):
    """Notes what is recorded; `real_deadline` is what a request's deadline turns out to be."""

    def __init__(self, log: list[Any]) -> None:
        self.log = log
        self.real_deadline: float | None = None

    def dispatched(self, batch: Batch, queue_depth: int) -> None:
        self.log.append("dispatched")

    def retried(self, request: InferenceRequest) -> None:
        self.log.append("retried")

    def deadline(self, request: InferenceRequest) -> float:
        return request.deadline if self.real_deadline is None else self.real_deadline


class FakeHistory(History):
    """Remembers nothing."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def began(self, batch: Batch) -> None: ...

    def ended(self, batch: Batch, now: float, *, ok: bool) -> None: ...


class FakeBackend(Dispatcher):
    """Returns `gives` for each request, or raises it: when it is called, not when it is awaited."""

    def __init__(self, gives: Any, *, completes_inline: bool = False) -> None:
        super().__init__()
        self.gives = gives
        self._completes_inline = completes_inline

    def completes_inline(self, requests: Sequence[InferenceRequest]) -> bool:
        return self._completes_inline

    async def infer(self, model_id: str, observations: Sequence[Any]) -> Sequence[Any]:
        raise NotImplementedError

    def dispatch(self, requests: Sequence[InferenceRequest], replica: str = "") -> Any:
        if isinstance(self.gives, Exception):
            raise self.gives
        return self._give(requests)

    async def _give(self, requests: Sequence[InferenceRequest]) -> list[DispatchResult]:
        if self.gives == "nothing":
            return []
        if self.gives == "for ever":
            await asyncio.Event().wait()
        if self.gives == "for a while":
            await asyncio.sleep(0)
            await asyncio.sleep(0.001)
            return [DispatchResult(request, 1.0) for request in requests]
        return [DispatchResult(request, 1.0, refusal=self.gives) for request in requests]
