"""tritonclient from PyPI, unmodified, at the gateways of the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.peers.conftest import run_client, with_tritonclient
from tests.policies import onnx_files

from inferential import LocalDispatcher, Server
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
    result = client.infer("arm", asked(binary), outputs=output(binary), request_id="7", priority=1, timeout=2_000_000)
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
result = client.infer("arm", [tensor], outputs=[action], request_id="7", priority=1, timeout=2_000_000)
found["infer"] = [result.as_numpy("action").tolist(), result.get_response().id]
answers = queue.Queue()
keep = lambda result, error: answers.put(error.message() if error else result.as_numpy("action").tolist())
waiting = [client.async_infer("arm", [tensor], keep) for _ in range(8)]
found["async"] = [answers.get(timeout=30) for _ in waiting]
client.start_stream(keep)
for model in ("arm", "leg", "arm"):
    client.async_stream_infer(model, [tensor])
found["stream"] = [answers.get(timeout=30) for _ in range(3)]
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
