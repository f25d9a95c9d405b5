"""Models in the server's own process: every form a model may have, and that none of them harms the event loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential.dispatch import LocalDispatcher
from inferential.dispatch.base import UnknownModelError
from inferential.proto import PNG
from inferential.proto.images import encode
from inferential.replica.spec import ModelInline
from inferential.scheduler.request import InferenceRequest, RefusalKind

Ask = Callable[..., Any]
Serve = Callable[..., LocalDispatcher]
MakeRequest = Callable[..., InferenceRequest]


def plain(obs: dict[str, Any]) -> Any:
    return obs["state"] * 2


async def coroutine(obs: dict[str, Any]) -> Any:
    await asyncio.sleep(0)
    return obs["state"] * 2


class Calling:
    def __call__(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * 2


class CallingAsync:
    async def __call__(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * 2


class Infers:
    def infer(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * 2


class InfersAsync:
    async def infer(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * 2


class InfersBatches:
    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [obs["state"] * 2 for obs in observations]


class InfersBatchesAsync:
    async def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [obs["state"] * 2 for obs in observations]


class InfersBoth:
    def infer(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * 2

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [obs["state"] * 2 for obs in observations]


class Scales:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def act(self, obs: dict[str, Any]) -> Any:
        return obs["state"] * self.factor


FORMS: dict[str, Any] = {
    "function": plain,
    "coroutine function": coroutine,
    "lambda": lambda obs: obs["state"] * 2,
    "lambda that gives a coroutine": lambda obs: coroutine(obs),
    "lambda that gives a future": lambda obs: asyncio.sleep(0, obs["state"] * 2),
    "method": Scales(2).act,
    "partial": functools.partial(Scales.act, Scales(2)),
    "partial of a coroutine function": functools.partial(coroutine),
    "callable object": Calling(),
    "callable object, async": CallingAsync(),
    "object with infer": Infers(),
    "object with infer, async": InfersAsync(),
    "object with infer_batch only": InfersBatches(),
    "object with infer_batch only, async": InfersBatchesAsync(),
    "object with both": InfersBoth(),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("form", FORMS)
async def test_a_model_may_have_any_of_these_forms(
    form: str, count: int, serve: Serve, request_of: MakeRequest, read_result: Any, finish: Any
) -> None:
    requests = [request_of("m", {"state": np.array([float(n)])}, client_id=f"c{n}") for n in range(count)]
    results = await finish(serve(m=FORMS[form]).dispatch(requests))
    assert [read_result(result).values["actions"].tolist() for result in results] == [[2.0 * n] for n in range(count)]


async def test_a_model_with_both_gets_one_alone_by_infer_and_several_by_infer_batch(
    serve: Serve, request_of: MakeRequest
) -> None:
    calls: list[str] = []

    class Model:
        def infer(self, obs: Any) -> float:
            calls.append("infer")
            return 0.0

        def infer_batch(self, observations: list[Any]) -> list[float]:
            calls.append(f"infer_batch of {len(observations)}")
            return [0.0] * len(observations)

    dispatcher = serve(m=Model())
    await dispatcher.dispatch([request_of()])
    await dispatcher.dispatch([request_of(), request_of()])
    assert calls == ["infer", "infer_batch of 2"]


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (plain, 1),
        (Infers(), 1),
        (InfersBatches(), 8),
        (InfersBoth(), 8),
        (type("Sized", (InfersBatches,), {"max_batch_size": 3})(), 3),
        (type("Unsure", (InfersBatches,), {"max_batch_size": None})(), 8),
        (type("Boastful", (Infers,), {"max_batch_size": 5})(), 1),
    ],
)
def test_a_model_takes_as_many_at_once_as_it_says(model: Any, size: int) -> None:
    assert LocalDispatcher({"m": model}).max_batch_size("m") == size


@pytest.mark.parametrize("size", [0, -1, 2.5, "many"])
def test_a_batch_size_that_is_none_is_refused_by_the_models_name(size: Any) -> None:
    model = type("Odd", (InfersBatches,), {"max_batch_size": size})()
    with pytest.raises(ValueError, match=r"^model 'm': max_batch_size: expected a whole number above 0, got "):
        LocalDispatcher({"m": model})


@pytest.mark.parametrize("model", [5, "module:object", None, object()])
def test_what_is_no_model_is_refused_by_name(model: Any) -> None:
    with pytest.raises(TypeError, match=rf"^model 'm': expected a callable, .* got {type(model).__name__}"):
        LocalDispatcher({"m": model})


def by_keys(**observation: Any) -> Any:
    return observation["state"]


def of_two(image: Any, state: Any) -> Any:
    return state


def with_needed(observation: Any, *, gain: float) -> Any:
    return gain


class TakesNothing:
    def infer_batch(self) -> Any:
        return []


@pytest.mark.parametrize("model", [by_keys, of_two, with_needed, TakesNothing()])
def test_what_cannot_be_called_with_the_observation_alone_is_refused_by_its_name(model: Any) -> None:
    name = getattr(model, "__name__", "infer_batch")
    with pytest.raises(TypeError, match=f"model 'm': expected a function of the observations? alone, .* got {name}"):
        LocalDispatcher({"m": model})


def given_gain(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return function(*args, gain=2.0)

    return call


@pytest.mark.parametrize(
    "model", [given_gain(with_needed), functools.partial(with_needed, gain=1.0), lambda obs, gain=1.0: gain, max]
)
def test_what_can_be_called_with_the_observation_alone_is_a_model(model: Any) -> None:
    LocalDispatcher({"m": model})


@pytest.mark.parametrize("kind", [Infers, InfersAsync, InfersBatches])
def test_the_class_of_a_model_is_not_taken_for_a_model(kind: type) -> None:
    with pytest.raises(
        TypeError, match=rf"^model 'm': expected a model, got the class {kind.__name__}; {kind.__name__}\("
    ):
        LocalDispatcher({"m": [kind]})


def test_a_class_that_is_a_model_itself_is_one() -> None:
    class Static:
        @staticmethod
        def infer(obs: dict[str, Any]) -> Any:
            return obs["state"] * 2

    assert LocalDispatcher({"m": Static, "n": dict}).model_ids() == ["m", "n"]


@pytest.mark.parametrize("models", [Infers(), [Infers()], "m"])
def test_models_without_ids_are_an_error(models: Any) -> None:
    with pytest.raises(TypeError, match=r"^models: expected models by id, as \{'my-model': my_model\}, got "):
        LocalDispatcher(models)


async def test_the_error_of_an_unknown_model_names_those_there_are(serve: Serve, request_of: MakeRequest) -> None:
    (result,) = await serve(a=plain, b=plain).dispatch([request_of("c")])
    assert result.refusal is not None
    assert result.refusal.kind is RefusalKind.UNKNOWN_MODEL
    assert result.error == "No model registered for 'c'; there is: a, b"
    dispatcher = serve()
    assert dispatcher.max_batch_size("c") == 1
    with pytest.raises(UnknownModelError, match="No model registered for 'c'; there is: none"):
        await dispatcher.infer("c", [{}])


async def test_the_models_are_known_by_id(serve: Serve) -> None:
    dispatcher = serve(a=plain, b=plain)
    assert dispatcher.model_ids() == ["a", "b"]
    dispatcher.register_model("c", plain)
    assert dispatcher.model_ids() == ["a", "b", "c"]


async def test_a_sync_model_does_not_block_the_event_loop(serve: Serve, request_of: MakeRequest, finish: Any) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(obs: Any) -> float:
        entered.set()
        assert release.wait(60)  # only the event loop can let it go on
        return 1.0

    running = asyncio.create_task(serve(m=slow).dispatch([request_of()]))
    assert await asyncio.to_thread(entered.wait, 60)
    release.set()
    (result,) = await finish(running)
    assert result.success


async def test_calls_of_one_sync_model_may_run_at_once(serve: Serve, request_of: MakeRequest, finish: Any) -> None:
    meeting = threading.Barrier(3, timeout=60)
    dispatcher = serve(m=lambda obs: meeting.wait())
    results = await finish(asyncio.gather(*(dispatcher.dispatch([request_of()]) for _ in range(3))))
    assert all(result.success for (result,) in results)


async def test_an_async_model_runs_on_the_event_loop(ask: Ask) -> None:
    threads: list[threading.Thread] = []

    async def model(obs: Any) -> float:
        threads.append(threading.current_thread())
        return 1.0

    await ask(model)
    assert threads == [threading.current_thread()]


class Odd(Exception):
    """An exception of the model's own."""


def raiser(error: BaseException) -> Callable[[Any], Any]:
    def model(obs: Any) -> Any:
        raise error

    return model


def async_raiser(error: BaseException) -> Callable[[Any], Any]:
    async def model(obs: Any) -> Any:
        raise error

    return model


def batch_raiser(error: BaseException) -> Any:
    class Model:
        def infer_batch(self, observations: list[Any]) -> Any:
            raise error

    return Model()


def inline_raiser(error: BaseException) -> Any:
    return ModelInline(raiser(error))


def later_raiser(error: BaseException) -> Any:
    """A plain function that returns what is to be awaited."""
    return functools.partial(async_raiser(error))


def looked_at_raiser(error: BaseException) -> Any:
    """A function whose result raises when it is made an array."""

    class Result:
        def __array__(self, *args: Any, **options: Any) -> Any:
            raise error

    return lambda obs: {"actions": Result()}


class OwnEnd(BaseException):
    """What no `except Exception` catches."""


RAISED = [
    ValueError("bad shape"),
    Odd("own"),
    StopIteration("the recording ended"),
    SystemExit(3),
    KeyboardInterrupt(),
    OwnEnd("over"),
    BaseExceptionGroup("both", [KeyboardInterrupt()]),
    asyncio.CancelledError(),
    TimeoutError("no GPU"),
]


@pytest.mark.parametrize(
    ("error", "make"),
    [
        pytest.param(error, make, id=f"{type(error).__name__}-{make.__name__}")
        for error in RAISED
        for make in (raiser, async_raiser, batch_raiser, inline_raiser, later_raiser, looked_at_raiser)
        if make is not looked_at_raiser or not isinstance(error, Exception)  # which become a TypeError
    ],
)
async def test_whatever_a_model_raises_fails_its_request_and_nothing_else(
    error: BaseException, make: Callable[[BaseException], Any], serve: Serve, request_of: MakeRequest, finish: Any
) -> None:
    dispatcher = serve(m=make(error), good=plain)
    results = await finish(dispatcher.dispatch([request_of(), request_of("good"), request_of()]))
    assert [result.success for result in results] == [False, True, False]
    for result in (results[0], results[2]):
        assert result.refusal.kind is RefusalKind.MODEL_FAILED
        assert type(error).__name__ in result.error


async def test_a_ctrl_c_that_reaches_a_model_on_the_event_loop_is_not_taken_from_the_user(
    serve: Serve, request_of: MakeRequest
) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where nothing else handles it
    try:
        call = serve(m=async_raiser(KeyboardInterrupt())).dispatch([request_of()])
        with pytest.raises(KeyboardInterrupt):
            call.send(None)
    finally:
        signal.signal(signal.SIGINT, before)


async def test_words_that_cannot_be_read_are_no_reason_to_lose_the_call(ask: Ask) -> None:
    class Wordless(Exception):
        def __str__(self) -> str:
            raise KeyboardInterrupt

    for make in (raiser, async_raiser, batch_raiser, inline_raiser):
        result = await ask(make(Wordless()))
        assert result.error == "Wordless: its message cannot be read: KeyboardInterrupt"


async def test_a_failure_tells_type_and_text_of_what_was_raised(ask: Ask) -> None:
    for make in (raiser, async_raiser, batch_raiser):
        result = await ask(make(Odd("own")))
        assert result.error == "Odd: own"
        assert result.refusal.cause == "Odd"


async def test_one_of_several_that_fails_does_not_keep_the_others_from_their_turn(
    serve: Serve, request_of: MakeRequest
) -> None:
    def model(obs: dict[str, Any]) -> Any:
        if obs["state"][0] == 1.0:
            raise RuntimeError("not this one")
        return obs["state"]

    requests = [request_of("m", {"state": np.array([float(n)])}) for n in range(3)]
    results = await serve(m=model).dispatch(requests)
    assert [result.error for result in results] == [None, "RuntimeError: not this one", None]


async def test_registering_a_model_again_replaces_it(serve: Serve, request_of: MakeRequest, read_result: Any) -> None:
    dispatcher = serve(m=lambda obs: 1.0)
    assert read_result((await dispatcher.dispatch([request_of()]))[0]).values["actions"] == 1.0
    dispatcher.register_model("m", InfersBatches())
    assert dispatcher.max_batch_size("m") == 8
    assert read_result((await dispatcher.dispatch([request_of()]))[0]).values["actions"].tolist() == [0.0, 2.0, 4.0]


async def test_calls_that_run_keep_the_model_they_began_with(
    serve: Serve, request_of: MakeRequest, read_result: Any, finish: Any
) -> None:
    entered, release = threading.Event(), threading.Event()

    def old(obs: Any) -> str:
        entered.set()
        assert release.wait(60)
        return "old"

    dispatcher = serve(m=lambda obs: {"by": old(obs)})
    running = asyncio.create_task(dispatcher.dispatch([request_of(), request_of()]))
    assert await asyncio.to_thread(entered.wait, 60)
    dispatcher.register_model("m", lambda obs: {"by": "new"})
    release.set()
    assert [read_result(result).values["by"] for result in await finish(running)] == ["old", "old"]
    assert read_result((await dispatcher.dispatch([request_of()]))[0]).values["by"] == "new"


async def test_the_threads_of_a_replaced_model_end(serve: Serve, request_of: MakeRequest) -> None:
    threads: list[threading.Thread] = []
    dispatcher = serve(m=lambda obs: threads.append(threading.current_thread()) or 0.0)
    await dispatcher.dispatch([request_of()])
    dispatcher.register_model("m", plain)
    gc.collect()
    await asyncio.to_thread(threads[0].join, 10)
    assert not threads[0].is_alive()


async def test_closing_ends_the_threads_and_may_be_done_twice(serve: Serve, request_of: MakeRequest) -> None:
    threads: list[threading.Thread] = []
    dispatcher = serve(m=lambda obs: threads.append(threading.current_thread()) or 0.0)
    await dispatcher.dispatch([request_of()])
    await dispatcher.close()
    await dispatcher.close()
    await asyncio.to_thread(threads[0].join, 10)
    assert not threads[0].is_alive()


async def test_a_dispatcher_can_be_started_again_after_it_was_closed(
    serve: Serve, request_of: MakeRequest, finish: Any
) -> None:
    from inferential.proto import PNG
    from inferential.proto.images import encode

    image = encode(np.zeros((2, 2), np.uint8), PNG)
    dispatcher = serve(m=lambda obs: 1.0)
    for _ in range(2):
        await dispatcher.start()
        (result,) = await finish(dispatcher.dispatch([request_of("m", {"camera": image}, slots_known=True)]))
        assert result.error is None
        await dispatcher.close()


async def test_the_log_says_where_in_its_code_a_model_failed(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    def model(observation: dict[str, Any]) -> Any:
        return observation["camera"]

    result = await ask(model, {"state": np.zeros(1)})
    assert result.error == "KeyError: 'camera'"
    assert f"KeyError: 'camera' ({__file__}:{model.__code__.co_firstlineno + 1})" in caplog.text


class NeverWaits:
    async def infer(self, observation: dict[str, Any]) -> Any:
        return observation["state"]

    async def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        return [observation["state"] for observation in observations]


class WaitsInBatches(NeverWaits):
    async def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        await asyncio.sleep(0)
        return await super().infer_batch(observations)


@pytest.mark.parametrize(
    ("model", "completes_inline"),
    [
        (NeverWaits(), True),
        ([NeverWaits(), NeverWaits().infer], True),
        (WaitsInBatches(), False),
        ([NeverWaits(), WaitsInBatches()], False),
        (coroutine, False),
        ([plain, coroutine], False),
    ],
)
async def test_a_model_never_waits_where_none_of_its_forms_does(
    model: Any, completes_inline: bool, serve: Serve, request_of: MakeRequest
) -> None:
    dispatcher = serve(m=model)
    request = request_of("m", slots_known=True)
    assert dispatcher.completes_inline([request]) is completes_inline
    dispatcher.register_model("m", coroutine if completes_inline else NeverWaits())
    assert dispatcher.completes_inline([request]) is not completes_inline


async def test_a_call_in_a_thread_begins_at_once(serve: Serve, request_of: MakeRequest) -> None:
    dispatcher = serve(m=plain)
    requests = [request_of("m", slots_known=True) for _ in range(2)]
    assert dispatcher.completes_inline(requests[:1])
    assert dispatcher.begins_in_thread(requests)
    assert not dispatcher.begins_elsewhere(requests)


async def test_images_are_waited_for_and_an_unknown_model_may_be(serve: Serve, request_of: MakeRequest) -> None:
    dispatcher = serve(m=NeverWaits())
    image = encode(np.zeros((8, 8, 3), np.uint8), PNG)
    assert not dispatcher.completes_inline([request_of("m", {"camera": image}, slots_known=True)])
    assert not dispatcher.completes_inline([request_of("unknown", slots_known=True)])


async def test_a_subclass_may_wait_on_the_way_to_a_model(request_of: MakeRequest) -> None:
    class Limited(LocalDispatcher):
        async def infer_on(self, replica: str, model_id: str, observations: Any) -> Any:
            await asyncio.sleep(0)
            return await super().infer_on(replica, model_id, observations)

    assert not Limited({"m": NeverWaits()}).completes_inline([request_of("m", slots_known=True)])
