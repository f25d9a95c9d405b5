#!/usr/bin/env bash
# onnxruntime 1.32.0 (Python): bytes in an object array for a string input become the text of their repr.
# One would guess: the model sees `pick`, as with a str, or the call is an error.
# Seen: it sees `b'pick'`, the str() of the object, without a warning; a tokenizer in the graph then reads other words.
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
    [helper.make_node("Identity", ["x"], ["y"])],
    "g",
    [helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])],
    [helper.make_tensor_value_info("y", TensorProto.STRING, ["n"])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def seen(value: object) -> str:
    """Returns what the model sees of one value."""
    return session.run(None, {"x": np.array([value], object)})[0][0]


print(f"'pick' -> {seen('pick')!r}; b'pick' -> {seen(b'pick')!r}")
sys.exit(not (seen("pick") == "pick" and seen(b"pick") == "b'pick'"))
PYTHON
