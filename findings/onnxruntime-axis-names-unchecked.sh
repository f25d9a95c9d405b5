#!/usr/bin/env bash
# onnxruntime 1.32.0 with onnx 1.23.2: an axis that a file gives one name in two inputs may have two sizes.
# One would guess: where both inputs are declared as [batch, joints], `session.run` refuses seven joints beside one or
# three, as it refuses a size that the file fixes.
# Seen: names of axes are not compared, not even with a warning. Of 7 and 1 the single value is repeated for all joints;
# of 7 and 3, in operations that do not meet, both are run. A fixed size is checked.
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

FLOAT = TensorProto.FLOAT


def session_of(nodes, joints, outputs):
    """A session whose two inputs have axes of the same names."""
    inputs = [helper.make_tensor_value_info(name, FLOAT, ["batch", joints]) for name in ("state", "goal")]
    graph = helper.make_graph(nodes, "policy", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


difference = [helper.make_node("Sub", ["goal", "state"], ["actions"])]
actions = [helper.make_tensor_value_info("actions", FLOAT, None)]
state, one = np.zeros((1, 7), np.float32), np.full((1, 1), 2, np.float32)
(repeated,) = session_of(difference, "joints", actions).run(None, {"state": state, "goal": one})
print("joints: 7 and 1 -> actions", repeated.tolist())

totals = [helper.make_node("ReduceSum", [name], [f"{name}_sum"], keepdims=0) for name in ("state", "goal")]
sums = [helper.make_tensor_value_info(f"{name}_sum", FLOAT, []) for name in ("state", "goal")]
three = np.ones((1, 3), np.float32)
apart = session_of(totals, "joints", sums).run(None, {"state": state, "goal": three})
print("joints: 7 and 3 -> sums", [float(value) for value in apart])

try:
    session_of(difference, 7, actions).run(None, {"state": state, "goal": one})
    refused = False
except onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument as error:
    refused = True
    print("a fixed 7, and 1 ->", str(error).splitlines()[0])
sys.exit(not (repeated.tolist() == [[2.0] * 7] and [float(value) for value in apart] == [0.0, 3.0] and refused))
PYTHON
