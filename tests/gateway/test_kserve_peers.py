"""tritonclient from PyPI, unmodified, at the gateways of the Open Inference Protocol."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.peers.conftest import run_client, with_tritonclient
from tests.policies import onnx_files

from inferential import LocalDispatcher, ModelInline, Server
from inferential.config.gateways import KServeConfig, KServeGrpcConfig
from inferential.gateway.kserve import KServeGateway
from inferential.gateway.kserve.rpc import KServeGrpcGateway
from inferential.policies.onnx import open_onnx

pytestmark = pytest.mark.peer

CLIENT = """
import json, sys
import numpy as np
import tritonclient.http as triton

client = triton.InferenceServerClient(sys.argv[1], concurrency=4)
found = {
    "live": client.is_server_live(),
    "ready": client.is_server_ready(),
    "model": client.is_model_ready("arm"),
    "other": client.is_model_ready("leg"),
    "metadata": client.get_model_metadata("arm"),
    "config": client.get_model_config("arm")["max_batch_size"],
    "index": client.get_model_repository_index(),
}
state = np.arange(6, dtype=np.float32).reshape(2, 3)

def asked(binary):
    tensor = triton.InferInput("state", state.shape, "FP32")
    tensor.set_data_from_numpy(state, binary_data=binary)
    return [tensor]

def output(binary):
    return [triton.InferRequestedOutput("action", binary_data=binary)]

for name, binary in (("binary", True), ("json", False)):
    result = client.infer("arm", asked(binary), outputs=output(binary), request_id="7", priority=1, timeout=60_000_000)
    found[name] = [result.as_numpy("action").tolist(), result.get_response()["id"]]
found["all"] = client.infer("arm", asked(True)).as_numpy("action").tolist()
packed = client.infer("arm", asked(True), request_compression_algorithm="gzip", response_compression_algorithm="gzip")
found["packed"] = packed.as_numpy("action").tolist()
waiting = [client.async_infer("arm", asked(True)) for _ in range(8)]
found["async"] = [one.get_result().as_numpy("action").tolist() for one in waiting]
try:
    wrong = triton.InferInput("state", [1, 4], "FP32")
    wrong.set_data_from_numpy(np.ones((1, 4), np.float32))
    client.infer("arm", [wrong])
except triton.InferenceServerException as error:
    found["error"] = [error.status(), error.message()]
found["statistics"] = client.get_inference_statistics("arm")["model_stats"][0]["inference_stats"]["success"]["count"]
client.close()
print(json.dumps(found))
"""


async def test_tritonclient_is_served_as_by_triton(tmp_path: Path) -> None:
    models = {"arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx")))}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGateway(server, KServeConfig(port=0)) as gateway,
    ):
        found = await run_client(with_tritonclient(), CLIENT, gateway.address.removeprefix("http://"))
    doubled = [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert (found["live"], found["ready"], found["model"], found["other"]) == (True, True, True, False)
    assert found["metadata"]["inputs"] == [{"name": "state", "datatype": "FP32", "shape": [-1, 3]}]
    assert (found["config"], found["index"][0]["state"]) == (8, "READY")
    assert found["binary"] == found["json"] == [doubled, "7"]
    assert found["all"] == found["packed"] == doubled
    assert found["async"] == [doubled] * 8
    assert found["error"] == ["400", "InvalidObservation: input 'state': expected FP32 [*, 3], got FP32 [1, 4]"]
    assert found["statistics"] == 12


GRPC_CLIENT = """
import json, queue, sys
import numpy as np
import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
stats = lambda: client.get_inference_statistics("arm", as_json=True)["model_stats"][0]["inference_stats"]
found = {
    "up": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("arm")],
    "server": client.get_server_metadata().name,
    "metadata": client.get_model_metadata("arm", as_json=True)["inputs"],
    "config": client.get_model_config("arm", as_json=True)["config"],
    "index": client.get_model_repository_index(as_json=True)["models"][0]["state"],
}
state = np.arange(6, dtype=np.float32).reshape(2, 3)
tensor = triton.InferInput("state", state.shape, "FP32")
tensor.set_data_from_numpy(state)
action = triton.InferRequestedOutput("action")
result = client.infer("arm", [tensor], outputs=[action], request_id="7", priority=1, timeout=60_000_000)
found["infer"] = [result.as_numpy("action").tolist(), result.get_response().id]
answers = queue.Queue()
keep = lambda result, error: answers.put(error.message() if error else result.as_numpy("action").tolist())
waiting = [client.async_infer("arm", [tensor], keep) for _ in range(8)]
found["async"] = [answers.get(timeout=60) for _ in waiting]
client.start_stream(keep)
for model in ("arm", "leg", "arm"):
    client.async_stream_infer(model, [tensor])
found["stream"] = [answers.get(timeout=60) for _ in range(3)]
client.stop_stream()
errors = {
    "wrong": lambda: client.infer("arm", [triton.InferInput("state", [1, 4], "FP32").set_data_from_numpy(
        np.ones((1, 4), np.float32))]),
    "model": lambda: client.infer("leg", [tensor]),
    "memory": lambda: client.get_system_shared_memory_status(),
    "load": lambda: client.load_model("arm"),
}
for name, call in errors.items():
    try:
        call()
    except triton.InferenceServerException as error:
        found[name] = [error.status(), error.message()]
found["statistics"] = stats()["success"]["count"]
client.close()
print(json.dumps(found))
"""


async def test_tritonclient_over_grpc_is_served_as_by_triton(tmp_path: Path) -> None:
    models = {"arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx")))}
    async with (
        Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server,
        KServeGrpcGateway(server, KServeGrpcConfig(port=0)) as gateway,
    ):
        found = await run_client(with_tritonclient(), GRPC_CLIENT, gateway.address)
    doubled = [[0.0, 2.0, 4.0], [6.0, 8.0, 10.0]]
    assert (found["up"], found["server"], found["index"]) == ([True] * 3, "inferential", "READY")
    assert found["metadata"] == [{"name": "state", "datatype": "FP32", "shape": ["-1", "3"]}]
    assert (found["config"]["max_batch_size"], found["config"]["input"]) == (
        8,
        [{"name": "state", "data_type": "TYPE_FP32", "dims": ["3"]}],
    )
    assert found["infer"] == [doubled, "7"]
    assert found["async"] == [doubled] * 8
    assert found["stream"] == [doubled, "no model 'leg'; there is: arm", doubled]
    assert found["wrong"] == [
        "StatusCode.INVALID_ARGUMENT",
        "InvalidObservation: input 'state': expected FP32 [*, 3], got FP32 [1, 4]",
    ]
    assert found["model"] == ["StatusCode.NOT_FOUND", "no model 'leg'; there is: arm"]
    assert [found[name][0] for name in ("memory", "load")] == ["StatusCode.UNIMPLEMENTED"] * 2
    assert found["statistics"] == "11"


ARGUMENTS = """
import json, sys
import numpy as np
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

is_http = sys.argv[2] == "http"
if is_http:
    import tritonclient.http as triton
else:
    import tritonclient.grpc as triton

client = triton.InferenceServerClient(sys.argv[1])
kept, errors = [], {}

def tensor(name, array, **how):
    made = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array, **how)
    return made

def keeps(array, **how):
    wanted = [triton.InferRequestedOutput("x", **how)]
    found = client.infer("free", [tensor("x", array, **how)], outputs=wanted).as_numpy("x")
    kept.append(found.dtype == array.dtype and found.shape == array.shape and found.tolist() == array.tolist())

for name in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split():
    array = np.array([[1, 0, 1]]).astype(name)
    keeps(array)
    if is_http and name != "float16":  # which has no form in JSON
        keeps(array, binary_data=False)
keeps(np.zeros((0, 3), np.float32))

def texts(array):
    return client.infer("free", [tensor("x", np.array(array, object))]).as_numpy("x").tolist()

kept += [texts(["pick"]) == b"pick", texts([["a", "b"], ["c", "d"]]) == [[b"a", b"b"], [b"c", b"d"]]]

state = [tensor("state", np.ones((1, 3), np.float32))]

def answers(**arguments):
    kept.append(client.infer("arm", state, **arguments).as_numpy("action").tolist() == [[2.0] * 3])

answers(priority=2, timeout=60_000_000, request_id="7", model_version="1")
answers(parameters={"mine": "x", "count": 3, "is": True})
answers(headers={"x-client-id": "arm-07"})
for algorithm in ("gzip", "deflate"):
    if is_http:
        answers(request_compression_algorithm=algorithm, response_compression_algorithm=algorithm)
    else:
        answers(compression_algorithm=algorithm)
if is_http:
    answers(query_params={"of": ["a", 1]})
else:
    answers(client_timeout=60.0)

def shared(made):
    made.set_shared_memory("region", 12)
    return [made]

calls = {
    "sequence": lambda: client.infer("arm", state, sequence_id=1, sequence_start=True),
    "classes": lambda: client.infer("arm", state, outputs=[triton.InferRequestedOutput("action", class_count=2)]),
    "region": lambda: client.infer("arm", shared(triton.InferInput("state", [1, 3], "FP32"))),
    "region out": lambda: client.infer("arm", state, outputs=shared(triton.InferRequestedOutput("action"))),
    "bytes": lambda: client.infer("free", [tensor("x", np.array([b"\\xff"], object))]),
    "late": lambda: client.infer("slow", state, timeout=1000),
    "version": lambda: client.infer("arm", state, model_version="2"),
    "fails": lambda: client.infer("fails", state),
    "memory": client.get_system_shared_memory_status,
    "register": lambda: client.register_system_shared_memory("region", "/key", 12),
    "unregister": client.unregister_cuda_shared_memory,
    "load": lambda: client.load_model("arm", config="{}", files={"file:1/model.onnx": b"x"}),
    "unload": lambda: client.unload_model("arm"),
    "trace": client.get_trace_settings,
    "trace of one": lambda: client.update_trace_settings("arm", settings={"trace_level": ["TIMESTAMPS"]}),
    "logs": lambda: client.update_log_settings({"log_info": True}),
}
for name, call in calls.items():
    try:
        errors[name] = call()
    except InferenceServerException as error:
        errors[name] = [error.status(), error.message()]
ready = [client.is_model_ready("arm", "1"), client.is_model_ready("arm", "2"), client.is_model_ready("leg")]
counted = len(client.get_inference_statistics(**({} if is_http else {"as_json": True}))["model_stats"])
client.close()
print(json.dumps({"kept": kept, "errors": errors, "ready": ready, "counted": counted}))
"""
CODES = {
    "400": "INVALID_ARGUMENT",
    "404": "NOT_FOUND",
    "500": "INTERNAL",
    "501": "UNIMPLEMENTED",
    "504": "DEADLINE_EXCEEDED",
}
"""Of gRPC, by the status of HTTP."""
REFUSED = {
    "sequence": ("400", "sequences are not served"),
    "classes": ("400", "classification is not served"),
    "region": ("400", "shared memory is not served"),
    "region out": ("400", "shared memory is not served"),
    "bytes": ("400", "input 'x': expected texts in UTF-8"),
    "late": ("504", "gave no answer within 1 ms, the request's timeout"),
    "version": ("404", "has the version '1', asked for was '2'"),
    "fails": ("500", "no such cup"),
    **dict.fromkeys(("memory", "register", "unregister"), ("501", "shared memory is not served")),
    **dict.fromkeys(("load", "unload"), ("501", "models are not loaded or unloaded by clients")),
    **dict.fromkeys(("trace", "trace of one", "logs"), ("501", "traces and logs are not set by clients")),
}


def fail(observation: dict[str, Any]) -> Any:
    raise RuntimeError("no such cup")


async def never(observation: dict[str, Any]) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("way", ["http", "grpc"])
async def test_every_argument_of_tritonclient_is_served_or_refused_with_the_reason(tmp_path: Path, way: str) -> None:
    models = {
        "arm": open_onnx(str(onnx_files.doubling(tmp_path / "double.onnx"))),
        "free": ModelInline(lambda observation: dict(observation)),
        "fails": ModelInline(fail),
        "slow": ModelInline(never),
    }
    async with Server("tcp://127.0.0.1:0", dispatcher=LocalDispatcher(models)) as server:
        made = (
            KServeGateway(server, KServeConfig(port=0))
            if way == "http"
            else KServeGrpcGateway(server, KServeGrpcConfig(port=0))
        )
        async with made as gateway:
            address = gateway.address.removeprefix("http://")
            found = await run_client(with_tritonclient(), ARGUMENTS, address, way)
    assert all(found["kept"]), found["kept"]
    assert (found["ready"], found["counted"]) == ([True, False, False], 4)
    assert found["errors"].keys() == REFUSED.keys()
    for name, (status, text) in REFUSED.items():
        assert found["errors"][name][0] == (status if way == "http" else f"StatusCode.{CODES[status]}"), name
        assert text in found["errors"][name][1], name
