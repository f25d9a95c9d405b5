"""Servers of the Open Inference Protocol as models, which are slow, die, and answer what they should not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from tests.dispatch.conftest import make_request

from inferential.dispatch import LocalDispatcher
from inferential.dispatch.kserve import KServeModel
from inferential.dispatch.outcomes import RemoteModelError
from inferential.errors import InvalidObservation
from inferential.proto.open_inference import HEADER_LENGTH

STATE = {"state": np.ones(3, np.float32)}
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Odd:
    """A server of one model, whose calls are answered by `answer`; `size` is that of its input."""

    def __init__(self) -> None:
        self.answer: Answer = rows
        self.size = 3
        self.calls = 0
        self.target = ""
        self.config: Any = {"max_batch_size": 4}
        self.more: list[dict[str, Any]] = []
        self.declares_inputs = True
        self.asked: list[dict[str, Any]] = []

    async def metadata(self, request: web.Request) -> web.Response:
        inputs = [{"name": "state", "datatype": "FP32", "shape": [-1, self.size]}]
        declared = [*inputs, *self.more] if self.declares_inputs else []
        return web.json_response({"name": "arm", "inputs": declared, "outputs": inputs})

    async def described(self, request: web.Request) -> web.Response:
        return web.json_response(self.config)

    async def infer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        body = await request.read()
        self.asked.append(json.loads(body[: int(request.headers[HEADER_LENGTH])]))
        return await self.answer(request)


def outputs(*tensors: dict[str, Any]) -> web.Response:
    return web.json_response({"outputs": list(tensors)})


async def rows(request: web.Request) -> web.Response:
    """As many rows as were sent, in JSON."""
    body = await request.read()
    asked = json.loads(body[: int(request.headers[HEADER_LENGTH])])
    count, size = asked["inputs"][0]["shape"]
    return outputs({"name": "state", "datatype": "FP32", "shape": [count, size], "data": [1.0] * count * size})


@pytest.fixture
async def odd() -> AsyncIterator[tuple[Odd, KServeModel]]:
    server, app = Odd(), web.Application()
    app.add_routes(
        [
            web.get("/v2/models/arm", server.metadata),
            web.get("/v2/models/arm/config", server.described),
            web.post("/v2/models/arm/infer", server.infer),
        ]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.target = f"kserve://127.0.0.1:{runner.addresses[0][1]}/arm"
    model = KServeModel(server.target, timeout_s=10)
    try:
        yield server, model
    finally:
        await model.aclose()
        await runner.cleanup()


async def test_a_slow_server_is_asked_once_for_all_robots_of_a_call(odd: tuple[Odd, KServeModel]) -> None:
    server, _ = odd
    gone = asyncio.Event()

    async def never(request: web.Request) -> web.Response:
        await gone.wait()
        return await rows(request)

    server.answer = never
    dispatcher = LocalDispatcher({"m": KServeModel(server.target, timeout_s=0.5)})
    results = await dispatcher.dispatch([make_request(values=STATE) for _ in range(4)])
    gone.set()
    await dispatcher.close()
    assert server.calls == 1
    reasons = {"" if one.refusal is None else one.refusal.reason for one in results}
    assert [reason.partition("http")[0] for reason in reasons] == ["TimeoutError: "]


async def test_a_model_that_declares_no_inputs_gets_observations_as_they_are(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd
    server.declares_inputs = False
    one = {"state": np.ones((1, 3), np.float32), "task": "pick", "steps": np.arange(2, dtype=">i2")}
    found = await model.infer_batch([one, {"state": np.ones((1, 2))}, {"state": {"arm": 1.0}}])
    assert [np.shape(answer["actions"]) for answer in found[:2]] == [(1, 3), (1, 2)]
    assert isinstance(found[2], InvalidObservation)
    (sent,) = (asked["inputs"] for asked in server.asked if len(asked["inputs"]) == 3)
    assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in sent] == [
        ("state", "FP32", [1, 3]),
        ("task", "BYTES", []),
        ("steps", "INT16", [2]),
    ]


async def test_a_server_that_is_away_is_named_with_the_reason() -> None:
    model = KServeModel("kserve://127.0.0.1:1/arm")
    with pytest.raises(ConnectionError, match=r":1/v2/models/arm cannot be reached: Connection refused$"):
        await model.infer(STATE)
    await model.aclose()


async def test_a_server_that_dies_during_a_call_fails_that_one(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd

    async def die(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"{")
        assert request.transport is not None
        request.transport.close()
        return response

    server.answer = die
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await model.infer(STATE)
    # The fault of no observation: none is asked again alone, which would take as long for each.
    assert [type(one) for one in await model.infer_batch([STATE] * 2)] == [ConnectionError] * 2
    server.answer = rows
    assert (await model.infer(STATE))["actions"].tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("status", "body", "text"),
    [
        (500, '{"error": "out of memory"}', "^out of memory$"),
        (500, "<html>", "^HTTP 500$"),
        (503, '{"detail": "busy"}', "^HTTP 503$"),
        (200, "<html>", "gave an answer that cannot be read: expected JSON"),
        (200, '{"outputs": [{"name": "state", "datatype": "FP33", "shape": [1]}]}', "cannot be read: 'state'"),
        (200, '{"outputs": []}', "gave an answer without outputs"),
    ],
)
async def test_an_error_says_what_the_server_said(
    odd: tuple[Odd, KServeModel], status: int, body: str, text: str
) -> None:
    server, model = odd

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=body)

    server.answer = answer
    with pytest.raises(RemoteModelError, match=text):
        await model.infer(STATE)


async def test_outputs_of_another_number_of_rows_fail_the_call(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd

    async def one(request: web.Request) -> web.Response:
        return outputs({"name": "state", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]})

    server.answer = one
    with pytest.raises(ValueError, match="'actions': expected 2 rows, one for each observation, got \\(1, 3\\)"):
        await model.infer_batch([STATE] * 2)


async def test_a_body_in_chunks_is_read(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd

    async def chunked(request: web.Request) -> web.StreamResponse:
        whole = await rows(request)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        assert isinstance(whole.body, bytes)
        for at in range(0, len(whole.body), 7):
            await response.write(whole.body[at : at + 7])
        await response.write_eof()
        return response

    server.answer = chunked
    assert (await model.infer(STATE))["actions"].tolist() == [1.0] * 3


async def test_a_model_that_was_replaced_is_described_anew_after_an_error(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd
    await model.infer(STATE)

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response({"error": "unexpected shape"}, status=400)

    server.answer, server.size = refuse, 2
    with pytest.raises(RemoteModelError, match="unexpected shape"):
        await model.infer(STATE)
    server.answer = rows
    with pytest.raises(InvalidObservation, match=r"expected float32 \[2\]"):
        await model.infer(STATE)
    assert (await model.infer({"state": np.ones(2)}))["actions"].tolist() == [1.0] * 2


async def test_a_configuration_that_cannot_be_read_says_so(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd
    server.config = {"max_batch_size": "many"}
    with pytest.raises(RemoteModelError, match="its metadata cannot be read"):
        await model.infer(STATE)


async def test_an_input_that_is_optional_may_be_left_out(odd: tuple[Odd, KServeModel]) -> None:
    server, model = odd
    server.more = [{"name": "gain", "datatype": "FP32", "shape": [-1, 1]}]
    server.config = {"max_batch_size": 4, "input": [{"name": "state"}, {"name": "gain", "optional": True}]}
    answers = await model.infer_batch([STATE, {**STATE, "gain": 2.0}, STATE])
    assert [one["actions"].tolist() for one in answers] == [[1.0] * 3] * 3
    shapes = [{one["name"]: one["shape"] for one in asked["inputs"]} for asked in server.asked]
    assert sorted(shapes, key=len) == [{"state": [2, 3]}, {"state": [1, 3], "gain": [1, 1]}]
    assert (await model.metadata())["inputs"][1]["optional"] is True
