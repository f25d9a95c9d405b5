#!/usr/bin/env bash
# onnxruntime 1.32.0 with numpy 2.4.6: an action that was read from a bound output changes when the model runs again.
# One would guess: `OrtValue.numpy()` returns an array of its own, as `session.run` and `copy_outputs_to_cpu()` do.
# Seen: on the CPU it is a view on the binding's buffer, which the next `run_with_iobinding` writes over. A server that
# keeps a robot's chunk while it computes the next one sends the first robot the second one's actions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
env/bin/python - <<'PY'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

graph = helper.make_graph(
    [helper.make_node("Add", ["state", "state"], ["actions"])],
    "double",
    [helper.make_tensor_value_info("state", TensorProto.FLOAT, [3])],
    [helper.make_tensor_value_info("actions", TensorProto.FLOAT, [3])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
binding = session.io_binding()
binding.bind_output("actions")


def act(state):
    binding.bind_cpu_input("state", np.full(3, state, np.float32))
    session.run_with_iobinding(binding)
    return binding.get_outputs()[0].numpy(), binding.copy_outputs_to_cpu()[0]


viewed, copied = act(1.0)
before = viewed.tolist()
act(5.0)
print("read at once:      ", before)
print("after another run: ", viewed.tolist())
print("copy_outputs_to_cpu", copied.tolist())
assert before == [2.0] * 3 and viewed.tolist() == [10.0] * 3 and copied.tolist() == [2.0] * 3
PY
