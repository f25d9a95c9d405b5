"""How a call of a model ends, whatever its backend does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
import pytest
from tests.server.fakes import FakeAccounting, FakeBackend, FakeEgress, FakeEngine, FakeHistory

from inferential.dispatch.base import Dispatcher, ReplicaLost
from inferential.replica.busy_polling import BusyPolling
from inferential.scheduler.request import InferenceRequest, Refusal, RefusalKind, RequestState
from inferential.scheduler.running import Batch
from inferential.server.callbacks import Callbacks
from inferential.server.executor import Executor

LOST = Refusal(RefusalKind.MODEL_FAILED, "gone", ReplicaLost.__name__)
FAILED = Refusal(RefusalKind.MODEL_FAILED, "no", "ValueError")


class Bench:
    """An executor's collaborators, which share one log, and a call of one request."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.engine = FakeEngine(self.log)
        self.egress = FakeEgress(self.log)
        self.accounting = FakeAccounting(self.log)
        self.request = InferenceRequest("arm", "m", b"arm", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
        self.request.move(RequestState.QUEUED)
        self.request.move(RequestState.DISPATCHED)
        self.batch = Batch("m", [self.request])
        self.on_returned: Callable[[], None] = lambda: self.log.append("next")

    def run(
        self, gives: Any, max_retries: Callable[[], int | None] = lambda: 0, *, completes_inline: bool = False
    ) -> Executor:
        """Runs the call by a backend that gives this."""
        backend = gives if isinstance(gives, Dispatcher) else FakeBackend(gives, completes_inline=completes_inline)
        executor = Executor(
            backend,
            self.engine,
            self.egress,
            self.accounting,
            FakeHistory(),
            Callbacks[Batch, float]("batch"),
            max_retries,
            lambda: self.log.append("over"),
            lambda: self.on_returned(),
        )
        executor.run_inline(self.batch)
        return executor


NO_RESULT = (
    "the backend gave no result, as where a model on the event loop cancels its own task or raises GeneratorExit"
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def over(executor: Executor) -> None:
    async with asyncio.timeout(60):
        while executor:  # noqa: ASYNC110 (no event is set at its end)
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("gives", "said", "measured"),
    [
        (None, "answer", True),
        (FAILED, "no", False),
        (RuntimeError("no room"), "the backend failed: no room", False),
        ("nothing", NO_RESULT, False),
    ],
)
async def test_every_call_ends_and_every_request_of_it(bench: Bench, gives: Any, said: str, measured: bool) -> None:
    await over(bench.run(gives))
    assert bench.log == ["dispatched", said, ("finished", measured), "over"]
    assert bench.request.over


async def test_a_failed_request_is_recorded_before_it_is_queued_again(bench: Bench) -> None:
    await over(bench.run(FAILED, lambda: 1))
    assert bench.log[1:3] == ["retried", "retry"]


async def test_without_retries_not_even_the_request_of_a_lost_replica_is_retried(bench: Bench) -> None:
    await over(bench.run(LOST, lambda: None))
    assert bench.request.state is RequestState.REFUSED


@pytest.mark.parametrize(("late", "state"), [("serve", RequestState.QUEUED), ("refuse", RequestState.REFUSED)])
async def test_after_a_lost_replica_a_request_is_retried_if_it_is_in_time_or_served_late(
    bench: Bench, late: Any, state: RequestState
) -> None:
    bench.request.late = late
    bench.accounting.real_deadline = time.monotonic() - 1  # the request itself has the default deadline, and time left
    await over(bench.run(LOST))
    assert bench.request.state is state


async def test_a_call_that_completes_inline_is_over_when_it_returns(bench: Bench) -> None:
    executor = bench.run(None, completes_inline=True)
    assert bench.log == ["dispatched", "answer", ("finished", True)]  # without "over": its caller goes on
    assert not executor


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each time that it looks for the next call."""
    looked: list[bool] = []
    monkeypatch.setattr(BusyPolling, "all_answered", lambda *_: looked.append(True))
    return looked


async def test_after_a_call_that_completes_inline_it_looks_for_the_next(bench: Bench, looked: list[bool]) -> None:
    executor = bench.run(None, completes_inline=True)
    assert not executor
    assert looked


async def test_it_looks_for_no_call_while_another_one_runs(bench: Bench, looked: list[bool]) -> None:
    backend = FakeBackend("for ever", completes_inline=True)
    executor = bench.run(backend)
    backend.gives = None
    bench.request = InferenceRequest("leg", "m", b"leg", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
    bench.request.move(RequestState.DISPATCHED)
    executor.run_inline(Batch("m", [bench.request]))
    assert bench.request.over
    assert not looked
    await executor.cancel()


async def test_a_call_of_several_requests_is_a_task_even_if_its_model_completes_inline(bench: Bench) -> None:
    other = InferenceRequest("leg", "m", b"leg", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
    other.move(RequestState.DISPATCHED)
    bench.batch.requests.append(other)
    executor = bench.run(None, completes_inline=True)
    assert bench.log == ["dispatched"]
    await over(executor)
    assert bench.request.over
    assert other.over


async def test_an_inline_call_that_waits_after_all_continues_as_a_task(bench: Bench) -> None:
    executor = bench.run("for a while", completes_inline=True)
    assert bench.log == ["dispatched"]
    assert executor
    await over(executor)
    assert bench.log == ["dispatched", "answer", ("finished", True), "over"]


async def test_an_inline_call_that_waits_after_all_can_be_cancelled(bench: Bench) -> None:
    executor = bench.run("for ever", completes_inline=True)
    await asyncio.sleep(0)
    await executor.cancel()
    assert bench.request.state is RequestState.REFUSED


def fail_with(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


async def test_an_error_in_an_inline_call_goes_to_the_loops_exception_handler(bench: Bench) -> None:
    errors: list[Exception] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    bench.egress.on_answer = fail_with(asyncio.CancelledError("of a callback"))
    bench.run(None, completes_inline=True)
    assert bench.log[-1] == ("finished", True)
    assert [str(error) for error in errors] == ["of a callback"]


async def test_an_interrupt_in_an_inline_call_is_raised(bench: Bench) -> None:
    bench.egress.on_answer = fail_with(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.run(None, completes_inline=True)


async def test_an_inline_call_has_a_context_of_its_own(bench: Bench) -> None:
    variable = ContextVar("variable", default="unchanged")
    bench.egress.on_answer = lambda: variable.set("set in the call") and None
    bench.run(None, completes_inline=True)
    assert bench.request.over
    assert variable.get() == "unchanged"


async def test_a_cancelled_call_refuses_its_requests(bench: Bench) -> None:
    executor = bench.run("for ever")
    await asyncio.sleep(0)
    await executor.cancel()
    assert not executor
    assert bench.request.state is RequestState.REFUSED


class Echo(Dispatcher):
    """Returns what it is asked, or `fails`, after a turn of the loop."""

    def __init__(self, fails: Exception | None = None, *, begins_elsewhere: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self._begins_elsewhere = begins_elsewhere

    async def infer(self, model_id: str, observations: Sequence[Any]) -> Sequence[Any]:
        await asyncio.sleep(0)
        return [self.fails or np.zeros(1)] * len(observations)

    def begins_elsewhere(self, requests: Sequence[InferenceRequest]) -> bool:
        return self._begins_elsewhere


async def test_the_answers_of_a_call_come_first_where_none_waits(bench: Bench) -> None:
    await over(bench.run(Echo()))
    assert bench.log == ["dispatched", "answer", ("finished", True), "over"]


async def test_the_next_call_begins_before_the_answers_of_one_are_written(bench: Bench) -> None:
    bench.engine.waits = 1
    await over(bench.run(Echo()))
    assert bench.log == ["dispatched", ("finished", True), "next", "answer", "over"]


class Announcing(Echo):
    """Says that a call ends, and then ends it."""

    requests: Sequence[InferenceRequest] = ()

    async def infer(self, model_id: str, observations: Sequence[Any]) -> Sequence[Any]:
        await asyncio.sleep(0)
        self.on_ending(self.requests)
        await asyncio.sleep(0)
        return await super().infer(model_id, observations)


async def test_the_next_call_is_sent_while_one_ends(bench: Bench) -> None:
    bench.engine.waits = 1
    backend = Announcing()
    backend.requests = bench.batch.requests
    await over(bench.run(backend))
    assert bench.log == ["dispatched", "ending", "next", "answer", ("finished", True), "over"]


async def test_a_call_that_ends_and_then_fails_is_no_measure(bench: Bench) -> None:
    bench.engine.waits = 1
    backend = Announcing(ValueError("no"))
    backend.requests = bench.batch.requests
    await over(bench.run(backend, lambda: 1))
    assert bench.log == ["dispatched", "ending", "next", "retried", "retry", ("finished", False), "over"]


async def test_nothing_is_sent_ahead_where_a_later_request_could_join_it(bench: Bench) -> None:
    backend = Announcing()
    backend.requests = bench.batch.requests
    await over(bench.run(backend))
    assert bench.log == ["dispatched", "answer", ("finished", True), "over"]


async def test_no_call_goes_before_requests_that_may_be_retried(bench: Bench) -> None:
    await over(bench.run(Echo(ValueError("no")), lambda: 1))
    assert bench.log == ["dispatched", "retried", "retry", ("finished", False), "over"]


async def test_answers_are_sent_though_no_call_could_follow(bench: Bench) -> None:
    errors: list[Exception] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context["exception"]))
    bench.on_returned = fail_with(RuntimeError("of a strategy"))
    bench.engine.waits = 1
    await over(bench.run(Echo()))
    assert bench.log == ["dispatched", ("finished", True), "answer", "over"]
    assert [str(error) for error in errors] == ["of a strategy"]


async def test_a_call_of_several_requests_begins_in_another_process_within_the_turn(bench: Bench) -> None:
    other = InferenceRequest("leg", "m", b"leg", b"", b"", time.monotonic(), 0.0, None, 0.0, 50.0, 1)
    other.move(RequestState.DISPATCHED)
    bench.batch.requests.append(other)
    executor = bench.run(Echo(begins_elsewhere=True))
    assert executor.inline_calls == 1
    assert bench.request.dispatched_at
    await over(executor)
    assert bench.request.over
    assert other.over
