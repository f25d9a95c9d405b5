#!/usr/bin/env bash
# onnxruntime 1.32.0 with numpy 2.4.6: a float array in the other byte order is misread.
# One would guess: `session.run` takes the dtype into account, or refuses what is not native.
# Seen: `>f4` passes the type check as "tensor(float)" and its bytes are read as little-endian,
# so 1.0 becomes 4.6e-41, with no error and no warning.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
venv/bin/python - <<'PYTHON'
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

graph = helper.make_graph(
    [helper.make_node("Identity", ["state"], ["same"])],
    "identity",
    [helper.make_tensor_value_info("state", TensorProto.FLOAT, [3])],
    [helper.make_tensor_value_info("same", TensorProto.FLOAT, [3])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

sent = np.array([1.0, 2.0, 3.0], dtype=">f4")
got = session.run(None, {"state": sent})[0]
print("sent", sent.tolist(), "as", sent.dtype.str, "- the model got", got.tolist())
native = session.run(None, {"state": sent.astype(np.float32)})[0]
print("converted first:", native.tolist())
swapped = sent.view("<f4")
sys.exit(not (np.array_equal(got, swapped) and native.tolist() == [1.0, 2.0, 3.0]))
PYTHON
