"""Small ONNX files for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

Shapes = Mapping[str, tuple[int, Sequence[Any]]]


def write(path: Path, nodes: Sequence[tuple[Any, ...]], inputs: Shapes, outputs: Shapes, **metadata: str) -> Path:
    """Writes a graph: nodes as (operator, inputs, outputs, attributes), tensors as (element type, shape)."""
    graph = helper.make_graph(
        [
            helper.make_node(op, ins, outs, **(attributes[0] if attributes else {}))
            for op, ins, outs, *attributes in nodes
        ],
        "policy",
        [helper.make_tensor_value_info(name, *of) for name, of in inputs.items()],
        [helper.make_tensor_value_info(name, *of) for name, of in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata)
    save(model, str(path))
    return path


def doubling(path: Path, batch: Any = "robots", size: Any = 3, element: int = TensorProto.FLOAT) -> Path:
    """Writes a policy whose `action` is `state` twice."""
    return write(
        path,
        [("Add", ["state", "state"], ["action"])],
        {"state": (element, [batch, size])},
        {"action": (element, [batch, size])},
    )


def with_two_outputs(path: Path) -> Path:
    """Writes a policy whose `action` is `state` twice, and whose `least` is its smallest value."""
    return write(
        path,
        [("Add", ["state", "state"], ["action"]), ("ReduceMin", ["state"], ["least"], {"axes": [1], "keepdims": 0})],
        {"state": (TensorProto.FLOAT, ["robots", 3])},
        {"action": (TensorProto.FLOAT, ["robots", 3]), "least": (TensorProto.FLOAT, ["robots"])},
    )


def with_weights_beside(path: Path, name: str) -> Path:
    """Writes a policy of 3 inputs and 400 outputs whose weights, all 1, are in a file of that name beside it."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["state", "weights"], ["action"])],
        "policy",
        [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["robots", 3])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["robots", 400])],
        [numpy_helper.from_array(np.ones((3, 400), np.float32), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    save(model, str(path), save_as_external_data=True, location=name, size_threshold=0)
    return path
