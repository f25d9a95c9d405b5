"""The Open Inference Protocol over HTTP: what its endpoints say, batches, priorities, and what is refused."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from onnx import TensorProto
from tests.policies import onnx_files

from inferential import InvalidObservation, LocalDispatcher, ModelInline, Server
from inferential.config import InferentialConfig
from inferential.config.gateways import KServeConfig
from inferential.dispatch.kserve import KServeModel
from inferential.dispatch.outcomes import RemoteModelError
from inferential.gateway.kserve import KServeGateway
from inferential.gateway.kserve.models import ServedModel
from inferential.policies.onnx import open_onnx
from inferential.proto.open_inference import HEADER_LENGTH, read_infer, write_infer

DECLARED = {
    "inputs": {"state": {"dtype": "float32", "shape": [2]}, "task": {"dtype": "string", "shape": []}},
    "outputs": {"actions": {"dtype": "float32", "shape": [2]}},
}


LENIENT = {"inputs": {"state": {"dtype": "float32", "shape": [2]}, "task": {"dtype": "string", "optional": True}}}


def declared(observation: dict[str, Any]) -> Any:
    if observation["task"] == "fail":
        raise RuntimeError("no such cup")
    return observation["state"] * 2


def free(observation: dict[str, Any]) -> Any:
    return dict(observation)


class Served:
    """A gateway and a session of HTTP."""

    def __init__(
        self, server: Server, dispatcher: LocalDispatcher, gateway: KServeGateway, session: aiohttp.ClientSession
    ) -> None:
        self.server, self.dispatcher, self.gateway, self.session = server, dispatcher, gateway, session

    async def get(self, path: str) -> tuple[int, Any]:
        async with self.session.get(self.gateway.address + path) as response:
            return response.status, json.loads(await response.read())

    async def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
        async with self.session.post(self.gateway.address + path, data=body, headers=headers) as response:
            answer = await response.read()
            length = response.headers.get(HEADER_LENGTH)
            if response.status == 200 and length is not None:
                return response.status, read_infer(bytearray(answer), int(length), "outputs")
            return response.status, json.loads(answer)

    async def infer(self, model: str, tensors: dict[str, Any], **fields: Any) -> tuple[int, Any]:
        body, length = write_infer(fields, "inputs", tensors, {})
        headers = {} if length is None else {HEADER_LENGTH: str(length)}
        return await self.post(f"/v2/models/{model}/infer", body, **headers)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    config = InferentialConfig.model_validate(
        {
            "transport": {"bind": "tcp://127.0.0.1:0"},
            "observations": {"max_payload_bytes": 1_000_000},
            "models": {"known": {"declared": DECLARED, "lenient": LENIENT}},
        }
    )
    models = {
        "arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx"))),
        "declared": ModelInline(declared),
        "free": ModelInline(free),
        "lenient": ModelInline(free),
    }
    dispatcher = LocalDispatcher(models)
    async with (
        Server(config=config, dispatcher=dispatcher) as server,
        KServeGateway(server, KServeConfig(port=0)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        yield Served(server, dispatcher, gateway, session)


async def test_it_says_what_there_is(served: Served) -> None:
    assert (await served.get("/v2/health/live"))[0] == 200
    assert (await served.get("/v2/health/ready"))[0] == 200
    assert (await served.get("/v2"))[1]["name"] == "inferential"
    assert (await served.get("/v2/models/arm"))[1] == {
        "name": "arm",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "state", "datatype": "FP32", "shape": [-1, 3]}],
        "outputs": [{"name": "action", "datatype": "FP32", "shape": [-1, 3]}],
    }
    config = (await served.get("/v2/models/arm/versions/1/config"))[1]
    assert (config["max_batch_size"], config["input"]) == (
        8,
        [{"name": "state", "data_type": "TYPE_FP32", "dims": [3]}],
    )
    assert (await served.get("/v2/models/declared"))[1]["inputs"] == [
        {"name": "state", "datatype": "FP32", "shape": [2]},
        {"name": "task", "datatype": "BYTES", "shape": [1]},  # tools of Triton send none without axes
    ]
    assert (await served.get("/v2/models/declared/config"))[1]["input"][1]["dims"] == [1]
    index = (await served.post("/v2/repository/index", b"{}"))[1]
    names = ("arm", "declared", "free", "lenient")
    assert [(one["name"], one["state"]) for one in index] == [(name, "READY") for name in names]


@pytest.mark.parametrize(
    "path", ["/v2/models/leg", "/v2/models/leg/infer", "/v2/models/arm/versions/2", "/v1/models", "/v2/models/arm/x"]
)
async def test_what_there_is_not_is_404_with_the_reason(served: Served, path: str) -> None:
    status, answer = await served.post(path, b"{}") if path.endswith("infer") else await served.get(path)
    assert status == 404
    assert answer["error"]


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff", b"{"])
async def test_an_index_is_asked_for_in_json(served: Served, body: bytes) -> None:
    status, answer = await served.post("/v2/repository/index", body)
    assert (status, answer["error"].partition(":")[0]) == (400, "expected JSON")


@pytest.mark.parametrize(("path", "most"), [("/v2/repository/index", 2**20), ("/v2/models/free/infer", 10_000)])
async def test_json_above_its_limit_is_refused_before_all_of_it_is_held(
    served: Served, path: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inferential.gateway.kserve.http.MAX_JSON_BYTES", 10_000)
    status, answer = await served.post(path, b" " * (most + 1))
    assert (status, answer["error"]) == (413, f"a body of more than {most} bytes (as JSON)")


class Shy:
    """A model that does not say what it takes, as one whose server is away."""

    def __init__(self) -> None:
        self.hangs = False

    async def metadata(self) -> dict[str, Any]:
        if self.hangs:
            await asyncio.Event().wait()
        raise RemoteModelError("the server is away")

    def infer(self, observation: dict[str, Any]) -> Any:
        return observation


async def test_a_model_that_does_not_say_what_it_takes_keeps_no_other_back(caplog: Any) -> None:
    shy = Shy()
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"free": free, "shy": shy})) as server,
        KServeGateway(server, KServeConfig(port=0, timeout_ms=50.0)) as gateway,
        aiohttp.ClientSession() as session,
    ):
        asked = Served(server, LocalDispatcher({}), gateway, session)
        for why in ("RemoteModelError: the server is away", "it gave no answer within 0.05 s"):
            index = (await asked.post("/v2/repository/index", b"{}"))[1]
            assert [(one["name"], one["version"], one["state"]) for one in index] == [
                ("free", "1", "READY"),
                ("shy", "1", "READY"),
            ]
            assert [one["name"] for one in (await asked.get("/v2/models/stats"))[1]["model_stats"]] == ["free", "shy"]
            text = f"model 'shy' does not say what it takes: {why}"
            assert await asked.get("/v2/models/shy") == (503, {"error": text})
            assert await asked.infer("shy", {"state": np.ones(2)}) == (503, {"error": text})
            shy.hangs = True
    assert "Traceback" not in caplog.text


async def test_a_gateway_for_a_model_that_is_not_served_says_so() -> None:
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher({"free": free})) as server,
        KServeGateway(server, KServeConfig(port=0, model="leg")) as gateway,
        aiohttp.ClientSession() as session,
    ):
        asked = Served(server, LocalDispatcher({}), gateway, session)
        assert await asked.post("/v2/repository/index", b"{}") == (200, [])
        assert await asked.get("/v2/health/ready") == (503, {"error": "not ready: leg"})
        for name in ("leg", "free"):
            assert await asked.get(f"/v2/models/{name}") == (404, {"error": f"no model {name!r}; there is: none"})


async def test_rows_of_a_request_are_observations_and_come_back_stacked(served: Served) -> None:
    state = np.arange(9, dtype=np.float32).reshape(3, 3)
    status, message = await served.infer("arm", {"state": state}, id="7", parameters={"binary_data_output": True})
    assert (status, message.fields) == (200, {"model_name": "arm", "model_version": "1", "id": "7"})
    np.testing.assert_array_equal(message.tensors["action"], state * 2)
    assert message.tensors["action"].dtype == np.float32
    stats = (await served.get("/v2/models/arm/stats"))[1]["model_stats"][0]
    assert (stats["inference_count"], stats["inference_stats"]["success"]["count"]) == (3, 1)
    assert stats["inference_stats"]["compute_infer"]["ns"] > 0


@pytest.mark.parametrize("shape", [(), (1,)])
async def test_an_input_without_axes_may_come_with_the_one_it_is_described_with(
    served: Served, shape: tuple[int, ...]
) -> None:
    task = np.full(shape, "pick", dtype=object)
    status, answer = await served.infer("declared", {"state": np.ones(2, np.float32), "task": task})
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 2])


async def test_json_is_answered_in_json_and_gzip_is_read(served: Served) -> None:
    asked = {"inputs": [{"name": "state", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2, 3]]}]}
    status, answer = await served.post(
        "/v2/models/arm/infer", gzip.compress(json.dumps(asked).encode()), **{"Content-Encoding": "gzip"}
    )
    assert status == 200
    assert answer["outputs"] == [{"name": "action", "datatype": "FP32", "shape": [1, 3], "data": [2.0, 4.0, 6.0]}]


async def test_only_the_outputs_asked_for_come_each_in_its_form(served: Served) -> None:
    state = np.ones((1, 3), np.float32)
    asked = [{"name": "action", "parameters": {"binary_data": False}}]
    status, answer = await served.infer("arm", {"state": state}, outputs=asked)
    assert (status, answer["outputs"][0]["data"]) == (200, [2.0, 2.0, 2.0])
    status, answer = await served.infer("arm", {"state": state}, outputs=[{"name": "force"}])
    assert (status, answer["error"]) == (
        400,
        "InvalidObservation: unexpected output 'force': model 'arm' gives action",
    )


async def test_texts_and_arrays_of_models_that_declare_nothing_pass_as_they_are(served: Served) -> None:
    status, message = await served.infer(
        "free",
        {"task": np.array(["pick"], object), "image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3)},
        parameters={"binary_data_output": True},
    )
    assert status == 200
    assert message.tensors["task"].tolist() == "pick"
    assert message.tensors["image"].shape == (1, 2, 3)


@pytest.mark.parametrize(
    ("model", "tensors", "text"),
    [
        ("arm", {}, "input 'state' is missing: expected float32 [3], got none"),
        ("arm", {"state": np.ones((1, 4), np.float32)}, "input 'state': expected FP32 [*, 3], got FP32 [1, 4]"),
        ("arm", {"state": np.ones((1, 3))}, "input 'state': expected FP32 [*, 3], got FP64 [1, 3]"),
        ("arm", {"state": np.ones(3, np.float32)}, "input 'state': expected FP32 [*, 3], got FP32 [3]"),
        ("arm", {"state": np.ones((9, 3), np.float32)}, "expected 1 to 8 rows, got 9"),
        (
            "arm",
            {"state": np.ones((1, 3), np.float32), "x": np.ones(1)},
            "unexpected input 'x': model 'arm' takes state",
        ),
        (
            "declared",
            {"state": np.ones(2, np.float32), "task": np.ones(1)},
            "input 'task': expected BYTES [], got FP64",
        ),
    ],
)
async def test_what_does_not_fit_is_400_with_the_reason(
    served: Served, model: str, tensors: dict[str, Any], text: str
) -> None:
    status, answer = await served.infer(model, tensors)
    assert status == 400
    assert text in answer["error"]


@pytest.mark.parametrize(
    ("datatype", "data", "text"),
    [
        ("INT32", [1.5], "data: expected INT32, got numbers with fractions"),
        ("INT8", [300], "data: a value out of the range of INT8"),
        ("UINT8", [-1], "data: a value out of the range of UINT8"),
        ("BOOL", [2], "data: expected BOOL, got whole numbers"),
        ("BOOL", ["false"], "data: expected BOOL, got texts"),
        ("FP32", [None], "data: expected FP32, got other values"),
        ("FP32", [True], "data: expected FP32, got true or false"),
        ("FP32", [["1"]], "data: expected FP32, got texts"),
        ("FP32", [1e39], "data: a value out of the range of FP32"),
        ("INT64", [2**63, -1], "data: a value out of the range of INT64"),
        ("FP32", [float("nan")], "data: NaN and infinite numbers have no form in JSON: send them as binary data"),
        ("FP32", [[1, 2], [3]], "data: expected FP32, got lists of unequal lengths, or too deep ones"),
        ("BYTES", [1], "data: expected BYTES, got other values"),
        ("FP16", [1], "FP16 travels as binary data only"),
    ],
)
async def test_numbers_in_json_never_change(served: Served, datatype: str, data: list[Any], text: str) -> None:
    asked = {"inputs": [{"name": "x", "datatype": datatype, "shape": [1], "data": data}]}
    status, answer = await served.post("/v2/models/free/infer", json.dumps(asked).encode())
    assert (status, answer["error"]) == (400, f"'x': {text}")


async def test_what_json_has_no_form_for_is_an_error_and_travels_as_bytes(served: Served) -> None:
    state = {"x": np.array([np.nan, 1], np.float32)}
    status, answer = await served.infer("free", state)
    assert (status, answer["error"]) == (
        500,
        "output 'x': NaN and infinite numbers have no form in JSON: ask for it as binary data",
    )
    status, message = await served.infer("free", state, parameters={"binary_data_output": True})
    np.testing.assert_array_equal(message.tensors["x"], state["x"])


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v2/systemsharedmemory/status", "shared memory is not served"),
        ("/v2/cudasharedmemory/region/frames/register", "shared memory is not served"),
        ("/v2/repository/models/arm/load", "models are not loaded or unloaded by clients"),
        ("/v2/trace/setting", "traces and logs are not set by clients"),
        ("/v2/models/arm/trace/setting", "traces and logs are not set by clients"),
    ],
)
async def test_extensions_that_are_not_served_say_so(served: Served, path: str, text: str) -> None:
    status, answer = await served.post(path, b"{}")
    assert status == 501
    assert answer["error"].startswith(text)


@pytest.mark.parametrize(
    ("tensor", "fields", "text"),
    [
        ({"parameters": {"shared_memory_region": "frames"}}, {}, "'x': shared memory is not served"),
        (
            {},
            {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "f"}}]},
            "'y': shared memory is not served",
        ),
        ({}, {"outputs": [{"name": "x", "parameters": {"classification": 2}}]}, "'x': classification is not served"),
        ({}, {"parameters": {"sequence_id": 7}}, "sequences are not served"),
        ({}, {"parameters": {"sequence_start": True}}, "sequence_start: sequences are not served"),
    ],
)
async def test_a_request_for_them_is_refused_with_the_reason(
    served: Served, tensor: dict[str, Any], fields: dict[str, Any], text: str
) -> None:
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1], **tensor}], **fields}
    status, answer = await served.post("/v2/models/free/infer", json.dumps(asked).encode())
    assert status == 400
    assert text in answer["error"]


X = {"name": "x"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"parameters": {"timeout": 10**400}}, "timeout: expected a whole number from 0 to 2**64 - 1, got 1000"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output: expected true or false, got 'yes'"),
        ({"outputs": [{**X, "parameters": {"binary_data": 1}}]}, "binary_data: expected true or false, got 1"),
        ({"outputs": [X, X]}, "outputs: there are two named 'x'"),
        ({"id": 7}, "id: expected a string, got int"),
    ],
)
async def test_what_a_request_says_in_another_form_is_400_with_the_reason(
    served: Served, fields: dict[str, Any], text: str
) -> None:
    asked = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}], **fields}
    status, answer = await served.post("/v2/models/free/infer", json.dumps(asked).encode())
    assert status == 400
    assert text in answer["error"]


async def test_a_models_failure_is_500_and_counted(served: Served) -> None:
    tensors = {"state": np.ones(2, np.float32), "task": np.array("fail", object)}
    status, answer = await served.infer("declared", tensors)
    assert (status, answer["error"]) == (500, "ModelFailed: RuntimeError: no such cup")
    stats = (await served.get("/v2/models/declared/stats"))[1]["model_stats"][0]
    assert stats["inference_stats"]["fail"]["count"] == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({HEADER_LENGTH: "-1"}, b"{}", 400),
        ({HEADER_LENGTH: "9999"}, b"{}", 400),
        ({HEADER_LENGTH: "9" * 5000}, b"{}", 400),
        ({}, b"\xff", 400),
        ({"Content-Encoding": "gzip"}, b"not gzip", 400),
        ({"Content-Encoding": "br"}, b"{}", 415),
        ({"Content-Encoding": "gzip"}, gzip.compress(bytes(20_000_000)), 413),
    ],
    ids=["negative", "beyond", "far beyond", "no json", "no gzip", "brotli", "bomb"],
)
async def test_what_cannot_be_read_is_refused(
    served: Served, headers: dict[str, str], body: bytes, status: int
) -> None:
    found, answer = await served.post("/v2/models/arm/infer", body, **headers)
    assert found == status, answer
    assert answer["error"]


async def test_an_input_that_is_declared_optional_may_be_missing(served: Served) -> None:
    state = {"state": np.ones(2, np.float32)}
    assert (await served.infer("lenient", state))[0] == 200
    _, config = await served.get("/v2/models/lenient/config")
    assert [one.get("optional") for one in config["input"]] == [None, True]
    status, answer = await served.infer("lenient", {"task": np.array(["pick"], object)})
    assert (status, answer["error"]) == (
        400,
        "InvalidObservation: input 'state' is missing: expected float32 [2], got task",
    )


def test_a_request_without_any_of_the_optional_inputs_is_refused() -> None:
    goal = {"name": "goal", "dtype": "float32", "shape": [2], "optional": True}
    model = ServedModel.of("arm", {"inputs": [goal], "max_batch_size": 8})
    with pytest.raises(InvalidObservation, match="expected one of the inputs goal, got none"):
        model.rows({})


async def test_texts_keep_the_form_of_their_tensor(served: Served) -> None:
    texts = np.array([["pick", "place"], ["open", "close"]], object)
    seen: list[Any] = []
    served.dispatcher.register_model("free", ModelInline(lambda observation: seen.append(observation["task"]) or 0.0))
    assert (await served.infer("free", {"task": texts}))[0] == 200
    assert seen == [texts.tolist()]


async def test_texts_that_are_no_utf_8_are_400_with_the_input(served: Served) -> None:
    status, answer = await served.infer("free", {"task": np.array(["\udcff"], object)})
    assert (status, answer["error"]) == (
        400,
        "InvalidObservation: input 'task': expected texts in UTF-8; other bytes are sent as UINT8",
    )


async def test_texts_of_several_rows_that_are_no_utf_8_are_400_too(served: Served, tmp_path: Path) -> None:
    texts = {"x": (TensorProto.STRING, ["n"])}
    path = onnx_files.write(tmp_path / "text.onnx", [("Identity", ["x"], ["y"])], texts, {"y": texts["x"]})
    served.dispatcher.register_model("text", ModelInline(open_onnx(str(path))))
    assert (await served.infer("text", {"x": np.array(["a", "b"], object)}))[0] == 200
    status, answer = await served.infer("text", {"x": np.array(["a", "\udcff"], object)})
    assert (status, answer["error"]) == (
        400,
        "InvalidObservation: input 'x': expected texts in UTF-8; other bytes are sent as UINT8",
    )


async def test_outputs_without_axes_keep_their_datatype(served: Served) -> None:
    served.dispatcher.register_model("free", ModelInline(lambda _: {"open": np.float32(1), "steps": np.int32(7)}))
    status, answer = await served.infer("free", {"x": np.ones(1)})
    assert status == 200
    assert {one["name"]: one["datatype"] for one in answer["outputs"]} == {"open": "FP32", "steps": "INT32"}


async def test_the_time_out_that_is_over_is_named(served: Served) -> None:
    state = {"state": np.ones((1, 3), np.float32)}
    status, answer = await served.infer("arm", state, parameters={"timeout": 1})
    assert (status, answer["error"]) == (
        504,
        "TimeoutError: model 'arm' gave no answer within 0.001 ms, the request's timeout",
    )


async def test_an_inference_that_is_not_posted_is_405(served: Served) -> None:
    assert (await served.get("/v2/models/arm/infer"))[0] == 405


async def test_a_method_that_the_protocol_has_not_is_405_in_its_form(served: Served) -> None:
    async with served.session.put(f"{served.gateway.address}/v2/models/arm/infer") as response:
        assert response.status == 405
        assert await response.json() == {"error": "/v2/models/arm/infer is asked by POST, not by PUT"}


async def test_priority_and_timeout_are_the_requests(served: Served) -> None:
    seen: list[tuple[int, float]] = []
    served.server.on_request(lambda request: seen.append((request.priority, request.latency_budget_ms)))
    state = {"state": np.ones((1, 3), np.float32)}
    assert (await served.infer("arm", state, parameters={"priority": 3, "timeout": 400_000}))[0] == 200
    assert (await served.infer("arm", state))[0] == 200
    assert seen == [(2, 400.0), (1, 50.0)]
    status, answer = await served.infer("arm", state, parameters={"priority": "high"})
    assert (status, answer["error"]) == (
        400,
        "InvalidObservation: parameters: priority: expected a whole number from 0 to 2**64 - 1, got 'high'",
    )


async def test_a_token_is_asked_for(tmp_path: Path) -> None:
    models = {"arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx")))}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGateway(server, KServeConfig.model_validate({"port": 0, "token": "secret"})) as gateway,
        aiohttp.ClientSession() as session,
    ):
        for token, status in (("wrong", 401), ("secret", 200)):
            url, headers = f"{gateway.address}/v2/models/arm", {"Authorization": f"Bearer {token}"}
            async with session.get(url, headers=headers) as response:
                assert response.status == status


# Behind our scheduler: kserve:// as a model, asked at our own gateway


async def test_a_server_of_the_protocol_is_a_model(served: Served) -> None:
    target = served.gateway.address.replace("http://", "kserve://")
    arm, plain, leg = (KServeModel(f"{target}/{name}") for name in ("arm", "declared", "leg"))
    try:
        rows: list[dict[str, Any]] = [{"state": np.full(3, n, np.float64)} for n in range(10)]
        rows[4] = {"state": np.ones(2)}
        outcomes = await arm.infer_batch(rows)
        assert isinstance(outcomes[4], InvalidObservation)
        assert [one["actions"].tolist() for one in (outcomes[0], outcomes[9])] == [[0.0] * 3, [18.0] * 3]
        assert arm.max_batch_size == 8
        assert (await arm.metadata())["inputs"] == [{"name": "state", "dtype": "float32", "shape": [3]}]
        assert (await plain.infer({"state": [1, 2], "task": "pick"}))["actions"].tolist() == [2, 4]
        with pytest.raises(RemoteModelError, match="no such cup"):
            await plain.infer({"state": [1, 2], "task": "fail"})
        with pytest.raises(RemoteModelError, match="no model 'leg'"):
            await leg.infer({})
    finally:
        await asyncio.gather(arm.aclose(), plain.aclose(), leg.aclose())


async def test_a_server_that_is_away_is_a_connection_error(unused_tcp_port: int) -> None:
    model = KServeModel(f"kserve://127.0.0.1:{unused_tcp_port}/arm")
    with pytest.raises(ConnectionError, match="cannot be reached"):
        await model.infer({"state": np.ones(3)})
    await model.aclose()


@pytest.mark.parametrize("target", ["kserve://", "kserve://host:1", "http://host/arm", "kserve://host:x/arm"])
def test_a_target_that_is_no_address_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="expected kserve://HOST:PORT/MODEL"):
        KServeModel(target)
