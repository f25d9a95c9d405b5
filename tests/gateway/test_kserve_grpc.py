"""The Open Inference Protocol over gRPC: forms of tensors, what is refused, tokens, and who a client is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from tests.policies import onnx_files

from inferential import LocalDispatcher, ModelInline, Server
from inferential.config.gateways import KServeGrpcConfig
from inferential.gateway import grpc_listening
from inferential.gateway.kserve import rpc, rpc_limits
from inferential.gateway.kserve.messages import SERVICE, message_class
from inferential.gateway.kserve.rpc import KServeGrpcGateway
from inferential.gateway.kserve.rpc_limits import ARRIVING, STREAMS, Room
from inferential.gateway.receiving import MAX_BYTES
from inferential.gateway.refusals import RequestRefused
from inferential.policies.onnx import open_onnx
from inferential.proto.open_inference import MAX_TEXTS

Request = message_class("ModelInferRequest")
Parameter = message_class("InferParameter")
Tensor = message_class("InferTensor")


class Caller:
    """Calls one gateway."""

    def __init__(self, gateway: KServeGrpcGateway) -> None:
        self._channel = grpc.aio.insecure_channel(gateway.address)

    async def call(self, name: str, request: Any, **metadata: str) -> Any:
        """Returns the response, or the code and the text of the error."""
        read = message_class(name + "Response").FromString
        send = self._channel.unary_unary(f"/{SERVICE}/{name}", lambda one: one.SerializeToString(), read)
        try:
            return await send(request, metadata=[(key.replace("_", "-"), value) for key, value in metadata.items()])
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details()

    async def close(self) -> None:
        await self._channel.close()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[Server, Caller]]:
    models = {
        "arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx"))),
        "free": ModelInline(lambda observation: dict(observation)),
        "app/free": ModelInline(lambda observation: dict(observation)),
    }
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGrpcGateway(server, KServeGrpcConfig(port=0)) as gateway,
    ):
        caller = Caller(gateway)
        yield server, caller
        await caller.close()


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-1, 2]),
        ("UINT16", "uint_contents", [1, 2]),
        ("INT64", "int64_contents", [-1, 2**60]),
        ("UINT64", "uint64_contents", [1, 2**63]),
        ("FP32", "fp32_contents", [0.5, 2]),
        ("FP64", "fp64_contents", [0.1, 2]),
        ("BYTES", "bytes_contents", [b"pick", b"place"]),
    ],
)
async def test_tensors_come_as_lists_too_and_go_as_raw_bytes(
    served: tuple[Server, Caller], datatype: str, field: str, values: list[Any]
) -> None:
    contents = message_class("InferTensorContents")(**{field: values})
    asked = Request(model_name="free", inputs=[Tensor(name="x", datatype=datatype, shape=[2], contents=contents)])
    answer = await served[1].call("ModelInfer", asked)
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (datatype, [2])
    assert len(answer.raw_output_contents) == 1


def state(shape: list[int], raw: bytes | None = None, **fields: Any) -> Any:
    contents = {} if raw is None else {"raw_input_contents": [raw]}
    return Request(model_name="arm", inputs=[Tensor(name="state", datatype="FP32", shape=shape)], **contents, **fields)


def listed(contents: dict[str, list[float]], **fields: Any) -> Any:
    made = message_class("InferTensorContents")(**contents)
    tensor = Tensor(name="state", datatype="FP32", shape=[1, 3], contents=made)
    return Request(model_name="arm", inputs=[tensor], **fields)


ONES = np.ones((1, 3), "<f4").tobytes()


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (state([1, 3], ONES[:-1]), "'state': expected 12 bytes for shape [1, 3], got 11"),
        (state([-1, 3], ONES), "'state': shape: expected sizes, got [-1, 3]"),
        (state([2**40, 3], ONES), "'state': expected 13194139533312 bytes"),
        (state([1, 3]), "'state': fp32_contents: expected 3 values for shape [1, 3], got 0"),
        (
            listed({"fp64_contents": [1, 2, 3]}),
            "'state': fp64_contents: FP32 travels in fp32_contents",
        ),
        (
            listed({"fp32_contents": [1, 2, 3], "int_contents": [1]}),
            "'state': int_contents: FP32 travels in fp32_contents",
        ),
        (
            listed({"fp32_contents": [1, 2, 3]}, raw_input_contents=[ONES]),
            "'state': fp32_contents: expected none beside raw_input_contents",
        ),
        (
            Request(model_name="arm", raw_input_contents=[ONES]),
            "raw_input_contents: expected 0, one for each input, got 1",
        ),
        (Request(model_name="arm"), "input 'state' is missing"),
        (
            Request(model_name="arm", inputs=[Tensor(name="state", datatype="FP16", shape=[1, 3])]),
            "'state': FP16 travels in raw_input_contents only",
        ),
        (
            Request(model_name="arm", inputs=[Tensor(name="state", datatype="F4", shape=[1, 3])]),
            "'state': expected a datatype as FP32, got 'F4'",
        ),
        (
            state([1, 3], ONES, outputs=[message_class("InferRequestedOutput")(name="force")]),
            "unexpected output 'force': model 'arm' gives action",
        ),
        (
            state([1, 3], ONES, parameters={"priority": Parameter(string_param="high")}),
            "priority: expected a whole number",
        ),
        (state([1, 3], ONES, parameters={"sequence_id": Parameter(int64_param=7)}), "sequences are not served"),
        (
            state([1, 3], ONES, outputs=[message_class("InferRequestedOutput")(name="action")] * 2),
            "outputs: there are two named 'action'",
        ),
        (
            Request(
                model_name="arm",
                inputs=[Tensor(name=name, datatype="BYTES", shape=[MAX_TEXTS // 2 + 1]) for name in ("state", "task")],
                raw_input_contents=[bytes(4 * (MAX_TEXTS // 2 + 1))] * 2,
            ),
            f"'task': more than {MAX_TEXTS} texts in a message",
        ),
    ],
)
async def test_what_does_not_fit_is_an_invalid_argument_with_the_reason(
    served: tuple[Server, Caller], request_: Any, text: str
) -> None:
    code, details = await served[1].call("ModelInfer", request_)
    assert code == "INVALID_ARGUMENT"
    assert text in details
    stats = served[0].metrics.get_stats("observation_errors", {"error": "gateway"})
    assert stats is not None
    assert stats.count == 1


async def test_ids_with_slashes_and_versions_are_found(served: tuple[Server, Caller]) -> None:
    found = await served[1].call("ModelMetadata", message_class("ModelMetadataRequest")(name="app/free", version="1"))
    assert found.name == "app/free"
    code, text = await served[1].call("ModelInfer", state([1, 3], ONES, model_version="2"))
    assert (code, text) == ("NOT_FOUND", "model 'arm' has the version '1', asked for was '2'")


@pytest.mark.parametrize("named", [{"name": "leg"}, {"name": "arm", "version": "2"}])
async def test_a_model_that_is_not_there_is_not_ready(served: tuple[Server, Caller], named: dict[str, str]) -> None:
    found = await served[1].call("ModelReady", message_class("ModelReadyRequest")(**named))
    assert found.ready is False


async def test_a_client_is_known_by_its_metadata(served: tuple[Server, Caller]) -> None:
    server, caller = served
    answer = await caller.call("ModelInfer", state([1, 3], ONES, id="7"), x_client_id="arm-07")
    assert (answer.id, np.frombuffer(answer.raw_output_contents[0], "<f4").tolist()) == ("7", [2.0] * 3)
    assert server.connected_robots == ["arm-07"]


async def test_a_token_is_asked_for(tmp_path: Path) -> None:
    models = {"arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx")))}
    config = KServeGrpcConfig.model_validate({"port": 0, "token": "secret"})
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGrpcGateway(server, config) as gateway,
    ):
        caller = Caller(gateway)
        live = message_class("ServerLiveRequest")()
        assert (await caller.call("ServerLive", live))[0] == "UNAUTHENTICATED"
        assert (await caller.call("ServerLive", live, authorization="Bearer secret")).live
        await caller.close()


async def check(gateway: KServeGrpcGateway, service: str) -> Any:
    """What gRPC's health service says of a service; the code of the error where it says none."""
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        ask = channel.unary_unary("/grpc.health.v1.Health/Check")
        try:
            return await ask(b"\n" + bytes((len(service),)) + service.encode() if service else b"")
        except grpc.aio.AioRpcError as error:
            return error.code().name


async def test_probes_of_grpc_hear_without_a_token_whether_the_server_is_ready() -> None:
    config = KServeGrpcConfig.model_validate({"port": 0, "token": "secret"})
    dispatcher = LocalDispatcher({"free": ModelInline(lambda observation: dict(observation))})
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=dispatcher) as server,
        KServeGrpcGateway(server, config) as gateway,
    ):
        assert await check(gateway, "") == await check(gateway, SERVICE) == b"\x08\x01"
        assert await check(gateway, "other.Service") == "NOT_FOUND"
        server.is_ready = lambda model_id: False  # type: ignore[method-assign]
        assert await check(gateway, "") == b"\x08\x02"


class Slow:
    """Reads of requests that arrive when they are let."""

    def __init__(self) -> None:
        self.begun: list[asyncio.Future[bytes]] = []
        self.begins = asyncio.Event()

    async def read(self) -> bytes:
        self.begins.set()
        self.begun.append(asyncio.get_running_loop().create_future())
        return await self.begun[-1]


async def test_few_requests_are_read_at_once_and_a_slow_one_gives_way_to_others(monkeypatch: Any) -> None:
    monkeypatch.setattr(rpc_limits, "PATIENCE_S", 0.05)
    room, slow = Room(1000), Slow()

    async def ask() -> int | str:
        try:
            async with room.request(slow.read) as data:
                return len(data)
        except RequestRefused as error:
            return str(error)

    asked = [asyncio.create_task(ask()) for _ in range(ARRIVING + 1)]
    while len(slow.begun) <= ARRIVING:
        await asyncio.sleep(0.001)
        assert room.arriving <= ARRIVING
    for reading in slow.begun[1:]:
        reading.set_result(b"abc")
    first, *others = await asyncio.gather(*asked)
    assert others == [3] * ARRIVING
    assert isinstance(first, str)
    assert "did not arrive in time" in first
    assert (room.arriving, room.used) == (0, 0)


async def test_where_the_requests_that_are_answered_fill_the_room_others_stay_unread() -> None:
    room, slow = Room(0), Slow()
    with room.kept(bytes(MAX_BYTES)):

        async def ask() -> None:
            async with room.request(slow.read):
                pass

        asked = asyncio.create_task(ask())
        following = asyncio.create_task(room.found())
        await asyncio.sleep(0.01)
        assert not slow.begun
        assert not following.done()
    await slow.begins.wait()
    slow.begun[0].set_result(b"a")
    await asyncio.gather(asked, following)


async def test_of_a_stream_whose_client_leaves_all_requests_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    leave, room = asyncio.Event(), Room(1_000_000)
    monkeypatch.setattr(rpc, "Room", lambda largest: room)

    async def slow(observation: dict[str, Any]) -> Any:
        await leave.wait()
        return observation

    asked = Request(
        model_name="m", inputs=[Tensor(name="x", datatype="FP32", shape=[1])], raw_input_contents=[bytes(4)]
    )
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": slow})) as server,
        KServeGrpcGateway(server, KServeGrpcConfig(port=0)) as gateway,
        grpc.aio.insecure_channel(gateway.address) as channel,
    ):
        call = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer", Request.SerializeToString)()
        for _ in range(rpc.AT_ONCE + 8):  # more than are answered at once
            await call.write(asked)
        async with asyncio.timeout(60):
            while room.used < (rpc.AT_ONCE + 1) * asked.ByteSize():  # noqa: ASYNC110 (no event is set)
                await asyncio.sleep(0.001)
            call.cancel()
            while room.used:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        leave.set()


async def test_a_client_that_is_refused_over_and_over_does_not_fill_the_log(
    served: tuple[Server, Caller], caplog: Any
) -> None:
    caplog.set_level("INFO", "inferential.gateway")
    for _ in range(5):
        assert (await served[1].call("ModelMetadata", message_class("ModelMetadataRequest")(name="leg")))[
            0
        ] == "NOT_FOUND"
    assert len([one for one in caplog.messages if "no model 'leg'" in one]) == 1


async def test_streams_are_limited_in_number() -> None:
    room = Room(0)
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            stack.enter_context(room.stream())
        with pytest.raises(RequestRefused, match="the most there may be"):
            stack.enter_context(room.stream())
    with room.stream():
        assert room.streams == 1


async def test_a_token_is_looked_at_before_a_request_is_read(tmp_path: Path) -> None:
    config = KServeGrpcConfig.model_validate({"port": 0, "token": "secret"})
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": lambda observation: 1})) as server,
        KServeGrpcGateway(server, config) as gateway,
        grpc.aio.insecure_channel(gateway.address) as channel,
    ):
        for kind in (channel.stream_unary, channel.stream_stream):
            name = "ModelInfer" if kind is channel.stream_unary else "ModelStreamInfer"
            call = kind(f"/{SERVICE}/{name}")()  # of which no message ever comes
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_request_of_very_many_values_or_axes_is_refused(served: tuple[Server, Caller]) -> None:
    many = Request(model_name="free", inputs=[Tensor()] * 200_000)
    assert await served[1].call("ModelInfer", many) == (
        "INVALID_ARGUMENT",
        "more than 100000 fields: send numbers as raw bytes, which are one each",
    )
    axes = Request(model_name="free", inputs=[Tensor(name="x", datatype="FP32", shape=[1] * 100_000)])
    code, text = await served[1].call("ModelInfer", axes)
    assert (code, text) == ("INVALID_ARGUMENT", "InvalidObservation: 'x': shape: expected 64 sizes at most, got 100000")


async def test_a_connection_that_says_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_listening, "HANDSHAKE_MS", 200)
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"m": lambda observation: 1})) as server,
        KServeGrpcGateway(server, KServeGrpcConfig(port=0)) as gateway,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.address.rpartition(":")[2]))
        async with asyncio.timeout(60):
            with contextlib.suppress(ConnectionResetError):
                while await reader.read(1000):  # what gRPC says first
                    pass
        writer.close()


async def test_none_of_very_many_calls_at_once_is_cancelled(served: tuple[Server, Caller]) -> None:
    live = message_class("ServerLiveRequest")()
    answers = await asyncio.gather(*(served[1].call("ServerLive", live) for _ in range(3000)))
    assert all(not isinstance(answer, tuple) and answer.live for answer in answers)


async def test_what_is_too_large_once_it_is_unpacked_is_refused_without_a_traceback(caplog: Any) -> None:
    models = {"free": ModelInline(lambda observation: dict(observation))}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGrpcGateway(server, KServeGrpcConfig(port=0, max_request_bytes=1 << 20)) as gateway,
        grpc.aio.insecure_channel(gateway.address) as channel,
    ):
        ask = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await ask(bytes(8 << 20), compression=grpc.Compression.Gzip)
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
