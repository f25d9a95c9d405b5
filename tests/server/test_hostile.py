"""Bad input over real sockets is answered where possible, counted, and affects no other client."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
import zmq

from inferential import AsyncConnection, InvalidObservation, register_policy
from inferential.proto import (
    FLOAT32,
    INT32,
    JPEG,
    QUEUE_ALL,
    RAW,
    UINT8,
    Client,
    ModelResponse,
    Observation,
    Status,
    Tensor,
)

WAIT_MS = 60_000
STATE = np.arange(7, dtype=np.float32)
Connect = Callable[..., AsyncConnection]


@contextmanager
def dealer(address: str, identity: bytes | None = None) -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    if identity is not None:
        socket.setsockopt(zmq.IDENTITY, identity)
    socket.setsockopt(zmq.LINGER, 1000)
    socket.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    socket.connect(address)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


def observation(client: str = "bad", version: int = 2, **fields: Any) -> Observation:
    message = Observation(
        client=Client(id=client), model_id="m", request_id=7, protocol_version=version, queue=QUEUE_ALL
    )
    for name, value in fields.items():
        setattr(message, name, value)
    return message


def tensor(**fields: Any) -> Tensor:
    given = {"key": "x", "dtype": FLOAT32, "shape": [2], "byte_length": 8, "encoding": RAW, **fields}
    return Tensor(**given)


@asynccontextmanager
async def undisturbed(model: Any) -> AsyncIterator[None]:
    """A good client gets all its answers before, meanwhile and after."""
    assert await model.infer(WAIT_MS, state=STATE) is not None
    done = asyncio.Event()

    async def work() -> int:
        answers = 0
        while not done.is_set():
            assert await model.infer(WAIT_MS, state=STATE) is not None
            answers += 1
        return answers

    working = asyncio.create_task(work())
    try:
        yield
    finally:
        done.set()
        assert await working > 0


LIES = {
    "a negative size": [tensor(shape=[-2])],
    "a shape that overflows": [tensor(shape=[2**62, 2**62])],
    "a length that is not the shape's": [tensor(shape=[3])],
    "an offset near 2**63": [tensor(byte_offset=2**63 - 1)],
    "a length near 2**64": [tensor(byte_length=2**64 - 1)],
    "offset and length that overflow together": [tensor(byte_offset=2**64 - 8, byte_length=2**64 - 8)],
    "an unknown dtype": [tensor(dtype=99)],
    "an unknown encoding": [tensor(encoding=99)],
    "too many dimensions": [tensor(shape=[1] * 100)],
    "too many tensors": [tensor(key=str(n)) for n in range(200)],
    "two tensors of one key": [tensor(), tensor()],
    "a key that is too long": [tensor(key="k" * 300)],
    "an image that is too large decoded": [tensor(dtype=UINT8, shape=[100_000, 100_000, 3], encoding=JPEG)],
    "an image of floats": [tensor(encoding=JPEG)],
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_observation_that_lies_is_refused_with_a_reason(lie: str, serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        with dealer(server.address, b"bad") as socket:
            message = observation()
            message.tensors.extend(LIES[lie])
            socket.send_multipart([b"", message.SerializeToString(), bytes(8)])
            _, envelope, payload = await asyncio.to_thread(socket.recv_multipart)
        response = ModelResponse.FromString(envelope)
        assert response.status == Status.INVALID_OBSERVATION
        assert response.request_id == 7
        assert "tensor" in response.reason
        assert payload == b""
        assert server.metrics.get_latest("observation_errors") == 1.0


@pytest.mark.parametrize("name", ["joint", "joint" * 100])
async def test_an_observation_of_very_many_tensors_is_refused_with_a_reason(
    name: str, serve: Any, connect: Connect
) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        for client in (connect(server, "many").model("m"), server.connect("inside").model("m")):
            with pytest.raises(InvalidObservation, match=r"bytes, the limits allow 139837 of tensors"):
                await client.infer(WAIT_MS, **{f"{name} {number}": STATE for number in range(5000)})
            assert await client.infer(WAIT_MS, state=STATE) is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("urgency", float("nan")),
        ("urgency", float("inf")),
        ("latency_budget_ms", float("nan")),
        ("latency_budget_ms", -1.0),
        ("model_id", ""),
        ("model_id", "m" * 300),
        ("model_id", "m\nn"),
    ],
)
async def test_a_field_out_of_range_is_refused_by_name(field: str, value: Any, serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        with dealer(server.address, b"bad") as socket:
            socket.send_multipart([b"", observation(**{field: value}).SerializeToString(), b""])
            _, envelope, _ = await asyncio.to_thread(socket.recv_multipart)
        response = ModelResponse.FromString(envelope)
        assert response.status == Status.INVALID_OBSERVATION
        assert field in response.reason


async def test_the_error_for_a_broken_image_goes_to_its_sender_only(serve: Any, connect: Connect) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        async with undisturbed(connect(server, "good").model("m")):
            with dealer(server.address, b"bad") as socket:
                message = observation()
                message.tensors.append(tensor(dtype=UINT8, shape=[8, 8, 3], byte_length=100, encoding=JPEG))
                socket.send_multipart([b"", message.SerializeToString(), bytes(100)])
                _, envelope, _ = await asyncio.to_thread(socket.recv_multipart)
        assert ModelResponse.FromString(envelope).status == Status.INVALID_OBSERVATION


async def test_a_client_of_the_1_x_line_is_never_sent_an_error(serve: Any) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        with dealer(server.address, b"old") as socket:
            bad = observation("old", version=0, request_id=0, urgency=float("nan"))
            unknown = observation("old", version=0, request_id=0, model_id="nothing")
            good = observation("old", version=0, request_id=0)
            good.metadata["prompt"] = "go"
            for message in (bad, unknown, good):
                socket.send_multipart([b"", message.SerializeToString(), b""])
            _, envelope, _ = await asyncio.to_thread(socket.recv_multipart)
            assert ModelResponse.FromString(envelope).metadata["prompt"] == "go"
            socket.setsockopt(zmq.RCVTIMEO, 200)
            with pytest.raises(zmq.Again):
                socket.recv_multipart()
        assert server.metrics.get_stats("observation_errors").count == 1
        assert server.metrics.get_stats("dispatch_errors").count == 1


async def test_a_client_of_the_1_x_line_gets_results_in_dtypes_that_it_knows(serve: Any) -> None:
    async with serve({"m": lambda obs: {"depth": np.array([1, 60_000], dtype=np.uint16)}}) as server:
        with dealer(server.address, b"old") as socket:
            socket.send_multipart([b"", observation("old", version=0, request_id=0).SerializeToString(), b""])
            _, envelope, payload = await asyncio.to_thread(socket.recv_multipart)
        (sent,) = ModelResponse.FromString(envelope).tensors
        assert sent.dtype == INT32
        np.testing.assert_array_equal(np.frombuffer(payload, dtype=np.int32), [1, 60_000])


async def test_a_client_without_a_priority_has_the_default(serve: Any) -> None:
    seen: list[int] = []

    @register_policy("note-priority")
    def note(request: Any) -> float:
        seen.append(request.priority)
        return 0.0

    async with serve({"m": lambda obs: obs}, {"clients": {"defaults": {"priority": 5}}}) as server:
        server.use_scheduler("deadline_aware", policy="note-priority")
        with dealer(server.address, b"old") as socket:
            for version in (0, 2):
                message = observation("old", version=version)
                message.metadata["prompt"] = "go"
                socket.send_multipart([b"", message.SerializeToString(), b""])
                await asyncio.to_thread(socket.recv_multipart)
    assert sorted(set(seen)) == [0, 5]


@pytest.mark.parametrize("identity", [b"thief", None])
async def test_a_client_cannot_use_the_id_of_another(identity: bytes | None, serve: Any, connect: Connect) -> None:
    async with serve({"m": lambda obs: obs}) as server:
        async with undisturbed(connect(server, "good").model("m")):
            with dealer(server.address, identity) as socket:
                socket.send_multipart([b"", observation("good").SerializeToString(), b""])
                _, envelope, _ = await asyncio.to_thread(socket.recv_multipart)
        response = ModelResponse.FromString(envelope)
        assert response.status == Status.INVALID_OBSERVATION
        assert "client.id" in response.reason


async def test_random_frames_affect_no_other_client(serve: Any, connect: Connect) -> None:
    chance = random.Random(0)
    valid = observation()
    valid.tensors.append(tensor())
    seed = valid.SerializeToString()

    def mutated() -> bytes:
        data = bytearray(seed)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data[: chance.randint(1, len(data))])

    sent = 0
    async with serve({"m": lambda obs: obs}) as server:
        async with undisturbed(connect(server, "good").model("m")):
            with dealer(server.address, b"bad") as socket:
                for _ in range(40):
                    for _ in range(25):
                        frames = [
                            chance.choice([b"", b"", b"x", mutated(), chance.randbytes(chance.randint(0, 200))])
                            for _ in range(chance.randint(1, 7))
                        ]
                        if chance.random() < 0.5:
                            frames = [b"", mutated(), chance.randbytes(8)]
                        socket.send_multipart(frames)
                        sent += 1
                    await asyncio.sleep(0)
                # What was sent before this has been dealt with when this is answered.
                last = bytes(range(8))
                socket.send_multipart([b"", seed, last])
                while True:
                    frames = await asyncio.to_thread(socket.recv_multipart)
                    if ModelResponse.FromString(frames[1]).status == Status.OK and frames[2] == last:
                        break
        errors = server.metrics.get_stats("observation_errors")
        assert errors is not None
        assert errors.count > sent / 2


async def test_a_message_of_ten_thousand_frames_is_thrown_away_in_pieces(serve: Any, connect: Connect) -> None:
    async with serve({"m": lambda obs: obs}) as server, undisturbed(connect(server, "good").model("m")):
        with dealer(server.address, b"bad") as socket:
            socket.send_multipart([b"x"] * 10_000)
            socket.send_multipart([b"", observation().SerializeToString(), b""])
            _, envelope, _ = await asyncio.to_thread(socket.recv_multipart)
            assert ModelResponse.FromString(envelope).status == Status.OK


async def test_an_error_of_the_clients_own_making_reaches_it_as_its_type(serve: Any, connect: Connect) -> None:
    async with serve({"m": lambda obs: obs}, {"observations": {"max_metadata_bytes": 16}}) as server:
        with pytest.raises(InvalidObservation, match=r"observations\.max_metadata_bytes is 16"):
            await connect(server).model("m").infer(WAIT_MS, prompt="a text that is longer than that")
