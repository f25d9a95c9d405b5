"""Small ONNX files for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper, save

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
