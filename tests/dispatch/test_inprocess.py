"""Where models in the server's own process run, and what a call over its time costs."""

from __future__ import annotations

import asyncio
import functools
import itertools
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.dispatch.conftest import Serving, ask_robot, robot

from inferential import LocalDispatcher, ModelInline, ModelThread
from inferential.dispatch import inprocess
from inferential.dispatch.runner import read
from inferential.proto import PNG, ModelResponse
from inferential.proto.images import encode
from inferential.replica.pace import SHARED_ROWS
from inferential.scheduler.request import InferenceRequest, RefusalKind

Serve = Callable[..., LocalDispatcher]
MakeRequest = Callable[..., InferenceRequest]


class Inline:
    max_batch_size = 4

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def infer(self, observation: dict[str, Any]) -> Any:
        self.threads.add(threading.current_thread())
        return observation["state"]

    def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        self.threads.add(threading.current_thread())
        return [observation["state"] for observation in observations]


@pytest.mark.parametrize("count", [1, 3])
async def test_an_inline_model_runs_on_the_event_loop_and_completes_inline(
    count: int, serve: Serve, request_of: MakeRequest
) -> None:
    model = Inline()
    dispatcher = serve(m=ModelInline(model))
    requests = [request_of(slots_known=True) for _ in range(count)]
    assert dispatcher.completes_inline(requests)
    results = await dispatcher.dispatch(requests)
    assert all(result.success for result in results)
    assert model.threads == {threading.current_thread()}


async def test_an_inline_function_that_returns_an_awaitable_is_awaited(ask: Any) -> None:
    async def later(observation: dict[str, Any]) -> float:
        await asyncio.sleep(0)
        return 1.0

    result = await ask(ModelInline(lambda observation: later(observation)))
    assert result.success, result.error


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(1), StopIteration(), asyncio.CancelledError()])
async def test_what_an_inline_model_raises_fails_its_call_alone(error: BaseException, ask: Any) -> None:
    def fails(observation: dict[str, Any]) -> Any:
        raise error

    result = await ask(ModelInline(fails))
    assert result.refusal.kind is RefusalKind.MODEL_FAILED


async def test_short_calls_share_their_hand_over(serve: Serve, request_of: MakeRequest, finish: Any) -> None:
    changes: list[int] = []
    dispatcher = serve(m=lambda observation: observation["state"][:1])
    dispatcher.watch(lambda: changes.append(dispatcher.max_batch_size("m")), lambda model_id: 0)
    assert dispatcher.max_batch_size("m") == 1
    while not changes:
        await finish(dispatcher.dispatch([request_of()]))
    assert changes == [SHARED_ROWS]
    results = await finish(dispatcher.dispatch([request_of(values={"state": np.full(2, n)}) for n in range(8)]))
    assert [result.values["actions"][0] for result in results] == list(range(8))


async def test_rows_that_share_a_hand_over_fail_alone(serve: Serve, request_of: MakeRequest, finish: Any) -> None:
    def positive(observation: dict[str, Any]) -> Any:
        if observation["state"][0] < 0:
            raise ValueError("negative")
        return observation["state"]

    requests = [request_of(values={"state": np.full(1, float(n))}) for n in (1, -1, 2)]
    results = await finish(serve(m=positive).dispatch(requests))
    assert [result.error for result in results] == [None, "ValueError: negative", None]


class Hangs:
    """Waits on a negative state, until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = threading.Event()

    def __call__(self, observation: dict[str, Any]) -> Any:
        if observation["state"][0] < 0:
            self.entered.set()
            self.release.wait(60)
        return observation["state"]


HANGS_AFTER_MS = 60_000


async def ends_late(call: Any, model: Hangs, pass_time: Callable[[float], None]) -> Any:
    """The results of a call that hangs, once its time is over."""
    running = asyncio.create_task(call)
    assert await asyncio.to_thread(model.entered.wait, 60)
    pass_time(HANGS_AFTER_MS / 1e3)
    async with asyncio.timeout(60):
        return await running


async def test_a_call_over_its_time_fails_and_its_slot_is_lost_until_it_returns(
    serve: Serve,
    request_of: MakeRequest,
    finish: Any,
    pass_time: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = Hangs()
    dispatcher = serve(m=ModelThread(model, call_timeout_ms=HANGS_AFTER_MS))
    changed = asyncio.Event()
    dispatcher.watch(changed.set, lambda model_id: 0)
    stuck = request_of(values={"state": np.array([-1.0])})
    (result,) = await ends_late(dispatcher.dispatch([stuck]), model, pass_time)
    assert result.error == "CallTimeout: the call took longer than call_timeout_ms (60000)"
    assert dispatcher.lost_slots("m") == 1
    assert "1 calls took longer than call_timeout_ms" in dispatcher.problems()["m"].reason
    assert "model m: a call took longer than call_timeout_ms (60000)" in caplog.text
    changed.clear()
    model.release.set()
    await finish(changed.wait())
    assert dispatcher.lost_slots("m") == 0
    assert not dispatcher.problems()


async def test_rows_that_share_a_hand_over_have_the_time_of_a_call_each(
    serve: Serve, request_of: MakeRequest, pass_time: Callable[[float], None], finish: Any
) -> None:
    began, may_end = threading.Semaphore(0), threading.Semaphore(0)

    def takes_most_of_it(observation: dict[str, Any]) -> Any:
        began.release()
        assert may_end.acquire(timeout=60)
        return observation["state"]

    dispatcher = serve(m=ModelThread(takes_most_of_it, call_timeout_ms=HANGS_AFTER_MS))
    requests = [request_of(values={"state": np.full(1, float(n))}) for n in range(4)]
    running = asyncio.create_task(dispatcher.dispatch(requests))
    for _ in requests:
        assert await asyncio.to_thread(began.acquire, timeout=60)
        pass_time(HANGS_AFTER_MS / 1e3 * 0.7)
        await asyncio.sleep(0.01)  # its timers ring
        may_end.release()
    results = await finish(running)
    assert [result.error for result in results] == [None] * 4
    assert dispatcher.lost_slots("m") == 0


async def test_rows_behind_one_that_hangs_are_run_all_the_same(
    serve: Serve, request_of: MakeRequest, pass_time: Callable[[float], None]
) -> None:
    model = Hangs()
    dispatcher = serve(m=ModelThread(model, call_timeout_ms=HANGS_AFTER_MS))
    requests = [request_of(values={"state": np.array([float(n)])}) for n in (1, -1, 2, 3)]
    results = await ends_late(dispatcher.dispatch(requests), model, pass_time)
    assert [result.success for result in results] == [True, False, True, True]
    model.release.set()


class HangsAndRemembers(Hangs):
    """As `Hangs`, and keeps state of its robots."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int]] = []

    def infer(self, observation: dict[str, Any], session: Any) -> Any:
        session.state = (session.state or 0) + 1
        self.seen.append((session.client_id, session.state))
        return self(observation)


async def test_none_of_them_runs_twice_and_the_state_of_the_one_that_hangs_is_lost(
    serve: Serve, request_of: MakeRequest, finish: Any, pass_time: Callable[[float], None]
) -> None:
    model = HangsAndRemembers()
    dispatcher = serve(m=ModelThread(model, call_timeout_ms=HANGS_AFTER_MS))

    def run(**numbers: float) -> Any:
        requests = [request_of(values={"state": np.array([n])}, client_id=one) for one, n in numbers.items()]
        for request in requests:
            request.keeps_state = True
        return dispatcher.dispatch(requests)

    await finish(run(a=1.0, b=1.0, c=1.0))
    results = await ends_late(run(a=1.0, b=-1.0, c=1.0), model, pass_time)
    assert [result.success for result in results] == [True, False, True]
    (again,) = await finish(run(b=1.0))
    changed = asyncio.Event()
    dispatcher.watch(changed.set, lambda model_id: 0)
    model.release.set()
    await finish(changed.wait())
    assert sorted(model.seen) == [("a", 1), ("a", 2), ("b", 1), ("b", 1), ("b", 2), ("c", 1), ("c", 2)]
    assert ModelResponse.FromString(again.envelope).session == "restarted"


async def test_a_replica_with_a_lost_slot_gets_no_calls_while_another_has_none(
    serve: Serve, request_of: MakeRequest, pass_time: Callable[[float], None]
) -> None:
    models = [Hangs(), Hangs()]
    dispatcher = serve(m=[ModelThread(model, call_timeout_ms=HANGS_AFTER_MS) for model in models])
    call = dispatcher.dispatch([request_of(values={"state": np.array([-1.0])})], "0")
    await ends_late(call, models[0], pass_time)
    assert dispatcher.replicas("m") == ["1"]
    assert dispatcher.lost_slots("m") == 0
    models[0].release.set()


@pytest.mark.parametrize("payload", [bytearray, bytes, memoryview])
@pytest.mark.parametrize("own", [True, False])
def test_a_models_arrays_are_writable_whatever_the_payload_is(
    payload: Callable[[Any], Any], own: bool, request_of: MakeRequest
) -> None:
    request = request_of(values={"state": np.arange(3.0), "camera": encode(np.zeros((4, 4, 3), np.uint8), PNG)})
    request.payload = sent = payload(bytes(request.payload))
    before = bytes(sent)
    observation = read(request, own)
    assert isinstance(observation, dict)
    observation["state"] += 1
    observation["camera"] += 1
    assert (bytes(sent) == before) or not own


@pytest.mark.parametrize("way", [lambda model: model, ModelInline])
async def test_rows_that_are_tried_alone_are_what_the_robots_sent(
    way: Any, serve: Serve, request_of: MakeRequest, finish: Any
) -> None:
    class Model:
        def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
            for observation in observations:
                observation["state"] *= 2
            if any(observation["state"][0] < 0 for observation in observations):
                raise ValueError("negative")
            return [observation.pop("state") for observation in observations]

    requests = [request_of(values={"state": np.full(300, float(n))}, slots_known=True) for n in (1, -1, 2)]
    results = await finish(serve(m=way(Model())).dispatch(requests))
    assert [result.success for result in results] == [True, False, True]
    assert [results[at].values["actions"][0] for at in (0, 2)] == [2.0, 4.0]


class Reusing:
    """Writes each result into the same memory, as a preallocated output or a captured CUDA graph does."""

    def __init__(self, form: Callable[[Any], Any] = lambda result: result) -> None:
        self._actions = np.zeros(2)
        self._form = form

    def infer(self, observation: dict[str, Any]) -> Any:
        np.multiply(observation["state"], 2.0, out=self._actions)
        return self._form(self._actions)


class ReusingCoroutine(Reusing):
    async def infer(self, observation: dict[str, Any]) -> Any:
        return super().infer(observation)


class ReusingWhenAlone(Reusing):
    def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        raise ValueError("a batch fails")


class Tensor:
    """Memory of another library, which numpy sees without a copy."""

    def __init__(self, actions: np.ndarray[Any, Any]) -> None:
        self._actions = actions

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self._actions.copy() if copy else self._actions


@pytest.mark.parametrize(
    "model",
    [
        ModelThread(Reusing()),
        ModelInline(Reusing()),
        ReusingCoroutine(),
        ReusingWhenAlone(),
        ModelThread(Reusing(lambda actions: {"actions": actions, "stop": 0})),
        ModelThread(Reusing(lambda actions: {"actions": {"arm": actions}})),
        ModelThread(Reusing(Tensor)),
    ],
    ids=["thread", "inline", "coroutine", "row by row", "dict", "nested", "tensor"],
)
async def test_each_robot_gets_its_own_actions_of_a_model_that_reuses_its_memory(
    model: Any, serve: Serve, request_of: MakeRequest, finish: Any
) -> None:
    requests = [request_of(values={"state": np.full(2, n, float)}) for n in range(3)]
    results = await finish(serve(m=model).dispatch(requests))
    found = [next(iter(one.values.values()))[0] for one in results]
    assert found == [0.0, 2.0, 4.0]


def states(*numbers: float) -> list[dict[str, Any]]:
    return [{"state": np.array([number])} for number in numbers]


async def test_a_call_in_a_thread_whose_predecessor_was_short_is_over_within_the_turn_that_begins_it(
    serve: Serve, request_of: MakeRequest, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "WORTH_S", 10.0)  # on a busy machine a thread may have to wait
    monkeypatch.setattr(inprocess, "STANDS_S", 10.0)
    for model in (lambda observation: observation["state"], Batch()):
        dispatcher = serve(m=model)
        await finish(dispatcher.dispatch([request_of()]))
        call = dispatcher.dispatch([request_of()])
        with pytest.raises(StopIteration) as over:
            call.send(None)
        assert all(result.success for result in over.value.value)


@pytest.mark.parametrize(
    ("step_s", "waits"), [(1.0, False), (0.2, True)], ids=["others hold the lock", "all cores are busy"]
)
async def test_calls_that_are_over_late_are_waited_for_unless_others_hold_the_interpreters_lock(
    step_s: float,
    waits: bool,
    serve: Serve,
    request_of: MakeRequest,
    finish: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inprocess, "WORTH_S", 10.0)
    monkeypatch.setattr(inprocess, "STANDS_S", 0.5)
    monkeypatch.setattr(inprocess, "HELD_S", 1.0)
    clock = itertools.count()  # three steps while the event loop stands still
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock) * step_s)
    dispatcher = serve(m=lambda observation: observation["state"])
    for _ in range(2):  # the second one shows it
        await finish(dispatcher.dispatch([request_of()]))
    monkeypatch.setattr(inprocess, "STANDS_S", 10.0 if waits else 0.5)
    call = asyncio.create_task(dispatcher.dispatch([request_of()]))
    await asyncio.sleep(0)
    assert call.done() is waits
    (result,) = await finish(call)
    assert result.success


class Batch:
    def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        return [observation["state"] for observation in observations]


async def test_a_call_that_takes_longer_than_the_one_before_is_awaited_as_any_other(
    serve: Serve, request_of: MakeRequest, finish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inprocess, "WORTH_S", 10.0)
    model = Hangs()
    dispatcher = serve(m=model)
    await finish(dispatcher.dispatch([request_of()]))
    calls = [asyncio.create_task(dispatcher.dispatch([request_of(values=one)])) for one in states(-1, -2, -3)]
    assert await asyncio.to_thread(model.entered.wait, 60)
    assert not any(call.done() for call in calls)
    model.release.set()
    for call, number in zip(calls, (-1, -2, -3), strict=True):
        (result,) = await finish(call)
        assert result.values["actions"].tolist() == [number]


async def test_what_a_plain_function_returns_to_be_awaited_runs_in_a_task(serving: Serving) -> None:
    async def later(observation: dict[str, Any]) -> Any:
        async with asyncio.timeout(60):  # which asks for one
            await asyncio.sleep(0)
            return observation["state"]

    async def later_each(observations: list[dict[str, Any]]) -> Any:
        return [await later(observation) for observation in observations]

    batch = SimpleNamespace(infer_batch=functools.partial(later_each))
    server, _ = await serving(single=functools.partial(later), batch=batch)
    for model_id in ("single", "batch"):
        async with robot(server, model_id) as model:
            assert (await ask_robot(model, state=np.ones(2)))["actions"].tolist() == [1.0, 1.0]
