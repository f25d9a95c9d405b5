"""What a client sends that is no request, and clients that leave: each is counted or ended once, others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
import numpy as np
import pytest
import zmq.asyncio
from tests.gateway.conftest import Open, serving
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError
from websockets.frames import CloseCode

from inferential import InferenceRequest, Server
from inferential.config.gateways import KServeConfig, KServeGrpcConfig
from inferential.gateway.kserve.http import KServeGateway
from inferential.gateway.kserve.messages import SERVICE, message_class
from inferential.gateway.kserve.rpc import KServeGrpcGateway
from inferential.proto.msgpack_numpy import pack

SMALL = {"observations": {"max_payload_bytes": 5000}}  # gateways take twice as much
TOO_LARGE = bytes(20_000)


def errors_of(server: Server) -> int:
    """How many messages the gateway has counted that it could not read."""
    stats = server.metrics.get_stats("observation_errors", {"error": "gateway"})
    return 0 if stats is None else stats.count


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.01)


async def counted(server: Server) -> int:
    """The same, once there are any."""
    await until(lambda: errors_of(server) > 0)
    return errors_of(server)


async def send_too_much(websocket: ClientConnection) -> None:
    await websocket.send(TOO_LARGE)


async def send_noise(websocket: ClientConnection) -> None:
    websocket.transport.write(b"\xff" * 8)


async def send_no_text(websocket: ClientConnection) -> None:
    await websocket.send(b"\xff\xfe", text=True)


@pytest.mark.parametrize(
    ("send", "code", "why"),
    [
        (send_too_much, CloseCode.MESSAGE_TOO_BIG, "too large"),
        (send_noise, CloseCode.PROTOCOL_ERROR, "no websocket's"),
        (send_no_text, CloseCode.INVALID_DATA, "not UTF-8"),
    ],
)
async def test_what_a_websocket_refuses_is_said_to_the_robot_and_counted_and_logged_once(
    openpi: Open, send: Any, code: CloseCode, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inferential")
    async with openpi(sections=SMALL) as (server, gateway), connect(gateway.address) as good:
        await good.recv()
        async with connect(gateway.address) as bad:
            await bad.recv()
            await send(bad)
            with pytest.raises(ConnectionClosedError) as caught:
                await bad.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == code
        assert await counted(server) == 1
        await good.send(pack({"observation/state": np.arange(3.0)}))
        assert isinstance(await good.recv(), bytes)
        assert errors_of(server) == 1
    assert sum(why in record.getMessage() for record in caplog.records) == 1


async def test_a_robot_that_leaves_between_requests_or_in_one_is_no_error(openpi: Open) -> None:
    async with openpi(sections=SMALL) as (server, gateway):
        for sent in (b"", b"\x82\x85\0\0\0\0ab"):  # the second: a frame of five bytes, and two of them
            async with connect(gateway.address) as leaving:
                await leaving.recv()
                leaving.transport.write(sent)
                leaving.transport.abort()
        async with connect(gateway.address) as good:
            await good.recv()
            await good.send(pack({"observation/state": np.arange(3.0)}))
            assert isinstance(await good.recv(), bytes)
        assert not errors_of(server)


async def test_a_message_of_a_gr00t_robot_above_the_limit_is_counted_and_logged_once(
    gr00t: Open, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "inferential")
    async with gr00t(sections=SMALL) as (server, gateway):
        context = zmq.asyncio.Context()
        with context.socket(zmq.REQ) as robot:
            robot.connect(gateway.address)
            await robot.send(TOO_LARGE)
            assert await counted(server) == 1
        context.destroy(linger=0)
    assert sum("connection ended" in record.getMessage() for record in caplog.records) == 1


class Gate:
    """A model that ends each call when it may, and notes what it has seen."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.entered = asyncio.Event()
        self.leave = asyncio.Event()

    async def infer(self, observation: dict[str, Any]) -> Any:
        self.seen.append(float(observation["state"][0]))
        self.entered.set()
        await self.leave.wait()
        return {"actions": observation["state"]}


class OverHttp:
    """A client of KServe's protocol over HTTP, which may leave."""

    def __init__(self, address: str) -> None:
        self._host, self._port = address.removeprefix("http://").split(":")

    async def ask(self, value: float) -> int:
        """Returns the status."""
        reader, writer = await asyncio.open_connection(self._host, int(self._port))
        try:
            state = {"name": "state", "shape": [1], "datatype": "FP32", "data": [value]}
            body = json.dumps({"inputs": [state]}).encode()
            head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\nX-Client-Id: c{value}\r\n"
            writer.write(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            return int((await reader.readline()).split()[1])
        finally:
            writer.close()


class OverGrpc:
    """The same over gRPC."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)

    async def ask(self, value: float) -> int:
        request = message_class("ModelInferRequest")(model_name="m", raw_input_contents=[np.float32(value).tobytes()])
        request.inputs.add(name="state", datatype="FP32", shape=[1])
        infer = self._channel.unary_unary(
            f"/{SERVICE}/ModelInfer", message_class("ModelInferRequest").SerializeToString
        )
        await infer(request, metadata=[("x-client-id", f"c{value}")])
        return 200


@contextlib.asynccontextmanager
async def kserve(kind: str, model: Any) -> AsyncIterator[tuple[Server, Any]]:
    if kind == "http":
        async with serving(KServeGateway, KServeConfig(model="m", port=0), model, {}) as (server, gateway):
            yield server, OverHttp(gateway.address)
    else:
        async with serving(KServeGrpcGateway, KServeGrpcConfig(model="m", port=0), model, {}) as (server, gateway):
            yield server, OverGrpc(gateway.address)


@pytest.mark.parametrize("kind", ["http", "grpc"])
async def test_a_request_of_a_kserve_client_that_leaves_frees_its_place_and_never_runs(kind: str) -> None:
    model = Gate()
    ended: list[InferenceRequest] = []
    async with kserve(kind, model) as (server, client):
        server.on_request(ended.append)
        first = asyncio.create_task(client.ask(1.0))
        await model.entered.wait()
        leaving = asyncio.create_task(client.ask(2.0))
        await until(lambda: server.status().waiting == 1)
        leaving.cancel()
        await until(lambda: server.status().waiting == 0)
        model.leave.set()
        assert await first == 200
        assert await client.ask(3.0) == 200
        assert model.seen == [1.0, 3.0]
        assert sorted(one.state.value for one in ended) == ["answered", "answered", "refused"]
