"""tritonclient from PyPI, unmodified, at the gateway of the Open Inference Protocol."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.peers.conftest import run_client, with_tritonclient
from tests.policies import onnx_files

from inferential import LocalDispatcher, Server
from inferential.config.gateways import KServeConfig
from inferential.gateway.kserve import KServeGateway
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
