"""What every backend does the same way: read, run, answer."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from inferential.dispatch import Dispatcher, DispatchResult, LocalDispatcher
from inferential.proto import JPEG, PNG, ModelResponse
from inferential.proto.images import encode
from inferential.proto.messages import Response
from inferential.proto.structure import STRUCTURE_KEY
from inferential.replica.values import as_values
from inferential.scheduler.request import InferenceRequest, RefusalKind

Ask = Callable[..., Any]
Serve = Callable[..., LocalDispatcher]
MakeRequest = Callable[..., InferenceRequest]
Read = Callable[[DispatchResult], Response]
IMAGE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def echo(observation: dict[str, Any]) -> dict[str, Any]:
    return observation


def values_of(response: Response) -> dict[str, Any]:
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in response.values.items()}


# What a model sees


@pytest.mark.parametrize("slots_known", [False, True])
async def test_a_model_sees_the_observations_arrays_and_strings(slots_known: bool, ask: Ask) -> None:
    seen: list[dict[str, Any]] = []
    image = encode(IMAGE, PNG)
    await ask(
        lambda obs: seen.append(obs) or 0.0,
        {"state": np.arange(3.0), "camera": image, "prompt": "pick"},
        slots_known=slots_known,
    )
    (observation,) = seen
    assert observation["state"].tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_array_equal(observation["camera"], IMAGE)
    assert observation["prompt"] == "pick"


async def test_a_model_sees_views_on_the_received_frame(serve: Serve, request_of: MakeRequest) -> None:
    seen: list[dict[str, Any]] = []
    request = request_of()
    await serve(m=lambda obs: seen.append(obs) or 0.0).dispatch([request])
    assert np.shares_memory(seen[0]["state"], np.frombuffer(request.payload, np.uint8))
    assert seen[0]["state"].flags.writeable


async def test_images_are_decoded_beside_the_event_loop(
    serve: Serve, request_of: MakeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    from inferential.observation import values
    from inferential.proto.images import decode

    def noted(*args: Any) -> Any:
        threads.append(threading.current_thread().name)
        return decode(*args)

    monkeypatch.setattr(values, "decode", noted)
    requests = [request_of("m", {"camera": encode(IMAGE, PNG)}, slots_known=True) for _ in range(3)]
    results = await serve(m=lambda obs: 0.0).dispatch(requests)
    assert all(result.success for result in results)
    assert len(threads) == 3
    assert all(name.startswith("inferential-images") for name in threads)


@pytest.mark.parametrize("slots_known", [False, True])
@pytest.mark.parametrize("encoding", [JPEG, PNG])
async def test_a_broken_image_fails_alone_and_the_model_never_sees_it(
    encoding: Any, slots_known: bool, serve: Serve, request_of: MakeRequest
) -> None:
    class Model:
        seen: list[int] = []  # noqa: RUF012

        def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
            self.seen.append(len(observations))
            return [obs["camera"].sum() for obs in observations]

    def spoil(payload: bytearray) -> None:
        payload[:] = b"\xab" * len(payload)

    values = {"camera": encode(IMAGE, encoding)}
    requests = [
        request_of("m", values, slots_known=slots_known, harm=harm, client_id=name)
        for name, harm in (("a", None), ("b", spoil), ("c", None))
    ]
    results = await serve(m=Model()).dispatch(requests)
    assert [result.success for result in results] == [True, False, True]
    assert Model.seen == [2]
    refusal = results[1].refusal
    assert refusal is not None
    assert refusal.kind is RefusalKind.INVALID_OBSERVATION
    assert refusal.reason.startswith("tensor 'camera': broken")
    Model.seen.clear()


async def test_a_structure_that_does_not_fit_is_a_cause_of_its_own(ask: Ask) -> None:
    result = await ask(echo, {"state": np.zeros(1), STRUCTURE_KEY: '{"joints":["value","other"]}'})
    assert result.refusal is not None
    assert result.refusal.kind is RefusalKind.INVALID_OBSERVATION
    assert result.refusal.cause == "structure"


async def test_where_nothing_can_be_read_the_model_is_not_called(serve: Serve, request_of: MakeRequest) -> None:
    dispatcher = serve(m=lambda obs: pytest.fail("called"))
    request = request_of()
    request.envelope = b"\xff\xff"
    (result,) = await dispatcher.dispatch([request])
    assert result.refusal is not None
    assert result.refusal.kind is RefusalKind.INVALID_OBSERVATION
    assert dispatcher.endpoint_health("m") is None


def test_without_pillow_an_image_fails_its_own_request_with_the_extras_name() -> None:
    program = """
import asyncio, sys
sys.modules["PIL"] = None
import numpy as np
from inferential.dispatch import LocalDispatcher
from inferential.proto import PNG, Client, Observation, Tensor
from inferential.scheduler.request import InferenceRequest

def request(*tensors):
    envelope = Observation(client=Client(id="c"), model_id="m", tensors=tensors).SerializeToString()
    return InferenceRequest("c", "m", b"c", envelope, bytes(8), 0.0, 0.0, None, 0.0, 50.0, 1)

async def main():
    image = Tensor(key="camera", dtype=5, shape=[1, 1], byte_length=8, encoding=PNG)
    state = Tensor(key="state", dtype=2, shape=[2], byte_length=8)
    results = await LocalDispatcher({"m": lambda obs: obs}).dispatch([request(image), request(state)])
    print(results[0].error)
    print(results[1].success)

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "inferential[images]" in done.stdout.splitlines()[0]
    assert done.stdout.splitlines()[1] == "True"


# What becomes of a result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (np.arange(2, dtype=np.float32), {"actions": [0.0, 1.0]}),
        ([1, 2], {"actions": [1, 2]}),
        (3.5, {"actions": 3.5}),
        (True, {"actions": True}),
        (np.float16(2), {"actions": 2.0}),
        ([], {"actions": []}),
        ({}, {}),
        ({"a": np.ones((1, 2))}, {"a": [[1.0, 1.0]]}),
        (
            {"a": 1, "b": [1.5, 2], "c": "text", "d": (True, False)},
            {"a": 1, "b": [1.5, 2], "c": "text", "d": [True, False]},
        ),
        ({1: 2.0}, {"1": 2.0}),
        ({"a": np.zeros((0, 3))}, {"a": []}),
    ],
)
async def test_a_result_becomes_tensors_and_strings(result: Any, expected: dict[str, Any], answer: Ask) -> None:
    assert values_of(await answer(lambda obs: result)) == expected


async def test_bfloat16_actions_stay_bfloat16(answer: Ask) -> None:
    response = await answer(lambda obs: np.ones(3, ml_dtypes.bfloat16))
    assert response.values["actions"].dtype == ml_dtypes.bfloat16


async def test_what_can_become_an_array_becomes_one(answer: Ask) -> None:
    class LikeATensor:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.arange(3.0)

    assert values_of(await answer(lambda obs: {"actions": LikeATensor()})) == {"actions": [0.0, 1.0, 2.0]}


class Refuses:
    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise RuntimeError("on the GPU")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "result 'actions': expected numbers or a string, got NoneType; does the model return its result?"),
        (
            {"ok": 1.0, "actions": None},
            "result 'actions': expected numbers or a string, got NoneType; does the model return its result?",
        ),
        ({"pose": object()}, "result 'pose': expected numbers or a string, got object"),
        ({"pose": np.array([None, 1])}, "result 'pose': expected numbers"),
        ({1: 1.0, "1": 2.0}, "result: the keys 1 and '1' are both sent as '1'"),
        ({"1.0": None, 1.0: 2.0}, "result: the keys '1.0' and 1.0 are both sent as '1.0'"),
        ({True: 1.0, "True": 2.0}, "result: the keys True and 'True' are both sent as 'True'"),
        ({b"x": 1.0, "b'x'": 2.0}, "result: the keys b'x' and \"b'x'\" are both sent as \"b'x'\""),
        ({"pose": {1: 1.0, "1": 2.0}}, "result 'pose': the keys 1 and '1' are both sent as '1'"),
        ({"pose": {"x": object()}}, "result 'pose/x': expected numbers or a string, got object"),
        ({"pose": [[1, 2], [3]]}, "result 'pose': list is no array"),
        ({"pose": ["a", 1]}, "result 'pose': expected numbers"),
        ({"pose": b"bytes"}, "result 'pose': expected numbers or a string, got bytes"),
        ({"pose": 1 + 2j}, "pose: No DType mapping"),
        ({"pose": np.datetime64("now")}, "pose: No DType mapping"),
        ({"pose": 2**70}, "result 'pose': expected numbers or a string, got an int beyond 64 bits"),
        (np.array([None, 1]), "got an array of objects"),
        (np.zeros(2, dtype=[("x", "f4")]), "got an array of [('x', '<f4')]"),
        ((one for one in "ab"), "got generator; the function has a yield: it must return its result"),
        ({"pose": np.ma.masked_array([1.0, 2.0], [0, 1])}, "result 'pose': a mask cannot be sent"),
        ({"pose": {"x": np.ma.masked_array([1.0, 2.0], [0, 1])}}, "result 'pose/x': a mask cannot be sent"),
        ({"pose": Refuses()}, "result 'pose': Refuses is no array: on the GPU"),
        ({"note": "caf\udce9"}, "note: "),
    ],
    ids=lambda value: None if isinstance(value, str) else str(type(value).__name__),
)
async def test_a_result_that_cannot_be_sent_is_a_failure_of_the_model_that_names_the_key(
    result: Any, text: str, ask: Ask
) -> None:
    failed = await ask(lambda obs: result)
    assert not failed.success
    assert failed.refusal.kind is RefusalKind.MODEL_FAILED
    assert text in failed.error
    assert (failed.envelope, failed.payload, failed.values) == (b"", b"", None)


def test_a_bare_string_is_the_text_of_a_result() -> None:
    assert as_values("a red cube") == {"text": "a red cube"}


def test_values_are_arrays_and_strings() -> None:
    values = as_values({"a": [1, 2], "b": "text"})
    assert isinstance(values["a"], np.ndarray)
    assert values["b"] == "text"


async def test_a_response_tells_whose_it_is_and_where_the_time_went(
    serve: Serve, request_of: MakeRequest, read_result: Read
) -> None:
    dispatcher = serve(m=lambda obs: 1.0)
    request = request_of(client_id="arm-3", request_id=99)
    request.response_id = "set-before"
    (result,) = await dispatcher.dispatch([request])
    assert (result.request, result.client_id, result.identity) == (request, "arm-3", b"arm-3")
    assert (result.success, result.error, result.response_id) == (True, None, "set-before")
    message = ModelResponse.FromString(result.envelope)
    assert (message.client.id, message.timestamp_ns > 0) == ("arm-3", True)
    response = read_result(result)
    assert (response.message.request_id, response.message.response_id, response.model_id) == (99, "set-before", "m")
    timing = response.timing
    assert timing is not None
    assert timing.batch_size == 1
    assert 0 <= timing.queue_ms <= timing.server_ms
    assert timing.inference_ms == pytest.approx(result.latency_ms, rel=1e-5)
    assert request.dispatched_at >= request.received_at


async def test_a_response_without_a_name_is_given_one(serve: Serve, request_of: MakeRequest) -> None:
    results = await serve(m=lambda obs: 1.0).dispatch([request_of(), request_of()])
    names = [result.response_id for result in results]
    assert all(names)
    assert len(set(names)) == 2


# Batches, and several models at once


class Batching:
    """Doubles; an observation whose state begins with a negative number spoils the call for all."""

    max_batch_size = 8

    def __init__(self) -> None:
        self.calls: list[int] = []

    def infer_batch(self, observations: list[dict[str, Any]]) -> Any:
        self.calls.append(len(observations))
        if any(obs["state"][0] < 0 for obs in observations):
            raise ValueError("negative state")
        return [obs["state"] * 2 for obs in observations]


class SingleOnly:
    """Fails on more than one observation."""

    def infer_batch(self, observations: list[Any]) -> list[Any]:
        if len(observations) > 1:
            raise ValueError(f"{len(observations)} rows")
        return [obs["state"] for obs in observations]


def states(request_of: MakeRequest, *numbers: float, model_id: str = "m") -> list[InferenceRequest]:
    return [request_of(model_id, {"state": np.array([number])}, client_id=f"c{number}") for number in numbers]


async def test_a_batch_is_one_call_and_each_gets_its_own_row(
    serve: Serve, request_of: MakeRequest, read_result: Read
) -> None:
    model = Batching()
    results = await serve(m=model).dispatch(states(request_of, 1, 2, 3))
    assert model.calls == [3]
    responses = [read_result(result) for result in results]
    assert [response.values["actions"].tolist() for response in responses] == [[2.0], [4.0], [6.0]]
    assert [response.timing.batch_size for response in responses if response.timing] == [3, 3, 3]


async def test_of_a_batch_that_fails_as_a_whole_only_the_guilty_one_fails(
    serve: Serve, request_of: MakeRequest, read_result: Read, caplog: pytest.LogCaptureFixture
) -> None:
    model = Batching()
    with caplog.at_level(logging.INFO, "inferential.dispatch"):
        results = await serve(m=model).dispatch(states(request_of, 1, -2, 3))
    assert [result.success for result in results] == [True, False, True]
    assert results[1].error == "ValueError: negative state"
    assert [read_result(results[n]).values["actions"].tolist() for n in (0, 2)] == [[2.0], [6.0]]
    assert model.calls == [3, 1, 1, 1]
    (line,) = caplog.messages
    assert re.match(
        r"model m failed for client c-2: ValueError: negative state \(\S+test_base.py:\d+\)\nTraceback", line
    )


async def test_a_model_that_fails_on_batches_alone_is_logged_now_and_then(
    serve: Serve, request_of: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    dispatcher = serve(single_only=SingleOnly())
    for _ in range(3):
        results = await dispatcher.dispatch(states(request_of, 1, 2, model_id="single_only"))
        assert all(result.success for result in results)
    (line,) = caplog.messages
    text = "fails on 2 observations together, which take longer alone, but succeed: ValueError: 2 rows"
    assert line.startswith(f"model single_only {text} (")


async def test_a_model_that_fails_each_time_is_logged_once_a_second(
    serve: Serve, request_of: MakeRequest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = serve(m=Batching(), other=Batching())
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for at, model_id in ((100.0, "m"), (100.5, "m"), (100.6, "other"), (100.9, "m"), (101.0, "m"), (102.5, "m")):
        now = at
        await dispatcher.dispatch(states(request_of, -1, model_id=model_id))
    failed = "failed for client c-1: ValueError: negative state"
    # Without the place in the model, and the traceback of the first.
    said = [re.sub(r" \(/.*?\)", "", message).partition("\n")[0] for message in caplog.messages]
    assert said == [
        f"model m {failed}",
        f"model other {failed}",
        f"model m {failed} (and 2 more since the last line)",
        f"model m {failed}",
    ]


async def test_items_that_are_exceptions_fail_alone_without_a_second_call(
    serve: Serve, request_of: MakeRequest
) -> None:
    calls = 0

    class Model:
        def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
            nonlocal calls
            calls += 1
            return [obs["state"] if obs["state"][0] > 0 else KeyError("camera") for obs in observations]

    results = await serve(m=Model()).dispatch(states(request_of, 1, -2, 3))
    assert [result.success for result in results] == [True, False, True]
    assert results[1].error == "KeyError: 'camera'"
    assert results[1].refusal.cause == "KeyError"
    assert calls == 1


@pytest.mark.parametrize("given", [[], [1.0], [1.0, 2.0, 3.0], np.zeros((3, 2))])
async def test_a_wrong_number_of_results_is_a_failure_that_tells_both_numbers(
    given: Any, serve: Serve, request_of: MakeRequest
) -> None:
    class Model:
        def infer_batch(self, observations: list[Any]) -> Any:
            return given if len(observations) == 2 else [1.0, 2.0]

    results = await serve(m=Model()).dispatch(states(request_of, 1, 2))
    assert [result.error for result in results] == [
        "ValueError: the model gave 2 results for 1 observations",
    ] * 2


@pytest.mark.parametrize("kind", [tuple, np.array, iter])
async def test_results_of_a_batch_may_come_as_any_iterable(
    kind: Any, serve: Serve, request_of: MakeRequest, read_result: Read
) -> None:
    class Model:
        def infer_batch(self, observations: list[Any]) -> Any:
            return kind([obs["state"] for obs in observations])

    results = await serve(m=Model()).dispatch(states(request_of, 1, 2))
    assert [read_result(result).values["actions"].tolist() for result in results] == [[1.0], [2.0]]


async def test_requests_of_several_models_keep_their_order(
    serve: Serve, request_of: MakeRequest, read_result: Read
) -> None:
    dispatcher = serve(a=Batching(), b=lambda obs: obs["state"] + 100)
    requests = [request_of("ab"[n % 2], {"state": np.array([float(n)])}, client_id=f"c{n}") for n in range(6)]
    requests.append(request_of("nothing"))
    results = await dispatcher.dispatch(requests)
    assert [result.request for result in results] == requests
    got = [read_result(result).values["actions"].tolist()[0] for result in results[:6]]
    assert got == [0.0, 101.0, 4.0, 103.0, 8.0, 105.0]
    assert results[6].refusal.kind is RefusalKind.UNKNOWN_MODEL


async def test_models_of_one_dispatch_run_side_by_side(serve: Serve, request_of: MakeRequest, finish: Any) -> None:
    meeting = threading.Barrier(2, timeout=60)
    dispatcher = serve(a=lambda obs: meeting.wait(), b=lambda obs: meeting.wait())
    results = await finish(dispatcher.dispatch([request_of("a"), request_of("b")]))
    assert [result.error for result in results] == [None, None]


async def test_no_requests_give_no_results(serve: Serve) -> None:
    assert await serve(m=echo).dispatch([]) == []


# Health, and backends of others


async def test_health_follows_every_answer_and_failure(serve: Serve, request_of: MakeRequest) -> None:
    dispatcher = serve(m=Batching())
    assert dispatcher.endpoint_health("m") is None
    await dispatcher.dispatch(states(request_of, 1))
    health = dispatcher.endpoint_health("m")
    assert health is not None
    assert (health.total_requests, health.error_rate, health.last_error) == (1, 0.0, None)
    await dispatcher.dispatch(states(request_of, -1))
    assert (health.total_requests, health.last_error) == (2, "ValueError: negative state")
    assert 0 < health.error_rate < 1


class Own(Dispatcher):
    """A backend that implements only what it must."""

    async def infer(self, model_id: str, observations: Sequence[dict[str, Any]]) -> Sequence[Any]:
        await asyncio.sleep(0)
        return [obs["state"].sum() for obs in observations]


async def test_a_backend_implements_one_method(request_of: MakeRequest, read_result: Read) -> None:
    dispatcher = Own()
    await dispatcher.start()
    (result,) = await dispatcher.dispatch([request_of()])
    assert read_result(result).values["actions"] == 3.0
    assert dispatcher.model_ids() is None
    assert dispatcher.max_batch_size("m") == 1
    await dispatcher.close()
    await dispatcher.close()


async def test_a_dispatch_that_is_cancelled_is_cancelled(serve: Serve, request_of: MakeRequest) -> None:
    entered = asyncio.Event()

    async def forever(obs: dict[str, Any]) -> None:
        entered.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(serve(m=forever).dispatch([request_of()]))
    await entered.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
