"""Connections for threads and asyncio against a fake server: which call gets which response, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from inferential import (
    AsyncConnection,
    Connection,
    InferenceError,
    InvalidObservation,
    Jpeg,
    ModelFailed,
    Png,
    RequestExpired,
    RequestRejected,
    RequestSuperseded,
    Result,
    UnknownModel,
)
from inferential.proto import JPEG, PNG, QUEUE_ALL, QUEUE_LATEST, RAW

pytestmark = pytest.mark.usefixtures("patient")
WAIT_MS = 60_000
Connect = Callable[..., Any]


def n(value: int) -> np.ndarray[Any, Any]:
    return np.array(value)


async def got(model: Any) -> int:
    result = await model.get_result(WAIT_MS)
    assert isinstance(result, Result)
    return int(result["actions"])


async def asked(model: Any, peer: Any, number: int) -> Any:
    """An observation that has reached the server."""
    await model.observe(n=n(number))
    return await peer.next()


# Which answer is whose


async def test_an_observation_is_answered(connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect("robot", client_type="arm").model("policy", latency_budget_ms=20.0, priority=3)
    request_id = await model.observe(
        urgency=0.5,
        steps_remaining=4,
        state=np.arange(3, dtype=np.float32),
        prompt="pick",
        pose=np.array(1.5),
    )
    seen = await peer.next()
    message = seen.message
    assert (seen.identity, message.client.id, message.client.type) == (b"robot", "robot", "arm")
    assert (message.model_id, message.request_id, message.protocol_version) == ("policy", request_id, 2)
    assert (message.urgency, message.steps_remaining, message.priority) == (0.5, 4, 3)
    assert (message.latency_budget_ms, message.queue) == (20.0, QUEUE_LATEST)
    assert message.timestamp_ns > 0
    assert seen.values["state"].tolist() == [0.0, 1.0, 2.0]
    assert (seen.values["prompt"], seen.values["pose"].shape) == ("pick", ())
    peer.send(seen, result_for(seen, actions=np.ones((2, 3), np.float32), note="go"))
    result = await model.get_result(WAIT_MS)
    np.testing.assert_array_equal(result["actions"], np.ones((2, 3)))
    assert (result["note"], result["response_id"], result["model_id"]) == ("go", f"r{request_id}", "policy")
    assert result["inference_latency_ms"] == 2.0
    assert result.request_id == request_id
    assert result.age_ms >= 0
    assert result.timing.batch_size == 3


async def test_a_results_arrays_can_be_written_to(connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect().model("m")
    await model.observe()
    seen = await peer.next()
    peer.send(seen, result_for(seen, actions=np.zeros(100_000)))
    (await model.get_result(WAIT_MS))["actions"][:] = 1


async def test_answers_out_of_order_reach_the_observation_that_asked(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    model = connect().model("m", queue="all")
    ids = [await model.observe(n=n(number)) for number in range(5)]
    seen = [await peer.next() for _ in range(5)]
    assert seen[0].message.queue == QUEUE_ALL
    for number in (3, 0, 4, 1, 2):
        peer.send(seen[number], result_for(seen[number]))
    results = [await model.get_result(WAIT_MS) for _ in range(5)]
    assert {result.request_id: int(result["actions"]) for result in results} == dict(zip(ids, range(5), strict=True))


async def test_each_handle_gets_its_own_answers(connect: Connect, peer: Any, result_for: Any) -> None:
    connection = connect()
    handles = [connection.model("a"), connection.model("a"), connection.model("b")]
    for number, handle in enumerate(handles):
        await handle.observe(n=n(number))
    seen = [await peer.next() for _ in handles]
    for one in reversed(seen):
        peer.send(one, result_for(one))
    assert [await got(handle) for handle in handles] == [0, 1, 2]
    for handle in handles:
        assert await handle.get_result(0) is None


async def test_the_last_of_many_observations_in_a_row_is_sent_without_another_call(connect: Connect, peer: Any) -> None:
    connection = connect()
    handles = [connection.model(f"m{number}") for number in range(8)]
    for tick in range(20):
        for handle in handles:
            await handle.observe(n=n(tick))
        seen = [await peer.next() for _ in handles]
        assert {one.message.model_id for one in seen} == {handle.model_id for handle in handles}


async def test_many_handles_can_be_waited_for_at_once(connect: Connect, peer: Any, result_for: Any) -> None:
    connection = connect()
    handles = [connection.model(f"m{number}") for number in range(6)]
    waiting = [asyncio.create_task(got(handle)) for handle in handles]
    for number, handle in enumerate(handles):
        await handle.observe(n=n(number))
    for one in [await peer.next() for _ in handles][::-1]:
        peer.send(one, result_for(one))
    assert await asyncio.gather(*waiting) == list(range(6))


async def test_latest_gives_the_newest_result_and_counts_the_outdated(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    connection = connect()
    model, fence = connection.model("m"), connection.model("fence")
    seen = [await asked(model, peer, number) for number in range(3)]
    await fence.observe(n=n(9))
    for one in (seen[0], seen[2], seen[1], await peer.next()):
        peer.send(one, result_for(one))
    assert await got(fence) == 9  # so the others have come
    assert await got(model) == 2
    assert await model.get_result(0) is None
    assert (connection.stats.results, connection.stats.outdated) == (4, 2)


async def test_all_gives_every_result(connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect().model("m", queue="all")
    for number in range(3):
        await model.observe(n=n(number))
    for _ in range(3):
        seen = await peer.next()
        peer.send(seen, result_for(seen))
    assert [await got(model) for _ in range(3)] == [0, 1, 2]


async def test_answers_to_nothing_that_is_open_are_counted_and_harm_nothing(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    connection = connect()
    model = connection.model("m", queue="all")
    await model.observe(n=n(1))
    seen = await peer.next()
    first = result_for(seen)
    peer.send(seen, first)
    peer.send(seen, first)  # twice
    peer.send_raw(seen, b"")
    peer.send_raw(seen, b"", b"envelope")
    peer.send_raw(seen, b"", b"\xff\xff\xff", b"")
    peer.send_raw(seen, *[b"x"] * 100)
    seen.message.request_id += 1000
    peer.send(seen, result_for(seen))
    assert await got(model) == 1
    await model.observe(n=n(2))
    seen = await peer.next()
    peer.send(seen, result_for(seen))
    assert await got(model) == 2
    assert connection.stats.unmatched == 6


async def test_a_server_of_the_1_x_line_is_understood(connect: Connect, peer: Any, old_result_for: Any) -> None:
    connection = connect()
    model, other = connection.model("m", queue="all"), connection.model("other")
    ids = [await model.observe(n=n(number)) for number in range(3)]
    await other.observe(n=n(9))
    for _ in range(4):
        seen = await peer.next()
        peer.send(seen, old_result_for(seen))
    results = [await model.get_result(WAIT_MS) for _ in range(3)]
    assert [(int(result["actions"]), result.request_id) for result in results] == list(zip(range(3), ids, strict=True))
    assert results[0].timing is None
    assert results[0]["response_id"] == "old"
    assert await got(other) == 9
    answering = asyncio.create_task(model.infer(WAIT_MS, n=n(5)))
    seen = await peer.next()
    peer.send(seen, old_result_for(seen))
    assert (await answering)["actions"] == 5


# Waiting


@pytest.mark.parametrize("timeout_ms", [20, 0, -5])
async def test_no_answer_in_time_is_none(timeout_ms: float, connect: Connect, peer: Any) -> None:
    model = connect().model("m")
    assert await model.get_result(timeout_ms) is None
    await model.observe()
    assert await model.get_result(timeout_ms) is None


async def test_with_a_timeout_of_0_what_has_come_is_taken(connect: Connect, peer: Any, result_for: Any) -> None:
    connection = connect()
    model, fence = connection.model("m"), connection.model("fence")
    await model.observe(n=n(1))
    await fence.observe(n=n(2))
    for _ in range(2):
        seen = await peer.next()
        peer.send(seen, result_for(seen))
    await got(fence)
    assert (await model.get_result(0))["actions"] == 1


@pytest.mark.parametrize("timeout_ms", [float("inf"), 1e15])
async def test_a_timeout_may_be_without_end(timeout_ms: float, connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect().model("m")
    waiting = asyncio.create_task(model.get_result(timeout_ms))
    also = asyncio.create_task(model.get_result(timeout_ms))
    await asyncio.sleep(0)
    for number in range(2):
        await model.observe(n=n(number))
        seen = await peer.next()
        peer.send(seen, result_for(seen))
        done, _ = await asyncio.wait([waiting, also], timeout=60, return_when="FIRST_COMPLETED")
        (first,) = done
        assert first.result()["actions"] == number
        waiting, also = ({waiting, also} - done).pop(), asyncio.create_task(asyncio.sleep(3600))
    also.cancel()


# Errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("REJECTED", RequestRejected),
        ("EXPIRED", RequestExpired),
        ("UNKNOWN_MODEL", UnknownModel),
        ("INVALID_OBSERVATION", InvalidObservation),
        ("MODEL_FAILED", ModelFailed),
    ],
)
async def test_each_refusal_is_raised_as_its_own_type(
    status: str, kind: type[InferenceError], connect: Connect, peer: Any, refusal_for: Any
) -> None:
    model = connect().model("m")
    request_id = await model.observe()
    seen = await peer.next()
    peer.send(seen, refusal_for(seen, status, "the reason"))
    with pytest.raises(kind, match="the reason") as raised:
        await model.get_result(WAIT_MS)
    error = raised.value
    assert (type(error), error.request_id, error.model_id, error.reason) == (kind, request_id, "m", "the reason")
    answering = asyncio.create_task(model.infer(WAIT_MS))
    seen = await peer.next()
    peer.send(seen, refusal_for(seen, status))
    with pytest.raises(kind):
        await answering


async def test_get_result_skips_what_was_superseded(
    connect: Connect, peer: Any, result_for: Any, refusal_for: Any
) -> None:
    connection = connect()
    model = connection.model("m")
    first, second = await asked(model, peer, 0), await asked(model, peer, 1)
    peer.send(first, refusal_for(first, "SUPERSEDED"))
    peer.send(second, result_for(second))
    assert await got(model) == 1
    assert (connection.stats.superseded, connection.stats.refused) == (1, 0)


async def test_a_failure_and_a_later_result_are_both_had(
    connect: Connect, peer: Any, result_for: Any, refusal_for: Any
) -> None:
    model = connect().model("m", queue="all")
    for number in range(2):
        await model.observe(n=n(number))
    first, second = await peer.next(), await peer.next()
    peer.send(first, refusal_for(first, "MODEL_FAILED"))
    peer.send(second, result_for(second))
    with pytest.raises(ModelFailed):
        await model.get_result(WAIT_MS)
    assert await got(model) == 1


# infer


async def test_infer_gives_the_very_answer_to_its_observation(connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect().model("m")
    await model.observe(n=n(1))
    before = await peer.next()
    answering = asyncio.create_task(model.infer(WAIT_MS, n=n(2)))
    asked = await peer.next()
    await model.observe(n=n(3))
    after = await peer.next()
    for seen in (after, before, asked):
        peer.send(seen, result_for(seen))
    result = await answering
    assert (int(result["actions"]), result.request_id) == (2, asked.request_id)
    assert await got(model) == 3
    assert await model.get_result(0) is None


async def test_several_may_infer_at_once_and_each_gets_its_own(connect: Connect, peer: Any, result_for: Any) -> None:
    model = connect().model("m", queue="all")
    asking = [asyncio.create_task(model.infer(WAIT_MS, n=n(number))) for number in range(8)]
    seen = [await peer.next() for _ in asking]
    for one in reversed(seen):
        peer.send(one, result_for(one))
    assert [int((await task)["actions"]) for task in asking] == list(range(8))


async def test_infer_raises_when_it_was_superseded(connect: Connect, peer: Any, refusal_for: Any) -> None:
    model = connect().model("m")
    answering = asyncio.create_task(model.infer(WAIT_MS))
    seen = await peer.next()
    peer.send(seen, refusal_for(seen, "SUPERSEDED", "a newer one came"))
    with pytest.raises(RequestSuperseded, match="a newer one came"):
        await answering


async def test_infer_that_is_not_answered_in_time_is_none_and_leaves_nothing_behind(
    connect: Connect, peer: Any, result_for: Any
) -> None:
    connection = connect()
    model = connection.model("m")
    await asked(connection.model("first"), peer, 0)  # so the connection is made
    assert await model.infer(20, n=n(1)) is None
    late = await peer.next()
    peer.send(late, result_for(late))
    answering = asyncio.create_task(model.infer(WAIT_MS, n=n(2)))
    seen = await peer.next()
    peer.send(seen, result_for(seen))
    assert (await answering)["actions"] == 2
    assert await model.get_result(0) is None
    assert connection.stats.unmatched == 1


# What cannot be said


@pytest.mark.parametrize("value", [1, 0.5, True, None, b"x", [1.0], (1, 2), {"a": 1}, np.float32(1), object()])
async def test_a_value_that_is_no_array_and_no_string_is_a_type_error_that_names_the_key(
    value: Any, connect: Connect, peer: Any
) -> None:
    model = connect().model("m")
    for more in ({}, {"observation": {"gripper": 0.5}}, {"captured_at": time.monotonic()}):
        with pytest.raises(TypeError, match=r"^joints: expected np\.ndarray .* or str .*observation={...}"):
            await model.observe(ok=np.zeros(1), joints=value, **more)
        with pytest.raises(TypeError, match=r"^joints"):
            await model.infer(0, joints=value, **more)


@pytest.mark.parametrize("value", [object(), {1, 2}, [object()], {"a": 1j}, {"a": {"b": object()}}])
async def test_a_value_that_cannot_be_sent_is_a_type_error_that_names_the_key(
    value: Any, connect: Connect, peer: Any
) -> None:
    model = connect().model("m")
    with pytest.raises(TypeError, match=r"^joints.*: expected an array, a number, .* got"):
        await model.observe(ok=np.zeros(1), observation={"joints": value})
    with pytest.raises(TypeError, match=r"^joints"):
        await model.infer(0, observation={"joints": value})


async def test_a_dtype_that_the_wire_does_not_have_is_named_by_its_key(connect: Connect) -> None:
    with pytest.raises(ValueError, match=r"^joints: No DType mapping for numpy dtype complex128"):
        await connect().model("m").observe(joints=np.ones(2, complex))


async def test_a_number_that_makes_no_sense_is_named(connect: Connect) -> None:
    model = connect().model("m")
    for inputs in ({"steps_remaining": -1}, {"priority": -1}, {"steps_remaining": 1.5}, {"urgency": "high"}):
        (name,) = inputs
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected .*, got {inputs[name]!r}$"):
            await model.observe(**inputs)


@pytest.mark.parametrize(
    "inputs",
    [{"latency_budget_ms": 0}, {"priority": -1}, {"queue": "some"}, {"model_id": ""}, {"encode": {"a": "gif"}}],
)
async def test_a_handle_that_makes_no_sense_is_refused_by_the_arguments_name(
    inputs: dict[str, Any], connect: Connect
) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(inputs))}"):
        connect().model(**{"model_id": "m", **inputs})


# Images


async def test_images_leave_compressed_where_a_rule_or_a_wrapper_says_so(connect: Connect, peer: Any) -> None:
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    model = connect().model("m", encode={"camera/*": "jpeg", "depth": "png"})
    await model.observe(
        **{
            "camera/left": image,
            "depth": image[..., 0],
            "wrist": Png(image),
            "top": Jpeg(image, 50),
            "state": np.zeros(3),
        }
    )
    seen = await peer.next()
    assert {tensor.key: tensor.encoding for tensor in seen.message.tensors} == {
        "camera/left": JPEG,
        "depth": PNG,
        "wrist": PNG,
        "top": JPEG,
        "state": RAW,
    }
    np.testing.assert_array_equal(seen.values["wrist"], image)
    assert seen.values["camera/left"].shape == (8, 8, 3)


async def test_an_array_that_is_no_image_is_named_by_its_key(connect: Connect) -> None:
    model = connect().model("m", encode={"camera": "jpeg"})
    with pytest.raises(ValueError, match=r"^camera: JPEG cannot hold float32"):
        await model.observe(camera=np.zeros((8, 8, 3), np.float32))


# Names and ends


async def test_a_connection_without_an_id_gets_a_unique_one(connect: Connect, peer: Any) -> None:
    first, second = connect(""), connect("")
    assert first.client_id != second.client_id
    await first.model("m").observe()
    assert (await peer.next()).message.client.id == first.client_id


async def test_a_number_may_be_an_id(connect: Connect, peer: Any) -> None:
    connection = connect(7)
    await connection.model("m").observe()
    assert (await peer.next()).identity == b"7"
    assert connection.client_id == "7"


async def test_after_close_everything_is_a_connection_error(connect: Connect) -> None:
    connection = connect("robot")
    model = connection.model("m")
    connection.close()
    connection.close()
    for use in (model.observe, model.get_result, model.infer):
        with pytest.raises(ConnectionError, match="the connection of client 'robot' is closed"):
            await use()
    with pytest.raises(ConnectionError):
        connection.model("m")


async def test_closing_wakes_all_that_wait(connect: Connect, peer: Any) -> None:
    connection = connect()
    model = connection.model("m")
    waiting = [asyncio.create_task(model.get_result(WAIT_MS)) for _ in range(3)]
    waiting.append(asyncio.create_task(model.infer(WAIT_MS)))
    await peer.next()  # so the last of them has begun
    await asyncio.to_thread(connection.close)
    for task in waiting:
        with pytest.raises(ConnectionError):
            await task


def test_a_sync_connection_is_a_context_manager(peer: Any) -> None:
    with Connection(peer.address) as connection:
        model = connection.model("m")
        model.observe()
    with pytest.raises(ConnectionError):
        model.observe()


async def test_an_asyncio_connection_is_an_async_context_manager(peer: Any) -> None:
    async with AsyncConnection(peer.address) as connection:
        model = connection.model("m")
        await model.observe()
    with pytest.raises(ConnectionError):
        await model.observe()


@pytest.mark.parametrize("in_loop", [True, False])
async def test_an_asyncio_connection_connects_before_anything_is_asked(peer: Any, in_loop: bool) -> None:
    peer.stop()  # else the handshake may be over before the loop has a turn
    connection = AsyncConnection(peer.address) if in_loop else await asyncio.to_thread(AsyncConnection, peer.address)
    if not in_loop:
        await connection.__aenter__()
    peer.start()
    async with asyncio.timeout(60):
        while connection.last_error is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    connection.close()


def test_an_asyncio_connection_belongs_to_one_event_loop(peer: Any) -> None:
    connection = AsyncConnection(peer.address, "robot")
    model = connection.model("m")
    asyncio.run(model.observe())
    with pytest.raises(RuntimeError, match="client 'robot' belongs to another event loop"):
        asyncio.run(model.observe())
    connection.close()


async def test_a_task_that_is_cancelled_while_it_waits_leaves_the_connection_usable(peer: Any, result_for: Any) -> None:
    async with AsyncConnection(peer.address) as connection:
        model = connection.model("m", queue="all")
        waiting = asyncio.create_task(model.infer(WAIT_MS, n=n(1)))
        late = await peer.next()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert connection.waiting == 0
        peer.send(late, result_for(late))
        answering = asyncio.create_task(model.infer(WAIT_MS, n=n(2)))
        seen = await peer.next()
        peer.send(seen, result_for(seen))
        assert (await answering)["actions"] == 2
        assert connection.stats.unmatched == 1
