"""How a call of a model ends, whatever its backend does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import pytest

from inferential.calls import Calls
from inferential.delivery import Callbacks
from inferential.dispatch.base import Dispatcher, DispatchResult, ReplicaLost
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.running import Batch

LOST = Refusal(RefusalKind.MODEL_FAILED, "gone", ReplicaLost.__name__)
FAILED = Refusal(RefusalKind.MODEL_FAILED, "no", "ValueError")


class Around:
    """All that calls talk to, as a list of what they said."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.deadline: float | None = None  # what the books find, once they are asked
        self.request = InferenceRequest("arm", "m", b"arm", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
        self.request.move(RequestState.QUEUED)
        self.request.move(RequestState.DISPATCHED)
        self.batch = Batch("m", [self.request])

    # Engine
    def waiting(self, model_id: str) -> int:
        return 0

    def finished(self, batch: Batch, now: float, *, measured: bool) -> None:
        self.said.append(("finished", measured))

    def retry(self, request: InferenceRequest, now: float) -> None:
        request.move(RequestState.QUEUED)
        self.said.append("retry")

    # Delivery
    def answer(self, results: list[DispatchResult]) -> None:
        for result in results:
            result.request.move(RequestState.ANSWERED)
            self.said.append("answer")

    def refuse(self, request: InferenceRequest, refusal: Refusal) -> None:
        request.refuse(refusal)
        self.said.append(refusal.reason)

    # Books
    def dispatched(self, batch: Batch, queue_depth: int) -> None:
        self.said.append("dispatched")

    def retried(self, request: InferenceRequest) -> None:
        self.said.append("retried")

    def keep(self) -> None:
        if self.deadline is not None:
            self.request.deadline = self.deadline

    # History
    def began(self, batch: Batch) -> None: ...

    def ended(self, batch: Batch, now: float, *, ok: bool) -> None: ...


class Backend(Dispatcher):
    """Gives what it was told to give, or raises it: at once, and not when it is awaited."""

    def __init__(self, gives: Any, completes_inline: bool) -> None:
        super().__init__()
        self.gives = gives
        self._never_waits = completes_inline

    def completes_inline(self, requests: Sequence[InferenceRequest]) -> bool:
        return self._never_waits

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


@pytest.fixture
def around() -> Around:
    return Around()


def made(
    around: Any,
    gives: Any,
    max_retries: Callable[[], int | None] = lambda: 0,
    *,
    completes_inline: bool = False,
    begin: bool = True,
) -> Calls:
    ended = Callbacks[Batch, float]("batch")
    backend = Backend(gives, completes_inline)
    calls = Calls(backend, around, around, around, around, ended, max_retries, lambda: around.said.append("over"))
    if begin:
        calls.make(around.batch)
    return calls


async def over(calls: Calls) -> None:
    async with asyncio.timeout(5):
        while calls:  # noqa: ASYNC110 (nothing tells of it)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("gives", "said", "measured"),
    [
        (None, "answer", True),
        (FAILED, "no", False),
        (RuntimeError("no room"), "the backend failed: no room", False),
        ("nothing", "the backend gave no result", False),
    ],
)
async def test_every_call_ends_and_every_request_of_it(around: Around, gives: Any, said: str, measured: bool) -> None:
    await over(made(around, gives))
    assert around.said == ["dispatched", said, ("finished", measured), "over"]
    assert around.request.over


async def test_a_failed_request_is_written_down_before_it_is_ordered_again(around: Around) -> None:
    await over(made(around, FAILED, lambda: 1))
    assert around.said[1:3] == ["retried", "retry"]


async def test_nothing_is_tried_again_where_nothing_may_be_not_even_what_a_lost_replica_had(around: Around) -> None:
    await over(made(around, LOST, lambda: None))
    assert around.request.state is RequestState.REFUSED


@pytest.mark.parametrize(("late", "state"), [("serve", RequestState.QUEUED), ("refuse", RequestState.REFUSED)])
async def test_of_a_lost_replica_only_what_can_be_in_time_or_is_served_late_is_tried_again(
    around: Around, late: Any, state: RequestState
) -> None:
    around.request.late = late
    around.deadline = time.monotonic() - 1  # which the books find; until then it has the default, and time
    await over(made(around, LOST))
    assert around.request.state is state


async def test_a_call_that_never_waits_is_over_at_once(around: Around) -> None:
    calls = made(around, None, completes_inline=True)
    assert around.said == ["dispatched", "answer", ("finished", True)]  # who makes it sees to what follows
    assert not calls


async def test_a_call_of_several_requests_is_a_task_whatever_its_model(around: Around) -> None:
    other = InferenceRequest("leg", "m", b"leg", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
    other.move(RequestState.DISPATCHED)
    around.batch.requests.append(other)
    calls = made(around, None, completes_inline=True)
    assert around.said == ["dispatched"]
    await over(calls)
    assert around.request.over
    assert other.over


async def test_one_that_waits_although_it_never_does_goes_on_as_a_task(around: Around) -> None:
    calls = made(around, "for a while", completes_inline=True)
    assert around.said == ["dispatched"]
    assert calls
    await over(calls)
    assert around.said == ["dispatched", "answer", ("finished", True), "over"]


async def test_and_can_be_cancelled(around: Around) -> None:
    calls = made(around, "for ever", completes_inline=True)
    await asyncio.sleep(0)
    await calls.cancel()
    assert around.request.state is RequestState.REFUSED


async def test_what_ends_a_call_on_the_spot_badly_is_told_to_the_loop_and_to_nobody_else(around: Around) -> None:
    class Failing(Around):
        def answer(self, results: list[DispatchResult]) -> None:
            super().answer(results)
            raise asyncio.CancelledError("of a callback")

    failing, told = Failing(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    made(failing, None, completes_inline=True)
    assert failing.said[-1] == ("finished", True)
    assert [str(error) for error in told] == ["of a callback"]


async def test_an_interrupt_ends_more_than_a_call(around: Around) -> None:
    class Interrupted(Around):
        def answer(self, results: list[DispatchResult]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made(Interrupted(), None, completes_inline=True)


async def test_what_a_call_sets_of_context_variables_is_its_own(around: Around) -> None:
    variable = ContextVar("variable", default="as it was")

    class Setting(Around):
        def answer(self, results: list[DispatchResult]) -> None:
            super().answer(results)
            variable.set("as it is in the call")

    setting = Setting()
    made(setting, None, completes_inline=True)
    assert setting.request.over
    assert variable.get() == "as it was"


async def test_a_call_that_is_cancelled_refuses_what_it_had(around: Around) -> None:
    calls = made(around, "for ever")
    await asyncio.sleep(0)
    await calls.cancel()
    assert not calls
    assert around.request.state is RequestState.REFUSED
